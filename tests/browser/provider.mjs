// An OpenID Connect provider that is not ours (panva's oidc-provider) on a free port of this machine. It asks who somebody
// is with a form of its own and believes what is typed: the name decides who they are, and in which groups.
//
//   node tests/browser/provider.mjs ORIGIN   prints one line of JSON with what `[console.providers.NAME]` needs

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

import { need } from '../clients/house.mjs';

/** Who may be typed in, and what they are in. Whoever is not here is in nothing. */
export const people = {
  maria: ['approvers'],
  pat: ['approvers'],
  olga: ['approvers', 'bosses'],
  nobody: ['staff'],
};

/**
 * Starts it. Where a client of it is sent back to, is told with `register`, since a console knows its port late. `auth` is
 * how the client shows its secret; with `none` it has none.
 */
export async function startProvider({ auth = 'client_secret_basic', alg = 'RS256' } = {}) {
  const { Provider } = await import(pathToFileURL(need.resolve('oidc-provider')));
  const server = createServer();
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve));
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const key = (kty, options) => generateKeyPairSync(kty, options).privateKey.export({ format: 'jwk' });
  const keys = [
    { ...key('rsa', { modulusLength: 2048 }), use: 'sig', alg: 'RS256', kid: 'rsa' },
    { ...key('ec', { namedCurve: 'P-256' }), use: 'sig', alg: 'ES256', kid: 'ec' },
  ];
  const secret = auth === 'none' ? undefined : randomBytes(24).toString('base64url');
  return {
    issuer,
    clientId: 'countersign',
    clientSecret: secret,
    /** Lets the console at `origin` have its people signed in, as the provider of that name there. */
    register(origin, name = 'corp') {
      const client = {
        client_id: 'countersign',
        ...(secret && { client_secret: secret }),
        redirect_uris: [`${origin}/sign-in/${name}/callback`],
        post_logout_redirect_uris: [`${origin}/sign-in`],
        response_types: ['code'],
        grant_types: ['authorization_code'],
        token_endpoint_auth_method: auth,
        id_token_signed_response_alg: alg,
      };
      const provider = new Provider(issuer, {
        clients: [client],
        jwks: { keys },
        cookies: { keys: [randomBytes(24).toString('base64url')] },
        claims: { openid: ['sub', 'groups'], profile: ['preferred_username'], email: ['email', 'email_verified'] },
        // what is known of somebody is in the ID token itself
        conformIdTokenClaims: false,
        features: { devInteractions: { enabled: true } },
        async findAccount(_ctx, sub) {
          const claims = { sub, groups: people[sub] ?? [], preferred_username: sub, email: `${sub}@example.com`, email_verified: true };
          return { accountId: sub, claims: async () => claims };
        },
      });
      server.removeAllListeners('request');
      server.on('request', provider.callback());
    },
    /** The part of `countersign.toml` that has it. */
    toml(name = 'corp', more = '') {
      const shown = secret ? `client_secret = ${JSON.stringify(secret)}\n` : '';
      return `\n[console.providers.${name}]\nissuer = "${issuer}"\nclient_id = "countersign"\n${shown}allow_private = true\n`
        + `roles = { approvers = "owner", bosses = "boss" }\n${more}`;
    },
    close() {
      server.closeAllConnections();
      return new Promise(resolve => server.close(resolve));
    },
  };
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const running = await startProvider();
  running.register(process.argv[2]);
  const { issuer, clientId, clientSecret } = running;
  console.log(JSON.stringify({ issuer, clientId, clientSecret, toml: running.toml() }));
}
