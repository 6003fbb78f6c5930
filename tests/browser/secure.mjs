// The console by TLS of its own.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';

import { visitor } from './browser.mjs';
import { open } from './house.mjs';
import { approve, enrol, facts, hold, on, row, shows } from './pages.mjs';

/** A certificate for this machine that nobody has signed but itself. */
function certificate(dir) {
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-subj', '/CN=localhost',
    '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1', '-keyout', `${dir}/key.pem`, '-out', `${dir}/cert.pem`], { stdio: 'ignore' });
}

export default async function secure(rows, browser) {
  const house = await open({ prepare: certificate, toml: '\n[console.tls]\ncert = "cert.pem"\nkey = "key.pem"\n' });
  try {
    assert.match(house.origin, /^https:\/\/localhost:/);
    const you = await visitor(browser, house, { ignoreHTTPSErrors: true });
    await rows.row('by TLS the cookies are for this very host, by TLS alone, and out of reach of scripts', async () => {
      const page = await enrol(you);
      await on(page, 'waiting');
      const cookies = await you.context.cookies();
      assert.ok(cookies.some(({ name }) => name === '__Host-countersign'), JSON.stringify(cookies));
      for (const { name, secure, httpOnly, sameSite, path, domain } of cookies) {
        assert.deepEqual({ secure, httpOnly, sameSite, path, domain }, { secure: true, httpOnly: true, sameSite: 'Strict', path: '/', domain: 'localhost' }, name);
        assert.match(name, /^__Host-/);
      }
      assert.equal(await page.evaluate(() => document.cookie), '');
    });

    await rows.row('by TLS a hold arrives live and is countersigned', async () => {
      const { page } = await you.go('/waiting');
      await page.locator('[data-live="on"]').waitFor();
      const id = await house.ask('bank__transfer', { from: 'alice', to: 'bob', amount: 431 });
      await row(page, id).waitFor();
      await hold(you, id);
      assert.equal((await approve(page)).status(), 303);
      await shows(page, id, 'spent');
      await facts(page, id).waitFor();
    });
    await you.leave();
  } finally {
    await house.close();
  }
}
