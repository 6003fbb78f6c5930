// Tool servers that take tokens of an authorization server which is not ours (oidc-provider, tests/browser/authorization.mjs):
// client credentials, and token exchange on behalf of users: `node tests/clients/upstream-auth.mjs`.

import assert from 'node:assert/strict';

import { open } from '../browser/house.mjs';
import { EXCHANGE, startAuthorization } from '../browser/authorization.mjs';
import { freePort } from './house.mjs';

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

const life = 3;
const there = await startAuthorization({ life });
there.register();
const toml = there.toml('own', 'client_credentials', 'scopes = ["tools"]\n') + there.toml('users', 'token_exchange', 'scopes = ["tools"]\n');
const house = await open({ toml, port: await freePort() });
there.register({ countersign: new URL(house.mcp).origin });

const tokenOf = async (...more) => (await house.run('agent', 'token', 'demo', ...more)).match(/eyJ[\w-]*\.[\w-]*\.[\w-]*/)[0];

async function call(token, name) {
  const params = { name, arguments: {}, _meta: {
    'io.modelcontextprotocol/protocolVersion': '2026-07-28', 'io.modelcontextprotocol/clientInfo': { name: 'a', version: '1' },
    'io.modelcontextprotocol/clientCapabilities': {},
  } };
  const answer = await fetch(house.mcp, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json', accept: 'application/json, text/event-stream',
      'mcp-protocol-version': '2026-07-28', 'mcp-method': 'tools/call', 'mcp-name': name },
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', params }),
  });
  const text = await answer.text();
  const message = text.startsWith('{') ? JSON.parse(text) : JSON.parse(text.split('\n').find(line => line.startsWith('data: ')).slice(6));
  return message.result ?? message;
}

const claims = result => JSON.parse(result.content[0].text);

try {
  await check('tools of servers that want tokens are registered', async () => {
    for (const name of ['own', 'users']) await house.run('tool', 'register', name);
    await house.regrant('@id("own") permit (principal, action == Action::"own__who", resource);');
    await house.regrant('@id("users") permit (principal, action == Action::"users__who", resource);');
  });

  await check('client credentials: the token is the client\'s, for that tool server, and another one follows it', async () => {
    const token = await tokenOf();
    const first = claims(await call(token, 'own__who'));
    assert.deepEqual([first.client_id, first.aud, first.sub], ['countersign', there.url, 'countersign']);
    await new Promise(resolve => setTimeout(resolve, life * 1_000));
    const next = claims(await call(token, 'own__who'));
    assert.notEqual(next.jti, first.jti);
  });

  await check('token exchange: each user has a token of their own, with the agent that acts', async () => {
    for (const user of ['maria', 'pat']) {
      const said = claims(await call(await tokenOf('--for', user), 'users__who'));
      assert.deepEqual([said.sub, said.aud], [user, there.url]);
    }
    const exchanged = there.asked.filter(({ grant_type }) => grant_type === EXCHANGE);
    assert.ok(exchanged.length === 2 && exchanged.every(({ status }) => status === 200), JSON.stringify(exchanged));
  });

  await check('a call that is for nobody is not sent', async () => {
    const [shown, asked] = [there.shown.length, there.asked.length];
    const refused = await call(await tokenOf(), 'users__who');
    assert.equal(refused._meta['countersign/decision'].reason, 'user_required');
    assert.deepEqual([there.shown.length, there.asked.length], [shown, asked]);
  });

  await check('no token and no secret is told, and the ledger verifies', async () => {
    const said = [house.log(), await house.run('ledger', 'export', '--format', 'jsonl'), await house.run('upstream', 'list', '--json')].join('\n');
    for (const { token } of there.shown) assert.ok(!said.includes(token.split(' ')[1]));
    assert.ok(!said.includes(there.secret));
    assert.match(said, /credential\.leased/);
    await house.end();
    assert.match(await house.run('ledger', 'verify'), /\d/);
  });
} finally {
  await house.close();
  await there.close();
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
