// An official TypeScript client does its own OAuth flow: everything after the first 401 is done by the client's own code,
// but for what a host has to add (where tokens are kept, and the person at the browser). Started by oauth.mjs, which says
// in COUNTERSIGN_OAUTH where everything is.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';

export const scene = JSON.parse(process.env.COUNTERSIGN_OAUTH);

const decoded = token => JSON.parse(Buffer.from(token.split('.')[1], 'base64url').toString());

/** What a host keeps for a client that people sign in for. */
export class Kept {
  kept = {};

  constructor({ document, dpop } = {}) {
    if (document) this.clientMetadataUrl = document;
    if (dpop) this.dpop = () => dpop;
  }

  redirectUrl = scene.callback;
  clientMetadata = {
    client_name: 'plays',
    redirect_uris: [scene.callback],
    grant_types: ['authorization_code', 'refresh_token'],
    token_endpoint_auth_method: 'none',
  };
  state = () => (this.kept.state = randomBytes(16).toString('base64url'));
  clientInformation = () => this.kept.client;
  saveClientInformation = client => void (this.kept.client = client);
  tokens = () => this.kept.tokens;
  saveTokens = tokens => void (this.kept.tokens = tokens);
  redirectToAuthorization = url => void (this.kept.to = url);
  saveCodeVerifier = verifier => void (this.kept.verifier = verifier);
  codeVerifier = () => this.kept.verifier;
  saveDiscoveryState = found => void (this.kept.found = found);
  discoveryState = () => this.kept.found;

  /** The person signs in and agrees; gives what the browser is sent back with. */
  async signedIn(who) {
    assert.ok(this.kept.to, 'nobody was sent to sign in');
    const answer = await fetch(`${scene.control}/person?${new URLSearchParams({ to: this.kept.to, who })}`);
    const back = new URL(await answer.text());
    this.kept.to = undefined;
    assert.equal(back.searchParams.get('state'), this.kept.state);
    return back.searchParams;
  }
}

/** Has the runner do something to the server or to Countersign, in the middle of it all. */
export async function control(what) {
  const answer = await fetch(`${scene.control}/${what}`);
  assert.equal(answer.status, 200, await answer.text());
}

/**
 * Runs the checks. `sdk` has the client's own classes, `newClient` makes a client, `finish` hands over what the browser was
 * sent back with. A client that is not `modern` asks for the scopes of its host by client credentials, and not for those of
 * a challenge; and where it has a refresh token it uses that, which cannot get it another scope.
 */
export async function play({ name, sdk, newClient, finish, modern, more = () => [] }) {
  const { StreamableHTTPClientTransport, UnauthorizedError, ClientCredentialsProvider, PrivateKeyJwtProvider } = sdk;

  /** Connects, by way of the person if the client asks for them. */
  async function connected(provider, { who = 'maria', url = scene.url } = {}) {
    const open = async () => {
      const [client, transport] = [newClient(), new StreamableHTTPClientTransport(new URL(url), { authProvider: provider })];
      try {
        await client.connect(transport);
      } catch (problem) {
        await client.close().catch(() => {});
        throw Object.assign(problem, { transport });
      }
      return { client, transport };
    };
    let [opened, asked] = [null, 0];
    try {
      opened = await open();
    } catch (problem) {
      if (!(problem instanceof UnauthorizedError) || !provider.kept?.to) throw problem;
      asked += 1;
      await finish(problem.transport, await provider.signedIn(who));
      opened = await open();
    }
    const { client, transport } = opened;
    return {
      asked: () => asked,
      tools: async () => (await client.listTools()).tools.map(tool => tool.name),
      /** Calls, and goes by way of the person once if the client asks for them. */
      async call(tool, text) {
        const call = () => client.callTool({ name: tool, arguments: { text } });
        let result;
        try {
          result = await call();
        } catch (problem) {
          if (!(problem instanceof UnauthorizedError) || !provider.kept?.to) throw problem;
          asked += 1;
          await finish(transport, await provider.signedIn(who));
          result = await call();
        }
        assert.ok(!result.isError, JSON.stringify(result));
        assert.deepEqual(result.content, [{ type: 'text', text: 'noted' }]);
      },
      close: () => client.close(),
    };
  }

  const secret = (more = {}) =>
    new ClientCredentialsProvider({ clientId: 'robot', clientSecret: scene.secrets.robot, expectedIssuer: scene.issuer, scope: modern ? undefined : 'mcp', ...more });
  const signed = (more = {}) =>
    new PrivateKeyJwtProvider({ clientId: 'signer', privateKey: scene.signer.pem, algorithm: 'ES256', expectedIssuer: scene.issuer, scope: modern ? undefined : 'mcp', ...more });

  /** Lists and calls; gives the claims of the token that it was done with. */
  async function used(provider, text, options) {
    const client = await connected(provider, options);
    assert.ok((await client.tools()).includes('desk__free'));
    await client.call('desk__free', `${name}: ${text}`);
    const tokens = await provider.tokens();
    await client.close();
    return { claims: decoded(tokens.access_token), asked: client.asked(), tokens };
  }

  const checks = [
    ['authorization code with PKCE, registered dynamically', async () => {
      const { claims, asked } = await used(new Kept(), 'registered');
      assert.deepEqual([claims.sub, claims.aud, claims.scope, asked], ['maria', scene.url, 'mcp', 1]);
      assert.match(claims.client_id, /^dynamic-\d+$/);
    }],
    ['authorization code with PKCE, with a client metadata document', async () => {
      const { claims, asked } = await used(new Kept({ document: scene.document }), 'document');
      assert.deepEqual([claims.sub, claims.client_id, claims.aud, asked], ['maria', scene.document, scene.url, 1]);
    }],
    ['client credentials by secret', async () => {
      const { claims } = await used(secret(), 'secret');
      assert.deepEqual([claims.client_id, claims.aud, claims.scope], ['robot', scene.url, 'mcp']);
    }],
    ['client credentials by key (private_key_jwt)', async () => {
      const { claims } = await used(signed(), 'key');
      assert.deepEqual([claims.client_id, claims.aud], ['signer', scene.url]);
    }],
    modern ? ['step-up: client credentials ask for the scope that a tool needs, and come back', async () => {
      const provider = secret();
      const client = await connected(provider);
      await client.call('desk__free', `${name}: before`);
      assert.equal(decoded(provider.tokens().access_token).scope, 'mcp');
      await client.call('desk__note', `${name}: stepped up`);
      assert.match(decoded(provider.tokens().access_token).scope, /mcp:pay/);
      await client.call('desk__free', `${name}: after`);
      await client.close();
    }] : ['client credentials without the scope that a tool needs are refused, and with it the call is made', async () => {
      const client = await connected(secret());
      await assert.rejects(() => client.call('desk__note', 'never'), /403/);
      await client.close();
      const wider = await connected(secret({ scope: 'mcp mcp:pay' }));
      await wider.call('desk__note', `${name}: both scopes`);
      await wider.close();
    }],
    ['step-up: a person agrees to the scope that a tool needs, and the call is made', async () => {
      // who registers dynamically registers the scopes of the first challenge, and may ask for no others at that server
      const provider = new Kept({ document: modern ? scene.document : scene.brief });
      const client = await connected(provider, { who: 'olga' });
      await client.call('desk__free', `${name}: before`);
      await client.call('desk__note', `${name}: stepped up`);
      const claims = decoded(provider.tokens().access_token);
      assert.deepEqual([claims.sub, claims.scope.split(' ').sort()], ['olga', ['mcp', 'mcp:pay']]);
      assert.equal(client.asked(), 2);
      await client.call('desk__free', `${name}: after`);
      await client.close();
    }],
    ['a token that is revoked here is replaced by its refresh token, and nobody is asked', async () => {
      const provider = new Kept();
      const client = await connected(provider);
      await client.call('desk__free', `${name}: before`);
      const first = decoded(provider.tokens().access_token);
      await control(`revoke?${new URLSearchParams({ client: first.client_id, token: first.jti })}`);
      await client.call('desk__free', `${name}: after`);
      assert.notEqual(decoded(provider.tokens().access_token).jti, first.jti);
      assert.equal(client.asked(), 1);
      await client.close();
    }],
    ["client credentials by key at Countersign's own token endpoint", async () => {
      const provider = signed({ clientId: 'worker', expectedIssuer: scene.own.issuer, scope: undefined });
      const { claims, tokens } = await used(provider, 'own', { url: scene.own.url });
      assert.equal(claims.aud, scene.own.url);
      assert.equal(tokens.token_type.toLowerCase(), 'bearer');
      // trades it for a narrower one, for one task, and goes on with that
      const child = await exchanged(tokens.access_token, `${name}-task`);
      const bearer = newClient();
      const requestInit = { headers: { authorization: `Bearer ${child}` } };
      await bearer.connect(new StreamableHTTPClientTransport(new URL(scene.own.url), { requestInit }));
      const tools = (await bearer.listTools()).tools.map(tool => tool.name);
      assert.deepEqual(tools, ['desk__free']);
      const result = await bearer.callTool({ name: 'desk__free', arguments: { text: `${name}: child` } });
      assert.ok(!result.isError, JSON.stringify(result));
      const wider = await bearer.callTool({ name: 'desk__pair', arguments: { text: 'never' } }).then(result => !result.isError, () => false);
      assert.ok(!wider, 'the child does what it was not given');
      await bearer.close();
    }],
    ...more({ connected, used, decoded }),
  ];

  const only = process.env.COUNTERSIGN_ONLY;
  let failed = 0;
  for (const [what, body] of checks) {
    if (only && !what.includes(only)) continue;
    try {
      await body();
      console.log(`ok - ${name}: ${what}`);
    } catch (problem) {
      failed += 1;
      const told = String(problem?.stack ?? problem).split('\n').slice(0, 12);
      if (problem?.cause) told.push(`cause: ${problem.cause?.stack ?? problem.cause}`);
      console.log(`not ok - ${name}: ${what}\n${told.map(line => `  # ${line}`).join('\n')}`);
    }
  }
  process.exit(failed === 0 ? 0 : 1);
}

/** A child of that token, for one task and one tool, by Countersign's own token endpoint (RFC 8693). */
async function exchanged(token, task) {
  const metadata = await (await fetch(`${scene.own.issuer}/.well-known/oauth-authorization-server`)).json();
  const answer = await fetch(metadata.token_endpoint, {
    method: 'POST',
    body: new URLSearchParams({
      grant_type: 'urn:ietf:params:oauth:grant-type:token-exchange',
      subject_token: token,
      subject_token_type: 'urn:ietf:params:oauth:token-type:access_token',
      resource: scene.own.url,
      tools: 'desk__free',
      task,
    }),
  });
  const told = await answer.json();
  assert.equal(answer.status, 200, JSON.stringify(told));
  return told.access_token;
}
