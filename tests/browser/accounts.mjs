// Accounts at tool servers: connected at an authorization server that is not ours, renewed, and taken away.

import assert from 'node:assert/strict';

import { freePort } from '../clients/house.mjs';
import { startAuthorization } from './authorization.mjs';
import { visitor } from './browser.mjs';
import { PASSPHRASE, open, until } from './house.mjs';
import { act, on, signIn } from './pages.mjs';
import { says } from './signed-in.mjs';

/** Of an access token, in seconds: one that ends on its way to the tool server is refused there, and that is no fault. */
const life = 8;

export default async function accounts(rows, browser) {
  const port = await freePort();
  const origin = `http://localhost:${port}`;
  const there = await startAuthorization({ life });
  there.register({ redirect: `${origin}/upstreams/mail/callback` });
  const toml = there.toml('mail', 'authorization_code', 'scopes = ["openid", "email", "tools"]\n');
  const house = await open({ port, console: `url = "${origin}"`, toml });
  try {
    await house.enrol();
    const you = await visitor(browser, house, { known: [there.issuer] });
    await signIn(you);
    let page;

    await rows.row('a tool server without its account says so, and how to connect one', async () => {
      ({ page } = await you.go('/health'));
      await page.locator('[data-lacks="mail"]').waitFor();
      await page.locator('a[href="/upstreams"]').first().click();
      await on(page, 'upstreams');
      await page.locator('[data-account="mail"][data-connected="false"]').waitFor();
    });

    await rows.row('an approver connects an account, and tools are called with it', async () => {
      await act(page, 'connect', { passphrase: PASSPHRASE });
      await says(page, there.issuer, 'robot');
      await on(page, 'upstreams');
      await page.locator('[data-account="mail"][data-connected="true"]', { hasText: 'robot@example.com' }).waitFor();
      assert.doesNotMatch(page.url(), /code=|state=/);
      await until('its tools', () => house.run('tool', 'register', 'mail').then(() => true, () => false));
      await house.regrant('@id("mail") permit (principal, action == Action::"mail__who", resource);');
      const claims = JSON.parse((await house.call('mail__who', {})).content[0].text);
      assert.deepEqual([claims.sub, claims.aud], ['robot', there.url]);
    });

    await rows.row('what ends is renewed, with a refresh token that is new each time, also after a restart', async () => {
      const call = async () => JSON.parse((await house.call('mail__who', {})).content[0].text).jti;
      const first = await call();
      await until('another token', async () => (await call()) !== first);
      await house.end();
      await house.serve();
      await call();
      const refreshed = there.asked.filter(({ grant_type }) => grant_type === 'refresh_token');
      assert.ok(refreshed.length >= 2 && refreshed.every(({ status }) => status === 200), JSON.stringify(refreshed));
      assert.equal(new Set(refreshed.map(({ refresh_token }) => refresh_token)).size, refreshed.length);
    });

    await rows.row('it is taken away, and nothing is sent any more', async () => {
      await signIn(you);
      ({ page } = await you.go('/upstreams'));
      await act(page, 'disconnect', { passphrase: PASSPHRASE });
      await page.locator('[data-account="mail"][data-connected="false"]').waitFor();
      const shown = there.shown.length;
      const refused = await house.call('mail__who', {});
      assert.equal(refused._meta['countersign/decision'].reason, 'account_not_connected');
      assert.equal(there.shown.length, shown);
      const entries = await house.run('ledger', 'export', '--format', 'jsonl');
      assert.match(entries, /"by":"you","kind":"credential.connected"/);
      assert.match(entries, /"by":"you","kind":"credential.disconnected"/);
    });

    await you.leave();
  } finally {
    await house.close();
    await there.close();
  }
}
