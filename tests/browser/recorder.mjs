// A tool server that takes whatever it is given and writes it down: `node recorder.mjs FILE`, MCP over standard input.
// Its tools are the same but for their names; the grants of the house make the difference.

import { appendFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

const [file] = process.argv.slice(2);

const inputSchema = {
  type: 'object',
  properties: { payee: { type: 'string' }, text: { type: 'string' }, data: {} },
  additionalProperties: false,
};
const tools = ['note', 'pair', 'brief', 'strong', 'free'].map(name => ({
  name,
  description: 'Takes a note.',
  inputSchema,
  annotations: { readOnlyHint: false, destructiveHint: false, openWorldHint: false },
}));

const answers = {
  initialize: ({ protocolVersion }) => ({
    protocolVersion,
    capabilities: { tools: {} },
    serverInfo: { name: 'recorder', version: '1' },
  }),
  ping: () => ({}),
  'tools/list': () => ({ tools }),
  'tools/call': ({ name, arguments: args }) => {
    appendFileSync(file, `${JSON.stringify({ name, args })}\n`);
    return { content: [{ type: 'text', text: 'noted' }] };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { id, method, params } = JSON.parse(line);
  if (id === undefined) continue;
  const answer = answers[method];
  const told = answer ? { result: answer(params ?? {}) } : { error: { code: -32601, message: 'no such method' } };
  process.stdout.write(`${JSON.stringify({ jsonrpc: '2.0', id, ...told })}\n`);
}
