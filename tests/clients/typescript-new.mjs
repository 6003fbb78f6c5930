// @modelcontextprotocol/client 2.x: 2026-07-28, and the legacy handshake in each revision before it.

import { need } from './house.mjs';
import { run } from './checks.mjs';

const { Client, StreamableHTTPClientTransport } = need('@modelcontextprotocol/client');
const { StdioClientTransport } = need('@modelcontextprotocol/client/stdio');

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
  name: 'typescript 2',
  versions: ['2026-07-28', '2025-11-25', '2025-06-18', '2025-03-26'],
  async connect({ how, version = '2025-11-25', onToolsChanged, answers }) {
    const options = version >= '2026' ? { versionNegotiation: { mode: { pin: version } } } : { supportedProtocolVersions: [version] };
    if (onToolsChanged) options.listChanged = { tools: { autoRefresh: false, onChanged: onToolsChanged } };
    if (answers) options.capabilities = { sampling: {}, elicitation: {} };
    const client = new Client({ name: 'typescript-new', version: '1' }, options);
    for (const [method, answer] of Object.entries(answers ?? {})) client.setRequestHandler(method, answer);
    await client.connect(transportTo(how));
    return {
      version: () => client.getNegotiatedProtocolVersion() ?? version,
      listTools: async ({ fresh } = {}) => (await client.listTools(undefined, fresh ? { cacheMode: 'refresh' } : {})).tools,
      callTool: (name, args, options) => client.callTool({ name, arguments: args }, options),
      listResources: async () => (await client.listResources()).resources,
      readResource: uri => client.readResource({ uri }),
      listPrompts: async () => (await client.listPrompts()).prompts,
      getPrompt: (name, args) => client.getPrompt({ name, arguments: args }),
      close: () => client.close(),
    };
  },
});
