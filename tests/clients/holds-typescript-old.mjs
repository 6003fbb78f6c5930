// @modelcontextprotocol/sdk 1.x meets holds: it waits, opens pages, or follows the tasks of 2025-11-25.

import assert from 'node:assert/strict';

import { need } from './house.mjs';
import { how, play } from './holds-play.mjs';

const { Client } = need('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = need('@modelcontextprotocol/sdk/client/streamableHttp.js');
const { CallToolResultSchema, ElicitRequestSchema } = need('@modelcontextprotocol/sdk/types.js');

const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

async function connected(agent, seen, pages, answer) {
  const client = new Client({ name: agent, version: '1' }, pages ? { capabilities: { elicitation: { url: {} } } } : {});
  if (pages) {
    client.setRequestHandler(ElicitRequestSchema, ({ params }) => {
      if (params.mode === 'url' && /\/holds\/hold_\w{26}$/.test(params.url)) seen.push('page');
      return answer;
    });
  }
  const { url, headers } = how(agent);
  await client.connect(new StreamableHTTPClientTransport(url, { requestInit: { headers } }));
  return client;
}

const kind = ({ pages }) => async (agent, seen, answer = { action: 'accept' }) => {
  const client = await connected(agent, seen, pages, answer);
  return {
    call: (params, { timeout, progress } = {}) =>
      client.callTool(params, undefined, { timeout, onprogress: progress && (() => seen.push('progress')) }),
    close: () => client.close(),
  };
};

/** The tasks of 2025-11-25: the call is one by its own stream, and one that broke off is asked after by its id. */
const tasks = async (agent, seen) => {
  const client = await connected(agent, seen);
  // which tools can be tasks
  const { tools } = await client.listTools();
  assert.ok(tools.every(tool => tool.execution?.taskSupport === 'optional'), JSON.stringify(tools));
  return {
    survives: true,
    async call(params) {
      let task;
      for await (const message of client.experimental.tasks.callToolStream(params)) {
        if (message.type === 'taskCreated') {
          task = message.task.taskId;
          seen.push('task');
        }
        if (message.type === 'result') return message.result;
        if (message.type === 'error' && !task) throw message.error;
      }
      for (;;) {
        const status = await client.experimental.tasks.getTask(task).then(task => task.status, () => 'working');
        if (status !== 'working') return client.experimental.tasks.getTaskResult(task, CallToolResultSchema);
        await sleep(300);
      }
    },
    async cancelled(params) {
      const stream = client.experimental.tasks.callToolStream(params);
      const { value } = await stream.next();
      const task = value.task.taskId;
      assert.ok((await client.experimental.tasks.listTasks()).tasks.some(each => each.taskId === task));
      assert.equal((await client.experimental.tasks.cancelTask(task)).status, 'cancelled');
      const result = await client.experimental.tasks.getTaskResult(task, CallToolResultSchema);
      assert.equal(result._meta['countersign/decision'].reason, 'hold_cancelled');
      await assert.rejects(client.experimental.tasks.cancelTask(task));
    },
    close: () => client.close(),
  };
};

await play([
  { name: 'ts1-wait', connect: kind({}), does: { quick: [], slow: [], told: [] }, timeout: 2_000 },
  { name: 'ts1-page', connect: kind({ pages: true }), does: { quick: ['page'], declined: [] } },
  { name: 'ts1-task', connect: tasks, does: { quick: ['task'], cancelled: [] } },
]);
