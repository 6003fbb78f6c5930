// Runs every kind of real client against the quickstart's bank while a person countersigns, is slow, or does not, and
// while the server is killed and started again: `node tests/clients/holds.mjs [CLIENT …]`.

import { spawn, execFileSync } from 'node:child_process';
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { freePort, peers, program, until } from './house.mjs';

const here = name => fileURLToPath(new URL(name, import.meta.url));
const python = name => join(peers, name, 'bin', 'python');

/** Every client, and the agents that its variants are: an agent may have so many open holds, and no more. */
const clients = {
  'typescript-new': [[process.execPath, here('holds-typescript-new.mjs')], ['ts2-rounds', 'ts2-page', 'ts2-wait', 'ts2-oldpage']],
  'typescript-old': [[process.execPath, here('holds-typescript-old.mjs')], ['ts1-wait', 'ts1-page', 'ts1-task']],
  'python-new': [[python('py-new'), here('holds_python.py')], ['py2-tasks', 'py2-page', 'py2-rounds', 'py2-wait']],
  'python-old': [[python('py-old'), here('holds_python.py')], ['py1-wait', 'py1-page', 'py1-task']],
};

/** What each call is about is told by its amount. */
const amounts = { quick: 101, slow: 102, told: 103, killed: 104, declined: 105, cancelled: 106 };

/** How long the person takes, milliseconds: more than a round of 25 s, more than a legacy client's 45 s. */
const takes = { [amounts.quick]: 1_000, [amounts.slow]: 28_000, [amounts.told]: 49_000 };

const PASSPHRASE = 'correct horse battery staple';
const only = process.argv.slice(2);
const chosen = Object.entries(clients).filter(([name]) => only.length === 0 || only.includes(name));
const agents = chosen.flatMap(([, [, agents]]) => agents);
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

const dir = mkdtempSync(join(tmpdir(), 'countersign-holds-'));
const [mcp, console_] = [await freePort(), await freePort()];
const run = (...args) => execFileSync(program, ['-C', join(dir, 'countersign.toml'), ...args], { encoding: 'utf8' });

/** The quickstart's house. Its one line tells how to reach it, and the first time how to enrol. */
async function serve() {
  const log = openSync(join(dir, 'server.log'), 'a');
  const args = ['quickstart', '--dir', dir, '--listen', `127.0.0.1:${mcp}`, '--console-listen', `127.0.0.1:${console_}`, '--json'];
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', log] });
  let text = '';
  let ended = null;
  child.stdout.on('data', chunk => (text += chunk));
  child.on('exit', (code, signal) => (ended = code ?? signal));
  await until('the line of the quickstart', () => {
    if (ended !== null) throw new Error(`the server ended with ${ended}:\n${readFileSync(join(dir, 'server.log'), 'utf8')}`);
    return text.includes('\n');
  });
  await until('being ready', () => fetch(`http://127.0.0.1:${console_}/readyz`).then(answer => answer.ok, () => false));
  return {
    line: JSON.parse(text.split('\n')[0]),
    async end(signal) {
      child.kill(signal);
      await until('the end of the server', () => ended !== null);
    },
  };
}

async function api(path, body, token) {
  const answer = await fetch(`http://127.0.0.1:${console_}/api/v1${path}`, {
    method: body ? 'POST' : 'GET',
    headers: { ...(body && { 'content-type': 'application/json' }), ...(token && { authorization: `Bearer ${token}` }) },
    body: body && JSON.stringify(body),
  });
  const told = await answer.json();
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${JSON.stringify(told)}`);
  return told;
}

/** The owner: countersigns what waits, each call in its time. */
class Owner {
  known = new Map();
  refuses = [];

  async signIn() {
    this.token = (await api('/login', { approver: 'you', passphrase: PASSPHRASE })).token;
  }

  async look() {
    const { holds } = await api('/holds?state=pending&limit=200', null, this.token);
    for (const hold of holds) {
      if (this.known.has(hold.id)) continue;
      const whole = JSON.stringify(await api(`/holds/${hold.id}`, null, this.token));
      this.known.set(hold.id, { ...hold, amount: Number(whole.match(/amount\D+(\d{3})/)[1]), since: Date.now() });
    }
    return holds.map(hold => this.known.get(hold.id));
  }

  async approve({ id, digest }) {
    await api(`/holds/${id}/approve`, { digest, passphrase: PASSPHRASE }, this.token).catch(problem => {
      this.refuses.push(String(problem));
    });
  }

  /** Countersigns what is due until told to stop. */
  async work(stopped) {
    while (!stopped()) {
      for (const hold of await this.look()) {
        // a client that gives up waiting and calls again needs no round to be over
        const after = /-wait$/.test(hold.agent) && hold.amount === amounts.slow ? 5_000 : takes[hold.amount];
        if (after && Date.now() - hold.since > after) await this.approve(hold);
      }
      await sleep(250);
    }
  }
}

let [passed, failed] = [0, 0];
const count = (ok, what) => {
  if (ok) passed += 1;
  else failed += 1;
  if (!ok) console.log(`not ok - ${what}`);
};

function started(name, [command, ...rest], scene) {
  const env = { ...process.env, COUNTERSIGN_HOLDS: JSON.stringify(scene), PYTHONDONTWRITEBYTECODE: '1' };
  const child = spawn(command, rest, { env, stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  child.stdout.on('data', chunk => {
    text += chunk;
    process.stdout.write(chunk);
  });
  const done = new Promise(resolve => child.on('close', code => resolve(code)));
  return { name, done, ended: () => child.exitCode !== null, ready: () => text.includes('# ready to be killed'), text: () => text };
}

let server = await serve();
try {
  const owner = new Owner();
  const code = server.line.enrol ?? JSON.parse(run('approver', 'add', 'you', '--role', 'owner', '--json')).code;
  await api('/enrol', { code, passphrase: PASSPHRASE });
  await owner.signIn();
  // each variant is an agent of its own, so that its holds are
  const list = agents.map(agent => `Agent::"${agent}"`).join(', ');
  const principals = agents.map(agent => `principal == Agent::"${agent}"`).join(' || ');
  writeFileSync(
    join(dir, 'grants', 'clients.cedar'),
    `// ${list}\n@id("clients") @hold("owner") @expires("15m")\npermit (principal, action == Action::"bank__transfer", resource)\n` +
      `when { (${principals}) && context.input.amount > 100 && context.input.amount <= 200 };\n`,
  );
  run('reload');
  const tokens = Object.fromEntries(
    agents.map(agent => [agent, run('agent', 'token', agent).match(/eyJ[\w-]*\.[\w-]*\.[\w-]*/)[0]]),
  );
  const scene = { url: server.line.mcp, tokens, amounts };
  const children = chosen.map(([name, [command]]) => started(name, command, scene));
  const over = () => children.every(child => child.ready() || child.ended());
  await owner.work(over);

  // everybody waits again, and now the server dies
  const waiting = await until('every client waiting', async () => {
    const pending = (await owner.look()).filter(hold => hold.amount === amounts.killed);
    return pending.length === agents.length && pending;
  }, 30_000);
  await server.end('SIGKILL');
  await sleep(1_500);
  server = await serve();
  await owner.signIn();
  count((await owner.look()).filter(hold => hold.amount === amounts.killed).length === agents.length, 'a hold did not outlive the server');
  await sleep(1_000);
  for (const hold of waiting) await owner.approve(hold);
  for (const child of children) {
    const code = await child.done;
    const [ok, bad] = [child.text().match(/^ok /gm)?.length ?? 0, child.text().match(/^not ok /gm)?.length ?? 0];
    passed += ok;
    // a client that broke off counts as one more failure
    failed += bad + (code !== 0 && bad === 0 ? 1 : 0);
    console.log(`# ${child.name}: ${ok} passed, ${bad} failed, exit ${code}`);
  }

  // each call that was countersigned was run once, and no other was
  const entries = run('ledger', 'export', '--format', 'jsonl').trim().split('\n').map(line => JSON.parse(line).entry);
  const of = kind => entries.filter(entry => entry.kind === kind);
  const held = of('call.held').filter(entry => agents.includes(entry.agent));
  for (const { hold, agent } of held) {
    const spent = of('hold.spent').filter(entry => entry.hold === hold).length;
    const approved = of('hold.approved').filter(entry => entry.hold === hold).length;
    count(spent === approved && spent <= 1, `${agent}: ${hold} was countersigned ${approved} times and run ${spent} times`);
  }
  const ran = of('call.intended').filter(entry => agents.includes(entry.agent)).length;
  count(ran === of('hold.spent').length, `${ran} calls were forwarded`);
  count(owner.refuses.length === 0, owner.refuses.join('\n'));
  await server.end('SIGTERM');
  try {
    run('ledger', 'verify');
    count(true);
  } catch (problem) {
    count(false, `the ledger does not verify: ${problem.stdout}${problem.stderr}`);
  }
} finally {
  await server.end('SIGKILL').catch(() => {});
  if (failed === 0 || !process.env.KEEP) rmSync(dir, { recursive: true, force: true });
  else console.log(`# kept ${dir}`);
}
console.log(`# clients meeting holds: ${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
