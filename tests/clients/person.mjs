// A person at a browser without a screen: follows redirects, keeps cookies by host, and fills in the forms of an
// authorization server (oidc-provider's development pages), which believe whatever is typed.

import assert from 'node:assert/strict';

/** A browser without a screen: cookies by host, which a page of another site does not have sent if they are `Strict`. */
export class Browser {
  jars = new Map();

  async ask(url, { form, from, headers = {} } = {}) {
    const to = new URL(url);
    const jar = this.jars.get(to.host) ?? new Map();
    const strict = !from || new URL(from).host === to.host;
    const cookies = [...jar.values()].filter(cookie => strict || !/samesite=strict/i.test(cookie.line));
    const answer = await fetch(to, {
      redirect: 'manual',
      method: form ? 'POST' : 'GET',
      headers: {
        ...(cookies.length && { cookie: cookies.map(cookie => cookie.pair).join('; ') }),
        ...(form && { 'content-type': 'application/x-www-form-urlencoded', origin: to.origin }),
        ...headers,
      },
      body: form && new URLSearchParams(form).toString(),
    });
    for (const line of answer.headers.getSetCookie()) {
      const pair = line.split(';')[0];
      const name = pair.split('=')[0];
      if (/max-age=0|expires=thu, 01 jan 1970/i.test(line)) jar.delete(name);
      else jar.set(name, { pair, line });
    }
    this.jars.set(to.host, jar);
    const next = answer.headers.get('location');
    return { status: answer.status, headers: answer.headers, url: to.href, text: await answer.text(), next: next && new URL(next, to).href };
  }
}

/** Goes through the server's own pages as that person, to where it leads back: an address with `/callback?` in it. */
export async function through(browser, url, who, from) {
  let page = await browser.ask(url, { from });
  for (let step = 0; step < 12; step += 1) {
    if (page.next?.includes('/callback?')) return page.next;
    if (page.next) page = await browser.ask(page.next);
    else {
      assert.equal(page.status, 200, page.text);
      const action = new URL(page.text.match(/<form[^>]*action="([^"]*)"/)[1], page.url).href;
      const prompt = page.text.match(/name="prompt" value="([^"]*)"/)?.[1];
      page = await browser.ask(action, { form: { prompt, login: who, password: 'whatever' } });
    }
  }
  throw new Error(`the server does not lead back: ${page.url} ${page.status}`);
}
