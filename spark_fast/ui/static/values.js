// The exposed values of a run, as inputs that fit them.

import { of } from "./api.js";
import { attribute, Children, el, freshId, show, text } from "./dom.js";
import { count, duration, json, literal, short } from "./format.js";
import { ask, FateLine } from "./requests.js";

const LONG = 60;
const REST_SECONDS = 0.15;

/*
 * An input has `node`, and
 *   write(value)   shows what the run has
 *   held()         whether a person is at it, or what they typed differs from what the run has: then nothing is written
 *   release()      what was typed is given up
 *   settle(done, value)   what was sent was applied, or not; value: what the run has
 *   differs(value)        whether it shows something else than this
 */

/** A field for text. Enter sends it, Escape restores the old text. */
class Typed {
  constructor(value, id, send, { area = false, parse, format, ...attributes }) {
    this.parse = parse;
    this.format = format;
    this.shown = "";
    this.send = send;
    this.area = area;
    this.input = el(area ? "textarea" : "input", {
      id,
      autocomplete: "off",
      spellcheck: "false",
      ...(area ? { rows: 3 } : { type: "text" }),
      ...attributes,
      oninput: () => this.#typed(),
      onblur: () => this.#left(),
      onkeydown: (event) => this.#key(event),
    });
    this.button = el("button", { type: "button", class: "set", onclick: () => this.submit() }, "Set");
    this.node = el("div", { class: area ? "typed area" : "typed" }, this.input, this.button);
    this.current = value;
    this.write(value);
  }

  write(value) {
    this.current = value;
    this.shown = this.format(value);
    if (this.input.value !== this.shown) this.input.value = this.shown;
    this.#typed();
  }

  get dirty() {
    return this.input.value !== this.shown;
  }

  held() {
    return this.dirty || document.activeElement === this.input;
  }

  release() {
    this.write(this.current);
  }

  submit() {
    let value;
    try {
      value = this.parse(this.input.value);
    } catch (error) {
      this.send(undefined, error.message);
      return;
    }
    this.sent = this.input.value;
    this.send(value);
  }

  /** Keeps a refused text, so that the user can correct it, and a text that was typed since. */
  settle(done, value) {
    if (done && this.input.value === this.sent) this.write(value);
  }

  differs(value) {
    return this.input.value !== this.format(value);
  }

  #typed() {
    this.button.classList.toggle("idle", !this.dirty);
    attribute(this.button, "tabindex", this.dirty ? null : "-1");
    this.onTyped?.(this.input.value);
  }

  #left() {
    if (!this.dirty) this.onFree?.();
  }

  #key(event) {
    if (event.key === "Enter" && (!this.area || event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.submit();
    } else if (event.key === "Escape") {
      this.release();
      this.onFree?.(true);
    }
  }
}

function number(value, id, send) {
  const whole = value.type === "integer";
  return new Typed(value.value, id, send, {
    parse: (typed) => parseNumber(typed, whole),
    format: literal,
    inputmode: whole ? "numeric" : "decimal",
    class: "number-input",
  });
}

/** A number as people type it. */
export function parseNumber(typed, whole) {
  const trimmed = typed.trim();
  const found = Number(trimmed.replaceAll("_", ""));
  if (trimmed === "" || !Number.isFinite(found)) throw new Error(`${trimmed || "nothing"} is no number`);
  if (whole && !Number.isSafeInteger(found)) throw new Error(`${trimmed} is no whole number`);
  return found;
}

/** A slider, with a field beside it for the exact number. */
class Slider {
  constructor(value, id, send) {
    const { min, max } = value;
    const step = value.step_size ?? (value.type === "integer" ? 1 : "any");
    this.field = number(value, id, send);
    this.moving = false;
    this.slider = el("input", {
      type: "range",
      min,
      max,
      step,
      "aria-label": `${value.name}, slider`,
      oninput: () => {
        this.moving = true;
        this.field.input.value = literal(this.#rounded());
        this.field.input.dispatchEvent(new Event("input"));
      },
      onchange: () => {
        // The arrow keys make an event at each step.
        clearTimeout(this.resting);
        this.resting = setTimeout(() => {
          this.moving = false;
          this.field.sent = this.field.input.value;
          send(this.#rounded());
        }, REST_SECONDS * 1000);
      },
      onkeydown: (event) => {
        if (event.key === "Escape") this.release();
      },
    });
    this.field.onTyped = (typed) => {
      const found = Number(typed);
      if (!this.moving && typed !== "" && Number.isFinite(found)) this.slider.value = found;
    };
    this.ends = el("div", { class: "ends", "aria-hidden": "true" }, el("span", {}, short(min)), el("span", {}, short(max)));
    this.node = el("div", { class: "slider" }, this.field.node, el("div", { class: "slide" }, this.slider, this.ends));
    this.write(value.value);
  }

  /** Rounds to a thousandth of the range. */
  #rounded() {
    const { min, max, step, value } = this.slider;
    if (step !== "any") return Number(value);
    const digits = Math.max(0, 3 - Math.floor(Math.log10(Math.max(Number(max) - Number(min), 1e-12))));
    return Number(Number(value).toFixed(Math.min(digits, 15)));
  }

  set onFree(free) {
    this.field.onFree = free;
  }

  write(value) {
    this.field.write(value);
    this.slider.value = value ?? this.slider.min;
  }

  held() {
    return this.moving || this.field.held();
  }

  release() {
    clearTimeout(this.resting);
    this.moving = false;
    this.field.release();
    this.slider.value = this.field.current ?? this.slider.min;
  }

  settle(done, value) {
    if (done && !this.moving && this.field.input.value === this.field.sent) this.write(value);
  }

  differs(value) {
    return this.field.differs(value);
  }
}

class Switch {
  constructor(value, id, send) {
    this.input = el("input", { type: "checkbox", role: "switch", id, onchange: () => send(this.input.checked) });
    this.node = el("div", { class: "switch" }, this.input);
    this.write(value.value);
  }

  write(value) {
    this.current = value;
    if (this.input.checked !== Boolean(value)) this.input.checked = Boolean(value);
  }

  held() {
    return false;
  }

  release() {
    this.write(this.current);
  }

  settle(done, value) {
    this.write(value);
  }

  differs() {
    return false;
  }
}

class Choice {
  constructor(value, id, send) {
    this.choices = value.choices;
    this.open = false;
    const options = value.choices.map((choice, at) => el("option", { value: at }, short(choice)));
    this.input = el(
      "select",
      {
        id,
        onmousedown: () => (this.open = true),
        onkeydown: () => (this.open = true),
        onblur: () => this.#close(),
        onchange: () => {
          this.open = false;
          send(this.choices[Number(this.input.value)]);
        },
      },
      ...options,
    );
    this.node = el("div", { class: "choice-input" }, this.input);
    this.write(value.value);
  }

  #close() {
    if (!this.open) return;
    this.open = false;
    this.onFree?.();
  }

  write(value) {
    this.current = value;
    const wanted = JSON.stringify(value);
    this.input.value = String(this.choices.findIndex((choice) => JSON.stringify(choice) === wanted));
  }

  /** Does not change a list of choices while the user has it open. */
  held() {
    return this.open;
  }

  release() {
    this.open = false;
    this.write(this.current);
  }

  settle(done, value) {
    this.open = false;
    this.write(value);
  }

  differs() {
    return false;
  }
}

class Shown {
  constructor(value, id) {
    // A screen reader announces each change of an output, unless aria-live is off.
    this.output = el(value.type === "json" ? "pre" : "output", { id, class: "shown", "aria-live": "off" });
    this.node = this.output;
    this.json = value.type === "json";
    this.write(value.value);
  }

  write(value) {
    text(this.output, this.json ? json(value) : short(value));
  }

  held() {
    return false;
  }

  release() {}

  differs() {
    return false;
  }
}

function inputFor(value, id, send) {
  if (value.readonly) return new Shown(value, id);
  if (value.choices) return new Choice(value, id, send);
  if (value.type === "boolean") return new Switch(value, id, send);
  if (value.type === "number" || value.type === "integer") {
    return value.min !== null && value.max !== null ? new Slider(value, id, send) : number(value, id, send);
  }
  if (value.type === "json") {
    const lines = (json(value.value) ?? "").split("\n").length;
    return new Typed(value.value, id, send, {
      area: true,
      rows: Math.min(Math.max(lines, 2), 12),
      format: json,
      parse: (typed) => {
        try {
          return JSON.parse(typed);
        } catch (error) {
          throw new Error(`no JSON: ${error.message}`);
        }
      },
    });
  }
  const area = literal(value.value).length > LONG || literal(value.value).includes("\n");
  return new Typed(value.value, id, send, { area, format: literal, parse: (typed) => typed });
}

/** The properties of a value that decide which input it has. */
function shape(value) {
  return JSON.stringify([value.type, value.readonly, value.min, value.max, value.step_size, value.choices]);
}

class Row {
  constructor(value, run) {
    this.run = run;
    this.name = value.name;
    this.id = freshId();
    this.label = el("label", { for: this.id, class: "value-name" }, value.name);
    this.unit = el("span", { class: "unit" });
    this.now = el("span", { class: "now", hidden: true });
    this.meta = el("span", { class: "meta" });
    this.doc = el("p", { class: "doc", id: `${this.id}d`, hidden: true });
    this.fate = new FateLine({ full: true });
    this.fate.node.id = `${this.id}f`;
    this.slot = el("div", { class: "value-input" });
    this.node = el(
      "div",
      { class: "value", "data-value": value.name },
      el("div", { class: "value-head" }, this.label, this.unit, this.now, this.meta),
      this.slot,
      this.doc,
      this.fate.node,
    );
    this.pending = null;
  }

  update(value) {
    this.value = value;
    const wanted = shape(value);
    // New limits of a value wait while the user edits it.
    if (this.shape === undefined || (this.shape !== wanted && !this.input.held())) this.#build(wanted);
    text(this.unit, value.unit ? `in ${value.unit}` : "");
    text(this.doc, value.doc);
    show(this.doc, Boolean(value.doc));
    this.#write();
    this.tick();
  }

  #build(wanted) {
    this.shape = wanted;
    this.input = inputFor(this.value, this.id, (value, problem) => this.#send(value, problem));
    this.input.onFree = (givenUp) => {
      if (givenUp) {
        this.fate.clear();
        this.#valid(true);
      }
      this.#write(givenUp);
    };
    this.node.classList.toggle("readonly", Boolean(this.value.readonly));
    this.slot.replaceChildren(this.input.node);
    const field = this.#field();
    if (field) attribute(field, "aria-describedby", `${this.id}d ${this.id}f`);
  }

  #field() {
    return this.slot.querySelector(`#${this.id}`);
  }

  #valid(valid) {
    attribute(this.#field(), "aria-invalid", valid ? null : "true");
  }

  #write(force = false) {
    const held = !force && (this.pending !== null || this.input.held());
    if (!held) this.input.write(this.value.value);
    const differs = held && this.value.type !== "json" && this.input.differs(this.value.value);
    text(this.now, differs ? `now ${short(this.value.value)}` : "");
    show(this.now, differs);
  }

  tick() {
    const { step, time } = this.value;
    if (step === null || step === undefined) return;
    const ago = time ? `${duration(Date.now() / 1000 - time)} ago` : "";
    text(this.meta, step === 0 ? "" : `step ${count(step)}`);
    attribute(this.meta, "title", ago ? `last assigned at step ${count(step)}, ${ago}` : null);
  }

  async #send(value, problem) {
    if (problem) {
      this.#valid(false);
      this.fate.show("", { state: "refused", step: null, reason: problem });
      return;
    }
    const mine = (this.pending = {});
    this.#valid(true);
    const { fate } = await ask(
      this.run,
      "PUT",
      of(this.run, "values", this.name),
      { value },
      (request) => {
        if (this.pending === mine) this.fate.show("", request.fate, "applied");
      },
      { what: `set ${this.name}` },
    );
    if (this.pending !== mine) return; // another request was sent meanwhile
    this.pending = null;
    const done = fate.state === "applied";
    // The stream may be a moment later than the fate.
    if (done && !(this.value.step >= fate.step)) this.value = { ...this.value, value, step: fate.step };
    this.input.settle(done, this.value.value);
    this.#valid(done || !this.input.held());
    this.#write();
    this.tick();
  }
}

export class Values {
  constructor(run) {
    this.list = el("div", { class: "values" });
    this.none = el("p", { class: "hint" }, "This run exposes no values. ", el("code", {}, "state = spark.expose(lr=1e-3, loss=0.0)"), " does.");
    this.node = el("div", {}, this.none, this.list);
    this.rows = new Children(this.list, (value) => value.name, (value) => new Row(value, run), (row, value) => row.update(value));
  }

  update(detail) {
    show(this.none, detail.values.length === 0);
    this.rows.show(detail.values);
  }

  tick() {
    for (const row of this.rows.parts.values()) row.tick();
  }
}
