// One plot: the history of a value, and of others that the user adds to it.

import { sketch } from "./curve.js";
import { attribute, Children, el, freshId, remember, remembered, show, svg, text } from "./dom.js";
import { COLOURS, colours, drawn, layoutOf, lines, measured, nearest, SPARSE, summary } from "./drawing.js";
import { count, figure } from "./format.js";

let library = null;
let ready = false;

/** Loads the plot library, once: it has five megabytes. */
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

/** Resolves when the browser has painted the changes. */
function painted() {
  return new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
}

export class Plot {
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

  /** Offers the values that can be added. */
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

  /** Identifies the last change of its values. */
  get wanted() {
    return this.shown.map((name) => this.plots.stamp(name)).join("|");
  }

  /** The values of the plot that the run has. */
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
    const traces = histories.flatMap(([name, history]) => lines(drawn(history, this.plots.step, this.log), this.names.indexOf(name) % COLOURS, theme));
    show(this.message, false);
    show(this.drawing, false);
    const size = this.area.getBoundingClientRect();
    const { marks, step: last } = this.plots;
    const layout = layoutOf({ theme, marks, last, log: this.log, width: size.width, height: size.height });
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

  /** Draws a simple curve until the library is there. */
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

  get sparse() {
    return this.shown.some((name) => (this.plots.histories.get(name)?.steps.length ?? Infinity) <= SPARSE);
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
