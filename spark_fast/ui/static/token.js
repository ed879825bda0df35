// The token of this page. It comes in the fragment of the address, which no browser sends anywhere, and is kept for
// this tab. Other tabs of this page get it by a channel that only pages of this server's address can hear.

const KEY = "spark-fast token";
const IN_ADDRESS = /^#token=([\w-]+)(\/.*)?$/;
/** Milliseconds within which another tab has to answer. */
const PATIENCE = 400;

const channel = new BroadcastChannel(KEY);
const listeners = [];
/** Tokens that the server has refused: another tab may still have one. */
const worthless = new Set();
let token = null;

/** The token, or null. */
export function current() {
  return token;
}

/** Calls heard() after each change of the token. */
export function onToken(heard) {
  listeners.push(heard);
}

/** Takes a token from the address, and removes it there. Returns whether there was one. */
export function takeFromAddress() {
  const found = IN_ADDRESS.exec(location.hash);
  if (!found) return false;
  history.replaceState(null, "", `${location.pathname}${location.search}#${found[2] ?? "/"}`);
  take(found[1]);
  return true;
}

/** Takes a token, and hands it to other tabs that have none. */
export function take(given) {
  worthless.delete(given);
  if (keep(given)) channel.postMessage({ token: given });
}

/** Forgets a token that the server has refused, so that it is never sent again. */
export function refused(given) {
  if (given === null || given !== token) return;
  token = null;
  worthless.add(given);
  try {
    sessionStorage.removeItem(KEY);
  } catch {
    // The browser stores nothing for this page, so there is nothing to remove.
  }
  for (const heard of listeners) heard();
  channel.postMessage({ wanted: true });
}

/** Finds the token: in the address, in this tab, or in another tab. */
export async function find() {
  if (takeFromAddress()) return;
  let stored = null;
  try {
    stored = sessionStorage.getItem(KEY);
  } catch {
    // The browser stores nothing for this page.
  }
  if (stored !== null) {
    keep(stored);
    return;
  }
  channel.postMessage({ wanted: true });
  const end = performance.now() + PATIENCE;
  while (token === null && performance.now() < end) await new Promise((done) => setTimeout(done, 20));
}

function keep(given) {
  if (given === token) return false;
  token = given;
  try {
    sessionStorage.setItem(KEY, given);
  } catch {
    // The browser stores nothing. The token is kept for as long as this page is open.
  }
  for (const heard of listeners) heard();
  return true;
}

channel.onmessage = ({ data }) => {
  if (data.wanted) {
    if (token !== null) channel.postMessage({ token });
  } else if (token === null && !worthless.has(data.token)) keep(data.token);
};
