// The versions of a run's code, their differences, and an editor to push new code.

import { call, of } from "./api.js";
import { attribute, Children, el, freshId, show, text } from "./dom.js";
import { clock } from "./format.js";
import { ask, FateLine, offerRestart } from "./requests.js";

export class Code {
  constructor(run) {
    this.run = run;
    this.versions = [];
    this.sources = new Map();
    this.current = null;
    this.chosen = null;
    this.based = null;
    this.seen = null;
    this.none = el(
      "p",
      { class: "hint", hidden: true },
      "The code of this run can't be replaced: it was not started by ",
      el("code", {}, "spark-fast run"),
      " or ",
      el("code", {}, "spark.run()"),
      ".",
    );
    this.problem = el("p", { class: "problem", role: "alert", hidden: true });
    this.list = el("ul", { class: "versions" });
    this.rows = new Children(this.list, (version) => version.number, (version) => this.#row(version), (row, version) => row.update(version));
    this.diff = el("pre", { class: "diff", tabindex: "0", role: "group", "aria-label": "changes" });
    this.back = el("button", { type: "button", "data-action": "back", hidden: true, onclick: () => this.#goBack() }, "");
    this.editor = new Editor((source) => this.#push(source), () => this.#load(this.current, true));
    this.fate = new FateLine({ full: true });
    this.body = el(
      "div",
      { class: "code" },
      el("div", { class: "history" }, el("h3", {}, "Versions"), this.list, this.back, this.diff),
      el("div", { class: "edit" }, el("h3", {}, "Edit"), this.editor.node, this.fate.node),
    );
    this.node = el("div", {}, this.none, this.problem, this.body);
  }

  #row(version) {
    const note = el("span", { class: "version-note" });
    const name = el("span", { class: "version-name" });
    const button = el("button", { type: "button", onclick: () => this.#choose(version.number) }, name, note);
    return {
      node: el("li", {}, button),
      update: (found) => {
        text(name, `version ${found.number}`);
        const runs = found.number === this.current ? "runs now · " : "";
        text(note, `${runs}${found.note} · ${clock(found.made)}`);
        attribute(button, "title", found.sender);
        attribute(button, "aria-pressed", String(found.number === this.chosen));
        attribute(button, "data-current", found.number === this.current ? "" : null);
      },
    };
  }

  update(detail) {
    show(this.none, detail.reloadable === false);
    show(this.body, detail.reloadable !== false);
    if (detail.reloadable === false) return;
    const reloads = detail.requests.filter((request) => request.kind === "reload").map((request) => [request.id, request.fate.state]);
    const seen = JSON.stringify([detail.version, reloads]);
    if (seen === this.seen) return;
    this.seen = seen;
    this.current = detail.version;
    this.#fetch();
  }

  async #fetch() {
    try {
      const found = await call("GET", of(this.run, "versions"));
      this.versions = [...found.versions].sort((a, b) => b.number - a.number);
      show(this.problem, false);
    } catch (error) {
      if (error.status === 0) this.seen = null;
      else {
        text(this.problem, `The versions can't be read: ${error.message}`);
        show(this.problem, true);
      }
      return;
    }
    // Without a choice of the user, the running version is shown.
    await this.#choose(this.picked ?? this.current, false);
    await this.#load(this.current, false);
  }

  async #source(number) {
    if (!this.sources.has(number)) this.sources.set(number, await call("GET", of(this.run, "versions", number)));
    return this.sources.get(number);
  }

  async #choose(number, byHand = true) {
    if (byHand) this.picked = number === this.current ? null : number;
    this.chosen = number;
    this.rows.show(this.versions);
    if (number === null) return;
    let version;
    try {
      version = await this.#source(number);
    } catch (error) {
      text(this.diff, error.message);
      return;
    }
    if (this.chosen !== number) return;
    this.#showDiff(version);
    show(this.back, number !== this.current);
    text(this.back, `Run version ${number} again`);
  }

  #showDiff(version) {
    const kinds = { "+": "added", "-": "removed", "@": "place" };
    const written = (version.diff ?? "").split("\n");
    if (written.at(-1) === "") written.pop();
    if (written.length === 0) written.push(version.number === 1 ? "The code that it was started with." : "No difference.");
    const lines = written.map((line) => {
      const kind = line.startsWith("+++") || line.startsWith("---") ? "file" : kinds[line[0]];
      return el("span", { class: kind ? `line ${kind}` : "line" }, `${line}\n`);
    });
    this.diff.replaceChildren(...lines);
  }

  /** Puts the entry file of a version into the editor, unless the user has changed its text. */
  async #load(number, byHand) {
    if (number === null || (!byHand && this.based === number)) return;
    if (!byHand && this.editor.dirty) {
      this.editor.note(`version ${number} runs now; this is based on version ${this.based}`, true);
      return;
    }
    let version;
    try {
      version = await this.#source(number);
    } catch (error) {
      this.editor.note(error.message, true);
      return;
    }
    const entry = version.files.find((file) => file.entry);
    this.based = number;
    this.editor.load(entry?.source ?? "", entry?.shown ?? "");
    this.editor.note(`version ${number}`, false);
  }

  async #goBack() {
    const number = this.chosen;
    await this.#reload({ to: number }, `back to ${number}`);
  }

  #push(source) {
    return this.#reload({ code: source }, "push");
  }

  #pushed(source, request) {
    if (request.fate.state === "applied") {
      this.based = request.version ?? this.based;
      this.editor.accept(source);
      this.editor.note(this.based === null ? "" : `version ${this.based}`, false);
      this.editor.fault(null);
      return;
    }
    const lines = [...request.fate.reason.matchAll(/line (\d+)/g)];
    this.editor.fault(lines.length ? Number(lines.at(-1)[1]) : null);
  }

  async #reload(body, what) {
    const mine = (this.last = {});
    const request = await ask(this.run, "POST", of(this.run, "reload"), body, (request) => {
      if (this.last !== mine) return;
      this.fate.show(what, request.fate);
      offerRestart(this.fate, this.run, request, () => this.#reload({ ...body, restart: true }, "start over"));
    }, { what });
    if (body.code !== undefined) this.#pushed(body.code, request);
  }
}

/** A text area with line numbers. */
class Editor {
  constructor(push, reload) {
    const id = freshId();
    this.name = el("label", { for: id, class: "file-name" }, "");
    this.said = el("span", { class: "hint" });
    this.fresh = el("button", { type: "button", hidden: true, onclick: reload }, "Take what runs");
    this.numbers = el("div", { class: "line-numbers", "aria-hidden": "true" });
    this.text = el("textarea", {
      id,
      class: "source",
      spellcheck: "false",
      autocomplete: "off",
      autocapitalize: "off",
      wrap: "off",
      rows: 18,
      oninput: () => this.#changed(),
      onscroll: () => (this.numbers.scrollTop = this.text.scrollTop),
      onkeydown: (event) => this.#key(event),
    });
    this.button = el("button", { type: "button", class: "primary", "data-action": "push", onclick: () => push(this.text.value) }, "Push");
    this.push = push;
    this.loaded = "";
    this.count = 0;
    this.wrong = null;
    this.node = el(
      "div",
      { class: "editor" },
      el("div", { class: "editor-head" }, this.name, this.said, this.fresh),
      el("div", { class: "editor-body" }, this.numbers, this.text),
      el("div", { class: "buttons" }, this.button, el("span", { class: "hint" }, "No file is written. The run goes on from where it is, with this code.")),
    );
    this.#changed();
  }

  get dirty() {
    return this.text.value !== this.loaded;
  }

  load(source, name) {
    this.loaded = source;
    this.text.value = this.loaded;
    this.loaded = this.text.value; // the browser has normalized its line ends
    text(this.name, name);
    this.fault(null);
    this.#changed();
  }

  accept(source) {
    this.loaded = source;
    this.#changed();
  }

  note(words, offer) {
    text(this.said, words);
    show(this.fresh, offer);
  }

  /** Marks the line of an error; null for none. */
  fault(line) {
    this.wrong = line;
    this.#number();
    if (line !== null && line <= this.count) {
      const height = this.text.scrollHeight / Math.max(this.count, 1);
      if (line * height < this.text.scrollTop || line * height > this.text.scrollTop + this.text.clientHeight) {
        this.text.scrollTop = (line - 4) * height;
      }
    }
  }

  #changed() {
    const wanted = this.text.value.split("\n").length;
    attribute(this.button, "aria-disabled", this.dirty ? null : "true");
    if (wanted === this.count) return;
    this.count = wanted;
    this.#number();
  }

  #number() {
    const numbers = Array.from({ length: this.count }, (_, at) => `${at + 1}\n`);
    const wrong = this.wrong !== null && this.wrong <= this.count ? this.wrong : null;
    if (wrong === null) this.numbers.replaceChildren(numbers.join(""));
    else {
      const marked = el("span", { class: "wrong" }, String(wrong));
      this.numbers.replaceChildren(numbers.slice(0, wrong - 1).join(""), marked, "\n", numbers.slice(wrong).join(""));
    }
    this.numbers.scrollTop = this.text.scrollTop;
  }

  #key(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.push(this.text.value);
    } else if (event.key === "Enter" && !event.shiftKey) {
      const before = this.text.value.slice(0, this.text.selectionStart);
      const indent = /[^\n]*$/.exec(before)[0].match(/^[ \t]*/)[0];
      if (indent === "") return;
      event.preventDefault();
      document.execCommand("insertText", false, `\n${indent}`); // unlike the newer ways, this can be undone
    }
  }
}
