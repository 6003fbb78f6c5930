// The console in a real browser: `node tests/browser/run.mjs [FILE …]`. Needs Debian's chromium and the packages of
// tests/peers. With PICTURES=1 the pictures in docs/images are taken anew.

import { launch } from './browser.mjs';
import { Rows, counts } from './rows.mjs';

/** Files of tests. Those that measure how quick something is have the machine to themselves. */
const together = ['accounts', 'attacks', 'flows', 'hostile', 'looks', 'operators', 'passkeys', 'secure', 'signed-in'];
const alone = ['weights'];

const only = process.argv.slice(2);
const chosen = names => names.filter(name => only.length === 0 || only.includes(name));
const AT_ONCE = 2;

async function play(name) {
  const browser = await launch();
  const rows = new Rows(name, browser);
  const began = Date.now();
  try {
    const { default: tests } = await import(`./${name}.mjs`);
    await tests(rows, browser);
  } catch (problem) {
    rows.broken(problem);
  } finally {
    await browser.close();
  }
  console.log(`# ${name}: ${((Date.now() - began) / 1_000).toFixed(1)} s`);
}

for (const name of chosen(alone)) await play(name);
const waiting = chosen(together);
await Promise.all(
  Array.from({ length: AT_ONCE }, async () => {
    for (let name = waiting.shift(); name; name = waiting.shift()) await play(name);
  }),
);

const { passed, failed } = counts();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
