// Discovers the issuer with oauth4webapi, validates the access token on standard input (RFC 9068) and prints
// {"claims": ..., "metadata": ...}, or the error; without a token, the metadata alone:
//   node discover.mjs --issuer URL --audience NAME [--algorithm oidc|oauth2]

import { parseArgs } from 'node:util';

import * as oauth from 'oauth4webapi';

import { printVerdict } from './verdict.mjs';

const { values: options } = parseArgs({
  options: {
    issuer: { type: 'string' },
    audience: { type: 'string' },
    algorithm: { type: 'string', default: 'oidc' },
  },
});
const overLoopback = { [oauth.allowInsecureRequests]: true };

await printVerdict(async (token) => {
  const issuer = new URL(options.issuer);
  const { algorithm } = options;
  const response = await oauth.discoveryRequest(issuer, { algorithm, ...overLoopback });
  const metadata = await oauth.processDiscoveryResponse(issuer, response);
  if (!token) return { metadata };
  const request = new Request('http://127.0.0.1/', { headers: { authorization: `Bearer ${token}` } });
  const claims = await oauth.validateJwtAccessToken(metadata, request, options.audience, overLoopback);
  return { claims, metadata };
});
