// Passkeys, with a device that Chromium plays: enrolled from the one-time link, signed in with, countersigned with.

import assert from 'node:assert/strict';

import { authenticator, visitor } from './browser.mjs';
import { open, until } from './house.mjs';
import { act, approve, assertFilled, enrol, facts, fillSignIn, hold, on, row, shows, signIn } from './pages.mjs';
import { PASSPHRASE } from './house.mjs';

const GRANTS = `
@id("strong") @hold("owner") @expires("1h") @assurance("passkey")
permit (principal, action == Action::"desk__strong", resource);
`;

const press = (page, name) => page.locator(`button[data-act="${name}-passkey"]`).click();

export default async function passkeys(rows, browser) {
  const house = await open({ grants: GRANTS });
  try {
    const you = await visitor(browser, house);
    const page = await you.page();
    you.first = page;
    const device = await authenticator(page);

    await rows.row('enrols a passkey from the one-time link', async () => {
      await you.go(`/enrol#${house.code}`);
      await on(page, 'enrol');
      await assertFilled(page.locator('form[action="/enrol"] [name="code"]'), house.code);
      await press(page, 'enrol');
      await page.locator('body[data-page="waiting"], body[data-page="sign-in"]').waitFor();
      const [made, ...more] = await device.credentials();
      assert.equal(more.length, 0);
      assert.equal(made.rpId, 'localhost');
      assert.ok(made.isResidentCredential);
    });

    await rows.row('signs in with it, without a name', async () => {
      await you.context.clearCookies();
      await you.go('/sign-in');
      await on(page, 'sign-in');
      await press(page, 'sign-in');
      await on(page, 'waiting');
      assert.match(await page.locator('body').innerText(), /you/);
    });

    await rows.row('a hold arrives live, is read, countersigned with the passkey and seen executed', async () => {
      await you.go('/waiting');
      await on(page, 'waiting');
      const call = house.call('bank__transfer', { from: 'alice', to: 'bob', amount: 612 });
      const waiting = page.locator('[data-hold]', { hasText: '612' });
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
      assert.match(JSON.stringify(vote), /passkey|credential/);
    });

    await rows.row('who is not recognised by the device does not countersign', async () => {
      const id = await house.ask('bank__transfer', { from: 'alice', to: 'bob', amount: 613 });
      await hold(you, id);
      await device.verified(false);
      await press(page, 'approve');
      await page.locator('[data-problem]').first().waitFor();
      await device.verified(true);
      assert.equal((await house.task(id)).status, 'working');
      await press(page, 'approve');
      await shows(page, id, 'spent');
    });

    await rows.row('where a grant asks for a passkey, a passphrase is not enough', async () => {
      const code = await house.add('maria', { vouched: null }).catch(() => null);
      const id = await house.ask('desk__strong', { text: 'strong' });
      await hold(you, id);
      assert.match(await page.locator('body').innerText(), /passkey/i);
      await press(page, 'approve');
      await shows(page, id, 'spent');
      assert.equal(house.recorded().filter(({ name }) => name === 'strong').length, 1);
      return code ? 'with maria' : undefined;
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

    await rows.row('a passkey of another place is not asked for', async () => {
      const stranger = await visitor(browser, house);
      const other = await stranger.page();
      await authenticator(other);
      await other.goto(`${house.origin}/sign-in`);
      await press(other, 'sign-in');
      await other.locator('[data-problem]').first().waitFor();
      assert.equal(await other.locator('body').getAttribute('data-page'), 'sign-in');
      await stranger.leave();
    });

    await rows.row('what was countersigned with passkeys can be checked without the server', async () => {
      await house.end();
      const told = await house.run('ledger', 'verify');
      await house.serve();
      assert.match(told, /\d/);
    });

    await you.leave();
  } finally {
    await house.close();
  }
}
