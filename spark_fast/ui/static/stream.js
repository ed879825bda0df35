// The stream of changes, and whether the server is there.

import { announce } from "./dom.js";
import { Events } from "./events.js";
import { clock } from "./format.js";
import { current, onToken } from "./token.js";

const RETRY_SECONDS = [1, 1, 2, 3, 5];
/** A hidden page closes its connection: a browser has six of them for all pages of a server. */
const HIDDEN_SECONDS = 30;
/** Seconds after which a silent server counts as lost: it sends a sign of life every 10 seconds. */
const SILENCE_SECONDS = 20;

/** The parts that are lists, and the key of their items. An event holds only the items that changed. */
const KEYS = { values: "name", requests: "id", ranks: "rank" };

export class Stream {
  /**
   * onChange is called after each change with what changed: "runs", "run", "connection".
   */
  constructor(onChange) {
    this.onChange = onChange;
    this.runs = new Map();
    this.known = false;
    this.error = null;
    this.detail = null;
    this.run = null;
    this.missing = null;
    this.state = "opening";
    this.lostSince = null;
    this.source = null;
    this.tries = 0;
    this.timer = null;
    this.hiding = null;
    this.heard = 0;
    document.addEventListener("visibilitychange", () => this.#visible());
    setInterval(() => this.#listen(), 2000);
    onToken(() => this.#renew());
  }

  /** Shows this run in full, too; null for none. */
  look(run) {
    this.run = run;
    this.detail = null;
    this.missing = null;
    this.#open();
  }

  #open() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
    if (current() === null) {
      this.#lose();
      return;
    }
    const query = this.run === null ? "" : `?run=${encodeURIComponent(this.run)}`;
    const fresh = { runs: true, run: true };
    this.source = new Events(`/api/stream${query}`, {
      opened: () => this.#alive(),
      heard: () => (this.heard = performance.now()),
      event: (name, data) => {
        if (name === "runs") this.#takeRuns(data, fresh.runs);
        else if (name === "run") this.#takeRun(data, fresh.run);
        else return;
        fresh[name] = false;
        this.onChange(name);
      },
      ended: () => {
        this.#lose();
        this.#retry();
      },
    });
  }

  #takeRuns(data, fresh) {
    if (fresh || data.full) this.runs = new Map();
    this.error = data.error ?? null;
    const received = Date.now();
    for (const run of data.runs ?? []) this.runs.set(run.id, { ...run, received });
    for (const id of data.gone ?? []) this.runs.delete(id);
    this.known = true;
  }

  #takeRun(data, fresh) {
    const { id, full, gone, ...changed } = data;
    if (id !== this.run) return;
    this.missing = gone ? id : null;
    if (gone) this.detail = null;
    else if (fresh || full || this.detail === null) this.detail = { id, ...changed };
    else {
      for (const [name, part] of Object.entries(changed)) {
        const key = KEYS[name];
        this.detail[name] = key ? merged(this.detail[name], part, key) : part;
      }
    }
  }

  #alive() {
    this.heard = performance.now();
    this.tries = 0;
    if (this.state === "live") return;
    if (this.lostSince !== null) announce("The server is back.");
    this.state = "live";
    this.lostSince = null;
    this.onChange("connection");
  }

  #lose() {
    if (this.state !== "lost") {
      // A page that has never had a token has lost nothing.
      this.lostSince = this.known ? Date.now() / 1000 : null;
      this.state = "lost";
    }
    this.onChange("connection");
  }

  #retry() {
    clearTimeout(this.timer);
    if (current() === null) return; // until there is another token
    const seconds = RETRY_SECONDS[Math.min(this.tries, RETRY_SECONDS.length - 1)];
    this.tries += 1;
    this.timer = setTimeout(() => this.#open(), seconds * 1000);
  }

  /** Handles a new token, or the refusal of the current one. */
  #renew() {
    if (this.state === "hidden") return;
    if (current() !== null) this.#open();
    else this.#lose();
  }

  /** Finds out whether the connection is dead, which the browser may not notice. */
  #listen() {
    if (this.state !== "live" || performance.now() - this.heard < SILENCE_SECONDS * 1000) return;
    this.#lose();
    this.#open();
  }

  #visible() {
    clearTimeout(this.hiding);
    if (document.hidden) {
      this.hiding = setTimeout(() => {
        clearTimeout(this.timer);
        this.source?.close();
        this.state = "hidden";
      }, HIDDEN_SECONDS * 1000);
    } else if (this.state === "hidden") {
      this.state = "opening";
      this.#open();
    }
  }

  /** Whether the page needs a token before it can update. */
  get locked() {
    return this.state === "lost" && current() === null;
  }

  /** The state of the connection, in words. */
  get message() {
    const since = this.lostSince === null ? null : clock(this.lostSince);
    if (this.locked) {
      if (since === null) return "This page needs its server's token. Open the address that spark-fast ui printed, or paste it here.";
      return `The server was started anew, and does not know this page's token. Open the address that it printed, or paste it here; this page then catches up. What stands here is from ${since}.`;
    }
    if (since === null) return "The server does not answer. Trying again…";
    return `Lost the server at ${since}. What stands here is from then, and the runs go on without it. Trying again…`;
  }
}

function merged(old, changed, key) {
  const found = new Map((old ?? []).map((item) => [item[key], item]));
  for (const item of changed) found.set(item[key], item);
  return [...found.values()];
}
