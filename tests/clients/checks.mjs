// What an unmodified TypeScript client must see through Countersign, or, with --direct, of the servers themselves.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

const table = JSON.parse(readFileSync(new URL('calls.json', import.meta.url), 'utf8'));
const scene = JSON.parse(process.env.COUNTERSIGN_SCENE);

const filled = args => JSON.parse(JSON.stringify(args).replaceAll('{dir}', scene.dir));

/** A result without what Countersign says of its own. */
function plain(result) {
  const copy = structuredClone(result);
  if (copy._meta) {
    for (const key of Object.keys(copy._meta)) {
      if (key.startsWith('countersign/') || key === 'io.modelcontextprotocol/serverInfo') delete copy._meta[key];
    }
    if (Object.keys(copy._meta).length === 0) delete copy._meta;
  }
  delete copy.resultType;
  delete copy.ttlMs;
  delete copy.cacheScope;
  return copy;
}

let failed = 0;
let count = 0;

async function check(name, body) {
  count += 1;
  let timer;
  try {
    const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error('took more than 60 s')), 60_000)));
    await Promise.race([body(), late]);
    console.log(`ok ${count} - ${name}`);
  } catch (problem) {
    failed += 1;
    console.log(`not ok ${count} - ${name}`);
    for (const line of String(problem?.stack ?? problem).split('\n').slice(0, 12)) console.log(`  # ${line}`);
  } finally {
    clearTimeout(timer);
  }
}

/** Runs every check with `adapter`, which knows one SDK, in each of its `versions`. */
export async function run(adapter) {
  const direct = {};
  for (const [name, how] of Object.entries(scene.direct)) direct[name] = await adapter.connect({ how });
  const transports = scene.mode === 'direct' ? ['direct'] : [scene.mode];
  for (const transport of transports) {
    for (const version of transport === 'direct' ? adapter.versions.filter(each => each < '2026') : adapter.versions) {
      await inVersion(adapter, direct, transport, version);
    }
  }
  for (const client of Object.values(direct)) await client.close();
  console.log(`1..${count}`);
  console.log(`# ${adapter.name} (${scene.mode}): ${count - failed} passed, ${failed} failed`);
  process.exit(failed === 0 ? 0 : 1);
}

function how(agent) {
  if (scene.mode === 'stdio') return { command: [scene.program, 'serve', '--stdio', '--agent', agent], cwd: scene.dir };
  return { url: scene.url, token: scene.tokens[agent] };
}

async function inVersion(adapter, direct, transport, version) {
  const told = `${adapter.name} ${version} ${transport}:`;
  const through = transport !== 'direct';
  let tester;
  await check(`${told} connects`, async () => {
    if (through) {
      tester = await adapter.connect({ how: how('tester'), version });
      assert.equal(tester.version(), version);
    }
  });
  if (through && !tester) return;
  const opened = through ? [tester] : [];
  const at = name => (through ? [tester, `${name}__`] : [direct[name], '']);

  await check(`${told} lists every server's tools, as the servers list them`, async () => {
    const all = through ? await tester.listTools() : null;
    for (const [name, expected] of Object.entries(table.listed)) {
      const [, prefix] = at(name);
      const own = await direct[name].listTools();
      const listed = all ?? own;
      for (const tool of expected) {
        const found = listed.find(each => each.name === prefix + tool);
        assert.ok(found, `${prefix}${tool} is not listed: ${listed.map(each => each.name)}`);
        const { name: _, _meta: __, ...rest } = found;
        const { name: ___, _meta: ____, ...same } = own.find(each => each.name === tool);
        // a word of the revisions before, which a client of the newest takes out
        if (version >= '2026') delete same.execution;
        // any call may be a task of that revision, since it is Countersign that keeps it
        if (through && version === '2025-11-25') {
          assert.equal(rest.execution.taskSupport, 'optional');
          delete rest.execution;
          delete same.execution;
        }
        assert.deepEqual(rest, same);
      }
    }
    if (all) {
      assert.ok(all.every(tool => tool._meta?.['countersign/grant'] === 'allow'), 'a tool does not say `allow`');
      const again = await tester.listTools();
      assert.deepEqual(all.map(tool => tool.name), again.map(tool => tool.name), 'the order is not stable');
    }
  });

  for (const [server, tool, args] of table.same) {
    await check(`${told} ${server} ${tool} gives what the server gives`, async () => {
      const [client, prefix] = at(server);
      const result = await client.callTool(prefix + tool, filled(args));
      assert.deepEqual(plain(result), plain(await direct[server].callTool(tool, filled(args))));
    });
  }

  await check(`${told} memory remembers, files are written`, async () => {
    const [memory, inMemory] = at('memory');
    const name = `${adapter.name} ${version} ${transport}`;
    await memory.callTool(`${inMemory}create_entities`, {
      entities: [{ name, entityType: 'client', observations: ['was here', 'ünïcödé'] }],
    });
    const found = await memory.callTool(`${inMemory}search_nodes`, { query: name });
    assert.match(found.content[0].text, /ünïcödé/);
    const [files, inFiles] = at('files');
    const path = `${scene.dir}/files/${name.replaceAll(/\W/g, '-')}.txt`;
    const written = await files.callTool(`${inFiles}write_file`, { path, content: 'line\r\n\ttab "q"' });
    assert.notEqual(written.isError, true, JSON.stringify(written));
    assert.equal(readFileSync(path, 'utf8'), 'line\r\n\ttab "q"');
    const [time, inTime] = at('time');
    const now = await time.callTool(`${inTime}get_current_time`, { timezone: 'Europe/Berlin' });
    assert.equal(JSON.parse(now.content[0].text).timezone, 'Europe/Berlin');
  });

  for (const server of ['every', 'everyhttp']) {
    await check(`${told} progress of ${server} arrives in order`, async () => {
      const [client, prefix] = at(server);
      const seen = [];
      const args = { duration: 1, steps: 4 };
      const result = await client.callTool(`${prefix}trigger-long-running-operation`, args, {
        onprogress: progress => seen.push(progress.progress),
      });
      assert.match(result.content[0].text, /completed/);
      assert.deepEqual(seen, [...seen].sort((a, b) => a - b));
      assert.ok(seen.length >= 3, `progress: ${seen}`);
    });
  }

  await check(`${told} a cancelled call ends at once and harms no other`, async () => {
    const [client, prefix] = at('every');
    const abort = new AbortController();
    const started = Date.now();
    setTimeout(() => abort.abort('enough'), 300);
    const call = client.callTool(`${prefix}trigger-long-running-operation`, { duration: 30, steps: 3 }, { signal: abort.signal });
    await assert.rejects(call);
    assert.ok(Date.now() - started < 5_000);
    const after = await client.callTool(`${prefix}echo`, { message: 'after' });
    assert.equal(after.content[0].text, 'Echo: after');
  });

  await check(`${told} twenty calls at once`, async () => {
    const [client, prefix] = at('every');
    const sums = await Promise.all(
      Array.from({ length: 20 }, (_, a) => client.callTool(`${prefix}get-sum`, { a, b: a })),
    );
    sums.forEach((sum, a) => assert.equal(sum.content[0].text, `The sum of ${a} and ${a} is ${a + a}.`));
  });

  if (through) await onlyThrough(adapter, direct, version, told, tester, opened);
  for (const client of opened) await client.close().catch(() => {});
}

/** What only Countersign does. */
async function onlyThrough(adapter, direct, version, told, tester, opened) {
  const connect = async (agent, more = {}) => {
    // over stdio each client has a Countersign of its own, and one store has one owner
    if (scene.mode === 'stdio') for (const client of opened.splice(0)) await client.close();
    const client = await adapter.connect({ how: how(agent), version, ...more });
    opened.push(client);
    return client;
  };

  for (const [server, tool, args, pointer] of table.invalid) {
    await check(`${told} ${tool} with ${JSON.stringify(args)} is refused so that a model can act on it`, async () => {
      const refused = await tester.callTool(`${server}__${tool}`, args);
      assert.equal(refused.isError, true);
      const decision = refused._meta?.['countersign/decision'];
      assert.equal(decision?.outcome, 'refused');
      assert.equal(decision?.reason, 'arguments_invalid');
      assert.match(decision?.call, /^call_[0-9A-HJKMNP-TV-Z]{26}$/);
      assert.equal(refused.content[0].type, 'text');
      if (pointer) assert.ok(refused.content[0].text.includes(pointer), refused.content[0].text);
    });
  }

  await check(`${told} resources and prompts are refused by default`, async () => {
    assert.deepEqual(await tester.listResources().catch(() => []), []);
    assert.deepEqual(await tester.listPrompts().catch(() => []), []);
    await assert.rejects(tester.readResource('demo://resource/static/document/features.md'));
    await assert.rejects(tester.getPrompt('every__simple-prompt', {}));
  });

  let guest;
  await check(`${told} an agent sees just its own tools`, async () => {
    let changed = 0;
    guest = await connect('guest', { onToolsChanged: () => (changed += 1) });
    guest.changes = () => changed;
    assert.deepEqual((await guest.listTools()).map(tool => tool.name), ['every__echo']);
    const echoed = await guest.callTool('every__echo', { message: 'guest' });
    assert.equal(echoed.content[0].text, 'Echo: guest');
  });
  if (!guest) return;

  await check(`${told} a tool that is not granted looks like one that is not there`, async () => {
    const problem = async name => {
      const thrown = await guest.callTool(name, {}).then(result => assert.fail(JSON.stringify(result)), error => error);
      assert.equal(thrown.code, -32602, String(thrown));
      return String(thrown.message).replaceAll(name, 'NAME').replaceAll(/call_\w+/g, 'CALL');
    };
    assert.equal(await problem('every__get-sum'), await problem('every__get-none'));
  });

  await check(`${told} a wider grant changes the list, and the client is told`, async () => {
    const { writeFileSync } = await import('node:fs');
    const path = `${scene.dir}/grants/clients.cedar`;
    const narrow = readFileSync(path, 'utf8');
    try {
      writeFileSync(path, narrow + '\n@id("guest-more")\npermit (principal == Agent::"guest", action == Action::"every__get-sum", resource);\n');
      const deadline = Date.now() + 30_000;
      const wide = async () => (await guest.listTools({ fresh: true })).length === 2;
      while (!(guest.changes() > 0 && (await wide()))) {
        assert.ok(Date.now() < deadline, `told ${guest.changes()} times; the list is ${(await guest.listTools({ fresh: true })).map(tool => tool.name)}`);
        await new Promise(resolve => setTimeout(resolve, 50));
      }
    } finally {
      writeFileSync(path, narrow);
    }
    const deadline = Date.now() + 30_000;
    while ((await guest.listTools({ fresh: true })).length !== 1) {
      assert.ok(Date.now() < deadline, 'the narrower grant does not apply');
      await new Promise(resolve => setTimeout(resolve, 50));
    }
  });

  await check(`${told} resources and prompts pass under their grants`, async () => {
    const reader = await connect('reader');
    const own = await direct.every.listResources();
    const listed = await reader.listResources();
    for (const resource of own) {
      assert.ok(listed.some(each => each.uri.endsWith(resource.uri)), `${resource.uri} is not among ${listed.map(each => each.uri)}`);
    }
    const uri = own[0].uri;
    const there = listed.find(each => each.uri.endsWith(uri)).uri;
    // two servers have it, so it is ambiguous unless it carries the server's name
    if (there !== uri) {
      const read = plain(await reader.readResource(there));
      assert.deepEqual(read.contents[0].text, plain(await direct.every.readResource(uri)).contents[0].text);
    }
    const prompts = await reader.listPrompts();
    assert.ok(prompts.some(prompt => prompt.name === 'every__simple-prompt'), `${prompts.map(prompt => prompt.name)}`);
    const prompt = plain(await reader.getPrompt('every__simple-prompt', {}));
    assert.deepEqual(prompt, plain(await direct.every.getPrompt('simple-prompt', {})));
    const withArguments = { city: 'Berlin', state: 'BE' };
    assert.deepEqual(
      plain(await reader.getPrompt('every__args-prompt', withArguments)),
      plain(await direct.every.getPrompt('args-prompt', withArguments)),
    );
  });

  await check(`${told} sampling and elicitation reach the client only under their grants`, async () => {
    const asked = [];
    const answers = {
      'sampling/createMessage': () => {
        asked.push('sampling');
        return { role: 'assistant', model: 'none', content: { type: 'text', text: 'an answer of the model' } };
      },
      'elicitation/create': () => {
        asked.push('elicitation');
        return { action: 'decline' };
      },
    };
    // the servers behind are of the revisions before, which ask while a call runs: that takes a session
    const reached = version < '2026';
    for (const [agent, granted] of [['tester', false], ['reader', reached]]) {
      const client = await connect(agent, { answers });
      for (const server of ['every', 'everyhttp']) {
        asked.length = 0;
        const sampled = await client.callTool(`${server}__trigger-sampling-request`, { prompt: 'x', maxTokens: 5 });
        const elicited = await client.callTool(`${server}__trigger-elicitation-request`, {});
        assert.deepEqual(asked, granted ? ['sampling', 'elicitation'] : [], `${agent}, ${server}`);
        assert.equal(sampled.isError ?? false, !granted, JSON.stringify(sampled));
        assert.equal(elicited.isError ?? false, !granted, JSON.stringify(elicited));
        if (!granted) continue;
        assert.match(sampled.content[0].text, /an answer of the model/);
        assert.match(elicited.content[0].text, /declined/);
      }
    }
  });

  if (scene.mode === 'http') {
    await check(`${told} without a good token there is no way in`, async () => {
      await assert.rejects(adapter.connect({ how: { url: scene.url }, version }));
      await assert.rejects(adapter.connect({ how: { url: scene.url, token: 'eyJhbGciOiJub25lIn0.e30.' }, version }));
    });
  }
}
