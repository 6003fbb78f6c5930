// Chromium, and those who look: each visitor is a profile of its own that remembers what its pages asked for.

import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { need } from '../clients/house.mjs';

const { chromium } = need('playwright-core');
const UPNG = need('upng-js');

const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
const root = fileURLToPath(new URL('../../', import.meta.url));
const failures = join(root, 'target', 'browser');

/** A host of its own, as far as the browser knows: what leads to this machine and is not the console. */
export const ELSEWHERE = 'attacker.test';

export async function launch() {
  if (!existsSync(executablePath)) throw new Error(`${executablePath} is not there: run tests/all.sh`);
  return chromium.launch({
    executablePath,
    headless: true,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--disable-dev-shm-usage',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      '--disable-default-apps',
      '--hide-scrollbars',
      `--host-resolver-rules=MAP ${ELSEWHERE} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1`,
    ],
  });
}

/** Lines that Chromium writes whenever an answer has a status of 400 or more: the tests look at statuses themselves. */
const STATUS = /^Failed to load resource: the server responded with a status of/;

export class Visitor {
  /** Every address that pages asked for, and what they complained of. */
  requests = [];
  complaints = [];

  constructor(context, house, known) {
    this.context = context;
    this.house = house;
    this.known = known;
    context.on('request', request => {
      // what a page that was led to on purpose asks for is its own business
      if (request.isNavigationRequest() || !this.isKnown(request.frame().url())) this.requests.push(request.url());
    });
    context.on('console', message => {
      if (message.type() !== 'error' || STATUS.test(message.text()) || this.isKnown(message.page()?.url() ?? '')) return;
      this.complaints.push(message.text());
    });
    context.on('weberror', error => this.complaints.push(String(error.error())));
  }

  isKnown(url) {
    return this.known.some(origin => url.startsWith(`${origin}/`));
  }

  async page() {
    const page = await this.context.newPage();
    page.setDefaultTimeout(10_000);
    return page;
  }

  /** Opens a page of the console. */
  async go(path, page) {
    page ??= this.first ??= await this.page();
    for (;;) {
      try {
        const answer = await page.goto(this.house.origin + path);
        return { page, answer };
      } catch (problem) {
        // a page that was just bringing itself up to date
        if (!/interrupted by another navigation|ERR_ABORTED/.test(String(problem))) throw problem;
      }
    }
  }

  /** Nobody else was asked for anything, and nothing was complained of. */
  fine({ complaints = null } = {}) {
    const own = [this.house.origin, this.house.address, ...this.known];
    const elsewhere = this.requests.filter(url => !own.includes(new URL(url).origin) && !/^(data|about|blob):/.test(url));
    assert.deepEqual(elsewhere, [], 'another host was asked');
    const unexpected = complaints ? this.complaints.filter(each => !complaints.test(each)) : this.complaints;
    assert.deepEqual(unexpected, [], 'a page complained');
  }

  async leave(expected) {
    await this.context.close();
    this.fine(expected);
  }
}

/** A new profile; `theme` is `light` or `dark`, `known` has the origins of others that the console leads to. */
export async function visitor(browser, house, { theme = 'light', width = 1200, height = 800, known = [], ...more } = {}) {
  const context = await browser.newContext({
    colorScheme: theme,
    viewport: { width, height },
    reducedMotion: 'reduce',
    locale: 'en-GB',
    timezoneId: 'UTC',
    ...more,
  });
  return new Visitor(context, house, known);
}

/** A passkey device for a page, as Chromium's tools have it; it outlives navigation. */
export async function authenticator(page, more = {}) {
  const tools = await page.context().newCDPSession(page);
  await tools.send('WebAuthn.enable');
  const { authenticatorId } = await tools.send('WebAuthn.addVirtualAuthenticator', {
    options: {
      protocol: 'ctap2',
      ctap2Version: 'ctap2_1',
      transport: 'internal',
      hasResidentKey: true,
      hasUserVerification: true,
      isUserVerified: true,
      automaticPresenceSimulation: true,
      ...more,
    },
  });
  return {
    credentials: async () => (await tools.send('WebAuthn.getCredentials', { authenticatorId })).credentials,
    /** Whether the person is recognised from now on. */
    verified: isUserVerified => tools.send('WebAuthn.setUserVerified', { authenticatorId, isUserVerified }),
    remove: () => tools.send('WebAuthn.removeVirtualAuthenticator', { authenticatorId }),
  };
}

const axe = need.resolve('axe-core/axe.min.js');

/**
 * What axe finds wrong, by the rules of WCAG A and AA. The page's own policy would keep axe out: it runs in a profile that
 * sets the policy aside, and nothing else is tried there.
 */
export async function violations(page) {
  await page.evaluate(readFileSync(axe, 'utf8'));
  const { violations } = await page.evaluate(() =>
    globalThis.axe.run(document, {
      runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'],
      resultTypes: ['violations'],
    }),
  );
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map(node => `${node.html.slice(0, 200)} (${node.any.concat(node.all).map(each => each.message).join('; ')})`).join(' | ')}`);
}

// ---- pictures

/** What a picture shows: `at(x, y)` gives red, green and blue. */
export function pixels(png) {
  const image = UPNG.decode(png);
  const bytes = new Uint8Array(UPNG.toRGBA8(image)[0]);
  return {
    width: image.width,
    height: image.height,
    at: (x, y) => [...bytes.subarray((y * image.width + x) * 4, (y * image.width + x) * 4 + 3)],
  };
}

/** The picture with at most so many colours, which is how it goes into the documents. */
function small(png, colours = 64) {
  const image = UPNG.decode(png);
  return Buffer.from(UPNG.encode(UPNG.toRGBA8(image), image.width, image.height, colours));
}

/** Takes a picture of a page for `docs/images`; only where asked for, since each run looks a little different. */
export async function picture(page, name, { kept = true, ...more } = {}) {
  const png = small(await page.screenshot({ animations: 'disabled', caret: 'hide', ...more }));
  assert.ok(png.length < 120_000, `the picture ${name} has ${png.length} bytes`);
  if (process.env.PICTURES && kept) {
    mkdirSync(join(root, 'docs', 'images'), { recursive: true });
    writeFileSync(join(root, 'docs', 'images', `${name}.png`), png);
  }
  return png;
}

/** Keeps what there is to see of a test that failed. */
export async function keep(browser, name) {
  mkdirSync(failures, { recursive: true });
  const plain = name.replace(/\W+/g, '-').slice(0, 80);
  const kept = [];
  for (const [at, page] of browser.contexts().flatMap(context => context.pages()).entries()) {
    const file = join(failures, `${plain}-${at}`);
    const shot = await page.screenshot({ timeout: 3_000 }).catch(() => null);
    if (shot) writeFileSync(`${file}.png`, shot);
    const html = await page.content().catch(() => '');
    writeFileSync(`${file}.html`, html.slice(0, 1 << 20));
    kept.push(page.url());
  }
  return kept;
}
