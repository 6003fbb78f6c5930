// What the suite's scenarios of the tasks extension call, as a plain server of the revision before: it is Countersign that
// makes tasks of its calls, since they are held.

import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const need = createRequire(fileURLToPath(new URL('../.peers/package.json', import.meta.url)));
const { Server } = need('@modelcontextprotocol/sdk/server/index.js');
const { StdioServerTransport } = need('@modelcontextprotocol/sdk/server/stdio.js');
const { CallToolRequestSchema, ListToolsRequestSchema, McpError } = need('@modelcontextprotocol/sdk/types.js');

const text = text => ({ content: [{ type: 'text', text }] });
const offers = {
  greet: [{ name: { type: 'string' } }, ({ name }) => text(`Hello, ${name}!`)],
  slow_compute: [
    { seconds: { type: 'integer' }, label: { type: 'string' } },
    ({ seconds }) => new Promise(resolve => setTimeout(() => resolve(text('done')), Math.min(seconds, 20) * 1_000)),
  ],
  failing_job: [{}, () => ({ ...text('it failed'), isError: true })],
  protocol_error_job: [{}, () => Promise.reject(new McpError(-32603, 'a protocol error'))],
};

const server = new Server({ name: 'tasks', version: '1' }, { capabilities: { tools: {} } });
server.setRequestHandler(ListToolsRequestSchema, () => ({
  tools: Object.entries(offers).map(([name, [properties]]) => ({ name, inputSchema: { type: 'object', properties } })),
}));
server.setRequestHandler(CallToolRequestSchema, ({ params }) => offers[params.name][1](params.arguments ?? {}));
await server.connect(new StdioServerTransport());
