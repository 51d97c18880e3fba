// oidc-provider on a free loopback port, set up by the JSON file named on the command line:
//   {"clients": [...], "resources": {"urn:orders": {"audience": "orders", ...}}, "jwks": {...}}
// Prints {"port": ...} as its only line on standard output once it answers.
// Ours beside it: POST /test/jwks takes a private JWKS, with which everything is signed from then on.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { json } from 'node:stream/consumers';

import { errors, Provider } from 'oidc-provider';

const setup = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const records = new Map();

// What the provider remembers. It outlives a change of keys; `expiresIn` is checked by the provider.
class MemoryAdapter {
  constructor(model) {
    this.key = (id) => `${model}:${id}`;
  }

  async upsert(id, payload) {
    records.set(this.key(id), payload);
  }

  async find(id) {
    return records.get(this.key(id));
  }

  async destroy(id) {
    records.delete(this.key(id));
  }
}

function resourceServer(_context, resource) {
  const found = setup.resources[resource];
  if (!found) throw new errors.InvalidTarget();
  const { audience, scope, format, algorithm, lifetimeSeconds } = found;
  return {
    audience,
    scope,
    accessTokenFormat: format,
    accessTokenTTL: lifetimeSeconds,
    jwt: { sign: { alg: algorithm } },
  };
}

// A provider reads its keys once, so a rotation is a new provider over the same records.
function provider(issuer, jwks) {
  return new Provider(issuer, {
    adapter: MemoryAdapter,
    clients: setup.clients,
    // The algorithm of ID tokens, none of which is issued: without a key for it there is no start.
    clientDefaults: { id_token_signed_response_alg: jwks.keys[0].alg },
    cookies: { keys: ['no cookie is set by the endpoints in use'] },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      introspection: { enabled: true, allowedPolicy: () => true },
      resourceIndicators: { enabled: true, getResourceServerInfo: resourceServer },
      revocation: { enabled: true },
    },
    jwks,
    ttl: { ClientCredentials: (_context, token) => token.resourceServer?.accessTokenTTL ?? 600 },
  }).callback();
}

let answer;

async function rotate(request, response) {
  try {
    answer = provider(issuer, await json(request));
    response.writeHead(204).end();
  } catch (error) {
    response.writeHead(400, { 'content-type': 'text/plain' }).end(String(error));
  }
}

const server = createServer((request, response) => {
  if (request.method === 'POST' && request.url === '/test/jwks') rotate(request, response);
  else answer(request, response);
});
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
const { port } = server.address();
const issuer = `http://127.0.0.1:${port}`;
answer = provider(issuer, setup.jwks);
console.log(JSON.stringify({ port }));
