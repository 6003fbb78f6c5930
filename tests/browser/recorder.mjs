// A tool server that takes whatever it is given and writes it down: `node recorder.mjs FILE`, MCP over standard input.
// Its tools are the same but for their names; the grants of the house make the difference. `FILE.says` has other
// descriptions for some of them, and may change.

import { appendFileSync, readFileSync, watchFile } from 'node:fs';
import { createInterface } from 'node:readline';

const [file] = process.argv.slice(2);

const inputSchema = {
  type: 'object',
  properties: { payee: { type: 'string' }, text: { type: 'string' }, data: {} },
  additionalProperties: false,
};
const says = `${file}.says`;
const descriptions = () => {
  try {
    return JSON.parse(readFileSync(says, 'utf8'));
  } catch {
    return {};
  }
};
const tools = () =>
  ['note', 'pair', 'brief', 'strong', 'free'].map(name => ({
    name,
    description: descriptions()[name] ?? 'Takes a note.',
    inputSchema,
    annotations: { readOnlyHint: false, destructiveHint: false, openWorldHint: false },
  }));
const send = message => process.stdout.write(`${JSON.stringify({ jsonrpc: '2.0', ...message })}\n`);

const answers = {
  initialize: ({ protocolVersion }) => ({
    protocolVersion,
    capabilities: { tools: { listChanged: true } },
    serverInfo: { name: 'recorder', version: '1' },
  }),
  ping: () => ({}),
  'tools/list': () => ({ tools: tools() }),
  'tools/call': ({ name, arguments: args }) => {
    appendFileSync(file, `${JSON.stringify({ name, args })}\n`);
    return { content: [{ type: 'text', text: 'noted' }] };
  },
};

watchFile(says, { interval: 50, persistent: false }, () => send({ method: 'notifications/tools/list_changed' }));

for await (const line of createInterface({ input: process.stdin })) {
  const { id, method, params } = JSON.parse(line);
  if (id === undefined) continue;
  const answer = answers[method];
  const told = answer ? { result: answer(params ?? {}) } : { error: { code: -32601, message: 'no such method' } };
  send({ id, ...told });
}
