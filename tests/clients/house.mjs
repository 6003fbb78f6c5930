// A Countersign in front of the official servers, for the clients to call: folder, contracts, grants, tokens.

import { execFileSync, spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync, readFileSync, openSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const peers = fileURLToPath(new URL('../.peers/', import.meta.url));
export const need = createRequire(join(peers, 'package.json'));

/** The program under test. */
export const program = process.env.COUNTERSIGN_BIN ?? fileURLToPath(new URL('../../target/debug/countersign', import.meta.url));

export function freePort() {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.on('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}

export async function until(what, check, ms = 30_000) {
  const deadline = Date.now() + ms;
  for (;;) {
    const found = await check();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`${what} did not happen within ${ms} ms`);
    await new Promise(resolve => setTimeout(resolve, 20));
  }
}

function server(name) {
  const entry = join(peers, 'node_modules', '@modelcontextprotocol', `server-${name}`, 'dist', 'index.js');
  if (!existsSync(entry)) throw new Error(`server-${name} is not installed: run tests/all.sh`);
  return entry;
}

/** Makes the folder with everything that the servers need, and starts the one that is reached over HTTP. */
export async function layOut() {
  const dir = mkdtempSync(join(tmpdir(), 'countersign-clients-'));
  mkdirSync(join(dir, 'files'));
  writeFileSync(join(dir, 'files', 'hello.txt'), 'hello from a file\nwith two lines\n');
  mkdirSync(join(dir, 'repo'));
  const git = (...args) =>
    execFileSync('git', ['-C', join(dir, 'repo'), '-c', 'user.name=tester', '-c', 'user.email=t@example.com', ...args]);
  git('init', '-q', '-b', 'main');
  writeFileSync(join(dir, 'repo', 'a.txt'), 'a\n');
  git('add', '.');
  git('commit', '-q', '-m', 'first');
  writeFileSync(join(dir, 'repo', 'a.txt'), 'b\n');

  const python = name => join(peers, 'py-servers', 'bin', name);
  const node = process.execPath;
  const stdio = {
    every: { command: [node, server('everything'), 'stdio'] },
    files: { command: [node, server('filesystem'), join(dir, 'files')] },
    memory: { command: [node, server('memory')], env: { MEMORY_FILE_PATH: join(dir, 'memory.jsonl') } },
    git: { command: [python('mcp-server-git'), '--repository', join(dir, 'repo')] },
    time: { command: [python('mcp-server-time'), '--local-timezone', 'UTC'] },
  };
  const port = await freePort();
  const log = openSync(join(dir, 'everyhttp.log'), 'a');
  const everyhttp = spawn(node, [server('everything'), 'streamableHttp'], {
    env: { PATH: process.env.PATH, PORT: String(port) },
    stdio: ['ignore', log, log],
  });
  const url = `http://127.0.0.1:${port}/mcp`;
  await until('the HTTP server', () => fetch(url, { method: 'GET' }).then(() => true, () => false));
  return {
    dir,
    // how each server is reached without Countersign
    direct: { ...stdio, everyhttp: { url } },
    close() {
      everyhttp.kill();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

const GRANTS = `@id("tester")
permit (principal == Agent::"tester", action in Action::"call", resource);

@id("guest")
permit (principal == Agent::"guest", action == Action::"every__echo", resource);

@id("reader-tools")
permit (principal == Agent::"reader", action in Action::"call", resource);
@id("reader")
permit (principal == Agent::"reader", action in [Action::"resource_read", Action::"prompt_get"], resource);
@id("reader-is-asked")
permit (principal == Agent::"reader", action in [Action::"sampling_create", Action::"elicitation_create"], resource);
`;

const WIDER = `
@id("guest-more")
permit (principal == Agent::"guest", action == Action::"every__get-sum", resource);
`;

/** Configures Countersign in the folder, registers the contracts and issues tokens. */
export async function furnish({ dir, direct }) {
  const [mcp, console_] = [await freePort(), await freePort()];
  const text = JSON.stringify;
  let toml = `[server]\nlisten = "127.0.0.1:${mcp}"\n\n[console]\nlisten = "127.0.0.1:${console_}"\n\n[store]\npath = "data"\n`;
  for (const [name, how] of Object.entries(direct)) {
    toml += `\n[upstreams.${name}]\n`;
    if (how.url) toml += `url = ${text(how.url)}\n`;
    else toml += `command = ${text(how.command)}\n`;
    if (how.env) toml += `env = { ${Object.entries(how.env).map(([key, value]) => `${key} = ${text(value)}`).join(', ')} }\n`;
  }
  writeFileSync(join(dir, 'countersign.toml'), toml);
  mkdirSync(join(dir, 'grants'));
  const narrow = () => writeFileSync(join(dir, 'grants', 'clients.cedar'), GRANTS);
  narrow();
  const run = (...args) => execFileSync(program, args, { cwd: dir, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  run('tool', 'register');
  const token = agent => {
    const printed = run('agent', 'token', agent);
    const found = printed.match(/eyJ[\w-]*\.[\w-]*\.[\w-]*/);
    if (!found) throw new Error(`no token in ${printed}`);
    return found[0];
  };
  const tokens = { tester: token('tester'), guest: token('guest'), reader: token('reader') };
  return {
    url: `http://127.0.0.1:${mcp}/mcp`,
    tokens,
    run,
    narrow,
    widen: () => writeFileSync(join(dir, 'grants', 'clients.cedar'), GRANTS + WIDER),
    /** Starts serving over HTTP. */
    async serve() {
      const log = openSync(join(dir, 'server.log'), 'a');
      const child = spawn(program, ['serve'], { cwd: dir, stdio: ['ignore', log, log] });
      let ended = null;
      child.on('exit', (code, signal) => (ended = code ?? signal));
      const logged = () => readFileSync(join(dir, 'server.log'), 'utf8');
      await until('being ready', async () => {
        if (ended !== null) throw new Error(`the server ended with ${ended}:\n${logged()}`);
        return fetch(`http://127.0.0.1:${console_}/readyz`).then(answer => answer.ok, () => false);
      }, 60_000);
      return {
        logged,
        async stop() {
          child.kill('SIGTERM');
          await until('the end of the server', () => ended !== null, 60_000).catch(problem => {
            child.kill('SIGKILL');
            throw problem;
          });
          if (ended !== 0) throw new Error(`the server ended with ${ended}`);
        },
      };
    },
  };
}
