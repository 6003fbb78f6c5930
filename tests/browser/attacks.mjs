// What other pages, and whoever guesses, may try: a row each, tried by a browser that is signed in.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';

import { ELSEWHERE, visitor } from './browser.mjs';
import { PASSPHRASE, open, until } from './house.mjs';
import { deny, enrol, fillSignIn, hold, on, shows, signIn } from './pages.mjs';

/** Serves pages of somebody else's: `at(html)` gives their addresses, another site and another port of the console's own host. */
async function others() {
  const pages = new Map();
  const asked = [];
  const server = createServer((request, response) => {
    asked.push(request.url);
    response.setHeader('content-type', 'text/html');
    response.end(pages.get(new URL(request.url, 'http://x').pathname) ?? '');
  });
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  const origins = [`http://${ELSEWHERE}:${port}`, `http://localhost:${port}`];
  return {
    asked,
    origins,
    at(html) {
      const path = `/${pages.size}`;
      pages.set(path, `<!doctype html><meta charset="utf-8"><title>elsewhere</title>${html}`);
      return origins.map(origin => origin + path);
    },
    close: () => server.close(),
  };
}

export default async function attacks(rows, browser) {
  const house = await open();
  const elsewhere = await others();
  const { origin } = house;
  try {
    const you = await visitor(browser, house);
    /**
     * A signed-in approver who strays to other pages, in the session that there is or, for what ends one, in a session of
     * their own. What other pages ask for is not held against the console.
     */
    const victim = async ({ own = false } = {}) => {
      const someone = await visitor(browser, house, own ? {} : { storageState: await you.context.storageState() });
      if (own) await signIn(someone);
      else {
        const { page } = await someone.go('/waiting');
        await on(page, 'waiting');
      }
      return someone;
    };
    await enrol(you);
    await signIn(you);
    let calls = 0;
    const held = () => house.ask('desk__note', { payee: 'carol', text: `attack ${(calls += 1)}` }, { agent: 'attacked' });
    const id = await held();
    const untouched = async () => assert.equal((await house.task(id, { agent: 'attacked' })).status, 'working', 'something was done');
    const fields = async page => Object.fromEntries(await page.locator('form[data-act="deny"] input[type="hidden"]').evaluateAll(
      inputs => inputs.map(input => [input.name, input.value])));
    const { digest, seq } = await house.api(`/holds/${id}`, { token: await house.signIn() });
    /** What another page can know of it: everything but the token. */
    const guessed = { digest, as_of: String(seq), csrf: 'A'.repeat(43), reason: 'because I say so' };

    await rows.row('clickjacking: framed by another page, every page stays empty', async () => {
      const someone = await victim();
      const paths = ['/waiting', `/holds/${id}`, '/sign-in', '/enrol', '/tools'];
      const framed = paths.flatMap(path => [
        `<iframe src="${origin}${path}"></iframe>`,
        `<object data="${origin}${path}"></object>`,
        `<embed src="${origin}${path}">`,
      ]);
      for (const url of elsewhere.at(framed.join(''))) {
        const page = await someone.page();
        const asked = new Set();
        page.on('response', answer => asked.add(new URL(answer.url()).pathname));
        page.on('requestfailed', request => asked.add(new URL(request.url()).pathname));
        await page.goto(url);
        await until('every frame', () => paths.every(path => asked.has(path)), 5_000);
        assert.ok(page.frames().length > paths.length);
        for (const frame of page.frames().slice(1)) {
          assert.equal(await frame.locator('body[data-page]').count().catch(() => 0), 0, `${frame.url()} is in a frame`);
          assert.equal(await frame.evaluate(() => document.body?.innerText.includes('Countersign') ?? false).catch(() => false), false);
        }
        await page.close();
      }
      await someone.context.close();
    });

    await rows.row('CSRF: a form of another page that is sent by itself does nothing', async () => {
      const someone = await victim();
      const inputs = Object.entries(guessed).map(([name, value]) => `<input name="${name}" value="${value}">`).join('');
      for (const type of ['application/x-www-form-urlencoded', 'multipart/form-data', 'text/plain']) {
        for (const url of elsewhere.at(`<form method="post" enctype="${type}" action="${origin}/holds/${id}/deny">${inputs}</form>
            <script>document.forms[0].submit()</script>`)) {
          const page = await someone.page();
          const sent = page.waitForResponse(answer => answer.request().method() === 'POST');
          await page.goto(url, { waitUntil: 'commit' });
          const answer = await sent;
          assert.equal(answer.status(), 403, `${url} ${type}`);
          await untouched();
          await page.close();
        }
      }
      await someone.context.close();
    });

    await rows.row('CSRF: scripts of another page cannot act, nor read', async () => {
      const someone = await victim();
      const body = new URLSearchParams(guessed).toString();
      const urls = elsewhere.at(`<script>
        const tries = [];
        const go = (path, options) => tries.push(fetch('${origin}' + path, { credentials: 'include', ...options })
          .then(answer => answer.type === 'opaque' ? 'sent' : answer.text().then(text => 'read ' + text), () => 'refused'));
        for (const mode of ['cors', 'no-cors']) {
          go('/waiting', { mode });
          go('/holds/${id}/deny', { mode, method: 'POST', body: new URLSearchParams('${body}') });
          go('/api/v1/holds', { mode });
          go('/api/v1/holds/${id}/deny', { mode, method: 'POST', body: JSON.stringify({ digest: '${digest}', reason: 'x' }) });
        }
        go('/holds/${id}/deny', { method: 'POST', headers: { 'x-countersign-csrf': 'x' }, body: '${body}' });
        go('/api/v1/holds/${id}/deny', { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{}' });
        Promise.all(tries).then(told => { globalThis.told = told; });
        navigator.sendBeacon('${origin}/sign-out', new URLSearchParams('csrf=x'));
      </script>`);
      for (const url of urls) {
        const page = await someone.page();
        await page.goto(url);
        const told = await (await page.waitForFunction(() => globalThis.told)).jsonValue();
        assert.deepEqual(told.filter(each => each.startsWith('read')), [], url);
        await untouched();
        await page.close();
      }
      // and who was made to visit is signed in still
      const { page } = await someone.go('/waiting');
      await on(page, 'waiting');
      await someone.context.close();
    });

    await rows.row('CSRF: a change without the right token, or not from a page of ours, is refused', async () => {
      const someone = await victim({ own: true });
      const theirs = await fields(await hold(someone, id));
      const mine = await fields(await hold(you, id));
      assert.ok(mine.csrf && theirs.csrf && mine.csrf !== theirs.csrf, 'a token for each session');
      const send = (form, headers = {}) =>
        you.context.request.post(`${origin}/holds/${id}/deny`, { form: { ...form, reason: 'x' }, headers: { origin, ...headers }, maxRedirects: 0 });
      const { csrf: _left_out, ...without } = mine;
      const table = [
        ['no token', without, {}],
        ['an empty one', { ...mine, csrf: '' }, {}],
        ['another one', guessed, {}],
        ['that of another session', { ...mine, csrf: theirs.csrf }, {}],
        ['half of it', { ...mine, csrf: mine.csrf.slice(0, -4) }, {}],
        ['another origin', mine, { origin: elsewhere.origins[0] }],
        ['another port', mine, { origin: elsewhere.origins[1] }],
        ['no origin to speak of', mine, { origin: 'null' }],
        ['a request that says it crosses sites', mine, { 'sec-fetch-site': 'cross-site' }],
        ['one of another port', mine, { 'sec-fetch-site': 'same-site' }],
      ];
      for (const [what, form, headers] of table) {
        const answer = await send(form, headers);
        assert.equal(answer.status(), 403, `${what}: ${await answer.text()}`);
        await untouched();
      }
      const bare = await fetch(`${house.address}/holds/${id}/deny`, {
        method: 'POST',
        redirect: 'manual',
        headers: { cookie: (await you.context.cookies()).map(({ name, value }) => `${name}=${value}`).join('; ') },
        body: new URLSearchParams({ ...mine, reason: 'x' }),
      });
      assert.equal(bare.status, 403, 'no origin at all');
      await untouched();
      // the same with everything right goes through
      assert.equal((await send(mine)).status(), 303);
      assert.notEqual((await house.task(id, { agent: 'attacked' })).status, 'working');
      await someone.context.close();
    });

    await rows.row('CSRF: nobody is signed in as somebody else by another page', async () => {
      const someone = await visitor(browser, house);
      await someone.go('/sign-in');
      for (const url of elsewhere.at(`<form method="post" action="${origin}/sign-in"><input name="approver" value="you">
          <input name="passphrase" value="${PASSPHRASE}"><input name="csrf" value="x"></form><script>document.forms[0].submit()</script>`)) {
        const page = await someone.page();
        const sent = page.waitForResponse(answer => answer.request().method() === 'POST');
        await page.goto(url, { waitUntil: 'commit' });
        assert.equal((await sent).status(), 403);
        await page.close();
      }
      const { page } = await someone.go('/waiting');
      await on(page, 'sign-in');
      await someone.context.close();
    });

    await rows.row('session fixation: what was in the cookie before is not what is in it after', async () => {
      const someone = await victim({ own: true });
      const [mine] = (await someone.context.cookies()).filter(cookie => /countersign$/.test(cookie.name));
      const fixed = await visitor(browser, house);
      // somebody planted a session of theirs, and one that is none
      for (const value of [mine.value, `cas_${'A'.repeat(43)}`]) {
        await fixed.context.clearCookies();
        await fixed.context.addCookies([{ ...mine, value }]);
        const page = await fixed.page();
        await page.goto(`${origin}/sign-in`);
        if (await page.locator('body[data-page="sign-in"]').count()) await fillSignIn(page);
        else {
          // it takes who is signed in on: sign out, and in as oneself
          await page.locator('form[action="/sign-out"] button').click();
          await on(page, 'sign-in');
          await fillSignIn(page);
        }
        await on(page, 'waiting');
        const after = (await fixed.context.cookies()).filter(cookie => cookie.name === mine.name).map(cookie => cookie.value);
        assert.equal(after.length, 1);
        assert.notEqual(after[0], value);
        await page.close();
      }
      await fixed.context.close();
      await someone.context.close();
    });

    await rows.row('signing in again gives another token', async () => {
      const someone = await visitor(browser, house);
      const seen = new Set();
      for (let round = 0; round < 2; round += 1) {
        await signIn(someone);
        for (const cookie of await someone.context.cookies()) if (/countersign$/.test(cookie.name)) seen.add(cookie.value);
        await someone.first.locator('form[action="/sign-out"] button').first().click();
        await on(someone.first, 'sign-in');
      }
      assert.equal(seen.size, 2);
      await someone.leave();
    });

    await rows.row('signing out ends the session on the server, and the back button shows nothing of it', async () => {
      const someone = await victim({ own: true });
      const kept = await someone.context.cookies();
      await someone.first.locator('form[action="/sign-out"] button').first().click();
      await on(someone.first, 'sign-in');
      await someone.first.goBack();
      await on(someone.first, 'sign-in');
      await someone.context.addCookies(kept);
      const { page } = await someone.go('/waiting');
      await on(page, 'sign-in');
      await someone.leave();
    });

    await rows.row('cookie theft: no script reads the cookie, and it goes nowhere else', async () => {
      const someone = await victim();
      const page = someone.first;
      assert.equal(await page.evaluate(() => document.cookie), '');
      const cookies = (await someone.context.cookies()).filter(cookie => /countersign/.test(cookie.name));
      assert.ok(cookies.length > 0);
      for (const cookie of cookies) {
        assert.ok(cookie.httpOnly && cookie.sameSite === 'Strict' && cookie.path === '/', JSON.stringify(cookie));
        assert.equal(cookie.domain, 'localhost');
        assert.ok(!(await page.content()).includes(cookie.value), 'it is in the page');
      }
      // a link on another site brings one here without it: what is answered then tells nothing, and the page asks again by itself
      for (const url of elsewhere.at(`<a href="${origin}/waiting">to the console</a>`)) {
        await page.goto(url);
        const [answer] = await Promise.all([page.waitForResponse(`${origin}/waiting`), page.locator('a').click()]);
        assert.ok(url.startsWith(elsewhere.origins[1]) || !/countersign=/.test((await answer.request().allHeaders()).cookie ?? ''), url);
        await on(page, 'waiting');
      }
      await someone.context.close();
    });

    await rows.row('scripts that get into a page are not run', async () => {
      const someone = await victim();
      const page = await hold(someone, await held());
      const tried = await page.evaluate(async elsewhere => {
        const told = {};
        const attempt = (name, what) => {
          try {
            what();
            told[name] = 'let';
          } catch (error) {
            told[name] = error.name;
          }
        };
        const put = element => document.body.append(element);
        attempt('script', () => {
          const script = document.createElement('script');
          script.textContent = 'globalThis.harmed = "script"';
          put(script);
        });
        attempt('elsewhere', () => {
          const script = document.createElement('script');
          script.src = `${elsewhere}/x.js`;
          put(script);
        });
        attempt('innerHTML', () => (document.body.lastElementChild.innerHTML = '<img src=x onerror="globalThis.harmed=1">'));
        attempt('handler', () => {
          const image = document.createElement('img');
          image.setAttribute('onerror', 'globalThis.harmed = "handler"');
          image.src = '/nothing';
          put(image);
        });
        attempt('link', () => {
          const link = document.createElement('a');
          link.href = 'javascript:globalThis.harmed="link"';
          put(link);
          link.click();
        });
        attempt('style', () => {
          const style = document.createElement('style');
          style.textContent = 'body { display: none }';
          put(style);
        });
        attempt('frame', () => {
          const frame = document.createElement('iframe');
          frame.src = `${elsewhere}/frame`;
          put(frame);
        });
        const beacon = await fetch(`${elsewhere}/stolen`, { mode: 'no-cors' }).then(() => 'sent', () => 'refused');
        const image = await new Promise(resolve => {
          const image = new Image();
          image.onload = () => resolve('loaded');
          image.onerror = () => resolve('refused');
          image.src = `${elsewhere}/stolen.png`;
        });
        return { told, beacon, image, shown: getComputedStyle(document.body).display };
      }, elsewhere.origins[0]);
      assert.equal(tried.beacon, 'refused');
      assert.equal(tried.image, 'refused');
      assert.notEqual(tried.shown, 'none');
      assert.equal(tried.told.innerHTML, 'TypeError', 'trusted types are not asked for');
      // whatever would have run has had its turn
      await page.evaluate(() => new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve))));
      assert.equal(await page.evaluate(() => globalThis.harmed ?? null), null);
      assert.deepEqual(elsewhere.asked.filter(url => /stolen|x\.js|frame/.test(url)), []);
      await someone.context.close();
    });

    await rows.row('server-sent events are for pages of ours alone', async () => {
      const someone = await victim();
      for (const path of ['/events', '/api/v1/holds/events']) {
        const urls = elsewhere.at(`<script>
          const source = new EventSource('${origin}${path}', { withCredentials: true });
          globalThis.heard = [];
          for (const kind of ['message', 'ready', 'call.held', 'hold.denied', 'waiting', 'open']) source.addEventListener(kind, () => heard.push(kind));
          source.onerror = () => { if (source.readyState === EventSource.CLOSED) globalThis.over = true; };
        </script>`);
        for (const url of urls) {
          const page = await someone.page();
          await page.goto(url);
          await page.waitForFunction(() => globalThis.over);
          assert.deepEqual(await page.evaluate(() => globalThis.heard), [], url);
          await page.close();
        }
      }
      const bare = await fetch(`${house.address}/events`);
      assert.equal(bare.status, 401);
      await bare.body.cancel();
      await someone.context.close();
    });

    await rows.row('open redirect: after signing in one is on a page of ours', async () => {
      const someone = await visitor(browser, house);
      const there = elsewhere.origins[0];
      const bare = there.replace('http:', '');
      for (const next of [there, bare, `/\\${bare.slice(2)}`, `\\\\${bare.slice(2)}`, `https:${bare}`, `/\t/${bare.slice(2)}`, `/.${bare}`,
        `javascript:location='${there}'`, '/sign-out']) {
        const { page } = await someone.go(`/sign-in?next=${encodeURIComponent(next)}`);
        await on(page, 'sign-in');
        assert.equal((await fillSignIn(page)).status(), 303, next);
        await page.locator('body[data-page]').waitFor();
        assert.equal(new URL(page.url()).origin, origin, next);
        assert.notEqual(await page.locator('body').getAttribute('data-page'), 'sign-in', next);
      }
      await someone.leave();
    }, { seconds: 60 });

    await rows.row('another name for this machine opens nothing (DNS rebinding)', async () => {
      const someone = await victim();
      const page = await someone.page();
      const port = new URL(origin).port;
      for (const path of ['/', '/sign-in', '/waiting', '/api/v1/holds', '/assets/console.css']) {
        const answer = await page.goto(`http://${ELSEWHERE}:${port}${path}`);
        assert.equal(answer.status(), 403, path);
        assert.equal(await page.locator('form, nav, [data-hold]').count(), 0, path);
      }
      await someone.context.close();
    });

    await rows.row('every page says how it may be used', async () => {
      const someone = await victim();
      const waits = await held().catch(() => null);
      const paths = ['/sign-in', '/enrol', '/waiting', '/agents', '/tools', '/grants', '/ledger', '/health', '/keys', '/nothing', ...(waits ? [`/holds/${waits}`] : [])];
      for (const path of paths) {
        const answer = await someone.context.request.get(origin + path, { headers: { accept: 'text/html' } });
        const headers = answer.headers();
        const policy = Object.fromEntries(headers['content-security-policy'].split(';').map(part => {
          const [name, ...values] = part.trim().split(' ');
          return [name, values.join(' ')];
        }));
        assert.equal(policy['default-src'], "'none'", path);
        assert.equal(policy['frame-ancestors'], "'none'", path);
        assert.equal(policy['base-uri'], "'none'", path);
        for (const [name, values] of Object.entries(policy)) assert.doesNotMatch(values, /unsafe|\*|http|blob/, `${path} ${name}`);
        assert.equal(headers['x-frame-options'], 'DENY', path);
        assert.equal(headers['x-content-type-options'], 'nosniff', path);
        assert.match(headers['referrer-policy'], /^(no-referrer|same-origin)$/, path);
        assert.equal(headers['cross-origin-resource-policy'], 'same-origin', path);
        assert.equal(headers['cache-control'], 'no-store', path);
        assert.ok(!('access-control-allow-origin' in headers), path);
        if (answer.ok()) {
          assert.equal(headers['cross-origin-opener-policy'], 'same-origin', path);
          assert.match(headers['permissions-policy'], /publickey-credentials-get=\(self\)/, path);
          assert.equal(policy['script-src'], "'self'", path);
          assert.equal(policy['require-trusted-types-for'], "'script'", path);
        }
      }
      await someone.context.close();
    });

    await rows.row("the agents' listener serves none of it", async () => {
      const agents = new URL(house.mcp).origin;
      for (const path of ['/', '/sign-in', '/waiting', '/enrol', `/holds/${id}`, '/events', '/assets/console.css', '/api/v1/holds']) {
        const answer = await fetch(agents + path, { redirect: 'manual' });
        assert.ok(answer.status >= 400, `${path}: ${answer.status}`);
        assert.doesNotMatch(await answer.text(), /<html/i, path);
      }
    });

    await rows.row('what agents have opens no page, and what pages have opens no API', async () => {
      const token = await house.token('demo');
      const stranger = await visitor(browser, house);
      const names = (await you.context.cookies()).filter(cookie => /countersign$/.test(cookie.name));
      await stranger.context.addCookies(names.map(cookie => ({ ...cookie, value: token })));
      const { page } = await stranger.go('/waiting');
      await on(page, 'sign-in');
      const bearer = await fetch(`${house.address}/waiting`, { headers: { authorization: `Bearer ${await house.signIn()}` }, redirect: 'manual' })
        .catch(() => null);
      if (bearer) assert.equal(bearer.status, 303, 'a bearer token opens a page');
      const read = await fetch(`${house.address}/api/v1/holds`, { headers: { cookie: names.map(({ name, value }) => `${name}=${value}`).join('; ') } });
      assert.equal(read.status, 401);
      await stranger.context.close();
    });

    await rows.row('guessing at the door is slowed down, and keeps nobody out who is in', async () => {
      const guesser = await visitor(browser, house);
      const { page } = await guesser.go('/sign-in');
      let refused;
      for (let attempt = 0; attempt < 12; attempt += 1) {
        refused = await fillSignIn(page, 'you', `guess number ${attempt} of many`);
        if (refused.status() === 429) break;
        assert.equal(refused.status(), 403);
      }
      assert.equal(refused.status(), 429, 'guesses go on and on');
      assert.ok(Number(refused.headers()['retry-after']) >= 1);
      await page.locator('[data-problem="too_many_attempts"]').waitFor();
      // an unknown name is answered alike
      const unknown = await fillSignIn(page, 'nobody-of-this-name', 'guess number one of many');
      assert.equal(unknown.status(), 403);
      await page.locator('[data-problem="login_refused"]').waitFor();
      // who is signed in acts as before
      const waits = await held();
      const mine = await hold(you, waits);
      await deny(mine, 'guessed at');
      await shows(mine, waits, 'denied');
      await guesser.leave();
    });

    await rows.row('one-time codes cannot be guessed at without end either', async () => {
      const guesser = await visitor(browser, house);
      const { page } = await guesser.go('/enrol');
      const form = page.locator('form[action="/enrol"]');
      const seen = new Set();
      for (let attempt = 0; attempt < 3; attempt += 1) {
        await form.locator('[name="code"]').fill(`ABCD-EFGH-JKMN-PQRS-TVW${attempt}`);
        await form.locator('[name="passphrase"]').fill(PASSPHRASE);
        await form.locator('[name="again"]').fill(PASSPHRASE);
        const [answer] = await Promise.all([
          page.waitForResponse(answer => answer.request().method() === 'POST'),
          form.locator('button[type="submit"]').click(),
        ]);
        seen.add(answer.status());
        await page.locator('[data-problem]').waitFor();
      }
      assert.ok([...seen].every(status => [403, 429].includes(status)), [...seen].join());
      await guesser.leave();
    });

    await you.context.close();
  } finally {
    elsewhere.close();
    await house.close();
  }
}
