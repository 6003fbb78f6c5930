// How the pages look and are used: for everybody, on every screen, with a keyboard alone, without scripts.

import assert from 'node:assert/strict';

import { picture, violations, visitor } from './browser.mjs';
import { PASSPHRASE, open } from './house.mjs';
import { approve, deny, enrol, facts, fillSignIn, hold, on, row, shows, signIn } from './pages.mjs';

export default async function looks(rows, browser) {
  const house = await open();
  try {
    const you = await visitor(browser, house);
    await enrol(you);
    await signIn(you);

    // something of everything to look at
    const seen = await house.ask('bank__transfer', { from: 'alice', to: 'bob', amount: 480 });
    const page = await hold(you, seen);
    assert.equal((await approve(page)).status(), 303);
    await shows(page, seen, 'spent');
    const said_no = await house.ask('bank__transfer', { from: 'alice', to: 'carol', amount: 9_500 });
    await hold(you, said_no);
    await deny(page, 'not before the invoice is in');
    for (const amount of [5, 25, 40]) await house.call('bank__transfer', { from: 'alice', to: 'bob', amount });
    await house.call('bank__refund', { account: 'bob', amount: 5 }).catch(() => {});
    const ids = {
      transfer: await house.ask('bank__transfer', { from: 'alice', to: 'bob', amount: 500 }),
      odd: await house.ask('desk__note', {
        payee: 'p\u0430ypal', text: 'pay \u202e000,1\u202c to https://\u0430pple.com/ <b>now</b>\nthen call', data: { urgent: true, lines: [1, 2.5, null] },
      }, { agent: 'billing' }),
      pair: await house.ask('desk__pair', { payee: 'carol', text: 'the quarterly payment' }, { agent: 'billing' }),
    };
    await hold(you, ids.pair);
    assert.equal((await approve(page)).status(), 303);

    const everywhere = {
      'sign-in': '/sign-in',
      enrol: '/enrol',
      waiting: '/waiting',
      hold: `/holds/${ids.transfer}`,
      'hold-flags': `/holds/${ids.odd}`,
      'hold-votes': `/holds/${ids.pair}`,
      'hold-spent': `/holds/${seen}`,
      'hold-denied': `/holds/${said_no}`,
      agents: '/agents',
      agent: '/agents/demo',
      tools: '/tools',
      tool: '/tools/bank/transfer',
      grants: '/grants',
      ledger: '/ledger',
      entry: '/ledger/1',
      health: '/health',
      keys: '/keys',
    };
    const signed_out = new Set(['sign-in', 'enrol']);
    // pages that differ little from others have no picture of their own in the documents
    const elsewhere_too = new Set(['hold-votes', 'hold-spent', 'hold-denied']);
    const state = await you.context.storageState();
    // those who look: signed in and not, by what they look with
    const eyes = {
      light: { bypassCSP: true },
      dark: { theme: 'dark', bypassCSP: true },
      phone: { width: 360, height: 740, isMobile: true, hasTouch: true, deviceScaleFactor: 1 },
      narrow: { width: 320, height: 480 },
      plain: {},
      night: { theme: 'dark' },
    };
    const those = {};
    /** A page as somebody sees it who looks at it with these eyes. */
    const show = async (name, eye, body) => {
      const signed_in = !signed_out.has(name);
      const someone = (those[`${eye} ${signed_in}`] ??= await visitor(browser, house, { ...eyes[eye], storageState: signed_in ? state : undefined }));
      const { page, answer } = await someone.go(everywhere[name]);
      assert.equal(answer.status(), 200, `${everywhere[name]}`);
      await page.locator('body[data-page]').waitFor();
      const told = await body(page);
      someone.fine();
      return told;
    };

    for (const name of Object.keys(everywhere)) {
      await rows.row(`${name}: no violation of WCAG A or AA in light and dark, no wider than a phone, a picture`, async () => {
        // axe is kept out by the page's own policy, which is looked at elsewhere
        for (const theme of ['light', 'dark']) await show(name, theme, async page => assert.deepEqual(await violations(page), [], theme));
        await show(name, 'phone', async page => {
          assert.equal(await overflow(page), null);
          // what is to be touched is large enough
          const small = await page.locator('button:visible').evaluateAll(all => all.filter(each => {
            const box = each.getBoundingClientRect();
            return box.height < 24 || box.width < 24;
          }).map(each => each.outerHTML));
          assert.deepEqual(small, [], 'a button is too small to touch');
          if (name === 'hold') await picture(page, 'hold-phone');
        });
        // 320 pixels are what is left of 1280 at 400 % (WCAG 1.4.10)
        await show(name, 'narrow', async page => assert.equal(await overflow(page), null));
        // a hold is shown whole, as it is read
        const whole = ['hold-flags', 'tool'].includes(name);
        const bytes = await show(name, 'plain', async page => (await picture(page, name, { fullPage: whole, kept: !elsewhere_too.has(name) })).length);
        if (['waiting', 'hold-votes'].includes(name)) await show(name, 'night', page => picture(page, `${name}-dark`));
        return `${bytes} bytes`;
      });
    }
    await rows.row('nobody but the console was asked for anything, whatever page was looked at', async () => {
      const asked = Object.values(those).flatMap(someone => someone.requests);
      const hosts = [...new Set(asked.map(url => new URL(url).host))];
      assert.deepEqual(hosts, [new URL(house.origin).host]);
      return `${asked.length} requests`;
    });
    for (const someone of Object.values(those)) await someone.context.close();

    await rows.row('with the keyboard alone: sign in, go to a hold, deny it', async () => {
      const id = await house.ask('bank__transfer', { from: 'alice', to: 'bob', amount: 777 });
      const someone = await visitor(browser, house);
      const { page } = await someone.go('/waiting');
      await on(page, 'sign-in');
      const focused = () => page.evaluate(() => {
        const element = document.activeElement;
        const style = getComputedStyle(element);
        return {
          tag: element.tagName, name: element.getAttribute('name'), href: element.getAttribute('href'), type: element.getAttribute('type'),
          act: element.closest('form')?.dataset.act ?? null, action: element.closest('form')?.getAttribute('action') ?? null,
          seen: style.outlineStyle !== 'none' && style.outlineWidth !== '0px' || style.boxShadow !== 'none',
        };
      });
      /** Presses Tab until it comes to what is looked for; every stop on the way is seen. */
      const to = async (what, is) => {
        for (let press = 0; press < 80; press += 1) {
          const at = await focused();
          if (is(at)) return at;
          await page.keyboard.press('Tab');
          const now = await focused();
          if (now.tag !== 'BODY') assert.ok(now.seen, `nobody sees where the focus is: ${JSON.stringify(now)}`);
        }
        throw new Error(`no key leads to ${what}`);
      };
      await to('the name', at => at.name === 'approver');
      await page.keyboard.type('you');
      await to('the passphrase', at => at.name === 'passphrase');
      await page.keyboard.type(PASSPHRASE);
      await page.keyboard.press('Enter');
      await on(page, 'waiting');
      await to('the hold', at => at.href === `/holds/${id}`);
      await page.keyboard.press('Enter');
      await on(page, 'hold');
      await facts(page, id).waitFor();
      const first = await focused();
      assert.notEqual(first.act, 'approve', 'approving is where one begins');
      await to('the reason', at => at.act === 'deny' && at.name === 'reason');
      await page.keyboard.type('by hand');
      await to('the button', at => at.act === 'deny' && at.tag === 'BUTTON');
      await page.keyboard.press('Enter');
      await shows(page, id, 'denied');
      await someone.leave();
    });

    await rows.row('Enter countersigns nothing: not on a page that was just opened, nor where the passphrase is typed', async () => {
      const id = await house.ask('bank__transfer', { from: 'alice', to: 'bob', amount: 778 });
      const page = await hold(you, id);
      const posts = [];
      page.on('request', request => request.method() === 'POST' && posts.push(request.url()));
      for (const key of ['Enter', 'Space', 'y', 'a']) await page.keyboard.press(key);
      await page.locator('form[data-act="approve"] [name="passphrase"]').fill(PASSPHRASE);
      await page.keyboard.press('Enter');
      // a second look at the page comes after whatever the keys would have sent
      await hold(you, id, page);
      assert.deepEqual(posts, []);
      assert.equal((await house.task(id)).status, 'working');
      await house.withdraw(id);
    });

    await rows.row('without scripts: enrol, sign in, look, approve, deny, sign out', async () => {
      const code = await house.add('anna', { vouched: 'you' });
      const someone = await visitor(browser, house, { javaScriptEnabled: false });
      const { page } = await someone.go('/enrol');
      const form = page.locator('form[action="/enrol"]');
      await form.locator('[name="code"]').fill(code);
      await form.locator('[name="passphrase"]').fill(PASSPHRASE);
      await form.locator('[name="again"]').fill('something else, mistyped');
      await form.locator('button[type="submit"]').click();
      await page.locator('[data-problem]').waitFor();
      await form.locator('[name="code"]').fill(code);
      await form.locator('[name="passphrase"]').fill(PASSPHRASE);
      await form.locator('[name="again"]').fill(PASSPHRASE);
      await form.locator('button[type="submit"]').click();
      await on(page, 'waiting');
      await page.locator('form[action="/sign-out"] button').first().click();
      await on(page, 'sign-in');
      assert.equal((await fillSignIn(page, 'anna')).status(), 303);
      await on(page, 'waiting');
      const [yes, no] = [
        await house.ask('bank__transfer', { from: 'alice', to: 'bob', amount: 801 }),
        await house.ask('bank__transfer', { from: 'alice', to: 'bob', amount: 802 }),
      ];
      await page.reload();
      await row(page, yes).locator('a').first().click();
      await facts(page, yes).waitFor();
      assert.equal((await approve(page)).status(), 303);
      await hold(someone, no);
      assert.equal((await deny(page, 'no scripts, no money')).status(), 303);
      await shows(page, no, 'denied');
      await hold(someone, yes);
      await facts(page, yes).waitFor();
      assert.ok(['approved', 'spent'].includes(await facts(page, yes).getAttribute('data-state')));
      await page.locator('form[action="/sign-out"] button').first().click();
      await on(page, 'sign-in');
      await someone.leave();
    });

    await you.leave();
  } finally {
    await house.close();
  }
}

/** What of a page is wider than the screen, if anything. */
const overflow = page =>
  page.evaluate(() => {
    const { clientWidth, scrollWidth } = document.documentElement;
    const over = [...document.querySelectorAll('body *')].filter(element => element.getBoundingClientRect().right > clientWidth + 1);
    return scrollWidth > clientWidth ? `${scrollWidth} of ${clientWidth}: ${over.slice(0, 3).map(element => element.outerHTML.slice(0, 120))}` : null;
  });
