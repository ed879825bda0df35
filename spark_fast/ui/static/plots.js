// The history of the values that are numbers, as plots over the whole run.

import { call, of } from "./api.js";
import { Children, el, show, text } from "./dom.js";
import { Plot } from "./plot.js";

const REFRESH_SECONDS = 1;
const NAMES_AT_ONCE = 24;
const EXTEND_SECONDS = 5;
/** A value that was last assigned before this part of the run stands still. */
const RECENT = 0.98;

function hint(shown, still) {
  if (still.length > 0) return `Unchanged so far, and not plotted: ${still.join(", ")}`;
  return shown.length > 0 ? "" : "Numbers that the run exposes are plotted here, from its first step on.";
}

export class Plots {
  constructor(run) {
    this.run = run;
    this.values = new Map();
    this.names = [];
    this.histories = new Map();
    this.marks = [];
    this.fetching = false;
    this.again = false;
    this.next = 0;
    this.changed = [];
    this.step = 0;
    this.grid = el("div", { class: "plots" });
    this.none = el("p", { class: "hint" });
    this.problem = el("p", { class: "problem", role: "alert", hidden: true });
    this.node = el("div", {}, this.problem, this.grid, this.none);
    this.views = new IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting } of entries) {
          target.plot.visible = isIntersecting;
          target.plot.choices(this.names);
        }
        this.refresh();
      },
      { rootMargin: "150px" },
    );
    this.sizes = new ResizeObserver(() => this.#redraw());
    this.sizes.observe(this.grid);
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.recolour = () => this.#redraw();
    this.scheme.addEventListener("change", this.recolour);
    this.plots = new Children(this.grid, (value) => value.name, (value) => new Plot(value.name, this), (plot) => plot.live());
  }

  /** Identifies the last change of a value. */
  stamp(name) {
    const value = this.values.get(name);
    return value ? `${value.step} ${value.time} ${value.value}` : "";
  }

  update(detail) {
    const numbers = detail.values.filter((value) => value.type === "number" || value.type === "integer");
    this.step = detail.step;
    this.values = new Map(numbers.map((value) => [value.name, value]));
    this.names = numbers.map((value) => value.name);
    // A value that never changed has no plot. Values that change all the time come first, new ones last.
    const fresh = numbers.filter((value) => value.step > 0 && !this.changed.includes(value.name));
    const rests = (value) => value.step < detail.step * RECENT;
    for (const still of [false, true]) {
      for (const value of fresh) if (rests(value) === still) this.changed.push(value.name);
    }
    const shown = this.changed.filter((name) => this.values.has(name));
    const still = this.names.filter((name) => !shown.includes(name));
    text(this.none, hint(shown, still));
    show(this.none, shown.length === 0 || still.length > 0);
    this.plots.show(shown.map((name) => this.values.get(name)));
    for (const plot of this.plots.parts.values()) plot.choices(this.names);
    this.refresh();
  }

  /** Extends the plots of values that stand still to the step of the run. Called once a second. */
  tick() {
    const now = performance.now();
    if (document.hidden || now < (this.extended ?? 0)) return;
    this.extended = now + EXTEND_SECONDS * 1000;
    for (const plot of this.plots.parts.values()) {
      if (!plot.visible || !plot.drawn || !plot.sparse || plot.at === this.step) continue;
      plot.draw();
    }
  }

  /** Takes the marks of the journal's requests: {step, title}. */
  mark(marks) {
    if (JSON.stringify(marks) === JSON.stringify(this.marks)) return;
    this.marks = marks;
    this.#redraw();
  }

  /** Fetches and draws the plots that are in view and have changed, at most once a second. */
  refresh() {
    if (this.fetching) {
      this.again = true;
      return;
    }
    const wait = this.next - performance.now();
    clearTimeout(this.timer);
    const due = this.#due();
    if (due.length === 0 || document.hidden) return;
    const fresh = due.some((plot) => !plot.drawn);
    if (wait > 0 && !fresh) this.timer = setTimeout(() => this.#fetch(), wait);
    else this.#fetch();
  }

  #due() {
    return [...this.plots.parts.values()].filter((plot) => plot.visible && plot.seen !== plot.wanted);
  }

  async #fetch() {
    const due = this.#due();
    if (this.fetching || due.length === 0) return;
    this.fetching = true;
    this.again = false;
    const names = [...new Set(due.flatMap((plot) => plot.shown))].slice(0, NAMES_AT_ONCE);
    const stamps = new Map(due.map((plot) => [plot, plot.wanted]));
    let failed = false;
    try {
      const query = names.map((name) => `name=${encodeURIComponent(name)}`).join("&");
      const { history } = await call("GET", `${of(this.run, "history")}?${query}`);
      for (const [name, points] of Object.entries(history)) this.histories.set(name, points);
      show(this.problem, false);
      const drawn = [...stamps].filter(([plot]) => plot.shown.every((name) => this.histories.has(name)));
      for (const [plot, stamp] of drawn) plot.seen = stamp;
      await Promise.all(drawn.map(([plot]) => plot.draw()));
    } catch (error) {
      failed = true;
      if (error.status !== 0) {
        text(this.problem, `The histories can't be read: ${error.message}`);
        show(this.problem, true);
      }
    }
    this.next = performance.now() + REFRESH_SECONDS * 1000;
    this.fetching = false;
    if (this.again || failed || this.#due().length > 0) {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.#fetch(), REFRESH_SECONDS * 1000);
    }
  }

  #redraw() {
    clearTimeout(this.redrawing);
    this.redrawing = setTimeout(() => {
      for (const plot of this.plots.parts.values()) {
        if (plot.visible) plot.draw();
        else plot.seen = "";
      }
    }, 100);
  }

  leave() {
    clearTimeout(this.timer);
    clearTimeout(this.redrawing);
    this.scheme.removeEventListener("change", this.recolour);
    this.sizes.disconnect();
    this.plots.show([]);
    this.views.disconnect();
  }
}
