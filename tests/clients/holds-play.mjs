// What every kind of TypeScript client does when its call is held; holds.mjs decides on the calls and kills the server.

import assert from 'node:assert/strict';

const scene = JSON.parse(process.env.COUNTERSIGN_HOLDS);
const { amounts } = scene;

let failed = 0;
let count = 0;

async function check(name, body) {
  try {
    await body();
    console.log(`ok ${(count += 1)} - ${name}`);
  } catch (problem) {
    failed += 1;
    console.log(`not ok ${(count += 1)} - ${name}`);
    for (const line of String(problem?.stack ?? problem).split('\n').slice(0, 12)) console.log(`  # ${line}`);
  }
}

const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));
const decision = result => result._meta?.['countersign/decision'];
const isHeld = result => decision(result)?.outcome === 'held';
const transfer = amount => ({ name: 'bank__transfer', arguments: { from: 'alice', to: 'bob', amount } });

function ran(result, amount) {
  assert.notEqual(result.isError, true, JSON.stringify(result));
  assert.equal(result.structuredContent.amount, amount);
}

/**
 * A client's ways. `connect(agent, seen)` gives `{ call(params, options) -> result, close() }`, and `seen` collects
 * what it was shown on its way: `page`, `progress`, `task`.
 */
const ways = {
  /** It is followed to the result in one go. */
  async quick(connect, agent, expected) {
    const seen = [];
    const client = await connect(agent, seen);
    ran(await client.call(transfer(amounts.quick)), amounts.quick);
    assert.ok(expected.every(each => seen.includes(each)), `saw ${seen}`);
    // what was run is given again, and not done again
    ran(await client.call(transfer(amounts.quick)), amounts.quick);
    await client.close();
  },

  /** Long enough for a round, or a client's time-out, to be over. */
  async slow(connect, agent, _, timeout) {
    const client = await connect(agent, []);
    if (timeout) {
      const late = await client.call(transfer(amounts.slow), { timeout }).then(() => null, error => error);
      assert.match(String(late), /timed out|timeout/i);
    }
    ran(await client.call(transfer(amounts.slow)), amounts.slow);
    await client.close();
  },

  /** Longer than the server waits with a legacy client: it is told, and calls again. */
  async told(connect, agent) {
    const seen = [];
    const client = await connect(agent, seen);
    const first = await client.call(transfer(amounts.told), { timeout: 120_000, progress: true });
    assert.ok(isHeld(first) && first.isError, JSON.stringify(first));
    assert.match(first.content[0].text, /hold_\w{26}.*calling again with the same arguments/s);
    assert.ok(seen.filter(each => each === 'progress').length >= 5, `saw ${seen}`);
    ran(await client.call(transfer(amounts.told)), amounts.told);
    await client.close();
  },

  /** The server is killed while the call waits, and comes back. */
  async killed(connect, agent) {
    let [client, result, broken] = [null, null, 0];
    for (const deadline = Date.now() + 90_000; Date.now() < deadline; ) {
      try {
        client ??= await connect(agent, []);
        result = await client.call(transfer(amounts.killed));
        if (!isHeld(result)) break;
      } catch {
        broken += 1;
        if (!client?.survives) {
          await client?.close().catch(() => {});
          client = null;
        }
        await sleep(300);
      }
    }
    ran(result, amounts.killed);
    assert.ok(broken > 0 || client.survives, 'the server was not killed in the middle');
    await client.close();
  },

  /** Its user will not open the page. */
  async declined(connect, agent) {
    const seen = [];
    const client = await connect(agent, seen, { action: 'decline' });
    const result = await client.call(transfer(amounts.declined));
    assert.equal(decision(result)?.reason, 'hold_cancelled', JSON.stringify(result));
    assert.ok(seen.includes('page'));
    await client.close();
  },

  async cancelled(connect, agent) {
    const client = await connect(agent, []);
    await client.cancelled(transfer(amounts.cancelled));
    await client.close();
  },
};

/** Plays every variant: `{ name, connect, does: { way: expected }, timeout }`. */
export async function play(variants) {
  const all = variants.map(async ({ name, connect, does, timeout }) => {
    const patient = Object.entries(does).filter(([way]) => way !== 'killed');
    await Promise.all(
      patient.map(([way, expected]) => check(`${name}: ${way}`, () => ways[way](connect, name, expected, timeout))),
    );
  });
  await Promise.all(all);
  console.log('# ready to be killed');
  await Promise.all(variants.map(({ name, connect }) => check(`${name}: killed`, () => ways.killed(connect, name))));
  console.log(`1..${count}`);
  process.exit(failed === 0 ? 0 : 1);
}

export const how = agent => ({ url: new URL(scene.url), headers: { Authorization: `Bearer ${scene.tokens[agent]}` } });
