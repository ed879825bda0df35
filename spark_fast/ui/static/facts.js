// Facts of a run that both views show: its status, its progress.

import { attribute, el, show, text } from "./dom.js";
import { clock, count, duration, isLive, loops } from "./format.js";
import { brief } from "./ranks.js";

const SILENT_SECONDS = 10;

/** The status, with a word on its trouble. */
export class Status {
  constructor() {
    this.word = el("span", { class: "status" });
    this.note = el("span", { class: "note" });
    this.node = el("div", { class: "status-cell" }, this.word, this.note);
  }

  update(run) {
    attribute(this.word, "data-status", run.status);
    text(this.word, run.status);
    let note = "";
    let why = null;
    let warns = false;
    const silent = silence(run);
    const wrong = isLive(run) ? brief(run) : "";
    if (run.error) {
      note = run.error.message;
      warns = true;
    } else if (typeof run.swallowed_stop === "number") {
      note = `swallowed the stop at step ${count(run.swallowed_stop)}`;
      why = "Its loop caught SparkStopError and goes on. To end it, the code has to let that exception through.";
      warns = true;
    } else if (wrong) {
      note = wrong;
      warns = true;
    } else if (run.status === "paused" && run.resumes) note = `goes on at ${clock(run.resumes)}`;
    else if (isLive(run) && run.status !== "paused" && silent > SILENT_SECONDS) {
      note = `no checkpoint for ${duration(silent)}`;
      warns = true;
    }
    text(this.note, note);
    show(this.note, note !== "");
    attribute(this.note, "title", why);
    this.note.classList.toggle("warns", warns);
  }
}

/** For how long a run has passed no checkpoint. The page counts by itself: such a run makes no events. */
function silence(run) {
  return typeof run.since_checkpoint === "number" ? run.since_checkpoint + (Date.now() - run.received) / 1000 : 0;
}

/** A bar, how many of how many, and the time that is left. */
export class Progress {
  constructor() {
    this.bar = el("progress", { max: "1", "aria-label": "progress" });
    this.words = el("span", { class: "progress-words" });
    this.node = el("div", { class: "progress" }, this.bar, this.words);
  }

  update(run) {
    const progress = run.progress;
    const known = progress !== null && progress !== undefined;
    const fraction = known ? progress.fraction : null;
    show(this.bar, fraction !== null);
    if (fraction !== null) attribute(this.bar, "value", fraction.toFixed(4));
    const words = known ? [loops(progress)] : ["–"];
    if (known && progress.seconds_left !== null && isLive(run)) words.push(`${duration(progress.seconds_left)} left`);
    text(this.words, words.join(" · "));
  }
}

/** When the sender of the stop kills the processes, and how much time is left; empty if the sender did not say. */
export function stopBy(run) {
  if (!run.stop_by || !isLive(run)) return "";
  const left = run.stop_by - Date.now() / 1000;
  return `${clock(run.stop_by)}, ${left > 0 ? `${duration(left)} left` : "which is over"}`;
}

/** How long a run has been live, or when it ended. */
export function age(run) {
  const now = Date.now() / 1000;
  if (isLive(run)) return duration(now - run.started);
  return run.ended === null ? "–" : `${duration(now - run.ended)} ago`;
}

