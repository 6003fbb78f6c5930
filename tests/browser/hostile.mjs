// What agents may put into arguments, shown harmlessly: a row a trick, judged by what the page became and, where a trick is for
// the eye, by a picture.

import assert from 'node:assert/strict';

import { pixels, visitor } from './browser.mjs';
import { PASSPHRASE, open } from './house.mjs';
import { act, approve, argument, button, enrol, hold, on, row, shows, signIn } from './pages.mjs';

/** What of the page is ours and must stay as it is whatever the arguments say, and what a script of theirs would leave behind. */
const census = page =>
  page.evaluate(() => {
    const count = selector => document.querySelectorAll(selector).length;
    const attributes = [...document.querySelectorAll('*')].flatMap(element => element.getAttributeNames());
    return {
      harmed: globalThis.harmed ?? null,
      scripts: count('script'),
      frames: count('iframe, object, embed, svg script, base, meta[http-equiv]'),
      images: count('img, image, video, audio'),
      forms: [...document.querySelectorAll('form')].map(form => form.getAttribute('action')).sort(),
      buttons: count('button, input[type="submit"], input[type="image"], [role="button"]'),
      links: [...document.querySelectorAll('a[href], area[href]')].map(link => link.getAttribute('href')).sort(),
      handlers: attributes.filter(name => name.startsWith('on')),
      styles: attributes.filter(name => name === 'style').length,
    };
  });

/** Links differ by the holds and entries that they lead to, and by how many calls there were before. */
const level = ({ links, ...counted }) => {
  const kinds = links.map(link => link.replace(/hold_\w{26}/, 'HOLD').replace(/\/ledger\/\d+/, '/ledger/ENTRY'));
  return { ...counted, forms: counted.forms.map(form => form.replace(/hold_\w{26}/, 'HOLD')), links: [...new Set(kinds)].sort() };
};

/** Characters that would hide or reorder what is read, wherever they stand in what a page shows. */
const UNSEEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\u{e0000}-\u{e007f}\u{fe00}-\u{fe0f}]/u;

const TEXTS = {
  'a script element': ['<script>harmed=1</script><ScRiPt src=//attacker.test/x.js></sCrIpT>', '<script>harmed=1</script>'],
  'event handlers': ['<img src=x onerror="harmed=1"><svg/onload=harmed=1><body onpageshow=harmed=1>', 'onerror="harmed=1"'.replaceAll('"', '\\"')],
  'a way out of an attribute': ['" autofocus onfocus="harmed=1" x="\' onmouseover=harmed=1 \'', 'onmouseover=harmed=1'],
  'a way out of a text': ['</pre></td></table></main><h1>Approved</h1><form action=//attacker.test><button>Approve</button>', '</main><h1>Approved</h1>'],
  'links that are scripts': ['javascript:harmed=1 <a href="javascript:harmed=1">invoice</a> data:text/html,<script>harmed=1</script>', 'javascript:harmed=1'],
  'a template': ['{{constructor.constructor("harmed=1")()}} ${harmed=1} <%= harmed=1 %> #{harmed=1}', '{{constructor.constructor('],
  Markdown: ['# Approved\n**bold** [invoice](https://attacker.test/) ![](https://attacker.test/x.png)\n| a | b |\n|---|---|', '**bold** [invoice](https://attacker.test/)'],
  'an address alone': ['https://attacker.test/pay and mailto:x@attacker.test', 'https://attacker.test/pay'],
};

export default async function hostile(rows, browser) {
  const house = await open();
  try {
    const you = await visitor(browser, house);
    await enrol(you);
    await signIn(you);
    const ask = (text, more = {}) => house.ask('desk__note', { payee: 'carol', text, ...more }, { agent: 'hostile' });
    let plain;

    /** Opens the hold, its whole text unfolded, and looks at it as at one without tricks. */
    const look = async id => {
      const page = await hold(you, id);
      await page.evaluate(() => document.querySelectorAll('details').forEach(details => (details.open = true)));
      return { page, found: level(await census(page)) };
    };

    await rows.row('a hold without tricks, to compare with', async () => {
      // one like it was countersigned before, so that there is a difference to show
      const before = await ask('a sack of flour', { payee: 'paypal' });
      await hold(you, before);
      assert.equal((await approve(you.first)).status(), 303);
      await shows(you.first, before, 'spent');
      const id = await ask('two sacks of flour');
      const { found } = await look(id);
      assert.equal(found.harmed, null);
      assert.deepEqual(found.handlers, []);
      assert.equal(found.styles, 0);
      plain = found;
      await house.withdraw(id, { agent: 'hostile' });
    });

    for (const [name, [text, shown]] of Object.entries(TEXTS)) {
      await rows.row(`${name} is text`, async () => {
        const id = await ask(text);
        const { page, found } = await look(id);
        assert.deepEqual(found, plain, 'the page has other parts');
        assert.ok((await page.locator('[data-canonical]').first().textContent()).includes(shown), 'it is not shown as it is');
        const value = await argument(page, '/text').locator('.value').textContent();
        assert.ok(value.includes(shown) && !value.includes('\n'), value);
        // nor in the queue
        const queue = await you.go('/waiting', page);
        await row(queue.page, id).waitFor();
        assert.equal(await queue.page.evaluate(() => globalThis.harmed ?? null), null);
        assert.equal(await queue.page.locator('a[href*="attacker"], a[href^="javascript"], img').count(), 0);
        await house.withdraw(id, { agent: 'hostile' });
      });
    }

    await rows.row('names of members are text as well', async () => {
      const name = '<img src=x onerror=harmed=1>\n"/><script>harmed=1</script>';
      const id = await ask('members', { data: { [name]: { 'javascript:harmed=1': 1 }, '</pre>': 2 } });
      const { page, found } = await look(id);
      assert.deepEqual(found, plain);
      const paths = await page.locator('[data-argument-path]').evaluateAll(rows => rows.map(row => row.getAttribute('data-argument-path')));
      assert.equal(paths.filter(path => path.includes('onerror')).length, 1, `${paths}`);
      assert.ok(paths.every(path => !path.includes('\n')));
      await house.withdraw(id, { agent: 'hostile' });
    });

    await rows.row('escape sequences of terminals are written out', async () => {
      const id = await ask('\u001b[2J\u001b[31mred\u001b[0m \u009b31m \u0007 \u0008\u0008\u0008');
      const { page } = await look(id);
      const value = await argument(page, '/text').locator('.value').textContent();
      assert.match(value, /\\u001b\[31mred/);
      assert.match(value, /<U\+009B>31m \\u0007 \\b\\b/);
      await page.locator('[data-flag="control"]').first().waitFor();
      assert.doesNotMatch(await page.locator('body').innerText(), UNSEEN);
      await house.withdraw(id, { agent: 'hostile' });
    });

    await rows.row('marks that turn text round are written out, and text stands in its order', async () => {
      const id = await ask('pay \u202e000,1\u202c \u2067evil\u2069 \u200f!', { payee: '\u202eadam\u202c' });
      const { page } = await look(id);
      const value = argument(page, '/text').locator('.value');
      assert.match(await value.textContent(), /pay <U\+202E>000,1<U\+202C> <U\+2067>evil<U\+2069> <U\+200F>!/);
      await argument(page, '/text').locator('[data-flag="bidi"]').first().waitFor();
      assert.doesNotMatch(await page.locator('body').innerText(), UNSEEN);
      // the letters stand from left to right, in the order in which they are in the arguments
      assert.ok(await inOrder(value), 'the text is not in its own order');
      await house.withdraw(id, { agent: 'hostile' });
    });

    await rows.row('text of right-to-left scripts does not reach beyond its own row', async () => {
      const id = await ask('שלום 100 עולם', { payee: 'مرحبا' });
      const { page } = await look(id);
      const line = argument(page, '/text');
      await line.locator('[data-flag="bidi"]').first().waitFor();
      // its path stands left of its value, as in every other row
      const [own, other] = [await line.boundingBox(), await argument(page, '/payee').boundingBox()];
      const [value, first] = [await line.locator('.value').boundingBox(), await line.evaluate(row => {
        const range = document.createRange();
        const walker = document.createTreeWalker(row, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
          if (walker.currentNode.textContent.trim()) {
            range.selectNodeContents(walker.currentNode);
            return range.getBoundingClientRect().left;
          }
        }
        return null;
      })];
      assert.ok(first <= value.x && Math.abs(own.x - other.x) < 1, 'the row is turned round');
      await house.withdraw(id, { agent: 'hostile' });
    });

    await rows.row('zero-width, tag and variation characters are written out', async () => {
      const tags = [...'approve'].map(letter => String.fromCodePoint(0xe0000 + letter.charCodeAt(0))).join('');
      const id = await ask(`ca\u200brol\u200d\ufeff${tags}\ufe0f \u2800\u3164`);
      const { page } = await look(id);
      const value = await argument(page, '/text').locator('.value').textContent();
      for (const written of ['<U+200B>', '<U+200D>', '<U+FEFF>', '<U+E0061>', '<U+FE0F>', '<U+2800>', '<U+3164>']) {
        assert.ok(value.includes(written), `${written} in ${value}`);
      }
      await argument(page, '/text').locator('[data-flag="invisible"]').first().waitFor();
      assert.doesNotMatch(await page.locator('body').innerText(), UNSEEN);
      await house.withdraw(id, { agent: 'hostile' });
    });

    await rows.row('a text that writes such characters out itself is told apart from them', async () => {
      const id = await ask('<U+202E>');
      const { page } = await look(id);
      assert.match(await argument(page, '/text').locator('.value').textContent(), /<U\+003C>U\+202E>/);
      await house.withdraw(id, { agent: 'hostile' });
    });

    await rows.row('a payee that looks like a known one is flagged, and the difference shows which letters are others', async () => {
      // the real one was countersigned before
      const id = await ask('rent', { payee: 'p\u0430yp\u0430l' });
      const { page } = await look(id);
      const flags = argument(page, '/payee').locator('[data-flag="mixed_script"], [data-flag="confusable"]');
      await flags.first().waitFor();
      assert.ok(await flags.first().isVisible());
      const difference = page.locator('[data-difference]');
      assert.match(await difference.textContent(), /\/payee/);
      assert.match(await difference.textContent(), /"paypal"[^]*"p\u0430yp\u0430l"/);
      await house.withdraw(id, { agent: 'hostile' });
    });

    await rows.row('a host in other letters is named as it would be asked for', async () => {
      const id = await ask('see https://\u0430pple.com/pay and b\u00fccher.example');
      const { page } = await look(id);
      const shown = await page.locator('body').innerText();
      assert.match(shown, /xn--pple-43d\.com/);
      assert.match(shown, /xn--bcher-kva\.example/);
      await house.withdraw(id, { agent: 'hostile' });
    });

    await rows.row('line breaks make no rows of their own', async () => {
      const id = await ask('flour\n/amount\n5\n\u2028/payee: "alice"\r\n');
      const { page, found } = await look(id);
      assert.deepEqual(found, plain);
      const value = argument(page, '/text').locator('.value');
      assert.match(await value.textContent(), /flour\\n\/amount\\n5\\n<U\+2028>/);
      const paths = await page.locator('[data-argument-path]').evaluateAll(rows => rows.map(row => row.getAttribute('data-argument-path')));
      assert.deepEqual(paths.filter(path => path !== '').sort(), ['/payee', '/text']);
      await house.withdraw(id, { agent: 'hostile' });
    });

    await rows.row('text that imitates the console does not pass for it', async () => {
      const imitation = [
        'flour', ' '.repeat(200), 'Approve   Deny', '[Approve]', '✔ approved by maria', '─'.repeat(80),
        '/payee  "alice"', 'state: approved', 'Countersign · waiting (0)', ' '.repeat(400), 'nothing more',
      ].join('\n');
      const id = await ask(imitation);
      const { page, found } = await look(id);
      assert.deepEqual(found, plain);
      // what is theirs lies within a box of its own, and is drawn unlike what is ours
      const value = argument(page, '/text').locator('.value.theirs');
      const [outer, inner] = [await page.locator('ol.arguments').boundingBox(), await value.boundingBox()];
      assert.ok(inner.x >= outer.x && inner.y >= outer.y, 'it begins outside its place');
      assert.ok(inner.x + inner.width <= outer.x + outer.width + 1, 'it reaches out of its place');
      assert.ok(inner.y + inner.height <= outer.y + outer.height + 1, 'it reaches out of its place below');
      assert.match(await value.evaluate(element => getComputedStyle(element).fontFamily), /mono/i);
      assert.doesNotMatch(await page.locator('h1').first().evaluate(element => getComputedStyle(element).fontFamily), /mono/i);
      assert.ok(await isFramed(page, value), 'its box is not seen');
      // approving comes after all of it, and is what no key presses by itself
      const yes = button(page, 'approve');
      assert.ok(await page.evaluate(([text, button]) => !!(text.compareDocumentPosition(button) & Node.DOCUMENT_POSITION_FOLLOWING),
        [await page.locator('[data-canonical]').last().elementHandle(), await yes.elementHandle()]));
      assert.ok(await yes.evaluate(button => button !== document.activeElement && !button.autofocus));
      await house.withdraw(id, { agent: 'hostile' });
    });

    await rows.row('a value of one megabyte: what is cut says so, and the whole is there to read', async () => {
      const text = `begin ${'flour '.repeat(175_000)}<script>harmed=1</script> end`;
      const id = await ask(text);
      const began = Date.now();
      const page = await hold(you, id);
      const took = Date.now() - began;
      const line = argument(page, '/text');
      assert.match(await line.innerText(), /[\d,. ]+ bytes (are )?not shown/);
      assert.ok((await line.locator('.value').textContent()).length < 10_000);
      const whole = await page.locator('[data-canonical]').evaluateAll(all => all.map(each => each.textContent).join(''));
      assert.ok(whole.includes('</script> end') && whole.length > text.length, `${whole.length} letters of ${text.length}`);
      assert.equal(await page.evaluate(() => globalThis.harmed ?? null), null);
      assert.ok(await fits(page), 'it is wider than the screen');
      assert.ok(took < 5_000, `${took} ms`);
      // who countersigns says that they have read it
      await page.locator('form[data-act="approve"] [name="passphrase"]').fill(PASSPHRASE);
      await button(page, 'approve').click();
      assert.equal(await page.locator('form[data-act="approve"] [name="whole"]').evaluate(box => box.validity.valueMissing), true);
      assert.equal((await house.task(id, { agent: 'hostile' })).status, 'working');
      const queue = await you.go('/waiting', page);
      assert.ok((await queue.answer.body()).length < 100_000, 'the queue carries it along');
      await house.withdraw(id, { agent: 'hostile' });
      return `${took} ms to open`;
    });

    await rows.row('one word of a hundred thousand letters does not widen the page', async () => {
      const id = await ask('x'.repeat(100_000), { payee: 'y'.repeat(3_000) });
      const { page } = await look(id);
      assert.ok(await fits(page), 'it is wider than the screen');
      const queue = await you.go('/waiting', page);
      await row(queue.page, id).waitFor();
      assert.ok(await fits(queue.page), 'the queue is wider than the screen');
      await house.withdraw(id, { agent: 'hostile' });
    });

    await rows.row('ten thousand members: rows are bounded, what is left out is counted, the whole is there', async () => {
      const data = Object.fromEntries(Array.from({ length: 10_000 }, (_, at) => [`key ${at}`, at]));
      const id = await ask('many', { data });
      const began = Date.now();
      const page = await hold(you, id);
      const took = Date.now() - began;
      const shown = await page.locator('[data-argument-path]').count();
      const whole = await page.locator('[data-canonical]').evaluateAll(all => all.map(each => each.textContent).join(''));
      assert.ok(whole.includes('"key 9999":9999') && whole.includes('"key 0":0'));
      if (shown < 10_000) assert.match(await page.locator('[data-more]').innerText(), new RegExp(`${10_002 - shown} more`));
      assert.ok(took < 8_000, `${took} ms`);
      await house.withdraw(id, { agent: 'hostile' });
      return `${shown} rows, ${took} ms to open`;
    });

    await rows.row('sixty levels are shown, and do not run off the page', async () => {
      let data = 'deep';
      for (let level = 0; level < 60; level += 1) data = level % 2 ? [data] : { d: data };
      const id = await ask('deep', { data });
      const { page, found } = await look(id);
      assert.deepEqual(found, plain);
      const deepest = page.locator('[data-argument-path^="/data/"]');
      assert.ok((await deepest.getAttribute('data-argument-path')).split('/').length > 60);
      assert.ok(await deepest.locator('.value').isVisible());
      assert.ok(await fits(page), 'it is wider than the screen');
      await house.withdraw(id, { agent: 'hostile' });
    });

    await rows.row('numbers are shown as they were sent', async () => {
      const id = await ask('numbers', { data: { a: 1e-7, b: 0.1, d: 12345678901234, e: '1e3' } });
      const { page } = await look(id);
      const value = async path => (await argument(page, path).locator('.value').textContent()).trim();
      assert.equal(await value('/data/a'), '1e-7');
      assert.equal(await value('/data/b'), '0.1');
      assert.equal(await value('/data/d'), '12345678901234');
      assert.equal(await value('/data/e'), '"1e3"');
      await house.withdraw(id, { agent: 'hostile' });
    });

    await rows.row('what an agent is called, and its task, are text', async () => {
      const id = await ask('from whom');
      const page = await hold(you, id);
      assert.match(await page.locator('body').innerText(), /hostile/);
      await house.withdraw(id, { agent: 'hostile' });
    });

    await rows.row('a reason for a denial is text for the next who looks', async () => {
      const id = await ask('reasons');
      const page = await hold(you, id);
      await act(page, 'deny', { reason: '<img src=x onerror=harmed=1>' });
      await shows(page, id, 'denied');
      await on(page, 'hold');
      assert.match(await page.locator('body').innerText(), /<img src=x onerror=harmed=1>/);
      assert.equal(await page.evaluate(() => globalThis.harmed ?? null), null);
      assert.equal(await page.locator('img').count(), 0);
    });

    await you.leave();
  } finally {
    await house.close();
  }
}

/** No part of the page is wider than the screen. */
const fits = page => page.evaluate(() => document.documentElement.scrollWidth <= document.documentElement.clientWidth);

/** Whether the letters of a text are drawn in the order in which they are written, line by line. */
const inOrder = locator =>
  locator.evaluate(element => {
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    let last = { left: -1, top: -1 };
    while (walker.nextNode()) {
      const node = walker.currentNode;
      for (let at = 0; at < node.length; at += 1) {
        const range = document.createRange();
        range.setStart(node, at);
        range.setEnd(node, at + 1);
        const box = range.getBoundingClientRect();
        if (box.width === 0) continue;
        if (box.top < last.top - 2 || (Math.abs(box.top - last.top) <= 2 && box.left < last.left)) return false;
        last = { left: box.left, top: box.top };
      }
    }
    return last.left >= 0;
  });

/** Whether a box stands out in a picture: the edge, or the ground, is of another colour than what is around it. */
async function isFramed(page, box) {
  await box.scrollIntoViewIfNeeded();
  const { x, y, height } = await box.boundingBox();
  const shot = pixels(await page.screenshot());
  const middle = Math.min(Math.max(Math.round(y + Math.min(height, 200) / 2), 1), shot.height - 2);
  const outside = shot.at(Math.max(Math.round(x) - 6, 0), middle);
  const near = [0, 1, 2, 3, 4, 5, 6].map(step => shot.at(Math.min(Math.round(x) + step, shot.width - 1), middle));
  return near.some(colour => colour.some((part, at) => Math.abs(part - outside[at]) > 8));
}
