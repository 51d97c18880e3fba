// Verifies the token on standard input with jose and prints {"claims": ..., "header": ...}, or the error:
//   node verify.mjs --issuer URL --audience NAME (--jwks URL | --discovery URL) [--typ at+jwt]

import { parseArgs } from 'node:util';

import { createRemoteJWKSet, jwtVerify } from 'jose';

import { printVerdict } from './verdict.mjs';

const { values: options } = parseArgs({
  options: {
    issuer: { type: 'string' },
    audience: { type: 'string' },
    jwks: { type: 'string' },
    discovery: { type: 'string' },
    typ: { type: 'string' },
  },
});

async function discoveredKeys() {
  const response = await fetch(options.discovery);
  if (!response.ok) throw new Error(`${options.discovery} answered ${response.status}`);
  return (await response.json()).jwks_uri;
}

await printVerdict(async (token) => {
  const { issuer, audience, typ } = options;
  const keys = createRemoteJWKSet(new URL(options.jwks ?? (await discoveredKeys())));
  const { payload, protectedHeader } = await jwtVerify(token, keys, { issuer, audience, typ });
  return { claims: payload, header: protectedHeader };
});
