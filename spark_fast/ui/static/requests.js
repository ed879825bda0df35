// Requests to runs, followed until their fate is known.

import { ApiError, call, of } from "./api.js";
import { confirmed } from "./dialogs.js";
import { announce, attribute, el, show, text } from "./dom.js";
import { count } from "./format.js";

const WAIT_SECONDS = 2;
/** How many answers the page waits for at a time: a browser has six connections for a server. */
const AT_ONCE = 2;
const LOST_SECONDS = 1;
const START_OVER = "Start over…";

let waiting = 0;
const queue = [];

/**
 * Sends a request and calls seen(request) now and after each change, until its fate is final.
 *
 * What the server refuses comes as a request, too: one whose fate says so. Returns the last.
 *
 * seconds: after which to follow it no more; the request stands.
 */
export async function ask(run, method, path, body, seen, { what, seconds = Infinity } = {}) {
  const mine = { kind: what, fate: { state: "sending", final: false, step: null, by: null, reason: "" } };
  seen(mine);
  let request;
  try {
    request = (await call(method, path, body)).request;
  } catch (error) {
    request = error.body?.request ?? { ...mine, fate: refusal(error) };
  }
  seen(request);
  const end = performance.now() + seconds * 1000;
  while (!request.fate.final) {
    if (performance.now() > end) {
      const reason = `no answer in ${seconds} s; the request stands`;
      request = { ...request, fate: { ...request.fate, state: "asked", late: true, reason } };
      seen(request);
      break;
    }
    request = await next(run, request);
    seen(request);
  }
  announce(`${run}: ${what} ${words(request.fate)}`, ["refused", "failed", "lost"].includes(request.fate.state));
  return request;
}

/** Offers to start the training over after a request that was refused because the new code would do so. */
export function offerRestart(line, run, request, reload) {
  if (!request.can_start_over) return;
  const question = "The training begins anew with this code, in the same process. What is persisted and the places of its loops are forgotten.";
  line.offer(async () => {
    if (await confirmed(`Start ${run} over?`, question, "Start over")) reload();
  });
}

function refusal(error) {
  const state = error.status === 0 ? "lost" : "refused";
  const reason = error.status === 0 ? "not sent: the server does not answer" : error.message;
  return { state, final: true, step: null, by: null, reason };
}

async function next(run, request) {
  await turn();
  try {
    return (await call("GET", `${of(run, "requests", request.id)}?wait=${WAIT_SECONDS}`)).request;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status !== 0 && error.status !== 401) {
      return { ...request, fate: { state: "lost", final: true, step: null, by: null, reason: error.message } };
    }
    await new Promise((done) => setTimeout(done, LOST_SECONDS * 1000));
    return request;
  } finally {
    waiting -= 1;
    queue.shift()?.();
  }
}

async function turn() {
  if (waiting >= AT_ONCE) await new Promise((go) => queue.push(go));
  waiting += 1;
}

/** A fate in words: "asked…", "done at step 120", "refused: it is ending". done: the word for "applied". */
export function words(fate, done = "done") {
  const reason = fate.reason ? fate.reason.split("\n")[0] : "";
  switch (fate.state) {
    case "sending":
      return "sending…";
    case "asked":
      return fate.late ? reason : "asked…";
    case "applied":
      return fate.step === null ? done : `${done} at step ${count(fate.step)}`;
    case "superseded":
      return "superseded by a later request";
    case "void":
      return "void: its sender died while sending it";
    default:
      return `${fate.state}${fate.step === null ? "" : ` at step ${count(fate.step)}`}${reason ? `: ${reason}` : ""}`;
  }
}

/** A line that shows the fate of the latest request. */
export class FateLine {
  /** full: whether tracebacks and `more` stand below. Otherwise the caller places `more` itself. */
  constructor({ full = false } = {}) {
    this.what = el("span", { class: "fate-what" });
    this.words = el("span", { class: "fate-words" });
    this.trace = full ? el("pre", { class: "trace", tabindex: "0", role: "group", "aria-label": "traceback", hidden: true }) : null;
    const more = { type: "button", "data-action": "start-over", "aria-label": START_OVER, hidden: true };
    this.more = el("button", { ...more, onclick: () => this.restart?.() });
    this.node = el("div", { class: "fate", hidden: true }, el("span", {}, this.what, " ", this.words), full ? this.more : null, this.trace);
  }

  show(what, fate, done) {
    show(this.node, true);
    this.offer(null);
    attribute(this.node, "data-state", fate.state);
    text(this.what, what ? `${what}:` : "");
    text(this.words, words(fate, done));
    const more = fate.reason?.includes("\n") ?? false;
    if (this.trace) {
      show(this.trace, more);
      text(this.trace, more ? fate.reason : "");
    } else {
      attribute(this.node, "title", fate.reason || null);
    }
  }

  /** Shows a button beside the fate that calls restart(); null for none. */
  offer(restart) {
    this.restart = restart;
    show(this.more, restart !== null);
    text(this.more, restart !== null ? START_OVER : ""); // hidden text would be part of the line's text
  }

  clear() {
    show(this.node, false);
  }
}
