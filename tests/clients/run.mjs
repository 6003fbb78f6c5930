// Runs every real client: `node tests/clients/run.mjs [--direct] [CLIENT …]`.
// With --direct the clients talk to the servers themselves, which shows that the checks hold without Countersign.

import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { furnish, layOut, peers, program } from './house.mjs';

const here = name => fileURLToPath(new URL(name, import.meta.url));
const clients = {
  'typescript-new': [process.execPath, here('typescript-new.mjs')],
  'typescript-old': [process.execPath, here('typescript-old.mjs')],
  'python-new': [join(peers, 'py-new', 'bin', 'python'), here('python_client.py')],
  'python-old': [join(peers, 'py-old', 'bin', 'python'), here('python_client.py')],
};

const args = process.argv.slice(2);
const direct = args.includes('--direct');
const only = args.filter(arg => !arg.startsWith('--'));
const modes = direct ? ['direct'] : ['stdio', 'http'].filter(mode => !args.includes(`--no-${mode}`));

function started([command, ...rest], scene) {
  const env = { ...process.env, COUNTERSIGN_SCENE: JSON.stringify(scene), PYTHONDONTWRITEBYTECODE: '1' };
  const child = spawn(command, rest, { env, stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  child.stdout.on('data', chunk => {
    text += chunk;
    process.stdout.write(chunk);
  });
  return new Promise(resolve => child.on('close', code => resolve({ code, text })));
}

const house = await layOut();
let [passed, failed] = [0, 0];
try {
  const countersign = direct ? null : await furnish(house);
  for (const mode of modes) {
    // over stdio each client has a Countersign of its own on the same store, so no other may hold it
    const server = mode === 'http' ? await countersign.serve() : null;
    const scene = { mode, dir: house.dir, direct: house.direct, program, url: countersign?.url, tokens: countersign?.tokens };
    for (const [name, command] of Object.entries(clients)) {
      if (only.length > 0 && !only.includes(name)) continue;
      const before = Date.now();
      console.log(`# ${name}, ${mode}`);
      const { code, text } = await started(command, scene);
      const [ok, bad] = [text.match(/^ok /gm)?.length ?? 0, text.match(/^not ok /gm)?.length ?? 0];
      passed += ok;
      // a client that broke off counts as one more failure
      failed += bad + (code !== 0 && bad === 0 ? 1 : 0);
      console.log(`# ${name}, ${mode}: ${ok} passed, ${bad} failed, exit ${code}, ${((Date.now() - before) / 1000).toFixed(1)} s`);
    }
    if (server) {
      const log = server.logged();
      if (Object.values(countersign.tokens).some(token => log.includes(token.split('.')[2]))) {
        failed += 1;
        console.log('not ok - a token is in the log');
      }
      await server.stop();
    }
  }
  if (!direct) {
    // the ledger still holds after all of it
    const before = failed;
    try {
      countersign.run('ledger', 'verify');
    } catch (problem) {
      failed += 1;
      console.log(`not ok - the ledger does not verify: ${problem.stdout}${problem.stderr}`);
    }
    if (before === failed) passed += 1;
  }
} finally {
  house.close();
}
console.log(`# clients: ${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
