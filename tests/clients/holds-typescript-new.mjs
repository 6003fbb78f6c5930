// @modelcontextprotocol/client 2.x meets holds: rounds and pages in 2026-07-28, waiting and pages in its default mode.

import { need } from './house.mjs';
import { how, play } from './holds-play.mjs';

const { Client, StreamableHTTPClientTransport } = need('@modelcontextprotocol/client');

const kind = ({ modern, pages }) => async (agent, seen, answer = { action: 'accept' }) => {
  const options = modern ? { versionNegotiation: { mode: { pin: '2026-07-28' } } } : {};
  if (pages) options.capabilities = { elicitation: { url: {} } };
  const client = new Client({ name: agent, version: '1' }, options);
  if (pages) {
    client.setRequestHandler('elicitation/create', ({ params }) => {
      if (params.mode === 'url' && /\/holds\/hold_\w{26}$/.test(params.url)) seen.push('page');
      return answer;
    });
  }
  const { url, headers } = how(agent);
  await client.connect(new StreamableHTTPClientTransport(url, { requestInit: { headers } }));
  return {
    call: (params, { timeout, progress } = {}) =>
      client.callTool(params, { timeout, onprogress: progress && (() => seen.push('progress')) }),
    close: () => client.close(),
  };
};

await play([
  { name: 'ts2-rounds', connect: kind({ modern: true }), does: { quick: [], slow: [] } },
  { name: 'ts2-page', connect: kind({ modern: true, pages: true }), does: { quick: ['page'], slow: [], declined: [] } },
  { name: 'ts2-wait', connect: kind({}), does: { quick: [], slow: [], told: [] }, timeout: 2_000 },
  { name: 'ts2-oldpage', connect: kind({ pages: true }), does: { quick: ['page'], declined: [] } },
]);
