// Rows of tests: each has a name, a limit of time, and its line.

import { keep } from './browser.mjs';

let [passed, failed] = [0, 0];

/** One file's tests, in order. A row may leave its visitors open: they are closed after it. */
export class Rows {
  constructor(file, browser) {
    this.file = file;
    this.browser = browser;
  }

  /** Runs a row. `body` may give a text that is printed with it: a figure that was measured. */
  async row(name, body, { seconds = 30 } = {}) {
    const began = Date.now();
    let timer;
    try {
      const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`took more than ${seconds} s`)), seconds * 1_000);
      });
      const told = await Promise.race([body(), late]);
      passed += 1;
      console.log(`ok - ${this.file}: ${name} (${Date.now() - began} ms${typeof told === 'string' ? `; ${told}` : ''})`);
      return true;
    } catch (problem) {
      failed += 1;
      console.log(`not ok - ${this.file}: ${name} (${Date.now() - began} ms)`);
      for (const line of String(problem?.stack ?? problem).split('\n').slice(0, 14)) console.log(`  # ${line}`);
      const open = await keep(this.browser, `${this.file}-${name}`).catch(() => []);
      for (const url of open) console.log(`  # open: ${url}`);
      return false;
    } finally {
      clearTimeout(timer);
    }
  }

  /** What a whole file could not do counts as one failure. */
  broken(problem) {
    failed += 1;
    console.log(`not ok - ${this.file}: broke off`);
    for (const line of String(problem?.stack ?? problem).split('\n').slice(0, 14)) console.log(`  # ${line}`);
  }
}

export const counts = () => ({ passed, failed });
