// @modelcontextprotocol/sdk 1.x, as most of the field still runs it: the initialize handshake, in each revision.

import { need } from './house.mjs';
import { run } from './checks.mjs';

const { Client } = need('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = need('@modelcontextprotocol/sdk/client/streamableHttp.js');
const { StdioClientTransport } = need('@modelcontextprotocol/sdk/client/stdio.js');
const { CreateMessageRequestSchema, ElicitRequestSchema, ToolListChangedNotificationSchema } = need('@modelcontextprotocol/sdk/types.js');

function transportTo(how) {
  if (how.url) {
    const headers = how.token ? { Authorization: `Bearer ${how.token}` } : {};
    return new StreamableHTTPClientTransport(new URL(how.url), { requestInit: { headers } });
  }
  const [command, ...args] = how.command;
  const env = { PATH: process.env.PATH, HOME: process.env.HOME, ...how.env };
  return new StdioClientTransport({ command, args, env, cwd: how.cwd, stderr: 'ignore' });
}

run({
  name: 'typescript 1',
  versions: ['2025-11-25', '2025-06-18', '2025-03-26'],
  async connect({ how, version = '2025-11-25', onToolsChanged, answers }) {
    const transport = transportTo(how);
    // this SDK always offers its newest revision: an older release of it would offer an older one
    let agreed;
    const send = transport.send.bind(transport);
    transport.send = (message, options) => {
      if (message.method !== 'initialize') return send(message, options);
      return send({ ...message, params: { ...message.params, protocolVersion: version } }, options);
    };
    const told = transport.setProtocolVersion?.bind(transport);
    transport.setProtocolVersion = version => {
      agreed = version;
      told?.(version);
    };
    const client = new Client({ name: 'typescript-old', version: '1' }, answers ? { capabilities: { sampling: {}, elicitation: {} } } : {});
    if (onToolsChanged) client.setNotificationHandler(ToolListChangedNotificationSchema, onToolsChanged);
    if (answers) {
      client.setRequestHandler(CreateMessageRequestSchema, answers['sampling/createMessage']);
      client.setRequestHandler(ElicitRequestSchema, answers['elicitation/create']);
    }
    await client.connect(transport);
    return {
      version: () => agreed ?? version,
      listTools: async () => (await client.listTools()).tools,
      callTool: (name, args, options) => client.callTool({ name, arguments: args }, undefined, options),
      listResources: async () => (await client.listResources()).resources,
      readResource: uri => client.readResource({ uri }),
      listPrompts: async () => (await client.listPrompts()).prompts,
      getPrompt: (name, args) => client.getPrompt({ name, arguments: args }),
      close: () => client.close(),
    };
  },
});
