// What approvers do: enrol, sign in, see what waits as it comes, read it, countersign it or not.

import assert from 'node:assert/strict';

import { visitor } from './browser.mjs';
import { PASSPHRASE, decision, open, until } from './house.mjs';
import { act, approve, argument, button, changed, deny, enrol, facts, fillSignIn, hold, on, row, shows, signIn } from './pages.mjs';

const transfer = amount => ({ from: 'alice', to: 'bob', amount });

export default async function flows(rows, browser) {
  const house = await open({ grants: '' });
  try {
    const you = await visitor(browser, house);
    await rows.row('enrols with the one-time link and a passphrase, and signs in', async () => {
      await enrol(you);
      await you.context.clearCookies();
      const { page } = await you.go('/waiting');
      await on(page, 'sign-in');
      const refused = await fillSignIn(page, 'you', 'not the passphrase at all');
      assert.equal(refused.status(), 403);
      await page.locator('[data-problem="login_refused"]').waitFor();
      const let_in = await fillSignIn(page, 'you');
      assert.equal(let_in.status(), 303);
      await on(page, 'waiting');
      assert.equal(new URL(page.url()).pathname, '/waiting');
    });

    await rows.row('a link to a hold leads through sign-in and back, and tells nothing before', async () => {
      const id = await house.ask('bank__transfer', transfer(201));
      const guest = await visitor(browser, house);
      const { page } = await guest.go(`/holds/${id}`);
      await on(page, 'sign-in');
      for (const fact of ['alice', '201', 'bank', 'transfer', 'pending']) {
        assert.ok(!(await page.locator('body').innerText()).includes(fact), `it tells ${fact} to who is not signed in`);
      }
      await fillSignIn(page);
      await on(page, 'hold');
      await facts(page, id).waitFor();
      await house.withdraw(id);
      await guest.leave();
    });

    await rows.row('a hold arrives live within a second of the call', async () => {
      const { page } = await you.go('/waiting');
      await on(page, 'waiting');
      const before = await page.title();
      await house.token('demo');
      await house.ask('bank__transfer', transfer(202)).then(id => row(page, id).waitFor());
      const took = [];
      const ids = [];
      for (const amount of [203, 204, 205]) {
        const began = performance.now();
        const [id] = await Promise.all([
          house.ask('bank__transfer', transfer(amount)),
          page.locator('[data-hold]', { hasText: String(amount) }).waitFor({ timeout: 5_000 }),
        ]);
        took.push(Math.round(performance.now() - began));
        ids.push(id);
      }
      for (const id of ids) assert.equal(await row(page, id).getAttribute('data-state'), 'pending');
      assert.ok(Number(await row(page, ids[0]).getAttribute('data-deadline')) > Date.now());
      assert.notEqual(await page.title(), before);
      assert.match(await page.title(), /^\(4\)/);
      const least = Math.min(...took);
      assert.ok(least < 1_000, `took ${took} ms`);
      // what is withdrawn goes as it came
      await house.withdraw(ids[0]);
      await row(page, ids[0]).waitFor({ state: 'detached' });
      assert.match(await page.title(), /^\(3\)/);
      return `seen ${took.join(', ')} ms after the call was sent`;
    });

    await rows.row('who allows it is told by the desktop, of the tool and whose call it is, never of its arguments', async () => {
      const told = await visitor(browser, house, { permissions: ['notifications'], storageState: await you.context.storageState() });
      await told.context.addInitScript(() => {
        globalThis.notes = [];
        const real = globalThis.Notification;
        globalThis.Notification = class extends EventTarget {
          static permission = real.permission;
          static requestPermission = async () => 'granted';
          constructor(title, { body }) {
            super();
            globalThis.notes.push(`${title}: ${body}`);
          }
        };
        // nobody looks at the page
        Object.defineProperty(Document.prototype, 'hidden', { get: () => true });
      });
      const { page } = await told.go('/waiting');
      await on(page, 'waiting');
      await page.locator('[data-live="on"]').waitFor();
      const id = await house.ask('bank__transfer', { from: 'alice', to: 'bob', amount: 249 });
      const [note] = await (await page.waitForFunction(() => globalThis.notes.length > 0 && globalThis.notes)).jsonValue();
      assert.match(note, /bank__transfer/);
      assert.doesNotMatch(note, /alice|bob|249/);
      await house.withdraw(id);
      await told.leave();
    });

    await rows.row('its arguments are read, it is countersigned with the passphrase and seen executed, and the agent has its result', async () => {
      const call = house.call('bank__transfer', transfer(250));
      const { page } = await you.go('/waiting');
      const waiting = page.locator('[data-hold]', { hasText: '250' });
      const id = await waiting.getAttribute('data-hold');
      await waiting.locator(`a[href="/holds/${id}"]`).first().click();
      await on(page, 'hold');
      assert.equal((await argument(page, '/amount').locator('.value').innerText()).trim(), '250');
      assert.equal((await argument(page, '/from').locator('.value').innerText()).trim(), '"alice"');
      assert.equal(await page.locator('[data-canonical]').first().innerText(), '{"amount":250,"from":"alice","to":"bob"}');
      // a passphrase that is not theirs does nothing
      const wrong = await act(page, 'approve', { passphrase: 'not the passphrase at all' });
      assert.equal(wrong.status(), 403);
      await page.locator('[data-problem="passphrase_wrong"]').waitFor();
      assert.equal((await house.task(id)).status, 'working');
      const answer = await approve(page);
      assert.equal(answer.status(), 303);
      await shows(page, id, 'spent');
      assert.match(await page.locator('[data-history]').innerText(), /you countersigned/);
      const result = await call;
      assert.equal(result.structuredContent.amount, 250, JSON.stringify(result));
    });

    await rows.row('it is denied with a reason that the agent receives', async () => {
      const call = house.call('bank__transfer', transfer(251));
      const { page } = await you.go('/waiting');
      const waiting = page.locator('[data-hold]', { hasText: '251' });
      const id = await waiting.getAttribute('data-hold');
      await hold(you, id);
      const unsaid = await page.locator('form[data-act="deny"] [name="reason"]').evaluate(field => field.required);
      assert.ok(unsaid, 'a reason has to be given');
      const answer = await deny(page, 'not before the invoice is in, please');
      assert.equal(answer.status(), 303);
      await shows(page, id, 'denied');
      const result = await call;
      assert.equal(result.isError, true);
      assert.match(JSON.stringify(result), /not before the invoice is in, please/);
      assert.match(decision(result).reason, /denied/);
    });

    await rows.row('a deadline counts down on the screen and runs out there', async () => {
      const id = await house.ask('desk__brief', { text: 'while it lasts' });
      const page = await hold(you, id);
      const deadline = Number(await facts(page, id).getAttribute('data-deadline'));
      assert.ok(deadline > Date.now() && deadline < Date.now() + 4_100);
      await page.locator('[data-left]', { hasText: 'over' }).waitFor();
      assert.ok(Date.now() >= deadline - 1_100, 'long before its time');
      assert.ok(Date.now() < deadline + 3_000, 'soon after its time');
      // nothing of it can be pressed any more, and what is sent all the same does nothing
      assert.equal(await button(page, 'approve').isEnabled(), false);
      await page.waitForFunction(deadline => Date.now() > deadline, deadline);
      await page.locator('form[data-act="approve"] [name="passphrase"]').fill(PASSPHRASE);
      const [refused] = await Promise.all([
        page.waitForResponse(answer => answer.request().method() === 'POST'),
        page.locator('form[data-act="approve"]').evaluate(form => form.submit()),
      ]);
      assert.ok([409, 410].includes(refused.status()), `${refused.status()}`);
      await shows(page, id, 'expired');
      assert.equal(await button(page, 'approve').count(), 0);
      const queue = await you.go('/waiting');
      assert.equal(await row(queue.page, id).count(), 0);
    });

    const code = await house.add('maria', { vouched: 'you' });
    const maria = await visitor(browser, house);
    await rows.row('two approvers countersign, each sees what the other did', async () => {
      await enrol(maria, code);
      await signIn(maria, 'maria');
      const call = house.call('desk__pair', { payee: 'carol', text: 'two see it' });
      const id = await until('the hold', async () => {
        const { holds } = await house.api('/holds?state=pending', { token: await house.signIn() });
        return holds.find(hold => hold.tool === 'desk__pair')?.id;
      });
      const [yours, hers] = [await hold(you, id), await hold(maria, id)];
      assert.equal((await approve(yours)).status(), 303);
      await shows(yours, id, 'pending');
      assert.equal(await button(yours, 'approve').count(), 0, 'nobody twice');
      // hers says so without being loaded again, and nothing on it moves under her finger
      await changed(hers).waitFor();
      assert.equal(await button(hers, 'approve').isEnabled(), false);
      await hold(maria, id);
      assert.equal((await approve(hers)).status(), 303);
      await shows(yours, id, 'spent');
      await shows(hers, id, 'spent');
      assert.match(await hers.locator('[data-votes]').innerText(), /2 of 2/);
      assert.match(await hers.locator('[data-history]').innerText(), /you countersigned[^]*maria countersigned/);
      assert.equal((await call).content[0].text, 'noted');
      const ran = house.recorded().filter(({ args }) => args.text === 'two see it');
      assert.equal(ran.length, 1, 'it was run once');
    });

    await rows.row('what one looked at before it changed cannot be countersigned, and the page says what changed', async () => {
      const id = await house.ask('desk__pair', { payee: 'carol', text: 'stale' });
      const hers = await hold(maria, id);
      // a tab that was left open, with no script to bring it up to date
      const still = await visitor(browser, house, { javaScriptEnabled: false, storageState: await maria.context.storageState() });
      const stale = await hold(still, id);
      const yours = await hold(you, id);
      assert.equal((await approve(yours)).status(), 303);
      const refused = await approve(stale);
      assert.equal(refused.status(), 409);
      await on(stale, 'hold');
      await stale.locator('[data-problem="hold_changed"]').waitFor();
      assert.match(await stale.locator('[data-since]').innerText(), /you countersigned it/);
      const { progress } = await house.api(`/holds/${id}`, { token: await house.signIn() });
      assert.deepEqual(progress.map(({ have }) => have), [1], 'nothing was countersigned');
      // having seen it, she may
      assert.equal((await approve(stale)).status(), 303);
      await shows(hers, id, 'spent');
      await still.leave();
    });

    await rows.row('what became void shows why, and leads to the hold that the identical call opened instead', async () => {
      const args = { payee: 'carol', text: 'policies move' };
      const id = await house.ask('desk__note', args);
      const still = await visitor(browser, house, { javaScriptEnabled: false, storageState: await you.context.storageState() });
      const stale = await hold(still, id);
      await house.regrant('@id("later") permit (principal == Agent::"nobody", action == Action::"desk__note", resource);');
      const successor = await house.ask('desk__note', args);
      assert.notEqual(successor, id);
      const answer = await approve(stale);
      assert.ok([409, 410].includes(answer.status()), `${answer.status()}`);
      await on(stale, 'hold');
      await facts(stale, id).and(stale.locator('[data-state="void"]')).waitFor();
      assert.match(await stale.locator(`[data-successor="${successor}"]`).innerText(), /grants: .+ → /);
      await stale.locator(`[data-successor="${successor}"] a`).click();
      await facts(stale, successor).waitFor();
      assert.equal((await house.task(successor)).status, 'working');
      await still.leave();
    });

    await you.leave();
    await maria.leave();
  } finally {
    await house.close();
  }
}
