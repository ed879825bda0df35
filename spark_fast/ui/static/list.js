// The list of runs.

import { call } from "./api.js";
import { Controls } from "./controls.js";
import { Curve } from "./curve.js";
import { announce, attribute, Children, el, freshId, show, text } from "./dom.js";
import { age, Progress, Status } from "./facts.js";
import { command, count, isLive, size, speed } from "./format.js";
import { howMany, misses } from "./ranks.js";

const FIRST = 100;
const COLUMNS = ["Run", "Status", "Step", "Steps/s", "Progress", "Ranks", "Memory", "Age", "Control"];

export function address(id) {
  return `#/runs/${encodeURIComponent(id)}`;
}

export class List {
  constructor(stream, speeds) {
    this.stream = stream;
    this.speeds = speeds;
    const id = freshId();
    this.find = el("input", {
      type: "search",
      id,
      placeholder: "Find",
      autocomplete: "off",
      "aria-keyshortcuts": "/",
      oninput: () => this.update(),
    });
    this.count = el("p", { class: "count" });
    this.said = el("p", { class: "problem", role: "alert", hidden: true });
    this.wrong = el("p", { class: "problem", role: "alert", hidden: true });
    this.empty = emptyPage();
    this.none = el("p", { class: "hint", hidden: true });
    this.live = el("tbody");
    this.past = el("tbody", { class: "past" });
    this.clean = el("button", { type: "button", "data-action": "clean", onclick: () => this.#clean() }, "Remove ended runs");
    this.pastHead = el("div", { class: "past-head" }, el("h2", {}, "Ended"), this.clean);
    this.limit = FIRST;
    this.moreLive = this.#more();
    this.morePast = this.#more();
    this.liveTable = table("Live runs", this.live);
    this.pastTable = table("Ended runs", this.past, { Age: "Ended", Control: "" });
    this.head = el(
      "div",
      { class: "list-head" },
      el("h1", {}, "Runs"),
      this.count,
      el("label", { class: "unseen", for: id }, "Find a run"),
      this.find,
    );
    this.node = el(
      "div",
      { class: "list" },
      this.wrong,
      this.head,
      this.said,
      this.empty,
      this.none,
      this.liveTable,
      this.moreLive,
      this.pastHead,
      this.pastTable,
      this.morePast,
    );
    // Rows that are not in view stay as they are: there may be a thousand.
    this.views = new IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting } of entries) {
          const row = target.row;
          row.visible = isIntersecting;
          if (isIntersecting) row.draw();
        }
      },
      { rootMargin: "300px" },
    );
    const make = (run) => new Row(run, this);
    const update = (row, run) => row.update(run);
    this.liveRows = new Children(this.live, (run) => run.id, make, update);
    this.pastRows = new Children(this.past, (run) => run.id, make, update);
  }

  title() {
    const live = [...this.stream.runs.values()].filter(isLive).length;
    return `${live} live ${live === 1 ? "run" : "runs"} – spark-fast`;
  }

  update() {
    const wanted = this.find.value.trim().toLowerCase();
    const all = [...this.stream.runs.values()];
    const found = all
      .filter((run) => !wanted || `${run.id} ${run.status} ${run.command.join(" ")}`.toLowerCase().includes(wanted))
      .sort((a, b) => b.started - a.started || (a.id < b.id ? -1 : 1));
    const live = found.filter(isLive);
    const past = found.filter((run) => !isLive(run)).sort((a, b) => (b.ended ?? b.started) - (a.ended ?? a.started));
    const { known, error } = this.stream;
    text(this.wrong, error ? `The runs can't be listed: ${error}` : "");
    show(this.wrong, error !== null);
    show(this.empty, known && error === null && all.length === 0);
    show(this.head, all.length > 0);
    show(this.liveTable, live.length > 0);
    show(this.pastHead, past.length > 0);
    show(this.pastTable, past.length > 0);
    const lives = all.filter(isLive).length;
    text(this.count, `${count(lives)} live, ${count(all.length - lives)} ended`);
    const nothing = all.length === 0 ? "" : found.length === 0 ? "No run is called so." : live.length === 0 ? "No live run." : "";
    text(this.none, nothing);
    show(this.none, nothing !== "");
    this.#show(this.liveRows, live, this.moreLive);
    this.#show(this.pastRows, past, this.morePast);
  }

  #show(rows, found, more) {
    rows.show(found.slice(0, this.limit));
    show(more, found.length > this.limit);
    text(more, `Show more: ${count(Math.max(found.length - this.limit, 0))}`);
  }

  #more() {
    const further = () => {
      this.limit *= 4;
      this.update();
    };
    return el("button", { type: "button", class: "more", hidden: true, onclick: further });
  }

  /** Updates once a second what changes without an event. */
  tick() {
    for (const rows of [this.liveRows, this.pastRows]) {
      for (const row of rows.parts.values()) if (row.visible) row.draw();
    }
  }

  key(key) {
    if (key === "/") {
      this.find.focus();
      return true;
    }
    const rows = [...this.node.querySelectorAll("tbody tr")];
    const at = rows.findIndex((row) => row.contains(document.activeElement));
    if (key === "j" || key === "k") {
      const next = at < 0 ? 0 : Math.min(Math.max(at + (key === "j" ? 1 : -1), 0), rows.length - 1);
      rows[next]?.querySelector("a").focus();
      return true;
    }
    return at >= 0 && rows[at].row.controls.key(key);
  }

  async #clean() {
    try {
      const { removed } = await call("POST", "/api/clean");
      show(this.said, false);
      announce(`${removed.length} runs removed`);
    } catch (error) {
      text(this.said, `Nothing was removed: ${error.message}`);
      show(this.said, true);
    }
  }

  leave() {
    this.views.disconnect();
  }
}

function table(label, body, names = {}) {
  const heads = COLUMNS.map((name) => el("th", { scope: "col", class: name.toLowerCase().replace("/", "-") }, names[name] ?? name));
  return el("table", { class: "runs", "aria-label": label, hidden: true }, el("thead", {}, el("tr", {}, ...heads)), body);
}

class Row {
  constructor(run, list) {
    this.list = list;
    this.visible = true;
    this.link = el("a", { class: "run-name", href: address(run.id) }, run.id);
    this.command = el("div", { class: "command" });
    this.status = new Status();
    this.step = el("span");
    this.speed = el("span", { class: "speed-number" });
    this.curve = new Curve();
    this.progress = new Progress();
    this.ranks = el("span");
    this.memory = el("span");
    this.age = el("span");
    this.controls = new Controls();
    this.node = el(
      "tr",
      { "data-run": run.id },
      el("th", { scope: "row" }, this.link, this.command),
      el("td", {}, this.status.node),
      cell("Step", this.step),
      cell("Steps/s", this.speed, this.curve.node),
      el("td", { class: "wide" }, this.progress.node),
      cell("Ranks", this.ranks),
      cell("Memory", this.memory),
      cell("Age", this.age),
      el("td", { class: "wide" }, this.controls.node),
    );
    this.node.row = this;
    this.list.views.observe(this.node);
  }

  leave() {
    this.list.views.unobserve(this.node);
  }

  update(run) {
    if (run === this.run) return;
    this.run = run;
    if (this.visible) this.draw();
  }

  draw() {
    const run = this.run;
    const words = command(run.command);
    text(this.command, words);
    attribute(this.command, "title", words);
    this.status.update(run);
    text(this.step, count(run.step));
    text(this.speed, speed(run.steps_per_second));
    this.curve.show(this.list.speeds.of(run.id));
    this.progress.update(run);
    text(this.ranks, howMany(run));
    this.ranks.classList.toggle("warns", isLive(run) && misses(run));
    text(this.memory, size(run.memory));
    text(this.age, age(run));
    this.controls.update(run);
  }
}

function cell(name, ...content) {
  return el("td", { class: "number", "data-name": name }, ...content);
}

function emptyPage() {
  const code = (words) => el("pre", { tabindex: "0" }, words);
  return el(
    "section",
    { class: "empty", hidden: true },
    el("h1", {}, "No runs yet"),
    el("p", {}, "Start one in a terminal of this machine. It shows up here by itself:"),
    code("spark-fast run train.py"),
    el("p", {}, "The script passes a checkpoint at each batch. That is all that it takes to pause, stop and edit it from here:"),
    code("import spark_fast as spark\n\nfor batch in spark.track(loader, key=\"batch\"):\n    …"),
    el("p", {}, "Nothing at hand? This is a training to play with: "),
    code("spark-fast demo --hold"),
  );
}
