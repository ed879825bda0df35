// The page: shows one of its views, and whether the server is there.

import { attribute, show, text } from "./dom.js";
import { Speeds } from "./curve.js";
import { help, listen } from "./keys.js";
import { List } from "./list.js";
import { load } from "./plot.js";
import { RunView } from "./run.js";
import { Stream } from "./stream.js";
import { find, take, takeFromAddress } from "./token.js";

const main = document.getElementById("main");
const lost = document.getElementById("lost");
const lostWords = document.getElementById("lost-words");
const unlock = document.getElementById("unlock");
const connection = document.getElementById("connection");

const STATES = { opening: "connecting…", live: "live", lost: "no server", hidden: "resting" };
const TOKEN = /(?:^|#token=)([\w-]{43,128})(?:\/.*)?$/;

const speeds = new Speeds();
const stream = new Stream(changed);
let view = null;

function chosen() {
  const found = /^#\/runs\/([^/]+)$/.exec(location.hash);
  try {
    return found ? decodeURIComponent(found[1]) : null;
  } catch {
    return null;
  }
}

function route() {
  const id = chosen();
  const moved = view !== null;
  view?.leave();
  view = id === null ? new List(stream, speeds) : new RunView(id, stream, speeds);
  main.replaceChildren(view.node);
  stream.look(id);
  view.update("route");
  if (moved) {
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
  text(document.querySelector("title"), view.title());
}

function changed(what) {
  if (what === "connection") showConnection();
  if (view === null) return;
  view.update(what);
  text(document.querySelector("title"), view.title());
}

function showConnection() {
  const { state } = stream;
  attribute(connection, "data-state", state);
  text(connection, stream.locked ? "no token" : STATES[state]);
  show(lost, state === "lost");
  text(lostWords, state === "lost" ? stream.message : "");
  show(unlock, stream.locked);
  attribute(document.body, "data-lost", state === "lost" ? "" : null);
}

/** The token in a text that the user typed: the token itself, or an address that holds it. */
function typed(event) {
  event.preventDefault();
  const input = unlock.elements.token;
  const found = TOKEN.exec(input.value.trim());
  attribute(input, "aria-invalid", found ? null : "true");
  show(document.getElementById("unlock-problem"), !found);
  if (!found) return;
  input.value = "";
  take(found[1]);
}

function key(pressed) {
  if (pressed === "?") {
    help();
    return true;
  }
  if (pressed === "g") {
    location.hash = "#/";
    return true;
  }
  return view !== null && view.key(pressed);
}

addEventListener("hashchange", () => {
  takeFromAddress();
  route();
});
unlock.addEventListener("submit", typed);
document.getElementById("help-button").addEventListener("click", help);
listen(key);
setInterval(() => {
  speeds.note(stream.runs);
  view?.tick();
}, 1000);
await find();
route();
// The plot library loads while the user reads the list, since the user is likely to open a run next.
if (chosen() === null) globalThis.requestIdleCallback?.(() => load().catch(() => {}), { timeout: 5000 });
