// A house to look at in a browser: the quickstart's bank, and a recorder that takes any arguments, with agents that call
// and approvers that have enrolled.

import { execFile, spawn } from 'node:child_process';
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { fileURLToPath } from 'node:url';

import { program, until } from '../clients/house.mjs';

export { until };

const execute = promisify(execFile);
const recorder = fileURLToPath(new URL('recorder.mjs', import.meta.url));

export const PASSPHRASE = 'correct horse battery staple';

const GRANTS = `
@id("transfers") @hold("owner") @expires("15m")
@reason("transfers above 100 are countersigned by the owner")
permit (principal, action == Action::"bank__transfer", resource)
when { context.input.amount > 100 && context.input.amount <= 10000 };

@id("notes") @hold("owner") @expires("1h")
permit (principal, action == Action::"desk__note", resource);

@id("pairs") @hold("owner") @approvals("2") @expires("1h")
@reason("two owners see to it")
permit (principal, action == Action::"desk__pair", resource);

@id("brief") @hold("owner") @expires("4s")
permit (principal, action == Action::"desk__brief", resource);

@id("free")
permit (principal, action == Action::"desk__free", resource);
`;

/** What an agent says of itself: with tasks its call is answered at once, without it waits. */
const meta = tasks => ({
  'io.modelcontextprotocol/protocolVersion': '2026-07-28',
  'io.modelcontextprotocol/clientInfo': { name: 'browser', version: '1' },
  'io.modelcontextprotocol/clientCapabilities': tasks ? { extensions: { 'io.modelcontextprotocol/tasks': {} } } : {},
});

export const decision = result => result._meta?.['countersign/decision'];

/**
 * Opens a house. `desk` asks for the recorder, `grants` and `toml` are added to what the house has, `console` to that part
 * of it; `port` is the console's, where it has to be known before; `prepare` puts more into its folder.
 */
export async function open({ desk = true, grants = '', toml = '', console = '', port = 0, prepare = () => {} } = {}) {
  const dir = mkdtempSync(join(tmpdir(), 'countersign-browser-'));
  const house = new House(dir, port);
  const text = JSON.stringify;
  mkdirSync(join(dir, 'grants'));
  let config = '[server]\nlisten = "127.0.0.1:0"\n\n[console]\nlisten = "127.0.0.1:0"\n' + `${console}\n`;
  config += `\n[upstreams.bank]\ncommand = [${text(program)}, "bank", "--state", "bank.json"]\n`;
  if (desk) config += `\n[upstreams.desk]\ncommand = ${text([process.execPath, recorder, house.notes])}\n`;
  writeFileSync(join(dir, 'countersign.toml'), config + toml);
  try {
    prepare(dir);
    if (desk) {
      await house.run('tool', 'register', 'desk');
      writeFileSync(join(dir, 'grants', 'browser.cedar'), GRANTS + grants);
    }
    await house.serve();
    return house;
  } catch (problem) {
    await house.close();
    throw problem;
  }
}

class House {
  #child;
  #ended = null;
  #tokens = new Map();

  constructor(dir, port) {
    this.dir = dir;
    this.port = port;
    this.notes = join(dir, 'notes.jsonl');
  }

  /** The program, told to work on this house; gives what it printed. */
  async run(...args) {
    const done = await execute(program, ['-C', join(this.dir, 'countersign.toml'), ...args], { maxBuffer: 1 << 28 });
    return done.stdout;
  }

  async serve() {
    const log = openSync(join(this.dir, 'server.log'), 'a');
    const listen = ['--listen', '127.0.0.1:0', '--console-listen', `127.0.0.1:${this.port}`];
    this.#child = spawn(program, ['quickstart', '--dir', this.dir, ...listen, '--json'], { stdio: ['ignore', 'pipe', log] });
    this.#ended = null;
    this.#tokens.clear();
    let text = '';
    this.#child.stdout.on('data', chunk => (text += chunk));
    this.#child.on('exit', (code, signal) => (this.#ended = code ?? signal));
    await until('the line of the quickstart', () => {
      if (this.#ended !== null) throw new Error(`the server ended with ${this.#ended}:\n${this.log()}`);
      return text.includes('\n');
    });
    const line = JSON.parse(text.split('\n')[0]);
    this.mcp = line.mcp;
    this.code = line.enrol;
    // passkeys need the name of a host
    this.origin = line.console.replace('127.0.0.1', 'localhost');
    this.address = line.console.replace('localhost', '127.0.0.1');
    // who has made their own certificate asks by another door
    const ready = () => (this.address.startsWith('https:') ? this.run('status').then(Boolean) : fetch(`${this.address}/readyz`).then(answer => answer.ok));
    await until('being ready', () => ready().catch(() => false));
  }

  log() {
    return readFileSync(join(this.dir, 'server.log'), 'utf8');
  }

  async end(signal = 'SIGTERM') {
    if (!this.#child || this.#ended !== null) return;
    this.#child.kill(signal);
    await until('the end of the server', () => this.#ended !== null);
  }

  async close() {
    await this.end('SIGKILL').catch(() => {});
    rmSync(this.dir, { recursive: true, force: true });
  }

  // ---- approvers

  async api(path, { body, token } = {}) {
    const answer = await fetch(`${this.address}/api/v1${path}`, {
      method: body ? 'POST' : 'GET',
      headers: { ...(body && { 'content-type': 'application/json' }), ...(token && { authorization: `Bearer ${token}` }) },
      body: body && JSON.stringify(body),
    });
    const told = answer.status === 204 ? null : await answer.json();
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${JSON.stringify(told)}`);
    return told;
  }

  /** Enrols the newcomer `you`, or who the code is of, over the API. */
  async enrol(code = this.code) {
    await this.api('/enrol', { body: { code, passphrase: PASSPHRASE } });
  }

  /** Adds an approver; `vouched` by an enrolled one, whose passphrase is typed at a terminal. Gives their code. */
  async add(name, { role = 'owner', vouched = null } = {}) {
    const args = ['-C', join(this.dir, 'countersign.toml'), 'approver', 'add', name, '--role', role];
    if (!vouched) return JSON.parse(await this.run(...args.slice(2), '--json')).code;
    return this.#typed([...args, '--as', vouched, '--json'], PASSPHRASE);
  }

  async #typed(args, answer) {
    const quoted = [program, ...args].map(arg => `'${arg.replaceAll("'", "'\\''")}'`).join(' ');
    const child = spawn('script', ['-qefc', quoted, '/dev/null'], { stdio: ['pipe', 'pipe', 'pipe'] });
    let [seen, ended, typed] = ['', null, false];
    child.stdout.on('data', chunk => {
      seen += chunk;
      if (!typed && /passphrase/i.test(seen) && /: $/.test(seen)) {
        typed = true;
        child.stdin.write(`${answer}\n`);
      }
    });
    child.on('exit', code => (ended = code));
    await until('the end of what was typed', () => ended !== null, 30_000).catch(problem => {
      child.kill();
      throw new Error(`${problem.message}: ${seen}`);
    });
    const line = seen.split('\n').find(line => line.trim().startsWith('{'));
    if (ended !== 0 || !line) throw new Error(`ended with ${ended}: ${seen}`);
    return JSON.parse(line).code;
  }

  /** A session's token over the API, for looking at what the pages should show. */
  async signIn(approver = 'you') {
    return (await this.api('/login', { body: { approver, passphrase: PASSPHRASE } })).token;
  }

  /** Adds to what is granted; from then on what waited is bound to grants that are no more. */
  async regrant(policies) {
    appendFileSync(join(this.dir, 'grants', 'browser.cedar'), `\n${policies}\n`);
    await this.run('reload');
  }

  // ---- agents

  async token(agent) {
    let token = this.#tokens.get(agent);
    if (!token) {
      token = this.run('agent', 'token', agent).then(printed => printed.match(/eyJ[\w-]*\.[\w-]*\.[\w-]*/)[0]);
      this.#tokens.set(agent, token);
    }
    return token;
  }

  async #post(agent, method, name, params, { tasks } = {}) {
    const answer = await fetch(this.mcp, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${await this.token(agent)}`,
        'content-type': 'application/json',
        accept: 'application/json, text/event-stream',
        'mcp-protocol-version': '2026-07-28',
        'mcp-method': method,
        'mcp-name': name,
      },
      body: JSON.stringify({ jsonrpc: '2.0', id: 1, method, params: { ...params, _meta: meta(tasks) } }),
    });
    const text = await answer.text();
    const message = answer.headers.get('content-type')?.startsWith('text/event-stream')
      ? text.split('\n').filter(line => line.startsWith('data: ')).map(line => JSON.parse(line.slice(6))).find(each => 'id' in each)
      : JSON.parse(text);
    if (message.error) throw Object.assign(new Error(`${method}: ${JSON.stringify(message.error)}`), { told: message.error });
    return message.result;
  }

  /** An agent's call, as a plain client makes it: it waits for as long as rounds are offered. Gives its result. */
  call(name, args, { agent = 'demo' } = {}) {
    const called = this.#called(name, args, agent);
    // it is heard of where it is waited for: a row that failed before does not take the others along
    called.catch(() => {});
    return called;
  }

  async #called(name, args, agent) {
    let more = {};
    for (;;) {
      const result = await this.#post(agent, 'tools/call', name, { name, arguments: args, ...more });
      if (result.resultType !== 'input_required') return result;
      more = { requestState: result.requestState };
    }
  }

  /** A call by a client that follows tasks: gives the id of the hold at once. */
  async ask(name, args, { agent = 'demo' } = {}) {
    const result = await this.#post(agent, 'tools/call', name, { name, arguments: args }, { tasks: true });
    if (result.resultType !== 'task') throw new Error(`it is not held: ${JSON.stringify(result)}`);
    return result.taskId;
  }

  /** What such a client is told of its call. */
  async task(id, { agent = 'demo' } = {}) {
    return this.#post(agent, 'tasks/get', id, { taskId: id }, { tasks: true });
  }

  async withdraw(id, { agent = 'demo' } = {}) {
    await this.#post(agent, 'tasks/cancel', id, { taskId: id }, { tasks: true });
  }

  /** Has the recorder describe one of its tools in other words from now on. */
  redescribe(tool, description) {
    const file = `${this.notes}.says`;
    const said = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {};
    writeFileSync(file, JSON.stringify({ ...said, [tool]: description }));
  }

  /** What the recorder was given, in order. */
  recorded() {
    if (!existsSync(this.notes)) return [];
    return readFileSync(this.notes, 'utf8').trim().split('\n').map(line => JSON.parse(line));
  }
}
