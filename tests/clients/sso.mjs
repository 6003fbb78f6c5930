// Approvers sign in with a provider that is not ours (oidc-provider, tests/browser/provider.mjs) and countersign as who it
// says they are, request by request as browsers make them: `node tests/clients/sso.mjs`.

import assert from 'node:assert/strict';

import { open, until } from '../browser/house.mjs';
import { startProvider } from '../browser/provider.mjs';
import { Browser, through } from './person.mjs';

let [passed, failed] = [0, 0];
async function check(name, body) {
  try {
    await body();
    passed += 1;
    console.log(`ok - ${name}`);
  } catch (problem) {
    failed += 1;
    console.log(`not ok - ${name}\n${String(problem?.stack ?? problem).split('\n').slice(0, 12).map(line => `  # ${line}`).join('\n')}`);
  }
}

const meta = page => page.text.match(/http-equiv="refresh" content="0; url=([^"]*)"/)?.[1].replaceAll('&amp;', '&');
const problem = page => page.text.match(/data-problem="([^"]*)"/)?.[1];
const field = (page, name) => page.text.match(new RegExp(`name="${name}" value="([^"]*)"`))?.[1];

/** Signs in, and gives the page that is then gone on to. */
async function signIn(house, browser, who, next = '/waiting') {
  const begun = await browser.ask(`${house.address}/sign-in/corp?next=${next}`);
  assert.equal(begun.status, 303, begun.text);
  const back = await through(browser, begun.next, who, house.address);
  const hop = await browser.ask(back, { from: provider.issuer });
  return { back, hop };
}

const provider = await startProvider();
const house = await open({ toml: provider.toml() });
provider.register(house.address);
const maria = new Browser();
const name = 'corp:maria@example.com';
let first;

await check('somebody whom the provider knows signs in and is who it says', async () => {
  const offer = await maria.ask(`${house.address}/sign-in`);
  assert.match(offer.text, /href="\/sign-in\/corp"[^>]*>|data-provider="corp"/);
  first = await signIn(house, maria, 'maria');
  assert.equal(first.hop.status, 200, first.hop.text);
  assert.equal(meta(first.hop), '/waiting');
  const cookies = first.hop.headers.getSetCookie();
  assert.ok(cookies.some(line => /^countersign=.*; HttpOnly; SameSite=Strict$/.test(line)), String(cookies));
  const waiting = await maria.ask(`${house.address}/waiting`);
  assert.match(waiting.text, new RegExp(`data-approver="${name}"`));
  // a page of another site has the cookie not sent, and learns nothing
  const foreign = await maria.ask(`${house.address}/waiting`, { from: provider.issuer });
  assert.doesNotMatch(foreign.text, new RegExp(name));
});

await check('what came back serves once, in the browser that began, and only whom a role is given', async () => {
  const replayed = await maria.ask(first.back, { from: provider.issuer });
  assert.deepEqual([replayed.status, problem(replayed)], [403, 'sign_in_unknown']);
  // login CSRF: a stranger's answer, in a browser that began nothing, or something else
  const stranger = new Browser();
  const begun = await stranger.ask(`${house.address}/sign-in/corp`);
  const theirs = await through(stranger, begun.next, 'pat', house.address);
  const victim = new Browser();
  for (const prepare of [async () => {}, () => victim.ask(`${house.address}/sign-in/corp`)]) {
    await prepare();
    const answer = await victim.ask(theirs, { from: provider.issuer });
    assert.deepEqual([answer.status, problem(answer)], [403, 'sign_in_unknown']);
    assert.ok(!answer.headers.getSetCookie().some(line => /^countersign=/.test(line)));
  }
  // another issuer answers, or it is not said which
  for (const [wrong, code] of [[u => u.searchParams.set('iss', 'https://evil.test'), 'provider_mixed_up'],
    [u => u.searchParams.delete('iss'), 'provider_mixed_up'], [u => u.searchParams.set('state', 'x'), 'sign_in_unknown'],
    [u => u.searchParams.append('code', 'x'), 'sign_in_unknown'], [u => u.searchParams.set('code', 'x'), 'code_refused']]) {
    const browser = new Browser();
    const begun = await browser.ask(`${house.address}/sign-in/corp`);
    const back = new URL(await through(browser, begun.next, 'pat', house.address));
    wrong(back);
    const answer = await browser.ask(back.href, { from: provider.issuer });
    assert.deepEqual([answer.status, problem(answer)], [403, code]);
  }
  const nobody = await signIn(house, new Browser(), 'nobody');
  assert.deepEqual([nobody.hop.status, problem(nobody.hop)], [403, 'no_role']);
  const unknown = await new Browser().ask(`${house.address}/sign-in/other`);
  assert.equal(unknown.status, 404);
  // the way on is a page of ours
  const away = new Browser();
  const { hop } = await signIn(house, away, 'pat', 'https://evil.test/waiting');
  assert.equal(meta(hop), '/waiting');
});

/** A call that waits, as its page is. */
async function held(browser, note) {
  const id = await house.ask('desk__note', { text: note });
  return { id, page: await browser.ask(`${house.address}/holds/${id}`) };
}

/** Asks to countersign what is on the page; gives what comes of it. */
const stepUp = (browser, id, page, more = {}) =>
  browser.ask(`${house.address}/holds/${id}/step-up`, {
    form: { csrf: field(page, 'csrf'), digest: field(page, 'digest'), as_of: field(page, 'as_of'), ...more },
  });

await check('a hold is countersigned by the word that the provider gives of that person just then, for that hold', async () => {
  const { id, page } = await held(maria, 'by maria');
  assert.match(page.text, /data-act="approve-provider"/);
  assert.doesNotMatch(page.text, /type="password"/);
  const hop = await stepUp(maria, id, page);
  assert.equal(hop.status, 200, hop.text);
  const to = new URL(meta(hop));
  assert.equal(to.searchParams.get('max_age'), '0');
  const digest = field(page, 'digest').replace('sha256:', '');
  assert.ok(to.searchParams.get('nonce').startsWith(`${digest}.`));
  const back = await through(maria, to.href, 'maria', house.address);
  const done = await maria.ask(back, { from: provider.issuer });
  assert.deepEqual([done.status, meta(done)], [200, `/holds/${id}`], done.text);
  await until('the call to be run', async () => (await house.task(id)).status === 'completed');
  const again = await maria.ask(back, { from: provider.issuer });
  assert.deepEqual([again.status, problem(again)], [403, 'sign_in_unknown']);
  const entries = (await house.run('ledger', 'export', '--format', 'jsonl')).trim().split('\n').map(line => JSON.parse(line));
  const vote = entries.map(each => each.entry ?? each).find(each => each.kind === 'hold.approved' && each.hold === id);
  assert.deepEqual([vote.approver, vote.issuer, vote.subject], [name, provider.issuer, 'maria']);
  assert.match(vote.token, /^sha256:[0-9a-f]{64}$/);
  const text = JSON.stringify(entries);
  assert.ok(!text.includes(provider.clientSecret) && !/eyJ[\w-]{20,}\.[\w-]+\.[\w-]+/.test(text), 'a token or a secret is in the log');
});

await check('nobody else countersigns in their place, and nothing that changed is', async () => {
  const { id, page } = await held(maria, 'by somebody else');
  const hop = await stepUp(maria, id, page);
  // somebody else sits down, whom the provider does not take for her
  maria.jars.delete(new URL(provider.issuer).host);
  const back = await through(maria, meta(hop), 'pat', house.address);
  maria.jars.delete(new URL(provider.issuer).host);
  const other = await maria.ask(back, { from: provider.issuer });
  assert.deepEqual([other.status, problem(other)], [403, 'token_subject'], other.text);
  // the session that asked is over meanwhile
  const gone = new Browser();
  await signIn(house, gone, 'olga');
  const theirs = await gone.ask(`${house.address}/holds/${id}`);
  const left = await stepUp(gone, id, theirs);
  const answer = await through(gone, meta(left), 'olga', house.address);
  await gone.ask(`${house.address}/sign-out`, { form: { csrf: field(theirs, 'csrf') } });
  const late = await gone.ask(answer, { from: provider.issuer });
  assert.deepEqual([late.status, problem(late)], [401, 'session_unknown'], late.text);
  // the passphrase's way is not theirs
  const way = await maria.ask(`${house.address}/holds/${id}/approve`, {
    form: { csrf: field(page, 'csrf'), digest: field(page, 'digest'), as_of: field(page, 'as_of'), passphrase: 'x'.repeat(20) },
  });
  assert.ok(way.status >= 400, `${way.status}`);
  for (const [more, status, code] of [[{ csrf: 'x' }, 403, 'form_refused'], [{ as_of: '1' }, 409, 'hold_changed']]) {
    const refused = await stepUp(maria, id, page, more);
    assert.deepEqual([refused.status, problem(refused)], [status, code]);
  }
  // a denial in between: the provider's word comes too late
  const fresh = await maria.ask(`${house.address}/holds/${id}`);
  const begun = await stepUp(maria, id, fresh);
  const word = await through(maria, meta(begun), 'maria', house.address);
  const no = await maria.ask(`${house.address}/holds/${id}/deny`, {
    form: { csrf: field(fresh, 'csrf'), digest: field(fresh, 'digest'), as_of: field(fresh, 'as_of'), reason: 'not this one' },
  });
  assert.equal(no.status, 303, no.text);
  const tooLate = await maria.ask(word, { from: provider.issuer });
  assert.ok(tooLate.status === 409 || tooLate.status === 410, `${tooLate.status} ${problem(tooLate)}`);
});

await check('signing out ends the session here, and offers to end the one there', async () => {
  const page = await maria.ask(`${house.address}/waiting`);
  const out = await maria.ask(`${house.address}/sign-out`, { form: { csrf: field(page, 'csrf') } });
  assert.equal(out.status, 200, out.text);
  assert.ok(out.text.includes(`href="${provider.issuer}/session/end?client_id=countersign`), out.text);
  const after = await maria.ask(`${house.address}/waiting`);
  assert.equal(after.status, 303);
});

await check('the ledger verifies, and no token or secret is in the log of the server', async () => {
  await house.end();
  const verified = await house.run('ledger', 'verify');
  assert.match(verified, /holds|verif|no/i);
  const log = house.log();
  assert.ok(!log.includes(provider.clientSecret) && !/eyJ[\w-]{20,}\./.test(log));
});

await house.close();
await provider.close();

// a client without a secret, and tokens of another algorithm
await check('a public client and ES256', async () => {
  const other = await startProvider({ auth: 'none', alg: 'ES256' });
  const second = await open({ desk: false, toml: other.toml('corp', 'name_claim = "preferred_username"\n') });
  other.register(second.address);
  try {
    const browser = new Browser();
    const begun = await browser.ask(`${second.address}/sign-in/corp`);
    const hop = await browser.ask(await through(browser, begun.next, 'olga', second.address), { from: other.issuer });
    assert.equal(hop.status, 200, hop.text);
    const waiting = await browser.ask(`${second.address}/waiting`);
    assert.match(waiting.text, /data-approver="corp:olga"/);
  } finally {
    await second.close();
    await other.close();
  }
});

console.log(`# single sign-on: ${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
