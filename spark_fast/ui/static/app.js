// The page: which view is shown, and whether the server is there.

import { attribute, show, text } from "./dom.js";
import { Speeds } from "./curve.js";
import { help, listen } from "./keys.js";
import { List } from "./list.js";
import { load } from "./plots.js";
import { RunView } from "./run.js";
import { Stream } from "./stream.js";

const main = document.getElementById("main");
const lost = document.getElementById("lost");
const connection = document.getElementById("connection");

const STATES = { opening: "connecting…", live: "live", lost: "no server", hidden: "resting" };

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
  view.update(what);
  text(document.querySelector("title"), view.title());
}

function showConnection() {
  const { state } = stream;
  attribute(connection, "data-state", state);
  text(connection, STATES[state]);
  show(lost, state === "lost");
  text(lost, state === "lost" ? stream.message : "");
  attribute(document.body, "data-lost", state === "lost" ? "" : null);
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
  return view.key(pressed);
}

addEventListener("hashchange", route);
document.getElementById("help-button").addEventListener("click", help);
listen(key);
setInterval(() => {
  speeds.note(stream.runs);
  view.tick();
}, 1000);
route();
// Whoever reads the list opens a run sooner or later: while they read, there is time for the plots' library.
if (chosen() === null) globalThis.requestIdleCallback?.(() => load().catch(() => {}), { timeout: 5000 });
