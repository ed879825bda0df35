// The stream of changes, and whether the server is there.

import { probe } from "./api.js";
import { announce } from "./dom.js";
import { clock } from "./format.js";

const RETRY_SECONDS = [1, 1, 2, 3, 5];
/** A page that nobody sees lets go of its connection: a browser has six of them for all pages of a server. */
const HIDDEN_SECONDS = 30;
/** Seconds without an event after which the server is asked whether it is there. */
const SILENCE_SECONDS = 12;

/** The parts of which an event holds only those items that changed, and what each is known by. */
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
    this.reason = "";
    this.source = null;
    this.tries = 0;
    this.timer = null;
    this.hiding = null;
    this.heard = 0;
    document.addEventListener("visibilitychange", () => this.#visible());
    setInterval(() => this.#listen(), 2000);
  }

  /** Looks at this run too; null for none. */
  look(run) {
    this.run = run;
    this.detail = null;
    this.missing = null;
    this.#open();
  }

  #open() {
    clearTimeout(this.timer);
    this.source?.close();
    const query = this.run === null ? "" : `?run=${encodeURIComponent(this.run)}`;
    const source = (this.source = new EventSource(`/api/stream${query}`));
    const fresh = { runs: true, run: true };
    const heard = () => {
      this.heard = performance.now();
      this.#alive();
    };
    const on = (name, take) =>
      source.addEventListener(name, (event) => {
        if (source !== this.source) return;
        take.call(this, JSON.parse(event.data), fresh[name]);
        fresh[name] = false;
        heard();
        this.onChange(name);
      });
    on("runs", this.#takeRuns);
    on("run", this.#takeRun);
    source.onopen = () => {
      fresh.runs = fresh.run = true;
      heard();
    };
    source.onerror = () => {
      if (source !== this.source) return;
      this.#lose();
      if (source.readyState === EventSource.CLOSED) this.#retry();
    };
    this.heard = performance.now();
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
    this.tries = 0;
    if (this.state === "live") return;
    if (this.state === "lost") announce("The server is back.");
    this.state = "live";
    this.lostSince = null;
    this.reason = "";
    this.onChange("connection");
  }

  #lose() {
    if (this.state === "lost") return;
    this.state = "lost";
    this.lostSince = Date.now() / 1000;
    this.reason = "";
    this.onChange("connection");
    this.#explain();
  }

  /** A server that was started anew knows no token of the old one. */
  async #explain() {
    const status = await probe();
    if (this.state !== "lost") return;
    this.reason = status === 401 ? "token" : "";
    this.onChange("connection");
  }

  #retry() {
    const seconds = RETRY_SECONDS[Math.min(this.tries, RETRY_SECONDS.length - 1)];
    this.tries += 1;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.#explain();
      this.#open();
    }, seconds * 1000);
  }

  /** A connection may be dead without having been closed. */
  async #listen() {
    if (this.state !== "live" || performance.now() - this.heard < SILENCE_SECONDS * 1000) return;
    this.heard = performance.now();
    const source = this.source;
    const there = (await probe()) === 200;
    if (there || source !== this.source || this.state !== "live") return;
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

  /** What to say of the connection, for people. */
  get message() {
    const since = this.lostSince === null ? "" : clock(this.lostSince);
    if (this.reason === "token") {
      return `The server was started anew, and has another token. Open the address that it printed; this page then catches up. What stands here is from ${since}.`;
    }
    return `Lost the server at ${since}. What stands here is from then, and the runs go on without it. Trying again…`;
  }
}

function merged(old, changed, key) {
  const found = new Map((old ?? []).map((item) => [item[key], item]));
  for (const item of changed) found.set(item[key], item);
  return [...found.values()];
}
