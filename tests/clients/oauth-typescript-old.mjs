// @modelcontextprotocol/sdk 1.x does its own OAuth flow, at 2025-11-25. Started by oauth.mjs.

import { need } from './house.mjs';
import { play } from './oauth-play.mjs';

const { Client } = need('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = need('@modelcontextprotocol/sdk/client/streamableHttp.js');
const { UnauthorizedError } = need('@modelcontextprotocol/sdk/client/auth.js');
const { ClientCredentialsProvider, PrivateKeyJwtProvider } = need('@modelcontextprotocol/sdk/client/auth-extensions.js');

await play({
  name: 'typescript 1',
  sdk: { StreamableHTTPClientTransport, UnauthorizedError, ClientCredentialsProvider, PrivateKeyJwtProvider },
  newClient: () => new Client({ name: 'typescript-old', version: '1' }),
  modern: false,
  finish: (transport, back) => transport.finishAuth(back.get('code')),
});
