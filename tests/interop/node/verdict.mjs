// What verify.mjs and discover.mjs share: the token from standard input, the verdict as one line of JSON.

import { text } from 'node:stream/consumers';

// The codes that jose and oauth4webapi give a token, key set or server that they refuse.
const REFUSAL = /^(ERR_J|OAUTH_)/;

// Prints what `verify(token)` resolves with, or {"error": code, "message": ...} where it refuses.
// Anything else that goes wrong (no server, a wrong call) ends the process with status 1.
export async function printVerdict(verify) {
  const token = (await text(process.stdin)).trim();
  console.log(JSON.stringify(await verify(token).catch(refusal)));
}

function refusal(error) {
  if (!REFUSAL.test(error.code)) throw error;
  return { error: error.code, message: error.message };
}
