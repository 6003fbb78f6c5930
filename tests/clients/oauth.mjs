// The official clients do their own OAuth flows against an authorization server that is not ours (oidc-provider) and
// Countersign: `node tests/clients/oauth.mjs [CLIENT …]`. 401 leads to the metadata of the resource (RFC 9728), that to the
// server's, that to a token for this resource (RFC 8707), and that to the tools.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { fileURLToPath } from 'node:url';

import { BRIEF, CALLBACK, DOCUMENT, startAuthorizationServer } from './authorization-server.mjs';
import { freePort, peers, program, until } from './house.mjs';
import { Browser, through } from './person.mjs';

const execute = promisify(execFile);
const here = name => fileURLToPath(new URL(name, import.meta.url));

const clients = {
  'typescript-new': [process.execPath, here('oauth-typescript-new.mjs')],
  'typescript-old': [process.execPath, here('oauth-typescript-old.mjs')],
  'python-new': [join(peers, 'py-new', 'bin', 'python'), here('oauth_python.py')],
  'python-old': [join(peers, 'py-old', 'bin', 'python'), here('oauth_python.py')],
};

const GRANTS = `@id("free")
permit (principal, action == Action::"desk__free", resource);

@id("pay") @scope("mcp:pay")
permit (principal, action == Action::"desk__note", resource);

@id("pair")
permit (principal, action == Action::"desk__pair", resource);
`;

let [passed, failed] = [0, 0];
async function check(name, body) {
  try {
    await body();
    passed += 1;
    console.log(`ok - ${name}`);
  } catch (problem) {
    failed += 1;
    console.log(`not ok - ${name}\n${String(problem?.stack ?? problem).split('\n').slice(0, 12).map(line => `  # ${line}`).join('\n')}`);
  }
}

/** A Countersign with the recorder behind it; `identity` is what its configuration has besides. */
class House {
  #child;
  #ended = null;

  static async open({ mcp, identity, files = {} }) {
    const house = new House();
    house.dir = mkdtempSync(join(tmpdir(), 'countersign-oauth-'));
    house.notes = join(house.dir, 'notes.jsonl');
    house.console = await freePort();
    house.url = `http://127.0.0.1:${mcp}/mcp`;
    const recorder = [process.execPath, here('../browser/recorder.mjs'), house.notes];
    writeFileSync(
      join(house.dir, 'countersign.toml'),
      `[server]\nlisten = "127.0.0.1:${mcp}"\n\n[console]\nlisten = "127.0.0.1:${house.console}"\n\n` +
        `[upstreams.desk]\ncommand = ${JSON.stringify(recorder)}\n\n${identity}`,
    );
    mkdirSync(join(house.dir, 'grants'));
    writeFileSync(join(house.dir, 'grants', 'oauth.cedar'), GRANTS);
    for (const [name, text] of Object.entries(files)) writeFileSync(join(house.dir, name), text);
    try {
      await house.run('tool', 'register');
      await house.#serve();
      return house;
    } catch (problem) {
      await house.close();
      throw problem;
    }
  }

  async run(...args) {
    return (await execute(program, args, { cwd: this.dir, maxBuffer: 1 << 28 })).stdout;
  }

  async #serve() {
    const log = openSync(join(this.dir, 'server.log'), 'a');
    this.#child = spawn(program, ['serve'], { cwd: this.dir, stdio: ['ignore', log, log] });
    this.#child.on('exit', (code, signal) => (this.#ended = code ?? signal));
    await until('being ready', async () => {
      if (this.#ended !== null) throw new Error(`the server ended with ${this.#ended}:\n${this.log()}`);
      return fetch(`http://127.0.0.1:${this.console}/readyz`).then(answer => answer.ok, () => false);
    });
  }

  log() {
    return readFileSync(join(this.dir, 'server.log'), 'utf8');
  }

  /** What the tool server was given, in order. */
  noted() {
    if (!existsSync(this.notes)) return [];
    return readFileSync(this.notes, 'utf8').trim().split('\n').map(line => JSON.parse(line).args.text);
  }

  async entries() {
    const text = await this.run('ledger', 'export', '--format', 'jsonl');
    return text.trim().split('\n').map(line => JSON.parse(line)).map(each => each.entry ?? each);
  }

  /** A call as a plain client makes it, with that token; gives the answer, read. */
  async call(authorization, { tool = 'desk__free', text = 'by hand', headers = {} } = {}) {
    const meta = {
      'io.modelcontextprotocol/protocolVersion': '2026-07-28',
      'io.modelcontextprotocol/clientInfo': { name: 'oauth', version: '1' },
      'io.modelcontextprotocol/clientCapabilities': {},
    };
    const answer = await fetch(this.url, {
      method: 'POST',
      headers: {
        ...(authorization && { authorization }),
        'content-type': 'application/json',
        accept: 'application/json, text/event-stream',
        'mcp-protocol-version': '2026-07-28',
        'mcp-method': 'tools/call',
        'mcp-name': tool,
        ...headers,
      },
      body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', params: { name: tool, arguments: { text }, _meta: meta } }),
    });
    const body = await answer.text();
    return { status: answer.status, challenge: answer.headers.get('www-authenticate'), body };
  }

  async end() {
    if (!this.#child || this.#ended !== null) return;
    this.#child.kill('SIGTERM');
    await until('the end of the server', () => this.#ended !== null);
  }

  async close() {
    if (this.#child && this.#ended === null) {
      this.#child.kill('SIGKILL');
      await until('the end of the server', () => this.#ended !== null).catch(() => {});
    }
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** Runs one client to its end; its lines are its checks. */
async function played(name, [command, ...rest], scene) {
  const before = Date.now();
  const env = { ...process.env, COUNTERSIGN_OAUTH: JSON.stringify(scene), PYTHONDONTWRITEBYTECODE: '1' };
  const child = spawn(command, rest, { env, stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  child.stdout.on('data', chunk => {
    text += chunk;
    process.stdout.write(chunk);
  });
  const code = await new Promise(resolve => child.on('close', resolve));
  const [ok, bad] = [text.match(/^ok /gm)?.length ?? 0, text.match(/^not ok /gm)?.length ?? 0];
  passed += ok;
  // a client that broke off counts as one more failure
  failed += bad + (code !== 0 && bad === 0 ? 1 : 0);
  console.log(`# ${name}: ${ok} passed, ${bad} failed, exit ${code}, ${((Date.now() - before) / 1000).toFixed(1)} s`);
}

const only = process.argv.slice(2);
const mcp = await freePort();
const server = await startAuthorizationServer(`http://127.0.0.1:${mcp}/mcp`);
const opened = [];
try {
  const house = await House.open({
    mcp,
    identity: `[identity.issuers.as]
issuer = "${server.issuer}"
scopes = ["mcp"]
cache = "2s"
allow_private = true
introspection = { client_id = "countersign", client_secret = "${server.secrets.countersign}" }
`,
  });
  opened.push(house);
  const { d, ...worker } = server.signer.jwk;
  const own = await House.open({
    mcp: await freePort(),
    identity: '[identity.delegation]\nnew_tasks = true\n\n[identity.clients.worker]\njwks = "worker.json"\n',
    files: { 'worker.json': JSON.stringify({ keys: [{ ...worker, kid: 'worker', use: 'sig', alg: 'ES256' }] }) },
  });
  opened.push(own);

  // what a client under way has done for it: the person at the browser, and what operators do meanwhile
  const acts = {
    '/person': async asked => through(new Browser(), asked.get('to'), asked.get('who')),
    '/revoke': async asked => house.run('agent', 'revoke', `as/${asked.get('client')}`, '--token', `as:${asked.get('token')}`),
    '/rotate': async asked => {
      // keys are looked for again five seconds after the last time at the earliest, whoever names one that is not known
      await until('the last look for keys to be over', () => Date.now() - server.lookedAt() > 5_500);
      server.rotate({ keep: asked.get('keep') === '1' });
    },
  };
  const control = createServer(async (request, response) => {
    const { pathname, searchParams } = new URL(request.url, 'http://control');
    try {
      response.end(String(await acts[pathname](searchParams)));
    } catch (problem) {
      response.statusCode = 500;
      response.end(String(problem.stack));
    }
  });
  await new Promise(resolve => control.listen(0, '127.0.0.1', resolve));

  const scene = {
    url: house.url,
    issuer: server.issuer,
    secrets: server.secrets,
    signer: server.signer,
    document: DOCUMENT,
    brief: BRIEF,
    callback: CALLBACK,
    control: `http://127.0.0.1:${control.address().port}`,
    own: { url: own.url, issuer: new URL(own.url).origin },
  };

  await check('401 says where the metadata is, and that names the server and the scopes', async () => {
    const answer = await house.call(null);
    assert.equal(answer.status, 401);
    const at = answer.challenge.match(/resource_metadata="([^"]*)"/)[1];
    assert.match(answer.challenge, /^Bearer .*scope="mcp"/);
    assert.doesNotMatch(answer.challenge, /error=/);
    const metadata = await (await fetch(at)).json();
    assert.equal(metadata.resource, house.url);
    assert.deepEqual(metadata.bearer_methods_supported, ['header']);
    assert.equal(metadata.authorization_servers[0], server.issuer);
    assert.ok(metadata.scopes_supported.includes('mcp'), JSON.stringify(metadata));
  });

  for (const [name, command] of Object.entries(clients)) {
    if (only.length === 0 || only.includes(name)) await played(name, command, scene);
  }

  await check('each of their requests for a token named the resource, and each code was asked for with PKCE', async () => {
    const tokens = server.asked.filter(({ route, status }) => route === 'token' && status === 200);
    const codes = server.asked.filter(({ route }) => route === 'authorization');
    assert.ok(tokens.length > 0 && codes.length > 0);
    for (const { resource, grant_type } of [...tokens, ...codes]) assert.equal(resource, house.url, grant_type);
    for (const { code_challenge_method, code_challenge } of codes) assert.ok(code_challenge_method === 'S256' && code_challenge);
  });

  await check('the ledger says who called, by whose word and for whom', async () => {
    const entries = await house.entries();
    const intents = entries.filter(({ kind }) => kind === 'call.intended');
    assert.equal(intents.length, house.noted().length);
    assert.ok(!house.noted().includes('never') && !own.noted().includes('never'));
    const text = JSON.stringify(intents);
    assert.ok(text.includes(server.issuer), text.slice(0, 2000));
    if (only.length === 0) {
      for (const agent of ['as/robot', 'as/signer', 'as/bound', 'as/dynamic-1', `as/${DOCUMENT}`]) assert.ok(text.includes(`"${agent}"`), agent);
      for (const user of ['maria', 'olga']) assert.ok(text.includes(`"${user}"`), user);
    }
    // a person's word and a machine's are not mixed up
    for (const intent of intents) {
      const { agent, user } = intent.principal ?? intent;
      if (['as/robot', 'as/signer', 'as/bound'].includes(agent)) assert.equal(user, undefined, JSON.stringify(intent));
    }
  });

  await check('an opaque token is asked about, and one that is revoked there is refused within the stated bound', async () => {
    const { access_token } = await server.token('opaque');
    assert.ok(!access_token.includes('.'));
    const served = await house.call(`Bearer ${access_token}`);
    assert.equal(served.status, 200, served.body);
    await server.revoke('opaque', access_token);
    const revokedAt = Date.now();
    // it is believed for `cache` at most, which is two seconds in this house
    const refused = await until('the revocation to be seen', async () => {
      const answer = await house.call(`Bearer ${access_token}`);
      return answer.status === 401 && { ...answer, after: Date.now() - revokedAt };
    }, 10_000);
    assert.ok(refused.after < 3_500, `${refused.after} ms`);
    assert.match(refused.challenge, /error="invalid_token"/);
    const unknown = await house.call('Bearer never-issued');
    assert.equal(unknown.status, 401, unknown.body);
    const before = server.asked.filter(({ route }) => route === 'introspection').length;
    await Promise.all(Array.from({ length: 5 }, () => house.call('Bearer never-issued')));
    const asked = server.asked.filter(({ route }) => route === 'introspection').length - before;
    assert.ok(asked <= 1, `the server is asked ${asked} times about what it just disowned`);
  });

  await check('a token for another resource, or for none, is refused', async () => {
    const other = await server.token('robot', { resource: `${server.issuer}/other` });
    const answer = await house.call(`Bearer ${other.access_token}`);
    assert.equal(answer.status, 401);
    assert.match(answer.challenge, /error="invalid_token"/);
    // without `resource` this server gives a token for its own user information only
    const none = await server.token('robot', { resource: '' }).catch(() => null);
    if (none) assert.equal((await house.call(`Bearer ${none.access_token}`)).status, 401);
  });

  await check('who was let in by a key that is withdrawn is let in no more, and comes back by the new one', async () => {
    const before = await server.token('robot');
    assert.equal((await house.call(`Bearer ${before.access_token}`)).status, 200);
    server.rotate({ keep: false });
    const after = await server.token('robot');
    // the new key is looked for when its name is first seen, and never more often than the house allows itself to ask
    await until('the new key to be known', async () => (await house.call(`Bearer ${after.access_token}`)).status === 200, 60_000);
    await until('the old key to be gone', async () => (await house.call(`Bearer ${before.access_token}`)).status === 401, 60_000);
  });

  await check('no token, secret or code is in a log, in the ledger or in the metrics; the ledgers verify', async () => {
    for (const each of opened) {
      const metrics = await (await fetch(`http://127.0.0.1:${each.console}/metrics`)).text();
      const kept = each.log() + JSON.stringify(await each.entries()) + metrics;
      assert.ok(!/eyJ[\w-]{20,}\.[\w-]+\.[\w-]+/.test(kept), 'a token is kept');
      for (const secret of Object.values(server.secrets)) assert.ok(!kept.includes(secret), 'a secret is kept');
      await each.end();
      await each.run('ledger', 'verify');
    }
  });
  control.closeAllConnections();
  control.close();
} finally {
  for (const each of opened) await each.close();
  await server.close();
}
console.log(`# oauth: ${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
