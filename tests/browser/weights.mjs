// What the pages weigh, and how they bear a thousand holds.

import assert from 'node:assert/strict';

import { visitor } from './browser.mjs';
import { open } from './house.mjs';
import { enrol, fillSignIn, hold, on, row, signIn } from './pages.mjs';

/** Bytes that come over the wire for a page: heads and bodies, as Chromium counts them. */
async function transferred(page, body) {
  const tools = await page.context().newCDPSession(page);
  await tools.send('Network.enable');
  let bytes = 0;
  const files = [];
  const urls = new Map();
  tools.on('Network.responseReceived', ({ requestId, response }) => urls.set(requestId, new URL(response.url).pathname));
  tools.on('Network.loadingFinished', ({ requestId, encodedDataLength }) => {
    bytes += encodedDataLength;
    files.push(`${urls.get(requestId)} ${encodedDataLength}`);
  });
  await body();
  await tools.detach();
  return { bytes, files };
}

/**
 * Keeps how long the page's one thread was busy without a break, and how long it took from a key or a turn of the wheel to
 * the picture after it; it runs before anything of the page.
 */
const watch = () => {
  globalThis.busy = [];
  globalThis.answered = [];
  new PerformanceObserver(list => {
    for (const { duration } of list.getEntries()) globalThis.busy.push(Math.round(duration));
  }).observe({ type: 'longtask', buffered: true });
  new PerformanceObserver(list => {
    for (const { duration } of list.getEntries()) globalThis.answered.push(duration);
  }).observe({ type: 'event', durationThreshold: 16 });
};

/** The longest time that the page took to draw after it was scrolled as far as it goes, and back. */
const drawn = page =>
  page.evaluate(async () => {
    let most = 0;
    for (let at = 0; at < 12; at += 1) {
      const began = performance.now();
      document.scrollingElement.scrollTo(0, at % 2 ? document.scrollingElement.scrollHeight : at * 500);
      await new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)));
      most = Math.max(most, performance.now() - began);
    }
    return Math.round(most);
  });

export default async function weights(rows, browser) {
  const house = await open();
  try {
    const you = await visitor(browser, house);
    await enrol(you);

    await rows.row('the first page, with all that it needs, is under 60 kB, and so is the queue', async () => {
      const first = await visitor(browser, house);
      const page = await first.page();
      const door = await transferred(page, async () => {
        await page.goto(`${house.origin}/sign-in`, { waitUntil: 'load' });
        await on(page, 'sign-in');
      });
      assert.ok(door.bytes > 1_000 && door.bytes < 60_000, `${door.bytes}: ${door.files.join(', ')}`);
      await house.ask('bank__transfer', { from: 'alice', to: 'bob', amount: 300 });
      await fillSignIn(page);
      const anew = await visitor(browser, house, { storageState: await first.context.storageState() });
      const other = await anew.page();
      const queue = await transferred(other, async () => {
        await other.goto(`${house.origin}/waiting`, { waitUntil: 'load' });
        await other.locator('[data-hold]').waitFor();
      });
      assert.ok(queue.bytes < 60_000, `${queue.bytes}: ${queue.files.join(', ')}`);
      const id = await other.locator('[data-hold]').getAttribute('data-hold');
      const shown = await transferred(other, () => hold(anew, id, other));
      assert.ok(shown.bytes < 60_000, `${shown.bytes}: ${shown.files.join(', ')}`);
      await house.withdraw(id);
      await anew.leave();
      await first.leave();
      return `sign-in ${door.bytes} bytes, the queue ${queue.bytes}, a hold after it ${shown.bytes}`;
    });

    await rows.row('a second visit fetches no style and no script again', async () => {
      await signIn(you);
      const again = await transferred(you.first, () => you.go('/waiting'));
      assert.ok(again.bytes < 20_000, `${again.bytes}: ${again.files.join(', ')}`);
      return `${again.bytes} bytes`;
    });

    const agents = Array.from({ length: 50 }, (_, at) => `agent-${at}`);
    await rows.row('fifty agents make a thousand holds', async () => {
      const left = [...agents];
      const some = async () => {
        for (let agent = left.shift(); agent; agent = left.shift()) {
          for (let at = 0; at < 20; at += 1) await house.ask('desk__note', { payee: `payee ${at}`, text: `${agent} asks for ${at}` }, { agent });
        }
      };
      await Promise.all(Array.from({ length: 16 }, some));
    }, { seconds: 90 });

    await rows.row('a queue of a thousand is one page that stays responsive', async () => {
      await you.context.addInitScript(watch);
      const began = Date.now();
      const { page, answer } = await you.go('/waiting');
      await page.locator('[data-hold]').first().waitFor();
      await page.waitForFunction(() => document.querySelectorAll('[data-hold]').length >= 1_000);
      const opened = Date.now() - began;
      assert.equal(await page.locator('[data-hold]').count(), 1_000);
      assert.match(await page.title(), /^\(1,?000\)/);
      const { length } = await answer.body();
      await page.evaluate(() => (globalThis.busy.length = 0));
      const scroll = await drawn(page);
      for (let turn = 0; turn < 6; turn += 1) await page.mouse.wheel(0, turn % 2 ? -4_000 : 6_000);
      for (const key of ['Tab', 'Tab', 'PageDown', 'End', 'Home', 'Tab']) await page.keyboard.press(key);
      // two rounds of the countdowns
      await page.evaluate(() => new Promise(resolve => setTimeout(resolve, 2_100)));
      const [busy, answered] = await page.evaluate(() => [Math.max(0, ...globalThis.busy), Math.max(0, ...globalThis.answered)]);
      const figures = `opened in ${opened} ms, ${Math.round(length / 1_024)} KiB; drawn ${scroll} ms after scrolling, ${answered} ms after a key at most, longest task ${busy} ms`;
      assert.ok(scroll < 200 && answered < 200 && busy < 200, figures);
      assert.ok(opened < 5_000, figures);
      return figures;
    }, { seconds: 60 });

    await rows.row('one more arrives live among a thousand, and one that goes makes its row go', async () => {
      const page = you.first;
      await house.token('late');
      await page.evaluate(() => (globalThis.busy.length = 0));
      const began = performance.now();
      const id = await house.ask('desk__note', { payee: 'late', text: 'one more' }, { agent: 'late' });
      await row(page, id).waitFor();
      const came = Math.round(performance.now() - began);
      await house.withdraw(id, { agent: 'late' });
      await row(page, id).waitFor({ state: 'detached' });
      const busy = await page.evaluate(() => Math.max(0, ...globalThis.busy));
      const figures = `seen ${came} ms after the call was sent, longest task ${busy} ms`;
      assert.ok(came < 3_000 && busy < 300, figures);
      return figures;
    });

    await you.leave();
  } finally {
    await house.close();
  }
}
