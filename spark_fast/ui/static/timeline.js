// The journal of a run, newest first, with the requests that were not applied.

import { call, of } from "./api.js";
import { attribute, Children, el, show, text } from "./dom.js";
import { base, clock, count, exactDuration } from "./format.js";
import { words } from "./requests.js";

const FIRST = 30;
const LONG = 120;
const GATHER_SECONDS = 0.3;

/** The request of a line of the journal, in words. */
function asked(line) {
  switch (line.kind) {
    case "advance":
      return `advance ${count(line.arg)}`;
    case "pause":
      return ["pause", line.arg ? `at step ${count(line.arg)}` : "", line.duration ? `for ${exactDuration(line.duration)}` : ""].filter(Boolean).join(" ");
    case "stop":
      return line.mail === "reset" ? "stop for a reset" : "stop";
    case "reload":
      return line.mail ? `reload ${line.mail.replace(/^version-/, "")}` : "reload";
    default:
      return String(line.kind);
  }
}

/** The result of a set or a call, in words. */
function brought({ name, value, values, args, kwargs }) {
  if (values !== undefined) {
    const each = Object.entries(values).map(([key, found]) => `${key} = ${JSON.stringify(found)}`);
    return { title: `set ${clipped(Object.keys(values).join(", "))}`, note: clipped(each.join(", ")) };
  }
  if (args === undefined) return { title: `set ${name}`, note: `to ${clipped(JSON.stringify(value))}` };
  const named = Object.entries(kwargs ?? {}).map(([key, each]) => `${key}=${JSON.stringify(each)}`);
  return { title: `call ${name}`, note: `(${clipped([...args.map((each) => JSON.stringify(each)), ...named].join(", "))})` };
}

function clipped(words) {
  return words.length > LONG ? `${words.slice(0, LONG - 1)}…` : words;
}

/** The events of the journal's lines and the log's requests, newest first. */
function events(lines, requests) {
  const found = [];
  const byId = new Map();
  for (const line of lines) {
    if (line.kind !== undefined) {
      // Each rank of a job writes the same line.
      if (byId.has(line.id)) continue;
      const event = { key: line.id, time: line.time, step: line.step, title: asked(line), sender: line.sender, state: "applied", note: "" };
      byId.set(line.id, event);
      found.push(event);
    } else if (line.payload !== undefined && byId.has(line.id)) {
      Object.assign(byId.get(line.id), brought(line.payload));
    } else if (line.files !== undefined && byId.has(line.id)) {
      byId.get(line.id).note = Object.keys(line.files).map(base).sort().join(", ");
    } else if (line.failed !== undefined && byId.has(line.failed)) {
      const event = byId.get(line.failed);
      const reason = line.reason.split("\n")[0];
      Object.assign(event, { state: "failed", note: event.title.startsWith("reload") ? `taken back: ${reason}` : reason });
    } else if (line.error !== undefined) {
      found.push({ key: `error ${line.time}`, time: line.time, step: line.step, title: "error", sender: "", state: "failed", note: line.error });
    } else if (line.end !== undefined) {
      found.push({ key: `end ${line.time}`, time: line.time, step: line.step, title: line.end, sender: "", state: "end", note: "" });
    }
  }
  for (const request of requests) {
    const { state, step } = request.fate;
    const known = byId.get(request.id);
    if (known) {
      if (request.name && !known.title.includes(request.name)) known.title = `${request.kind} ${request.name}`;
      // The first rank that comes to the request writes the line. Others may not have come to it yet.
      if (["asked", "failed", "refused"].includes(state)) Object.assign(known, { state, note: words(request.fate) });
      continue;
    }
    found.push({
      key: request.id,
      time: request.asked,
      step,
      title: [request.kind, request.version ?? request.name].filter(Boolean).join(" "),
      sender: request.sender,
      state,
      note: state === "applied" ? "" : words(request.fate),
    });
  }
  return found.sort((a, b) => b.time - a.time);
}

class Event {
  constructor() {
    this.time = el("time");
    this.step = el("span", { class: "event-step" });
    this.title = el("span", { class: "event-title" });
    this.note = el("span", { class: "event-note" });
    this.sender = el("span", { class: "event-sender" });
    this.node = el("li", { class: "event" }, this.time, this.step, el("span", { class: "event-what" }, this.title, " ", this.note), this.sender);
  }

  update(event) {
    attribute(this.node, "data-state", event.state);
    text(this.time, clock(event.time));
    text(this.step, event.step === null || event.step === undefined ? "" : `step ${count(event.step)}`);
    text(this.title, event.title);
    text(this.note, event.note);
    text(this.sender, event.sender);
  }
}

export class Timeline {
  /** onMarks is called with the marks for the plots: {step, title} of each applied request, oldest first. */
  constructor(run, onMarks) {
    this.run = run;
    this.onMarks = onMarks;
    this.lines = [];
    this.requests = [];
    this.seen = null;
    this.all = false;
    this.path = el("p", { class: "hint", hidden: true });
    this.none = el("p", { class: "hint" }, "Nothing was asked of this run.");
    this.problem = el("p", { class: "problem", role: "alert", hidden: true });
    this.list = el("ol", { class: "timeline", reversed: true });
    this.more = el(
      "button",
      {
        type: "button",
        hidden: true,
        onclick: () => {
          this.all = true;
          this.#show();
        },
      },
      "",
    );
    this.node = el("div", {}, this.none, this.problem, this.list, this.more, this.path);
    this.rows = new Children(this.list, (event) => event.key, () => new Event(), (row, event) => row.update(event));
  }

  update(detail) {
    this.requests = detail.requests;
    // The journal has a new line when a request has a new fate, and when the run has ended.
    const seen = JSON.stringify([detail.status, detail.requests.map((request) => [request.id, request.fate.state])]);
    if (seen === this.seen) return;
    this.seen = seen;
    this.#show();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#fetch(), this.lines.length ? GATHER_SECONDS * 1000 : 0);
  }

  async #fetch() {
    try {
      const found = await call("GET", of(this.run, "journal"));
      this.lines = found.lines;
      text(this.path, found.path ? `Kept in ${found.path}${found.loss ? `: ${found.loss}` : ""}` : "");
      show(this.path, Boolean(found.path) && found.lines.length > 0);
      show(this.problem, false);
      this.#show();
    } catch (error) {
      if (error.status === 0) {
        this.seen = null; // once more, with the next change
        return;
      }
      text(this.problem, `The journal can't be read: ${error.message}`);
      show(this.problem, true);
    }
  }

  #show() {
    const found = events(this.lines, this.requests);
    show(this.none, found.length === 0);
    this.rows.show(this.all ? found : found.slice(0, FIRST));
    const hidden = this.all ? 0 : found.length - FIRST;
    show(this.more, hidden > 0);
    text(this.more, `Show ${count(Math.max(hidden, 0))} more`);
    const marks = found.filter((event) => (event.state === "applied" || event.state === "end") && event.step > 0);
    this.onMarks(marks.map(({ step, title }) => ({ step, title })).reverse());
  }

  leave() {
    clearTimeout(this.timer);
  }
}
