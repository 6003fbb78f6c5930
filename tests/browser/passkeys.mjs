// Passkeys, with a device that Chromium plays: enrolled from the one-time link, signed in with, countersigned with.

import assert from 'node:assert/strict';

import { authenticator, visitor } from './browser.mjs';
import { PASSPHRASE, open } from './house.mjs';
import { approve, assertFilled, facts, hold, on, shows, signIn } from './pages.mjs';

const GRANTS = `
@id("strong") @hold("owner") @expires("1h") @assurance("passkey")
permit (principal, action == Action::"desk__strong", resource);
`;

const transfer = amount => ({ from: 'alice', to: 'bob', amount });
const press = (page, name) => page.locator(`button[data-act="${name}-passkey"]`).click();

export default async function passkeys(rows, browser) {
  const house = await open({ grants: GRANTS });
  try {
    // `you` has a passphrase, and maria will have a passkey
    await house.enrol();
    const code = await house.add('maria', { vouched: 'you' });
    const maria = await visitor(browser, house);
    const page = (maria.first = await maria.page());
    const device = await authenticator(page);

    await rows.row('enrols a passkey from the one-time link', async () => {
      await maria.go(`/enrol#${code}`);
      await on(page, 'enrol');
      await assertFilled(page.locator('form[action="/enrol"] [name="code"]'), code);
      assert.equal(new URL(page.url()).hash, '', 'the code stays in the address');
      await press(page, 'enrol');
      await page.locator('body[data-page="waiting"], body[data-page="sign-in"]').waitFor();
      const [made, ...more] = await device.credentials();
      assert.equal(more.length, 0);
      assert.equal(made.rpId, 'localhost');
      assert.ok(made.isResidentCredential);
    });

    await rows.row('signs in with it, without a name', async () => {
      await maria.context.clearCookies();
      await maria.go('/sign-in');
      await on(page, 'sign-in');
      await press(page, 'sign-in');
      await on(page, 'waiting');
      assert.equal(await page.locator('[data-approver]').getAttribute('data-approver'), 'maria');
    });

    await rows.row('a hold arrives live, is read, countersigned with the passkey and seen executed', async () => {
      await maria.go('/waiting');
      await page.locator('[data-live="on"]').waitFor();
      const began = performance.now();
      const call = house.call('bank__transfer', transfer(612));
      const waiting = page.locator('[data-hold]', { hasText: '612' });
      await waiting.waitFor();
      const came = Math.round(performance.now() - began);
      const id = await waiting.getAttribute('data-hold');
      await waiting.locator('a').first().click();
      await facts(page, id).waitFor();
      assert.match(await page.locator('[data-argument-path="/amount"] .value').innerText(), /612/);
      await press(page, 'approve');
      await shows(page, id, 'spent');
      const result = await call;
      assert.equal(result.structuredContent.amount, 612, JSON.stringify(result));
      const entries = (await house.run('ledger', 'export', '--format', 'jsonl')).trim().split('\n').map(line => JSON.parse(line).entry);
      const [vote] = entries.filter(entry => entry.kind === 'hold.approved' && entry.hold === id);
      assert.match(JSON.stringify(vote), /webauthn|passkey|credential/);
      return `seen ${came} ms after the call was sent`;
    });

    await rows.row('who is not recognised by the device does not countersign', async () => {
      const id = await house.ask('bank__transfer', transfer(613));
      await hold(maria, id);
      await device.verified(false);
      await press(page, 'approve');
      await page.locator('[data-problem]:visible').first().waitFor();
      await device.verified(true);
      assert.equal((await house.task(id)).status, 'working');
      await hold(maria, id);
      await press(page, 'approve');
      await shows(page, id, 'spent');
    });

    const you = await visitor(browser, house);
    await rows.row('where a grant asks for a passkey, a passphrase is not enough', async () => {
      await signIn(you);
      const id = await house.ask('desk__strong', { text: 'strong' });
      await hold(you, id);
      assert.match(await you.first.locator('[data-policies]').innerText(), /passkey/i);
      if (await you.first.locator('form[data-act="approve"]').count()) {
        assert.equal((await approve(you.first)).status(), 403);
        await you.first.locator('[data-problem="assurance_too_low"]').waitFor();
      } else assert.match(await you.first.locator('[data-cannot-approve]').innerText(), /passkey/i);
      assert.equal((await house.task(id)).status, 'working');
      await hold(maria, id);
      await press(page, 'approve');
      await shows(page, id, 'spent');
      assert.equal(house.recorded().filter(({ name }) => name === 'strong').length, 1);
    });

    await rows.row('who has a passphrase adds a passkey, signs for it with what they have, and countersigns with it', async () => {
      const { page: hers } = await you.go('/keys');
      await on(hers, 'keys');
      assert.equal(await hers.locator('[data-key]').count(), 1);
      const own = await authenticator(hers);
      await hers.locator('form[data-act="add-passkey"] button[type="submit"]').click();
      await on(hers, 'add-passkey');
      await press(hers, 'make');
      await on(hers, 'confirm-key');
      // made, and not theirs before it is signed for
      assert.equal((await own.credentials()).length, 1);
      const confirm = hers.locator('form[data-act="confirm"]');
      await confirm.locator('[name="passphrase"]').fill('not the passphrase at all');
      await confirm.locator('button[type="submit"]').click();
      await hers.locator('[data-problem]:visible').first().waitFor();
      await you.go('/keys');
      assert.equal(await hers.locator('[data-key]').count(), 1, 'it counts without a signature');
      await hers.locator('form[data-act="add-passkey"] button[type="submit"]').click();
      await on(hers, 'add-passkey');
      await press(hers, 'make');
      await on(hers, 'confirm-key');
      await confirm.locator('[name="passphrase"]').fill(PASSPHRASE);
      await confirm.locator('button[type="submit"]').click();
      await on(hers, 'keys');
      await hers.locator('[data-key="passkey"]').waitFor();
      const id = await house.ask('bank__transfer', transfer(614));
      await hold(you, id);
      await press(hers, 'approve');
      await shows(hers, id, 'spent');
    });

    await rows.row('a stale page is not countersigned with a passkey either', async () => {
      const id = await house.ask('desk__pair', { payee: 'carol', text: 'stale' });
      // she looks at it, without hearing of what happens to it
      await page.route('**/events*', route => route.abort());
      await hold(maria, id);
      await hold(you, id);
      assert.equal((await approve(you.first)).status(), 303);
      await press(page, 'approve');
      await page.locator('[data-problem]:visible, [data-changed]:visible').first().waitFor();
      const { progress } = await house.api(`/holds/${id}`, { token: await house.signIn() });
      assert.deepEqual(progress.map(({ have }) => have), [1], 'it was countersigned');
      await page.unroute('**/events*');
      await hold(maria, id);
      await press(page, 'approve');
      await shows(page, id, 'spent');
    });

    await rows.row('by the number of the machine passkeys cannot be had, and the page says where they can', async () => {
      const numbered = await visitor(browser, house);
      const other = await numbered.page();
      await other.goto(`${house.address}/sign-in`);
      await on(other, 'sign-in');
      assert.equal(await other.locator('button[data-act="sign-in-passkey"]:visible:enabled').count(), 0);
      assert.ok((await other.locator('body').innerText()).includes(house.origin), 'it does not say where');
      await numbered.leave();
    });

    await rows.row('a passkey that nobody enrolled signs nobody in', async () => {
      const stranger = await visitor(browser, house);
      const other = await stranger.page();
      await authenticator(other);
      await other.goto(`${house.origin}/sign-in`);
      await press(other, 'sign-in');
      await other.locator('[data-problem]:visible').first().waitFor();
      assert.equal(await other.locator('body').getAttribute('data-page'), 'sign-in');
      await stranger.leave();
    });

    await rows.row('what was countersigned with passkeys can be checked without the server', async () => {
      await house.end();
      const told = await house.run('ledger', 'verify');
      assert.match(told, /\d/);
    });

    await you.context.close();
    await maria.context.close();
  } finally {
    await house.close();
  }
}
