// Stands between the suite and Countersign: adds the token, and takes `<upstream>__` off the names on the way out and
// puts it on the way in. Everything else passes unchanged. Usage: node shim.mjs TARGET [PREFIX] [TOKEN]

import { createServer, request as send } from 'node:http';

const [target, prefix = '', token = ''] = process.argv.slice(2);
const to = new URL(target);

const local = /^(localhost|127\.0\.0\.1|\[::1\])(:\d+)?$/i;
const sentinel = /^=\?base64\?(.*)\?=$/;

/** The name as Countersign knows it, in a header. */
function headerName(value) {
  const sealed = sentinel.exec(value);
  if (!sealed) return value.startsWith('=?') ? value : prefix + value;
  const name = Buffer.from(sealed[1], 'base64');
  // what is not base64 has to arrive as it is, so that it is refused
  if (name.toString('base64') !== sealed[1]) return value;
  return `=?base64?${Buffer.concat([Buffer.from(prefix), name]).toString('base64')}?=`;
}

function inward(text) {
  let message;
  try {
    message = JSON.parse(text);
  } catch {
    return text;
  }
  const params = message?.params;
  if (!params || prefix === '') return text;
  if (['tools/call', 'prompts/get'].includes(message.method) && typeof params.name === 'string') params.name = prefix + params.name;
  if (message.method === 'completion/complete' && typeof params.ref?.name === 'string') params.ref.name = prefix + params.ref.name;
  return JSON.stringify(message);
}

const bare = each => (typeof each?.name === 'string' && each.name.startsWith(prefix) ? { ...each, name: each.name.slice(prefix.length) } : each);

function outward(text) {
  if (prefix === '') return text;
  let message;
  try {
    message = JSON.parse(text);
  } catch {
    return text;
  }
  const result = message?.result;
  let touched = false;
  for (const list of ['tools', 'prompts']) {
    if (!Array.isArray(result?.[list])) continue;
    result[list] = result[list].map(bare);
    touched = true;
  }
  return touched ? JSON.stringify(message) : text;
}

createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.from(inward(Buffer.concat(chunks).toString()));
  const headers = [];
  const port = `:${request.socket.localPort}`;
  const method = request.headers['mcp-method'];
  for (let at = 0; at < request.rawHeaders.length; at += 2) {
    let [name, value] = request.rawHeaders.slice(at, at + 2);
    const low = name.toLowerCase();
    if (['content-length', 'transfer-encoding', 'connection', 'keep-alive'].includes(low)) continue;
    // the suite tries foreign hosts and origins: only our own address is exchanged for the target's
    if (low === 'host' && local.test(value) && value.endsWith(port)) value = to.host;
    if (low === 'origin' && value.startsWith('http://') && local.test(value.slice(7)) && value.endsWith(port)) value = to.origin;
    if (low === 'mcp-name' && (method === 'tools/call' || method === 'prompts/get' || sentinel.test(value))) {
      value = method === 'resources/read' ? value : headerName(value);
    }
    headers.push(name, value);
  }
  if (token) headers.push('Authorization', `Bearer ${token}`);
  if (body.length > 0 || request.method === 'POST') headers.push('Content-Length', String(body.length));
  const out = send({ host: to.hostname, port: to.port, path: request.url, method: request.method, headers }, answer => {
    const events = String(answer.headers['content-type']).startsWith('text/event-stream');
    const kept = [];
    for (let at = 0; at < answer.rawHeaders.length; at += 2) {
      const low = answer.rawHeaders[at].toLowerCase();
      if (!['content-length', 'transfer-encoding', 'connection', 'keep-alive'].includes(low)) kept.push(answer.rawHeaders[at], answer.rawHeaders[at + 1]);
    }
    if (!events) {
      const parts = [];
      answer.on('data', part => parts.push(part));
      answer.on('end', () => {
        const text = Buffer.from(outward(Buffer.concat(parts).toString()));
        if (text.length > 0) kept.push('Content-Length', String(text.length));
        response.writeHead(answer.statusCode, kept);
        response.end(text);
      });
      answer.on('error', () => response.destroy());
      return;
    }
    response.writeHead(answer.statusCode, kept);
    response.flushHeaders();
    let rest = '';
    answer.setEncoding('utf8');
    answer.on('data', part => {
      // whole lines only: a message is one line of data
      const lines = (rest + part).split('\n');
      rest = lines.pop();
      for (const line of lines) response.write(`${line.startsWith('data: ') ? `data: ${outward(line.slice(6))}` : line}\n`);
    });
    answer.on('end', () => response.end(rest));
    answer.on('error', () => response.destroy());
  });
  out.on('error', () => (response.headersSent ? response.destroy() : response.writeHead(502).end()));
  response.on('close', () => out.destroy());
  out.end(body);
}).listen(0, '127.0.0.1', function () {
  console.log(JSON.stringify({ url: `http://localhost:${this.address().port}${to.pathname}` }));
});
