// An authorization server that is not ours (panva's oidc-provider) on a free port of this machine, as the MCP
// authorization specification of 2026-07-28 wants one: access tokens for one resource (RFC 8707) as JWTs (RFC 9068),
// client metadata documents and dynamic registration, PKCE, client credentials by secret and by key, introspection,
// revocation, DPoP, and the issuer in its answers (RFC 9207). It writes down what it was asked for.

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

import { need } from './house.mjs';

/** Everything that may be asked for at the resource. */
export const SCOPES = ['mcp', 'mcp:pay'];

/** Where clients that come by a metadata document have it: one that gets refresh tokens, and one that does not. */
export const DOCUMENT = 'https://client.example/mcp.json';
export const BRIEF = 'https://client.example/brief.json';

/** Where people are sent back to. Nothing listens there: whoever follows them stops at the address. */
export const CALLBACK = 'http://127.0.0.1:33418/callback';

const key = (kty, options) => generateKeyPairSync(kty, options).privateKey;
const secret = () => randomBytes(24).toString('base64url');

/** New signing keys, one for each algorithm in use; their names tell the generations apart. */
function signingKeys(generation) {
  const jwk = (kty, options, alg) => ({ ...key(kty, options).export({ format: 'jwk' }), use: 'sig', alg, kid: `${alg}-${generation}` });
  return [
    jwk('rsa', { modulusLength: 2048 }, 'RS256'),
    jwk('ec', { namedCurve: 'P-256' }, 'ES256'),
    jwk('ed25519', {}, 'EdDSA'),
  ];
}

/** Starts it, for the resource at that URL. */
export async function startAuthorizationServer(resource) {
  const { Provider, errors } = await import(pathToFileURL(need.resolve('oidc-provider')));
  const server = createServer();
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve));
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const signer = key('ec', { namedCurve: 'P-256' });
  const { d, ...publicSigner } = signer.export({ format: 'jwk' });
  const secrets = { robot: secret(), opaque: secret(), bound: secret(), countersign: secret() };
  const machine = (client_id, more = {}) => ({
    client_id,
    client_secret: secrets[client_id],
    redirect_uris: [],
    response_types: [],
    grant_types: ['client_credentials'],
    token_endpoint_auth_method: 'client_secret_basic',
    ...more,
  });
  const clients = [
    machine('robot'),
    machine('opaque'),
    machine('bound', { dpop_bound_access_tokens: true }),
    // by which Countersign itself asks about opaque tokens
    machine('countersign', { grant_types: [] }),
    machine('signer', {
      client_secret: undefined,
      token_endpoint_auth_method: 'private_key_jwt',
      token_endpoint_auth_signing_alg: 'ES256',
      jwks: { keys: [{ ...publicSigner, kid: 'signer', use: 'sig', alg: 'ES256' }] },
    }),
  ];
  const algorithms = { signer: 'ES256', bound: 'EdDSA' };
  const document = (client_id, more = []) => ({
    client_id,
    client_name: 'comes by its document',
    application_type: 'native',
    redirect_uris: [CALLBACK],
    grant_types: ['authorization_code', ...more],
    response_types: ['code'],
    token_endpoint_auth_method: 'none',
  });
  // these are all that it fetches, and no network is asked for them
  const documents = { [DOCUMENT]: document(DOCUMENT, ['refresh_token']), [BRIEF]: document(BRIEF) };
  const cookies = [secret()];
  const asked = [];
  let [generation, keys, registered, lookedAt] = [1, signingKeys(1), 0, 0];

  function open() {
    const provider = new Provider(issuer, {
      clients,
      jwks: { keys },
      cookies: { keys: cookies },
      scopes: ['openid', 'offline_access', ...SCOPES],
      claims: { openid: ['sub'] },
      enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256', 'EdDSA'] },
      pkce: { required: () => true },
      ttl: { AccessToken: 600, ClientCredentials: 600, RefreshToken: 3600, Grant: 3600, Session: 3600, Interaction: 600, IdToken: 600 },
      issueRefreshToken: (_ctx, client) => client.grantTypeAllowed('refresh_token'),
      extraTokenClaims: (_ctx, token) => (token.accountId ? { groups: ['staff'] } : { groups: ['machines'] }),
      findAccount: (_ctx, sub) => ({ accountId: sub, claims: async () => ({ sub }) }),
      fetch: async url => (documents[url] ? Response.json(documents[url]) : new Response(null, { status: 404 })),
      features: {
        devInteractions: { enabled: true },
        clientCredentials: { enabled: true },
        introspection: { enabled: true, allowedPolicy: (_ctx, client, token) => client.clientId === 'countersign' || client.clientId === token.clientId },
        revocation: { enabled: true },
        dPoP: { enabled: true },
        registration: { enabled: true, idFactory: () => `dynamic-${(registered += 1)}` },
        clientIdMetadataDocument: { enabled: true, ack: 'draft-02' },
        resourceIndicators: {
          enabled: true,
          getResourceServerInfo(_ctx, indicator, client) {
            if (indicator !== resource && indicator !== `${issuer}/other`) throw new errors.InvalidTarget();
            return {
              scope: SCOPES.join(' '),
              accessTokenFormat: client.clientId === 'opaque' ? 'opaque' : 'jwt',
              jwt: { sign: { alg: algorithms[client.clientId] ?? 'RS256' } },
            };
          },
        },
      },
    });
    provider.use(async (ctx, next) => {
      await next();
      const { route, params, client } = ctx.oidc ?? {};
      if (route === 'jwks') lookedAt = Date.now();
      if (route && params) asked.push({ route, status: ctx.status, client: client?.clientId, ...params });
    });
    server.removeAllListeners('request');
    server.on('request', provider.callback());
  }
  open();

  return {
    issuer,
    secrets,
    /** Everything that its endpoints were asked, in order. */
    asked,
    /** When its keys were last looked for. */
    lookedAt: () => lookedAt,
    /** The key of the client `signer`, as a JWK and as a PEM. */
    signer: { jwk: signer.export({ format: 'jwk' }), pem: signer.export({ format: 'pem', type: 'pkcs8' }) },
    /** Signs by new keys from now on; the former ones are published beside them if they are kept. */
    rotate({ keep }) {
      generation += 1;
      keys = [...signingKeys(generation), ...(keep ? keys : [])];
      open();
    },
    /** A token for the resource, by client credentials. */
    async token(client, more = {}, headers = {}) {
      const answer = await fetch(`${issuer}/token`, {
        method: 'POST',
        headers: { authorization: `Basic ${btoa(`${client}:${secrets[client]}`)}`, ...headers },
        body: new URLSearchParams({ grant_type: 'client_credentials', scope: 'mcp', resource, ...more }),
      });
      const told = await answer.json();
      if (!answer.ok) throw new Error(`no token for ${client}: ${answer.status} ${JSON.stringify(told)}`);
      return told;
    },
    async revoke(client, token) {
      const answer = await fetch(`${issuer}/token/revocation`, {
        method: 'POST',
        headers: { authorization: `Basic ${btoa(`${client}:${secrets[client]}`)}` },
        body: new URLSearchParams({ token }),
      });
      if (!answer.ok) throw new Error(`not revoked: ${answer.status} ${await answer.text()}`);
    },
    close() {
      server.closeAllConnections();
      return new Promise(resolve => server.close(resolve));
    },
  };
}
