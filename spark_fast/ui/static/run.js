// One run: its status, values, plots, functions, journal, code and ranks.

import { Code } from "./code.js";
import { Controls } from "./controls.js";
import { Curve } from "./curve.js";
import { attribute, el, freshId, show, text } from "./dom.js";
import { age, Progress, Status, stopBy } from "./facts.js";
import { clock, command, count, isLive, size, speed } from "./format.js";
import { Functions } from "./functions.js";
import { Plots } from "./plots.js";
import { Ranks, several } from "./ranks.js";
import { Timeline } from "./timeline.js";
import { Values } from "./values.js";

export class RunView {
  constructor(id, stream, speeds) {
    this.id = id;
    this.stream = stream;
    this.speeds = speeds;
    this.status = new Status();
    this.step = el("span", { class: "fact-value" });
    this.speed = el("span", { class: "fact-value" });
    this.curve = new Curve();
    this.progress = new Progress();
    this.memory = el("span", { class: "fact-value" });
    this.stopBy = el("span", { class: "fact-value" });
    this.stopFact = fact("Stops by", this.stopBy);
    this.age = el("span", { class: "fact-value" });
    this.ageName = el("dt", {}, "Age");
    this.ageFact = el("div", { class: "fact" }, this.ageName, el("dd", {}, this.age));
    this.command = el("code", { class: "command" });
    this.folder = el("span", { class: "folder" });
    this.controls = new Controls({ full: true });
    this.errorWords = el("p", { class: "error-words" });
    this.trace = el("pre", { class: "trace" });
    this.error = el("section", { class: "run-error", hidden: true, "aria-label": "Error" }, this.errorWords, this.trace);
    this.values = new Values(id);
    this.functions = new Functions(id);
    this.plots = new Plots(id);
    this.timeline = new Timeline(id, (marks) => this.plots.mark(marks));
    this.code = new Code(id);
    this.ranks = new Ranks(id);
    this.sections = [
      section("Values", this.values.node),
      section("Plots", this.plots.node),
      section("Functions", this.functions.node),
      section("Journal", this.timeline.node),
      section("Code", this.code.node),
      section("Ranks", this.ranks.node),
    ];
    const [values, plots, functions, journal, code, ranks] = this.sections.map(({ node }) => node);
    this.missing = el("p", { class: "empty", hidden: true }, `There is no run ${id}. `, el("a", { href: "#/" }, "All runs"));
    this.opening = el("p", { class: "hint" }, "opening…");
    this.content = el(
      "div",
      { hidden: true },
      el(
        "div",
        { class: "run-head" },
        el("div", { class: "run-title" }, el("h1", {}, id), this.status.node),
        el(
          "dl",
          { class: "facts" },
          fact("Step", this.step),
          fact("Steps/s", this.speed, this.curve.node),
          fact("Progress", this.progress.node),
          fact("Memory", this.memory),
          this.ageFact,
          this.stopFact,
        ),
        this.controls.node,
        el("div", { class: "run-command" }, this.command, this.folder),
        this.error,
      ),
      el(
        "nav",
        { class: "sections", "aria-label": "Parts of this run" },
        ...this.sections.map((each, at) =>
          el("button", { type: "button", "aria-keyshortcuts": at + 1, onclick: () => this.#go(at) }, each.name),
        ),
      ),
      el(
        "div",
        { class: "run-body" },
        el("div", { class: "side" }, values),
        el("div", { class: "wide-side" }, plots, functions, journal),
      ),
      code,
      ranks,
    );
    this.node = el("div", { class: "run" }, el("a", { class: "back", href: "#/" }, "All runs"), this.missing, this.opening, this.content);
  }

  title() {
    const run = this.run;
    return run ? `${this.id}: ${run.status} – spark-fast` : `${this.id} – spark-fast`;
  }

  /** All that is known of the run: its detail, which is newer, and what only its summary has. */
  get run() {
    const { detail, runs } = this.stream;
    const summary = runs.get(this.id);
    if (!detail || !summary) return detail ?? summary ?? null;
    const { memory, since_checkpoint, received } = summary;
    return { ...detail, memory, since_checkpoint: summary.step === detail.step ? since_checkpoint : null, received };
  }

  update() {
    const missing = this.stream.missing === this.id && !this.stream.detail;
    show(this.missing, missing);
    const run = this.run;
    show(this.opening, run === null && !missing);
    show(this.content, run !== null);
    if (run === null) return;
    this.#facts(run);
    const detail = this.stream.detail;
    if (!detail) return;
    this.values.update(detail);
    this.functions.update(detail);
    this.plots.update(detail);
    this.timeline.update(detail);
    this.code.update(detail);
    this.ranks.update(detail);
  }

  #facts(run) {
    this.status.update(run);
    text(this.step, count(run.step));
    text(this.speed, speed(run.steps_per_second));
    this.progress.update(run);
    text(this.memory, size(run.memory));
    attribute(this.memory, "title", several(run) ? "of rank 0" : null);
    this.#left(run);
    text(this.age, age(run));
    text(this.ageName, isLive(run) ? "Age" : "Ended");
    attribute(this.age, "title", `started ${clock(run.started)}`);
    text(this.command, command(run.command));
    attribute(this.command, "title", run.command.join(" "));
    text(this.folder, run.folder);
    this.controls.update(run);
    this.#error(run);
    this.node.classList.toggle("over", !isLive(run));
  }

  #error(run) {
    const { error } = run;
    show(this.error, Boolean(error));
    if (!error) return;
    const where = several(run) ? ` on rank ${error.rank}` : "";
    const live = isLive(run);
    const next = live ? " Everything is in memory: mend the code and reload it, call a function that saves, resume it to run the code once more, or stop it." : "";
    text(this.errorWords, `${live ? "Paused after an error" : "Failed"} at step ${count(error.step)}${where}: ${error.message}.${next}`);
    text(this.trace, error.traceback.trimEnd());
  }

  #left(run) {
    const words = stopBy(run);
    text(this.stopBy, words);
    show(this.stopFact, words !== "");
  }

  tick() {
    const run = this.run;
    if (run === null) return;
    this.status.update(run);
    this.#left(run);
    this.ranks.tick();
    text(this.age, age(run));
    this.curve.show(this.speeds.of(this.id));
    this.values.tick();
    this.plots.tick();
  }

  #go(at) {
    const { node, heading } = this.sections[at];
    node.scrollIntoView({ block: "start" });
    heading.focus({ preventScroll: true });
  }

  key(key) {
    if (/^[1-6]$/.test(key)) {
      this.#go(Number(key) - 1);
      return true;
    }
    return this.run !== null && this.controls.key(key);
  }

  leave() {
    this.plots.leave();
    this.timeline.leave();
  }
}

function section(name, content) {
  const id = freshId();
  const heading = el("h2", { id, tabindex: "-1" }, name);
  return { name, heading, node: el("section", { class: `part ${name.toLowerCase()}-part`, "aria-labelledby": id }, heading, content) };
}

function fact(name, ...content) {
  return el("div", { class: "fact" }, el("dt", {}, name), el("dd", {}, ...content));
}
