// The functions that a run exposes, as forms made from their signatures.

import { of } from "./api.js";
import { attribute, Children, el, freshId, show, text } from "./dom.js";
import { isLive, json, literal } from "./format.js";
import { several } from "./ranks.js";
import { ask, FateLine } from "./requests.js";
import { parseNumber } from "./values.js";

const SECONDS = 60;
/** Up to so many ranks, the user can choose each. */
const RANKS = 16;

/** The kind of input that a parameter gets, from its annotation, else from its default. */
function typeOf(parameter) {
  if (parameter.kind === "var_positional") return "list";
  if (parameter.kind === "var_keyword") return "object";
  const annotation = (parameter.annotation ?? "").replace(/\s*\|\s*None$/, "");
  if (["bool", "int", "float", "str"].includes(annotation)) return annotation;
  if (annotation) return "json";
  const fallback = parameter.default;
  if (typeof fallback === "boolean") return "bool";
  if (typeof fallback === "number") return "float";
  if (typeof fallback === "string") return "str";
  return fallback === null || fallback === undefined ? "any" : "json";
}

const WORDS = {
  int: "a whole number",
  float: "a number",
  str: "text",
  json: "JSON",
  any: "JSON, or else text",
  list: "a JSON list",
  object: "a JSON object",
};

function parse(typed, type) {
  if (type === "str") return typed;
  if (type === "int" || type === "float") return parseNumber(typed, type === "int");
  let found;
  try {
    found = JSON.parse(typed);
  } catch (error) {
    if (type === "any") return typed;
    throw new Error(`no JSON: ${error.message}`);
  }
  if (type === "list" && !Array.isArray(found)) throw new Error("a JSON list is needed, as [1, 2]");
  if (type === "object" && (found === null || typeof found !== "object" || Array.isArray(found))) {
    throw new Error('a JSON object is needed, as {"a": 1}');
  }
  return found;
}

class Field {
  constructor(parameter) {
    this.parameter = parameter;
    this.type = typeOf(parameter);
    const id = freshId();
    const prefix = { var_positional: "*", var_keyword: "**" }[parameter.kind] ?? "";
    const kind = parameter.annotation || WORDS[this.type] || "";
    this.problem = el("p", { class: "problem", id: `${id}p`, role: "alert", hidden: true });
    const attributes = {
      id,
      autocomplete: "off",
      spellcheck: "false",
      required: parameter.required,
      "aria-describedby": `${id}p`,
    };
    if (this.type === "bool") {
      const given = parameter.required ? [] : [el("option", { value: "" }, `default (${parameter.default})`)];
      this.input = el("select", attributes, ...given, el("option", { value: "true" }, "true"), el("option", { value: "false" }, "false"));
    } else {
      const fallback = parameter.default;
      const hint = parameter.required || fallback === undefined ? "" : typeof fallback === "string" ? fallback : JSON.stringify(fallback);
      const area = this.type === "json" || this.type === "object";
      this.input = el(area ? "textarea" : "input", {
        ...attributes,
        ...(area ? { rows: 2 } : { type: "text" }),
        inputmode: { int: "numeric", float: "decimal" }[this.type] ?? null,
        placeholder: prefix ? WORDS[this.type] : hint,
      });
    }
    this.node = el(
      "div",
      { class: "field", "data-parameter": parameter.name },
      el("label", { for: id }, `${prefix}${parameter.name}`, kind ? el("span", { class: "unit" }, ` ${kind}`) : null),
      this.input,
      this.problem,
    );
  }

  /** The value that the user typed; undefined for nothing. Raises Error. */
  read() {
    const typed = this.input.value;
    if (this.type === "bool") return typed === "" ? undefined : typed === "true";
    if (this.type === "str" && this.parameter.required) return typed;
    if (typed.trim() === "") {
      if (this.parameter.required) throw new Error("this one is needed");
      return undefined;
    }
    return parse(typed, this.type);
  }

  say(problem) {
    text(this.problem, problem);
    show(this.problem, problem !== "");
    attribute(this.input, "aria-invalid", problem ? "true" : null);
  }
}

/** The arguments of a call, by name where possible. Raises Problem. */
function collect(fields) {
  const args = [];
  const kwargs = {};
  const positional = fields.filter((field) => field.parameter.kind.startsWith("positional"));
  const read = new Map(fields.map((field) => [field, attempt(field)]));
  const rest = fields.find((field) => field.parameter.kind === "var_positional");
  const more = (rest && read.get(rest)) ?? [];
  // Before an argument that can only be given by position, all others have to be given by position, too.
  const byPlace = positional.filter((field) => more.length > 0 || field.parameter.kind === "positional");
  const last = more.length > 0 ? byPlace.length : byPlace.findLastIndex((field) => read.get(field) !== undefined) + 1;
  byPlace.slice(0, last).forEach((field) => args.push(read.get(field) ?? field.parameter.default ?? null));
  for (const field of fields) {
    const { kind, name } = field.parameter;
    const value = read.get(field);
    if (byPlace.includes(field) || field === rest || value === undefined) continue;
    if (kind === "var_keyword") Object.assign(kwargs, value);
    else kwargs[name] = value;
  }
  return { args: [...args, ...more], kwargs };
}

class Problem extends Error {}

function attempt(field) {
  try {
    const value = field.read();
    field.say("");
    return value;
  } catch (error) {
    field.say(error.message);
    field.input.focus();
    throw new Problem(error.message);
  }
}

class Card {
  constructor(found, run) {
    this.run = run;
    this.name = found.name;
    this.signature = el("code", { class: "signature" });
    this.doc = el("p", { class: "doc", hidden: true });
    this.fields = el("div", { class: "fields" });
    const id = freshId();
    this.limit = el("input", { type: "text", inputmode: "decimal", id, value: String(SECONDS), class: "limit", autocomplete: "off" });
    const whose = freshId();
    this.ranks = el("select", { id: whose });
    this.ranksPart = el("span", { class: "whose", hidden: true }, el("label", { for: whose, class: "limit-label" }, "on"), this.ranks);
    this.fate = new FateLine({ full: true });
    this.result = part("Result", "result");
    this.output = part("Printed", "output");
    this.form = el(
      "form",
      { novalidate: true, "aria-label": `Call ${found.name}` },
      this.fields,
      el(
        "div",
        { class: "buttons" },
        el("button", { type: "submit", class: "primary" }, "Call"),
        this.ranksPart,
        el("label", { for: id, class: "limit-label" }, "wait at most"),
        this.limit,
        el("span", { class: "unit" }, "s"),
      ),
    );
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#call();
    });
    this.node = el(
      "article",
      { class: "function", "data-function": found.name },
      el("h3", {}, this.signature),
      this.doc,
      this.form,
      this.fate.node,
      this.result.node,
      this.output.node,
    );
  }

  update(found, run) {
    this.#offer(found, run);
    text(this.signature, signature(found));
    text(this.doc, found.doc);
    show(this.doc, Boolean(found.doc));
    const shape = JSON.stringify(found.parameters);
    if (shape === this.shape) return;
    this.shape = shape;
    this.inputs = found.parameters.map((parameter) => new Field(parameter));
    this.fields.replaceChildren(...this.inputs.map((field) => field.node));
  }

  /** Which ranks may be asked: of many only the first, and all. At first what the script says of the function; what was
   * chosen stays, also if it has gone, until the script says something else. */
  #offer(found, run) {
    show(this.ranksPart, several(run));
    const there = run.ranks.filter(isLive).map(({ rank }) => String(rank));
    const offered = ["0", ...(there.length <= RANKS ? there : []), "all"];
    const said = String(found.ranks);
    const chosen = said === this.said ? this.ranks.value : said;
    const wanted = [...new Set([...offered, chosen])].sort((a, b) => (a === "all") - (b === "all") || a - b);
    if (wanted.join() === this.offered && said === this.said) return;
    this.offered = wanted.join();
    this.said = said;
    this.ranks.replaceChildren(
      ...wanted.map((rank) => el("option", { value: rank }, rank === "all" ? "all ranks" : `rank ${rank}`)),
    );
    this.ranks.value = chosen;
  }

  async #call() {
    let asked;
    try {
      asked = collect(this.inputs);
      const ranks = this.ranks.value;
      if (!this.ranksPart.hidden) asked.ranks = ranks === "all" ? ranks : Number(ranks);
    } catch (error) {
      if (error instanceof Problem) return;
      throw error;
    }
    const limit = Number(this.limit.value);
    const seconds = Number.isFinite(limit) && limit > 0 ? limit : SECONDS;
    const mine = (this.last = {});
    this.result.show(undefined);
    this.output.show(undefined);
    const request = await ask(
      this.run,
      "POST",
      of(this.run, "calls", this.name),
      asked,
      (seen) => {
        if (this.last === mine) this.fate.show("", seen.fate);
      },
      { what: `call ${this.name}`, seconds },
    );
    if (this.last !== mine) return;
    if (request.fate.state === "applied") this.result.show(request.result === undefined ? "null" : json(request.result));
    this.output.show(request.output ? literal(request.output) : undefined);
  }
}

function signature(found) {
  const written = found.signature ?? "()";
  return written.startsWith("(") ? `${found.name}${written}` : written;
}

function part(heading, name) {
  const id = freshId();
  const content = el("pre", { tabindex: "0", role: "group", "aria-labelledby": id });
  const node = el("div", { class: `call-${name}`, hidden: true }, el("h4", { id }, heading), content);
  return {
    node,
    show(value) {
      show(node, value !== undefined);
      text(content, value ?? "");
    },
  };
}

export class Functions {
  constructor(run) {
    this.list = el("div", { class: "functions" });
    this.none = el("p", { class: "hint" }, "This run exposes no functions. ", el("code", {}, "spark.expose(evaluate=evaluate)"), " does.");
    this.node = el("div", {}, this.none, this.list);
    this.cards = new Children(this.list, (found) => found.name, (found) => new Card(found, run), (card, found) => card.update(found, this.detail));
  }

  update(detail) {
    show(this.none, detail.functions.length === 0);
    this.detail = detail;
    this.cards.show(detail.functions);
  }
}
