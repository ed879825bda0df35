// Pause, resume, advance, reload, stop: the buttons, and the outcome of each.

import { of } from "./api.js";
import { confirmed, numbers } from "./dialogs.js";
import { attribute, el, icon, remember, remembered, show } from "./dom.js";
import { count, isLive } from "./format.js";
import { several } from "./ranks.js";
import { ask, FateLine, offerRestart } from "./requests.js";

const KEYS = { p: "pause", r: "resume", a: "advance", l: "reload", s: "stop" };

const NAMES = { pause: "Pause", resume: "Resume", advance: "Advance", reload: "Reload", stop: "Stop" };

const HINTS = {
  pause: "Pause at the next checkpoint",
  resume: "Go on",
  advance: "Go on for a number of steps, then pause",
  reload: "Go on with the code as it is on disk now",
  stop: "Stop at the next checkpoint",
};

/** Whether an action would change nothing, by the status that the page shows, which may be half a second old. */
function idle(action, run) {
  return (action === "pause" && run.status === "paused") || (action === "resume" && run.status === "running");
}

export class Controls {
  /** full: words on the buttons, and the choices that do not fit into a list. */
  constructor({ full = false } = {}) {
    this.full = full;
    this.run = null;
    this.fate = new FateLine({ full });
    this.buttons = {};
    for (const [action, name] of Object.entries(NAMES)) {
      const key = Object.keys(KEYS).find((each) => KEYS[each] === action);
      this.buttons[action] = el(
        "button",
        {
          type: "button",
          class: `control ${action}`,
          "data-action": action,
          "aria-keyshortcuts": key,
          title: `${HINTS[action]} (${key})`,
          onclick: () => this.do(action),
        },
        icon(action),
        el("span", { class: full ? "" : "unseen" }, name),
      );
    }
    const more = [];
    if (full) {
      const reset = { type: "button", "data-action": "reset", title: "Stop it and start the script anew", onclick: () => this.#reset() };
      this.reset = el("button", reset, "Reset…");
      more.push(el("button", { type: "button", "data-action": "pause-at", onclick: () => this.#pauseAt() }, "Pause at…"), this.reset);
    }
    this.bar = el("div", { class: "controls", role: "group" }, ...Object.values(this.buttons), ...more);
    this.node = el("div", { class: full ? "control-panel" : "control-cell" }, this.bar, this.fate.node, full ? null : this.fate.more);
  }

  update(run) {
    this.run = run;
    attribute(this.bar, "aria-label", `Control ${run.id}`);
    // Not disabled: that would take the focus from a button that the user has just pressed.
    for (const [action, button] of Object.entries(this.buttons)) button.classList.toggle("idle", idle(action, run));
    for (const button of this.bar.children) attribute(button, "aria-disabled", isLive(run) ? null : "true");
    this.bar.hidden = !this.full && !isLive(run);
    // A launcher started the ranks of a job, and only the launcher can start them again.
    if (this.reset) show(this.reset, !several(run));
  }

  /** Handles a key. Returns whether it means something here. */
  key(key) {
    const action = KEYS[key];
    if (action) this.do(action);
    return Boolean(action);
  }

  async do(action) {
    const run = this.run;
    if (!isLive(run)) {
      this.fate.show(action, { state: "refused", final: true, step: null, reason: "the run has ended" });
      return;
    }
    if (action === "stop") {
      const question = `Its next checkpoint, after step ${count(run.step)}, ends the training. It saves what it saves when it is stopped.`;
      if (!(await confirmed(`Stop ${run.id}?`, question, "Stop the run"))) return;
    }
    let body = {};
    let what = action;
    if (action === "advance") {
      const answer = await numbers(
        `Advance ${run.id}`,
        [{ name: "steps", label: "Steps", value: remembered("steps", 1), min: 1, whole: true, required: true }],
        "Advance",
        "It runs so many steps more, and then pauses.",
      );
      if (answer === null) return;
      remember("steps", answer.steps);
      body = answer;
      what = `advance ${count(answer.steps)}`;
    }
    await this.send(action, body, what);
  }

  send(action, body, what) {
    const id = this.run.id;
    const mine = (this.last = {});
    return ask(id, "POST", of(id, action), body, (request) => {
      if (this.last !== mine) return;
      this.fate.show(what, request.fate);
      const again = action === "reload" ? body : {}; // a run that can't be resumed takes the code on disk
      offerRestart(this.fate, id, request, () => this.send("reload", { ...again, restart: true }, "start over"));
    }, { what });
  }

  async #pauseAt() {
    if (!isLive(this.run)) return;
    const answer = await numbers(
      `Pause ${this.run.id}`,
      [
        { name: "at_step", label: `At step (now ${count(this.run.step)}; empty: the next)`, min: 1, whole: true },
        { name: "resume_after", label: "Go on after seconds (empty: when asked to)", min: 0, above: true },
      ],
      "Pause",
    );
    if (answer === null) return;
    const words = ["pause"];
    if (answer.at_step) words.push(`at step ${count(answer.at_step)}`);
    if (answer.resume_after) words.push(`for ${answer.resume_after} s`);
    await this.send("pause", answer, words.join(" "));
  }

  async #reset() {
    if (!isLive(this.run)) return;
    const question = "The worker is stopped, and a fresh one begins the script anew, under the same name. What it did not save is lost.";
    if (await confirmed(`Reset ${this.run.id}?`, question, "Reset the run")) await this.send("reset", {}, "reset");
  }
}
