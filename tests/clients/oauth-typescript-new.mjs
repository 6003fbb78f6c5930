// @modelcontextprotocol/client 2.x does its own OAuth flow, at 2026-07-28. Started by oauth.mjs.

import assert from 'node:assert/strict';

import { need } from './house.mjs';
import { control, Kept, play, scene } from './oauth-play.mjs';

const sdk = need('@modelcontextprotocol/client');

const newClient = () => new sdk.Client({ name: 'typescript-new', version: '1' }, { versionNegotiation: { mode: { pin: '2026-07-28' } } });

await play({
  name: 'typescript 2',
  sdk,
  newClient,
  modern: true,
  finish: (transport, back) => transport.finishAuth(back),
  more: ({ connected, decoded }) => [
    ['DPoP: a person signs in, and every request proves the key that the token is bound to', async () => {
      const provider = new Kept({ dpop: await sdk.DpopSession.create() });
      const client = await connected(provider);
      assert.ok((await client.tools()).includes('desk__free'));
      await client.call('desk__free', 'typescript 2: bound');
      const { token_type, access_token } = provider.tokens();
      assert.equal(token_type.toLowerCase(), 'dpop');
      assert.ok(decoded(access_token).cnf.jkt);
      // what was overheard is of no use without the key
      for (const scheme of ['DPoP', 'Bearer']) {
        const headers = { authorization: `${scheme} ${access_token}`, 'content-type': 'application/json' };
        const answer = await fetch(scene.url, { method: 'POST', headers, body: '{}' });
        assert.equal(answer.status, 401, scheme);
      }
      await client.close();
    }],
    ['DPoP: client credentials, bound to a key', async () => {
      const session = await sdk.DpopSession.create();
      const credentials = { clientId: 'bound', clientSecret: scene.secrets.bound, expectedIssuer: scene.issuer };
      const provider = Object.assign(new sdk.ClientCredentialsProvider(credentials), { dpop: () => session });
      const client = await connected(provider);
      await client.call('desk__free', 'typescript 2: bound robot');
      assert.ok(decoded(provider.tokens().access_token).cnf.jkt);
      await client.close();
    }],
    ['the server signs by new keys in the middle of a session', async () => {
      const credentials = { clientId: 'robot', clientSecret: scene.secrets.robot, expectedIssuer: scene.issuer };
      const before = new sdk.ClientCredentialsProvider(credentials);
      const session = await connected(before);
      await session.call('desk__free', 'typescript 2: old keys');
      await control('rotate?keep=1');
      // whose key is still published goes on, and who comes with the new key is believed
      await session.call('desk__free', 'typescript 2: kept');
      const after = new sdk.ClientCredentialsProvider(credentials);
      const other = await connected(after);
      await other.call('desk__free', 'typescript 2: new keys');
      const kid = provider => JSON.parse(Buffer.from(provider.tokens().access_token.split('.')[0], 'base64url').toString()).kid;
      assert.notEqual(kid(before), kid(after));
      await other.close();
      await session.close();
    }],
  ],
});
