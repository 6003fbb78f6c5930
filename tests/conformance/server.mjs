// The reference server that the conformance suite is run against, directly and through Countersign: the legacy
// revisions by the official SDK, 2026-07-28 by hand. Usage: node server.mjs PORT

import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

import { prompts, read, resources, RpcError, templates, tools } from './offers.mjs';

const need = createRequire(fileURLToPath(new URL('../.peers/package.json', import.meta.url)));
const { Server } = need('@modelcontextprotocol/sdk/server/index.js');
const { StreamableHTTPServerTransport } = need('@modelcontextprotocol/sdk/server/streamableHttp.js');
const schemas = need('@modelcontextprotocol/sdk/types.js');

const MODERN = '2026-07-28';
const KEY = name => `io.modelcontextprotocol/${name}`;
const info = { name: 'reference', version: '1.0.0' };
const port = Number(process.argv[2] ?? 0);

const offered = (list, modern) => list.filter(each => modern || !each.modernOnly);
const shown = ({ run, inSession, modernOnly, ...rest }) => rest;
const find = (list, name, modern) => {
  const found = offered(list, modern).find(each => each.name === name);
  if (!found) throw new RpcError(-32602, `unknown: ${name}`);
  return found;
};

// ---- the legacy revisions: a session each, served by the SDK

class Memory {
  events = new Map();
  async storeEvent(stream, message) {
    const id = `${stream}_${randomUUID()}`;
    this.events.set(id, { stream, message });
    return id;
  }
  async replayEventsAfter(last, { send }) {
    const stream = this.events.get(last)?.stream;
    let after = false;
    for (const [id, event] of this.events) {
      if (after && event.stream === stream) await send(id, event.message);
      after ||= id === last;
    }
    return stream;
  }
}

const sessions = new Map();

function legacyServer() {
  const capabilities = {
    tools: { listChanged: true },
    prompts: { listChanged: true },
    resources: { subscribe: true, listChanged: true },
    logging: {},
    completions: {},
  };
  const server = new Server(info, { capabilities });
  const on = (schema, handler) =>
    server.setRequestHandler(schema, async (request, extra) => {
      try {
        return await handler(request.params ?? {}, extra);
      } catch (problem) {
        if (problem instanceof RpcError) throw new schemas.McpError(problem.code, problem.message, problem.data);
        throw problem;
      }
    });
  const call = (params, extra) => ({
    modern: false,
    capabilities: server.getClientCapabilities(),
    progress: (progress, total) =>
      params._meta?.progressToken === undefined
        ? undefined
        : extra.sendNotification({
            method: 'notifications/progress',
            params: { progressToken: params._meta.progressToken, progress, total },
          }),
    log: (level, data) => extra.sendNotification({ method: 'notifications/message', params: { level, data } }),
    ask: ({ method, params }) => {
      const schema = { 'sampling/createMessage': schemas.CreateMessageResultSchema, 'elicitation/create': schemas.ElicitResultSchema };
      return extra.sendRequest({ method, params }, schema[method] ?? schemas.ResultSchema);
    },
    endStream: () => extra.closeSSEStream?.(),
    changed: what => void server.notification({ method: `notifications/${what}/list_changed` }),
  });
  on(schemas.ListToolsRequestSchema, () => ({ tools: offered(tools, false).map(shown) }));
  on(schemas.CallToolRequestSchema, (params, extra) => find(tools, params.name, false).run(call(params, extra), params.arguments ?? {}));
  on(schemas.ListResourcesRequestSchema, () => ({ resources }));
  on(schemas.ListResourceTemplatesRequestSchema, () => ({ resourceTemplates: templates }));
  on(schemas.ReadResourceRequestSchema, params => read(params.uri, false));
  on(schemas.SubscribeRequestSchema, () => ({}));
  on(schemas.UnsubscribeRequestSchema, () => ({}));
  on(schemas.ListPromptsRequestSchema, () => ({ prompts: offered(prompts, false).map(shown) }));
  on(schemas.GetPromptRequestSchema, (params, extra) => find(prompts, params.name, false).run(call(params, extra), params.arguments ?? {}));
  on(schemas.CompleteRequestSchema, () => ({ completion: { values: [], total: 0, hasMore: false } }));
  on(schemas.SetLevelRequestSchema, () => ({}));
  return server;
}

async function legacy(request, response, body) {
  const id = request.headers['mcp-session-id'];
  let transport = id ? sessions.get(id) : undefined;
  if (id && !transport) return json(response, 404, { jsonrpc: '2.0', id: null, error: { code: -32001, message: 'no such session' } });
  if (!transport) {
    transport = new StreamableHTTPServerTransport({
      sessionIdGenerator: randomUUID,
      eventStore: new Memory(),
      retryInterval: 500,
      onsessioninitialized: session => void sessions.set(session, transport),
      onsessionclosed: session => void sessions.delete(session),
    });
    await legacyServer().connect(transport);
  }
  await transport.handleRequest(request, response, body);
}

// ---- 2026-07-28: every request stands for itself

const listening = new Set();

function changed(what) {
  for (const stream of listening) {
    if (stream.filter[`${what}ListChanged`]) stream.send(`notifications/${what}/list_changed`, {});
  }
}

function json(response, status, message) {
  response.writeHead(status, { 'Content-Type': 'application/json' });
  response.end(message === undefined ? undefined : JSON.stringify(message));
}

const stamped = result => ({ resultType: 'complete', ...result, _meta: { ...result._meta, [KEY('serverInfo')]: info } });
const cached = result => stamped({ ttlMs: 1000, cacheScope: 'private', ...result });

function header(request, name) {
  const value = request.headers[name];
  const sealed = /^=\?base64\?([A-Za-z0-9+/]*={0,2})\?=$/.exec(value ?? '');
  if (sealed) {
    if (sealed[1].length % 4 !== 0) throw new RpcError(-32020, `the header ${name} is not base64`, undefined, 400);
    return Buffer.from(sealed[1], 'base64').toString();
  }
  if (value?.startsWith('=?base64?') && value.endsWith('?=')) throw new RpcError(-32020, `the header ${name} is not base64`, undefined, 400);
  return value;
}

function vet(request, message) {
  const { method, params = {} } = message;
  const meta = params._meta;
  if (typeof meta?.[KEY('protocolVersion')] !== 'string' || typeof meta[KEY('clientCapabilities')] !== 'object') {
    throw new RpcError(-32602, '`_meta` has to name the protocol version and the capabilities', undefined, 400);
  }
  const mismatch = what => new RpcError(-32020, `the header ${what} does not match the body`, undefined, 400);
  if (header(request, 'mcp-protocol-version') !== meta[KEY('protocolVersion')]) throw mismatch('MCP-Protocol-Version');
  if (meta[KEY('protocolVersion')] !== MODERN) {
    const data = { supported: [MODERN], requested: meta[KEY('protocolVersion')] };
    throw new RpcError(-32022, 'unsupported protocol version', data, 400);
  }
  if (header(request, 'mcp-method') !== method) throw mismatch('Mcp-Method');
  const name = { 'tools/call': params.name, 'prompts/get': params.name, 'resources/read': params.uri }[method];
  if (name !== undefined && header(request, 'mcp-name') !== name) throw mismatch('Mcp-Name');
  if (method !== 'tools/call') return;
  const schema = tools.find(tool => tool.name === name)?.inputSchema;
  for (const [property, declared] of Object.entries(schema?.properties ?? {})) {
    const repeated = declared['x-mcp-header'];
    if (!repeated) continue;
    const [given, value] = [header(request, `mcp-param-${repeated.toLowerCase()}`), params.arguments?.[property]];
    if (given !== (value === undefined ? undefined : String(value))) throw mismatch(`Mcp-Param-${repeated}`);
  }
}

async function answer(message, call) {
  const { method, params = {} } = message;
  switch (method) {
    case 'server/discover':
      return cached({
        supportedVersions: [MODERN],
        capabilities: {
          tools: { listChanged: true },
          prompts: { listChanged: true },
          resources: { subscribe: true, listChanged: true },
          completions: {},
          logging: {},
        },
      });
    case 'tools/list':
      return cached({ tools: offered(tools, true).map(shown) });
    case 'tools/call':
      if (find(tools, params.name, true).inSession) throw new RpcError(-32603, 'it asks the client, which takes a session');
      return stamped(await find(tools, params.name, true).run(call, params.arguments ?? {}));
    case 'resources/list':
      return cached({ resources });
    case 'resources/templates/list':
      return cached({ resourceTemplates: templates });
    case 'resources/read':
      return cached(read(params.uri, true));
    case 'prompts/list':
      return cached({ prompts: offered(prompts, true).map(shown) });
    case 'prompts/get':
      return stamped(await find(prompts, params.name, true).run(call, params.arguments ?? {}));
    case 'completion/complete':
      return stamped({ completion: { values: [], total: 0, hasMore: false } });
    default:
      throw new RpcError(-32601, 'method not found', undefined, 404);
  }
}

async function modern(request, response, message) {
  const { id, params = {} } = message;
  if (id === undefined) return json(response, 202);
  let streaming = false;
  const write = frame => {
    if (!streaming) response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache' });
    streaming = true;
    response.write(`event: message\ndata: ${JSON.stringify(frame)}\n\n`);
  };
  const meta = params._meta ?? {};
  const call = {
    modern: true,
    capabilities: meta[KEY('clientCapabilities')],
    responses: params.inputResponses,
    state: params.requestState,
    progress(progress, total) {
      if (meta.progressToken === undefined) return;
      write({ jsonrpc: '2.0', method: 'notifications/progress', params: { progressToken: meta.progressToken, progress, total } });
    },
    log(level, data) {
      if (meta[KEY('logLevel')]) write({ jsonrpc: '2.0', method: 'notifications/message', params: { level, data } });
    },
    changed,
  };
  try {
    vet(request, message);
    if (message.method === 'subscriptions/listen') {
      const filter = params.notifications ?? {};
      const send = (method, more) => {
        write({ jsonrpc: '2.0', method, params: { ...more, _meta: { [KEY('subscriptionId')]: id } } });
      };
      const stream = { filter, send };
      listening.add(stream);
      response.on('close', () => listening.delete(stream));
      return send('notifications/subscriptions/acknowledged', { notifications: filter });
    }
    const result = await answer(message, call);
    if (!streaming) return json(response, 200, { jsonrpc: '2.0', id, result });
    write({ jsonrpc: '2.0', id, result });
    response.end();
  } catch (problem) {
    const { code = -32603, message: words, data, status = 500 } = problem instanceof RpcError ? problem : { message: String(problem) };
    const error = { code, message: words, ...(data === undefined ? {} : { data }) };
    if (!streaming) return json(response, status, { jsonrpc: '2.0', id, error });
    write({ jsonrpc: '2.0', id, error });
    response.end();
  }
}

// ---- the door

const local = host => /^(localhost|127\.0\.0\.1|\[::1\])(:\d+)?$/.test(host ?? '');

createServer(async (request, response) => {
  const origin = request.headers.origin;
  if (!local(request.headers.host) || (origin && !local(origin.replace(/^https?:\/\//, '')))) {
    return json(response, 403, { jsonrpc: '2.0', id: null, error: { code: -32600, message: 'a foreign host or origin' } });
  }
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  let message;
  try {
    message = chunks.length === 0 ? undefined : JSON.parse(Buffer.concat(chunks));
  } catch {
    return json(response, 400, { jsonrpc: '2.0', id: null, error: { code: -32700, message: 'parse error' } });
  }
  const told = request.headers['mcp-protocol-version'];
  const legacyVersion = told !== undefined && told < MODERN && schemas.SUPPORTED_PROTOCOL_VERSIONS.includes(told);
  const hasEnvelope = message?.params?._meta?.[KEY('protocolVersion')] !== undefined;
  const named = told !== undefined || request.headers['mcp-method'] !== undefined;
  const isModern = request.method === 'POST' && !legacyVersion && !request.headers['mcp-session-id'] && named;
  try {
    await (isModern || hasEnvelope ? modern(request, response, message) : legacy(request, response, message));
  } catch (problem) {
    console.error(problem);
    if (!response.headersSent) json(response, 500);
  }
}).listen(port, '127.0.0.1', function () {
  console.log(JSON.stringify({ url: `http://127.0.0.1:${this.address().port}/mcp` }));
});
