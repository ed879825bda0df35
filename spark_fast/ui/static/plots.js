// The history of the values that are numbers, as plots over the whole run.

import { call, of } from "./api.js";
import { sketch } from "./curve.js";
import { attribute, Children, el, freshId, remember, remembered, show, svg, text } from "./dom.js";
import { count, figure } from "./format.js";

const REFRESH_SECONDS = 1;
const NAMES_AT_ONCE = 24;
const MARKS = 80;
const LABEL_WIDTH = 56;
const COLOURS = 6;
/** Up to so many points, a value is drawn as what it is between them: unchanged. */
const SPARSE = 60;
const EXTEND_SECONDS = 5;
/** A value that was assigned in this last part of the run is assigned all the time, as far as can be told. */
const RECENT = 0.98;

let library = null;
let ready = false;

/** The plot library, once: it is five megabytes. */
export function load() {
  library ??= new Promise((done, failed) => {
    const script = el("script", { src: "/static/plotly.min.js" });
    script.addEventListener("load", () => {
      ready = true;
      done(globalThis.Plotly);
    });
    script.addEventListener("error", () => {
      library = null;
      script.remove();
      failed(new Error("the plot library can't be loaded"));
    });
    document.head.append(script);
  });
  return library;
}

/** Resolves when what was changed can be seen. */
function painted() {
  return new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
}

/** Text that the library shows as it is. */
function plain(words) {
  return words.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function colours(node) {
  const style = getComputedStyle(node);
  const read = (name) => style.getPropertyValue(name).trim();
  return {
    text: read("--quiet"),
    grid: read("--line"),
    mark: read("--mark"),
    lines: Array.from({ length: COLOURS }, (_, at) => read(`--plot-${at + 1}`)),
    bands: Array.from({ length: COLOURS }, (_, at) => read(`--band-${at + 1}`)),
  };
}

class Plot {
  constructor(name, plots) {
    this.name = name;
    this.plots = plots;
    this.names = [name, ...remembered(`with ${name}`, []).filter((other) => typeof other === "string")];
    this.log = remembered(`log ${name}`, false) === true;
    this.visible = false;
    this.drawn = false;
    this.seen = "";
    this.hovered = null;
    const id = freshId();
    const legend = el("span", { class: "legend-entries" });
    this.place = el("span", { class: "legend-step" });
    this.legend = el("div", { class: "legend" }, legend, this.place);
    this.entries = new Children(legend, (entry) => entry.name, (entry) => this.#entry(entry), (part, entry) => part.update(entry));
    this.logBox = el("input", {
      type: "checkbox",
      id: `${id}l`,
      onchange: () => {
        this.log = this.logBox.checked;
        remember(`log ${name}`, this.log);
        this.draw();
      },
    });
    this.logBox.checked = this.log;
    this.add = el("select", { "aria-label": `Another value in the plot of ${name}`, onchange: () => this.#add() });
    this.whole = el("button", { type: "button", hidden: true, onclick: () => this.#reset() }, "Whole run");
    this.area = el("div", { class: "plot-area", role: "img" });
    this.drawing = svg("svg", { class: "sketch", "aria-hidden": "true" });
    this.message = el("p", { class: "hint plot-message" }, "loading…");
    this.node = el(
      "figure",
      { class: "plot", "data-plot": name },
      el(
        "figcaption",
        {},
        el("h3", {}, name),
        el(
          "span",
          { class: "plot-tools" },
          this.whole,
          this.add,
          el("label", { class: "check" }, this.logBox, "log"),
        ),
        this.legend,
      ),
      el("div", { class: "plot-frame" }, this.area, this.drawing, this.message),
    );
    this.node.plot = this;
    plots.views.observe(this.node);
  }

  #entry({ name }) {
    const at = () => this.names.indexOf(name) % COLOURS;
    const value = el("span", { class: "legend-value" });
    const remove =
      name === this.name
        ? null
        : el("button", { type: "button", class: "plain", "aria-label": `Take ${name} out of this plot`, onclick: () => this.#remove(name) }, "×");
    const key = el("span", { class: "legend-key", "aria-hidden": "true" });
    const node = el("span", { class: "legend-entry" }, key, el("span", {}, name), value, remove);
    return {
      node,
      update: (entry) => {
        attribute(key, "data-colour", at() + 1);
        text(value, entry.value);
      },
    };
  }

  #legend() {
    const step = this.hovered;
    text(this.place, step === null ? "" : `step ${count(step)}`);
    this.entries.show(
      this.names.map((name) => {
        const history = this.plots.histories.get(name);
        const at = step === null || !history ? -1 : nearest(history.steps, step);
        if (at < 0) return { name, value: figure(this.plots.values.get(name)?.value) };
        const [low, high] = [history.low[at], history.high[at]];
        const range = low !== high && this.names.length === 1 ? ` (${figure(low)} … ${figure(high)})` : "";
        return { name, value: figure(history.mean[at]) + range };
      }),
    );
  }

  /** The values that can be added. */
  choices(names) {
    if (!this.visible) return;
    const others = names.filter((name) => !this.names.includes(name));
    const wanted = JSON.stringify(others);
    if (wanted === this.others) return;
    this.others = wanted;
    const options = others.map((name) => el("option", { value: name }, name));
    this.add.replaceChildren(el("option", { value: "" }, "+ value"), ...options);
    show(this.add, others.length > 0);
  }

  #add() {
    if (this.add.value) this.names.push(this.add.value);
    this.#changed();
  }

  #remove(name) {
    this.names = this.names.filter((other) => other !== name);
    this.#changed();
    this.add.focus();
  }

  #changed() {
    remember(`with ${this.name}`, this.names.slice(1));
    this.others = "";
    this.choices(this.plots.names);
    this.seen = "";
    this.plots.refresh();
  }

  /** What its values were at their last change. */
  get wanted() {
    return this.shown.map((name) => this.plots.stamp(name)).join("|");
  }

  /** Its values, as far as the run has them. */
  get shown() {
    return this.names.filter((name) => this.plots.values.has(name));
  }

  live() {
    this.#legend();
  }

  async draw() {
    const histories = this.shown.map((name) => [name, measured(this.plots.histories.get(name))]).filter(([, history]) => history);
    if (histories.length === 0) return;
    let Plotly;
    try {
      if (!ready) {
        this.#sketch(histories);
        await painted();
      }
      Plotly = await load();
    } catch (error) {
      text(this.message, error.message);
      return;
    }
    if (!this.node.isConnected) return;
    const theme = colours(this.node);
    const traces = histories.flatMap(([name, history]) => lines(this.#drawn(history), this.names.indexOf(name) % COLOURS, theme));
    show(this.message, false);
    show(this.drawing, false);
    const size = this.area.getBoundingClientRect();
    const layout = this.#layout(theme, histories, size.width);
    layout.width = Math.max(160, Math.floor(size.width));
    layout.height = Math.floor(size.height);
    await Plotly.react(this.area, traces, layout, {
      displayModeBar: false,
      doubleClick: "reset",
      showTips: false,
      showAxisDragHandles: false,
    });
    if (!this.drawn) {
      this.drawn = true;
      this.area.on("plotly_hover", (event) => this.#hover(event));
      this.area.on("plotly_unhover", () => this.#hover(null));
      this.area.on("plotly_relayout", () => this.#zoomed());
    }
    this.at = this.plots.step;
    attribute(this.area, "aria-label", summary(histories));
    this.#legend();
  }

  /** What is seen until the library has come. */
  #sketch(histories) {
    const { width, height } = this.area.getBoundingClientRect();
    attribute(this.drawing, "viewBox", `0 0 ${Math.max(width, 1)} ${Math.max(height, 1)}`);
    this.drawing.replaceChildren(
      ...histories.map(([name, history]) =>
        svg("path", { d: sketch(history.steps, history.mean, width, height), class: `sketch-${(this.names.indexOf(name) % COLOURS) + 1}` }),
      ),
    );
    show(this.message, false);
    this.node.dataset.sketched = "";
  }

  /** The history as it is drawn: one of few points up to now, and nothing that a logarithm does not have. */
  #drawn(history) {
    let { steps, mean, low, high } = history;
    const sparse = steps.length <= SPARSE;
    if (sparse && steps.length > 0 && this.plots.step > steps.at(-1)) {
      const more = (numbers) => [...numbers, history.last.at(-1)];
      [steps, mean, low, high] = [[...steps, this.plots.step], more(mean), more(low), more(high)];
    }
    if (this.log) {
      const least = Math.min(...mean.filter((number) => number > 0));
      low = low.map((number) => (number === null || number > 0 ? number : least));
    }
    return { steps, mean, low, high, sparse };
  }

  get sparse() {
    return this.shown.some((name) => (this.plots.histories.get(name)?.steps.length ?? Infinity) <= SPARSE);
  }

  #layout(theme, histories, width) {
    const axis = {
      gridcolor: theme.grid,
      linecolor: theme.grid,
      zeroline: false,
      tickfont: { size: 11, color: theme.text },
      fixedrange: false,
      automargin: true,
    };
    const last = this.plots.step;
    const marks = this.plots.marks.slice(-MARKS);
    const labelled = apart(marks, ((LABEL_WIDTH / Math.max(width, 1)) * last) | 0);
    return {
      autosize: false,
      margin: { l: 8, r: 10, t: marks.length ? 16 : 6, b: 8 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", color: theme.text },
      showlegend: false,
      hovermode: "x",
      dragmode: "zoom",
      uirevision: this.log ? "log" : "linear",
      xaxis: {
        ...axis,
        showspikes: true,
        spikemode: "across",
        spikesnap: "cursor",
        spikethickness: 1,
        spikedash: "solid",
        spikecolor: theme.mark,
        hoverformat: ",d",
        tickformat: ",~s",
        showgrid: false,
        ticks: "outside",
        tickcolor: theme.grid,
      },
      yaxis: { ...axis, type: this.log ? "log" : "linear", exponentformat: "power", nticks: 6 },
      shapes: marks.map((mark) => ({
        type: "line",
        xref: "x",
        yref: "paper",
        x0: mark.step,
        x1: mark.step,
        y0: 0,
        y1: 1,
        line: { color: theme.mark, width: 1, dash: "dot" },
        layer: "below",
        name: plain(mark.title),
      })),
      annotations: labelled.map((mark) => ({
        x: mark.step,
        y: 1,
        xref: "x",
        yref: "paper",
        yanchor: "bottom",
        xanchor: mark.step > last * 0.85 ? "right" : "center",
        showarrow: false,
        text: plain(clipped(mark.title)),
        font: { size: 10, color: theme.text },
      })),
    };
  }

  #hover(event) {
    this.hovered = event?.points?.[0]?.x ?? null;
    this.#legend();
  }

  #zoomed() {
    const { xaxis, yaxis } = this.area.layout;
    show(this.whole, xaxis.autorange === false || yaxis.autorange === false);
  }

  #reset() {
    globalThis.Plotly.relayout(this.area, { "xaxis.autorange": true, "yaxis.autorange": true });
    this.logBox.focus();
  }

  leave() {
    this.plots.views.unobserve(this.node);
    if (this.drawn) globalThis.Plotly.purge(this.area);
  }
}

/** Without the entry that holds what it was exposed with, where the script assigns it all the time: `loss=0.0` is no loss. */
function measured(history) {
  if (!history || history.steps.length <= SPARSE || history.steps[0] !== 0) return history;
  return Object.fromEntries(Object.entries(history).map(([name, numbers]) => [name, numbers.slice(1)]));
}

/** A line; and below it a band from the lowest to the highest, where points were merged. */
function lines(history, at, theme) {
  const { steps, mean, low, high, sparse } = history;
  const shape = sparse ? "hv" : "linear";
  const line = {
    type: "scatter",
    mode: steps.length === 1 ? "markers" : "lines",
    x: steps,
    y: mean,
    line: { color: theme.lines[at], width: 1.5, shape },
    marker: { color: theme.lines[at], size: 6 },
    hoverinfo: "none",
  };
  if (!steps.some((_, point) => low[point] !== high[point])) return [line];
  const edge = { type: "scatter", mode: "lines", x: steps, hoverinfo: "skip", line: { width: 0, color: theme.lines[at], shape } };
  return [{ ...edge, y: low }, { ...edge, y: high, fill: "tonexty", fillcolor: theme.bands[at] }, line];
}

/** The marks that have room for a label, the newest first; `gap`: in steps. */
function apart(marks, gap) {
  const found = [];
  for (const mark of [...marks].reverse()) if (found.length === 0 || found.at(-1).step - mark.step >= gap) found.push(mark);
  return found;
}

function clipped(title) {
  return title.length > 14 ? `${title.slice(0, 13)}…` : title;
}

function nearest(steps, step) {
  let [from, to] = [0, steps.length - 1];
  while (to - from > 1) {
    const middle = (from + to) >> 1;
    if (steps[middle] <= step) from = middle;
    else to = middle;
  }
  return to >= 0 && Math.abs(steps[to] - step) < Math.abs(steps[from] - step) ? to : from <= to ? from : -1;
}

function summary(histories) {
  return histories
    .map(([name, { steps, last, low, high }]) => {
      const known = (numbers) => numbers.filter((number) => number !== null);
      const least = Math.min(...known(low));
      const most = Math.max(...known(high));
      if (!Number.isFinite(least)) return `${name}: no numbers`;
      const range = `lowest ${figure(least)}, highest ${figure(most)}, last ${figure(last.at(-1))}`;
      return `${name} from step ${count(steps[0])} to ${count(steps.at(-1))}: ${range}`;
    })
    .join(". ");
}

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

  /** What stands for a value's last change. */
  stamp(name) {
    const value = this.values.get(name);
    return value ? `${value.step} ${value.time} ${value.value}` : "";
  }

  update(detail) {
    const numbers = detail.values.filter((value) => value.type === "number" || value.type === "integer");
    this.step = detail.step;
    this.values = new Map(numbers.map((value) => [value.name, value]));
    this.names = numbers.map((value) => value.name);
    // One that never changed has no curve. What changes all the time comes first, what comes later comes last.
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

  /** Once a second: what stands still goes on to where the run is. */
  tick() {
    const now = performance.now();
    if (document.hidden || now < (this.extended ?? 0)) return;
    this.extended = now + EXTEND_SECONDS * 1000;
    for (const plot of this.plots.parts.values()) {
      if (!plot.visible || !plot.drawn || !plot.sparse || plot.at === this.step) continue;
      plot.draw();
    }
  }

  /** The journal's requests: {step, title}. */
  mark(marks) {
    if (JSON.stringify(marks) === JSON.stringify(this.marks)) return;
    this.marks = marks;
    this.#redraw();
  }

  /** Fetches and draws what is in view and has changed, at most once a second. */
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
