// Signing in with an identity provider that is not ours, and countersigning as who is signed in that way.

import assert from 'node:assert/strict';

import { freePort } from '../clients/house.mjs';
import { visitor } from './browser.mjs';
import { open } from './house.mjs';
import { button, deny, facts, hold, on, shows } from './pages.mjs';
import { startProvider } from './provider.mjs';

const transfer = amount => ({ from: 'alice', to: 'bob', amount });

/** Says to the provider who one is, and that it may tell. */
export async function says(page, issuer, who) {
  await page.waitForURL(url => url.origin === issuer);
  const login = page.locator('[name="login"]');
  await login.or(page.locator('body[data-page]')).first().waitFor();
  await login.fill(who);
  await page.locator('[name="password"]').fill('anything');
  await page.locator('button[type="submit"]').click();
  // it asks for consent the first time
  const consent = page.locator('form[action*="/interaction/"] button[type="submit"]', { hasText: /continue/i });
  await consent.or(page.locator('body[data-page]')).first().waitFor();
  if (await consent.count()) await consent.click();
}

export default async function signedIn(rows, browser) {
  const port = await freePort();
  const origin = `http://localhost:${port}`;
  const provider = await startProvider();
  provider.register(origin);
  const house = await open({ port, console: `url = "${origin}"`, toml: provider.toml('corp') });
  try {
    const known = [provider.issuer];
    // somebody is enrolled already, and it is not they who sign in here
    await house.enrol();

    const enter = async (someone, who) => {
      // the provider has forgotten them
      await someone.context.clearCookies({ domain: '127.0.0.1' });
      const { page } = await someone.go('/sign-in');
      await page.locator('[data-provider="corp"]').click();
      await says(page, provider.issuer, who);
      await page.locator('body[data-page]').waitFor();
      return page;
    };

    const maria = await visitor(browser, house, { known });
    let page;
    await rows.row('signs in with the provider, and has the roles of their groups', async () => {
      page = await enter(maria, 'maria');
      await on(page, 'waiting');
      assert.match(await page.locator('[data-approver]').getAttribute('data-approver'), /maria/);
      const [cookie] = (await maria.context.cookies(origin)).filter(({ name }) => name === 'countersign');
      assert.ok(cookie.httpOnly && cookie.sameSite === 'Strict');
      assert.doesNotMatch(page.url(), /code=|state=/);
    });

    await rows.row('countersigns once the provider has made sure, just now, who it is', async () => {
      const call = house.call('bank__transfer', transfer(721));
      const { page } = await maria.go('/waiting');
      const id = await page.locator('[data-hold]', { hasText: '721' }).getAttribute('data-hold');
      await hold(maria, id);
      await button(page, 'approve').click();
      await says(page, provider.issuer, 'maria');
      await on(page, 'hold');
      await shows(page, id, 'spent');
      assert.equal((await call).structuredContent.amount, 721);
    });

    await rows.row('nobody else countersigns in their place', async () => {
      const id = await house.ask('bank__transfer', transfer(722));
      await hold(maria, id);
      await button(page, 'approve').click();
      await says(page, provider.issuer, 'pat');
      await page.locator('[data-problem]').first().waitFor();
      assert.equal((await house.task(id)).status, 'working');
      // to deny takes no more than the session
      await enter(maria, 'maria');
      await hold(maria, id);
      assert.equal((await deny(page, 'asked for by nobody')).status(), 303);
      await shows(page, id, 'denied');
    });

    await rows.row('who is in no group that counts decides nothing', async () => {
      const id = await house.ask('bank__transfer', transfer(723));
      const other = await visitor(browser, house, { known });
      const there = await enter(other, 'nobody');
      if ((await there.locator('body').getAttribute('data-page')) === 'waiting') {
        await hold(other, id);
        assert.equal(await button(there, 'approve').count(), 0);
        await facts(there, id).waitFor();
      } else await there.locator('[data-problem]').waitFor();
      assert.equal((await house.task(id)).status, 'working');
      await other.leave();
    });

    await rows.row('what the provider sent to one browser opens nothing in another', async () => {
      const victim = await visitor(browser, house);
      const thief = await visitor(browser, house, { known });
      const { page: his } = await thief.go('/sign-in');
      // the way back is caught before the thief's own browser goes it
      const tools = await thief.context.newCDPSession(his);
      await tools.send('Fetch.enable', { patterns: [{ urlPattern: '*/sign-in/corp/callback*' }] });
      const caught = new Promise(resolve => tools.on('Fetch.requestPaused', ({ requestId, request }) => {
        resolve(request.url);
        tools.send('Fetch.failRequest', { requestId, errorReason: 'Aborted' }).catch(() => {});
      }));
      await his.locator('[data-provider="corp"]').click();
      // nothing of the console comes to end what he says with
      says(his, provider.issuer, 'pat').catch(() => {});
      const url = await caught;
      const { page: hers } = await victim.go('/sign-in');
      for (const target of [url, url.replace(/state=[^&]*/, 'state=x'), `${origin}/sign-in/corp/callback`, `${origin}/sign-in/corp/callback?error=access_denied`]) {
        const answer = await hers.goto(target);
        assert.ok(answer.status() >= 400, `${target}: ${answer.status()}`);
        await victim.go('/waiting');
        await on(hers, 'sign-in');
      }
      await victim.leave();
      await thief.context.close();
    });

    await rows.row('signing out ends the session here', async () => {
      const { page } = await maria.go('/waiting');
      const kept = await maria.context.cookies(origin);
      await page.locator('form[action="/sign-out"] button').first().click();
      await page.locator('body[data-page]').waitFor();
      await maria.context.addCookies(kept);
      await maria.go('/waiting');
      await on(page, 'sign-in');
    });

    await rows.row('what was countersigned so can be checked without the server and the provider', async () => {
      await house.end();
      await provider.close();
      assert.match(await house.run('ledger', 'verify'), /\d/);
    });

    await maria.leave();
  } finally {
    await house.close();
    await provider.close().catch(() => {});
  }
}
