// What a person does on the console's pages, in the words of its markup.

import assert from 'node:assert/strict';

import { PASSPHRASE } from './house.mjs';

export const on = (page, name) => page.locator(`body[data-page="${name}"]`).waitFor();

export async function enrol(visitor, code = visitor.house.code, passphrase = PASSPHRASE) {
  const { page } = await visitor.go(`/enrol#${code}`);
  await on(page, 'enrol');
  const form = page.locator('form[action="/enrol"]');
  await assertFilled(form.locator('[name="code"]'), code);
  await form.locator('[name="passphrase"]').fill(passphrase);
  await form.locator('[name="again"]').fill(passphrase);
  await form.locator('button[type="submit"]').click();
  await page.locator('body[data-page="waiting"], body[data-page="sign-in"]').waitFor();
  return page;
}

export async function assertFilled(field, text) {
  await field.waitFor();
  await field.page().waitForFunction(
    ([field, text]) => field.value.replaceAll(/[\s-]/g, '') === text.replaceAll(/[\s-]/g, ''),
    [await field.elementHandle(), text],
  );
}

/** Fills the sign-in form of the page that is open. */
export async function fillSignIn(page, approver = 'you', passphrase = PASSPHRASE) {
  const form = page.locator('form[action^="/sign-in"]:has([name="passphrase"])');
  await form.locator('[name="approver"]').fill(approver);
  await form.locator('[name="passphrase"]').fill(passphrase);
  const [answer] = await Promise.all([
    page.waitForResponse(answer => answer.request().method() === 'POST' && new URL(answer.url()).pathname === '/sign-in'),
    form.locator('button[type="submit"]').click(),
  ]);
  return answer;
}

export async function signIn(visitor, approver = 'you') {
  const { page } = await visitor.go('/sign-in');
  await on(page, 'sign-in');
  const answer = await fillSignIn(page, approver);
  assert.equal(answer.status(), 303);
  await on(page, 'waiting');
  return page;
}

/** The row of a hold in the queue. */
export const row = (page, id) => page.locator(`[data-page="waiting"] [data-hold="${id}"]`);

/** The page of a hold, opened. */
export async function hold(visitor, id, page) {
  ({ page } = await visitor.go(`/holds/${id}`, page));
  await on(page, 'hold');
  await facts(page, id).waitFor();
  return page;
}

export const facts = (page, id) => page.locator(`[data-page="hold"] [data-hold="${id}"][data-state]`);

/** What a page says when its hold has changed: what is on the screen does not move by itself while there is something to decide. */
export const changed = page => page.locator('[data-changed]:visible');

/** Waits until the page that is open shows the hold in a state; looks again where the page says that it has changed. */
export async function shows(page, id, state, ms = 10_000) {
  const there = page.locator(`[data-page="hold"] [data-hold="${id}"][data-state="${state}"]`);
  for (const deadline = Date.now() + ms; ; ) {
    const left = Math.max(1, deadline - Date.now());
    await there.or(changed(page)).first().waitFor({ timeout: left });
    if (await there.count()) return;
    // where there is nothing to decide the page looks again by itself, and is faster
    await changed(page).locator('a').click({ timeout: 500 }).catch(() => {});
    await facts(page, id).waitFor({ timeout: left });
  }
}

export const argument = (page, path) => page.locator(`[data-argument-path=${JSON.stringify(path)}]`);

/** The button that does what a form of a hold's page is for. */
export const button = (page, name) => page.locator(`form[data-act="${name}"] button[type="submit"]:not([hidden])`);

/** Sends one of the page's forms; gives the answer. */
export async function act(page, name, fields = {}) {
  const form = page.locator(`form[data-act="${name}"]`);
  for (const [field, text] of Object.entries(fields)) await form.locator(`[name="${field}"]`).fill(text);
  const [answer] = await Promise.all([
    page.waitForResponse(answer => answer.request().method() === 'POST' && answer.url().endsWith(`/${name}`)),
    button(page, name).click(),
  ]);
  return answer;
}

export const approve = page => act(page, 'approve', { passphrase: PASSPHRASE });
export const deny = (page, reason) => act(page, 'deny', { reason });
