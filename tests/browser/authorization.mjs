// An authorization server that is not ours (panva's oidc-provider) and a tool server that takes its tokens and nothing
// else, each on a free port of this machine.

import assert from 'node:assert/strict';
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

import { need } from '../clients/house.mjs';

export const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';

const listening = async () => {
  const server = createServer();
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve));
  return { server, at: `http://127.0.0.1:${server.address().port}` };
};

const ends = server => () => {
  server.closeAllConnections();
  return new Promise(resolve => server.close(resolve));
};

/**
 * Starts both. Access tokens are JWTs for the tool server that was named as `resource`, and live so many seconds; refresh
 * tokens are replaced at each use, and one that is used twice ends its grant.
 */
export async function startAuthorization({ life = 600 } = {}) {
  const { Provider, errors } = await import(pathToFileURL(need.resolve('oidc-provider')));
  const jose = await import(pathToFileURL(need.resolve('jose')));
  const { server, at: issuer } = await listening();
  const { server: tools, at } = await listening();
  const url = `${at}/mcp`;
  const secret = randomBytes(24).toString('base64url');
  const key = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' });
  const asked = [];
  const shown = [];
  let vouchers;

  // what a tool server does with a token: it is this issuer's, for this very URL, and has not ended
  const judge = async authorization => {
    const keys = jose.createRemoteJWKSet(new URL(`${issuer}/jwks`));
    const [scheme, token] = (authorization ?? '').split(' ');
    assert.equal(scheme, 'Bearer');
    return (await jose.jwtVerify(token, keys, { issuer, audience: url })).payload;
  };
  tools.on('request', async (request, response) => {
    let text = '';
    for await (const chunk of request) text += chunk;
    const claims = await judge(request.headers.authorization).catch(() => null);
    if (!claims) return response.writeHead(401).end();
    const message = request.method === 'POST' ? JSON.parse(text) : {};
    if (message.id === undefined) return response.writeHead(request.method === 'POST' ? 202 : 405).end();
    const results = {
      'server/discover': { supportedVersions: ['2026-07-28'], capabilities: { tools: {} }, serverInfo: { name: 'tools', version: '1' }, ttlMs: 0, cacheScope: 'private' },
      'tools/list': { ttlMs: 0, cacheScope: 'private', tools: [{ name: 'who', annotations: { readOnlyHint: true }, inputSchema: { type: 'object', properties: {}, additionalProperties: false } }] },
      'tools/call': { content: [{ type: 'text', text: JSON.stringify(claims) }] },
    };
    if (message.method === 'tools/call') shown.push({ claims, token: request.headers.authorization });
    const result = { resultType: 'complete', ...results[message.method] };
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ jsonrpc: '2.0', id: message.id, result }));
  });

  return {
    issuer,
    url,
    asked,
    shown,
    /** Where those come back to who connect an account, and whose word is taken for whom a call is. */
    register({ redirect = 'http://127.0.0.1/callback', countersign } = {}) {
      vouchers = countersign;
      const provider = new Provider(issuer, {
        clients: [{
          client_id: 'countersign', client_secret: secret, redirect_uris: [redirect], response_types: ['code'], id_token_signed_response_alg: 'ES256',
          grant_types: ['authorization_code', 'refresh_token', 'client_credentials', EXCHANGE],
        }],
        jwks: { keys: [{ ...key, use: 'sig', alg: 'ES256', kid: 'ec' }] },
        cookies: { keys: [randomBytes(24).toString('base64url')] },
        claims: { openid: ['sub'], email: ['email'] },
        conformIdTokenClaims: false,
        rotateRefreshToken: true,
        issueRefreshToken: async () => true,
        findAccount: async (_ctx, sub) => ({ accountId: sub, claims: async () => ({ sub, email: `${sub}@example.com` }) }),
        features: {
          devInteractions: { enabled: true },
          clientCredentials: { enabled: true },
          resourceIndicators: {
            enabled: true,
            useGrantedResource: async () => true,
            async getResourceServerInfo(_ctx, resource) {
              if (resource !== url) throw new errors.InvalidTarget();
              return { scope: 'tools', audience: resource, accessTokenFormat: 'jwt', accessTokenTTL: life, jwt: { sign: { alg: 'ES256' } } };
            },
          },
        },
        ttl: { ClientCredentials: life, AccessToken: life },
      });
      // RFC 8693: it believes Countersign's word of whom a call is for
      const exchange = async ctx => {
        const { params, client } = ctx.oidc;
        const keys = jose.createRemoteJWKSet(new URL(`${vouchers}/oauth/jwks`));
        const said = await jose.jwtVerify(params.subject_token, keys, { issuer: vouchers, audience: issuer, maxTokenAge: '60s' }).catch(problem => {
          throw new errors.InvalidGrant(problem.message);
        });
        const { sub, act } = said.payload;
        assert.equal(params.subject_token_type, 'urn:ietf:params:oauth:token-type:jwt');
        const grant = new provider.Grant({ clientId: client.clientId, accountId: sub });
        grant.addResourceScope(params.resource, 'tools');
        const token = new provider.AccessToken({ client, accountId: sub, grantId: await grant.save(), scope: 'tools', gty: 'token_exchange', extra: { act } });
        token.resourceServer = new provider.ResourceServer(params.resource, { scope: 'tools', audience: params.resource, accessTokenFormat: 'jwt', accessTokenTTL: life, jwt: { sign: { alg: 'ES256' } } });
        ctx.body = { access_token: await token.save(), issued_token_type: 'urn:ietf:params:oauth:token-type:access_token', expires_in: life, token_type: 'Bearer' };
      };
      provider.registerGrantType(EXCHANGE, exchange, ['subject_token', 'subject_token_type', 'requested_token_type', 'resource', 'scope', 'audience'], ['resource']);
      provider.use(async (ctx, next) => {
        await next();
        if (ctx.oidc?.route === 'token') asked.push({ ...ctx.oidc.params, status: ctx.status, error: ctx.body?.error });
      });
      server.removeAllListeners('request');
      server.on('request', provider.callback());
    },
    /** The part of `countersign.toml` that has a tool server of that kind. */
    toml(name, kind, more = '') {
      return `\n[upstreams.${name}]\nurl = "${url}"\n[upstreams.${name}.auth]\nkind = "${kind}"\nissuer = "${issuer}"\n`
        + `client_id = "countersign"\nclient_secret = "${secret}"\nallow_private = true\n${more}`;
    },
    secret,
    async close() {
      await Promise.all([ends(server)(), ends(tools)()]);
    },
  };
}
