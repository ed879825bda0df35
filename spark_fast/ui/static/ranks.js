// The ranks of a run: how many there are, which are in trouble, and which are alike, as in the command line:
// spark_fast/cli/ranks.py. The server decides whether a rank is in trouble.

import { announce, attribute, Children, el, show, text } from "./dom.js";
import { clock, count, duration } from "./format.js";

/** Up to so many ranks, each has a line. Of more ranks, those that are alike share one. */
const EACH = 16;
/** The most ranges of ranks in a line. */
const SHOWN = 12;

/** Whether the run's job has several ranks, on this host or on others. */
export function several(run) {
  return run.world_size > 1 || run.local_world_size > 1;
}

/** Whether ranks of a run have failed or are lost. */
export function misses(run) {
  return run.present.troubles.some(isMissed);
}

function isMissed({ trouble }) {
  return trouble === "lost" || trouble === "failed";
}

/** How many ranks the run is to have: on all hosts, where those of others are known, else on this one. */
function wanted(run) {
  const here = run.local_world_size;
  return run.present.ranks > here || run.present.hosts > 1 ? run.world_size : here;
}

/** How many ranks there are; for a live run that lacks some, how many of how many. */
export function howMany(run) {
  const { live } = run.present;
  const all = wanted(run);
  return live === 0 || live === all ? count(all) : `${count(live)}/${count(all)}`;
}

/** The troubles of the ranks of a run, in a few words: "rank 3 lost, rank 1 late". */
export function brief(run) {
  if (!several(run)) return "";
  const words = { lost: "lost", failed: "failed", unheard: "not heard", overdue: "late", behind: "behind" };
  const found = [];
  for (const [trouble, word] of Object.entries(words)) {
    const those = run.present.troubles.find((each) => each.trouble === trouble);
    if (those) found.push(`${those.count > those.first.length ? `${count(those.count)} ranks` : name(those.first)} ${word}`);
  }
  return found.join(", ");
}

/** Numbers of ranks: "0-3, 5, 7-63". */
export function ranges(numbers) {
  const found = [];
  for (const number of [...numbers].sort((a, b) => a - b)) {
    const last = found.at(-1);
    if (last && number === last[1] + 1) last[1] = number;
    else found.push([number, number]);
  }
  const words = found.slice(0, SHOWN).map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(", ");
  const more = found.slice(SHOWN).reduce((sum, [first, last]) => sum + last - first + 1, 0);
  return more ? `${words} and ${more} more` : words;
}

function name(numbers) {
  return `rank${numbers.length > 1 ? "s" : ""} ${ranges(numbers)}`;
}

/** The first and the last with a dash; only one if they are equal, empty if there is none. */
function span(found) {
  return [...new Set([found[0], found.at(-1)])].filter((each) => each !== undefined).join("–");
}

function ascending(numbers) {
  return [...numbers].sort((a, b) => a - b);
}

/** How many ranks are there, and which are missing. */
function present(run) {
  const { live, hosts } = run.present;
  const all = wanted(run);
  const unheard = run.ranks.filter(({ trouble }) => trouble === "unheard").map(({ rank }) => rank);
  if (!live && !unheard.length) return `${count(all)}, none of which is there any more.`;
  const words = [`${count(live)} of ${count(all)} ${live === 1 ? "is" : "are"} there${hosts > 1 ? `, on ${count(hosts)} hosts` : ""}`];
  if (unheard.length) words.push(`${name(unheard)} ${unheard.length === 1 ? "is" : "are"} not heard`);
  const known = new Set(run.ranks.map(({ rank }) => rank));
  const late = all === run.world_size ? Array.from({ length: all }, (_, rank) => rank).filter((rank) => !known.has(rank)) : [];
  if (late.length) words.push(`${name(late)} ${late.length === 1 ? "has" : "have"} not ${all === run.local_world_size ? "come yet" : "been heard of"}`);
  if (run.world_size > all) words.push(`the job has ${count(run.world_size)}, ${count(run.world_size - all)} of them on other hosts`);
  return `${words.join("; ")}.`;
}

/** The trouble of ranks that are alike, in words. */
function note(those) {
  const steps = ascending(those.map(({ step }) => step));
  const at = `step${steps[0] === steps.at(-1) ? "" : "s"} ${span(steps.map(count))}`;
  const known = ascending(those.map(({ since }) => since).filter(Boolean));
  const when = span(known.map(clock));
  switch (those[0].trouble) {
    case "lost":
      return `lost${when ? ` since ${when}` : ""}, last seen at ${at}`;
    case "failed":
      return `failed${when ? ` at ${when}` : ""}, at ${at}`;
    case "unheard":
      return `not heard${when ? ` since ${when}` : ""}, last seen at ${at}`;
    case "overdue": {
      const ago = span(ascending(those.map(({ overdue }) => overdue)).map(duration));
      const why = those.length === 1 ? "it hangs, or its step takes long" : "they hang, or their steps take long";
      return `not come to a request that was asked ${ago} ago, and others have: ${why}`;
    }
    case "behind":
      return `${span(ascending(those.map(({ behind }) => behind)).map(count))} steps behind`;
    default:
      return "";
  }
}

/** The ranks in order. Of many ranks, those with the same status and the same trouble share a group. */
function grouped(ranks, each) {
  const alike = new Map();
  for (const rank of [...ranks].sort((a, b) => a.rank - b.rank)) {
    const key = each ? `${rank.rank}` : JSON.stringify([rank.status, rank.trouble, rank.host]);
    if (!alike.has(key)) alike.set(key, []);
    alike.get(key).push(rank);
  }
  return [...alike].map(([key, those]) => ({ key, those }));
}

class Row {
  constructor() {
    this.name = el("th", { scope: "row" });
    this.status = el("span", { class: "status" });
    this.cells = Array.from({ length: 6 }, () => el("td"));
    this.cells[0].append(this.status);
    this.cells[5].className = "rank-note";
    this.node = el("tr", {}, this.name, ...this.cells);
  }

  update({ those }) {
    const [first] = those;
    const now = Date.now() / 1000;
    const since = ascending(those.map((rank) => rank.since).filter(Boolean)).reverse();
    text(this.name, ranges(those.map(({ rank }) => rank)));
    text(this.status, first.status);
    attribute(this.status, "data-status", first.status);
    text(this.cells[1], since.length ? span(since.map((each) => duration(now - each))) : "–");
    attribute(this.cells[1], "title", since.length ? `since ${span([...since].reverse().map(clock))}` : null);
    text(this.cells[2], span(ascending(those.map(({ step }) => step)).map(count)));
    text(this.cells[3], those.length === 1 ? first.pid : `${count(those.length)} processes`);
    text(this.cells[4], first.host);
    text(this.cells[5], note(those));
  }
}

/** The table of all ranks. */
export class Ranks {
  constructor(id) {
    this.id = id;
    this.each = false;
    this.wrong = null;
    this.present = el("p", { class: "hint" });
    this.body = el("tbody");
    const heads = ["Rank", "Status", "For", "Step", "Process", "Host", "Note"].map((head) => el("th", { scope: "col" }, head));
    const turn = () => {
      this.each = !this.each;
      this.#draw();
    };
    this.more = el("button", { type: "button", hidden: true, onclick: turn });
    this.node = el(
      "div",
      {},
      this.present,
      el("div", { class: "scrolls", tabindex: "0", role: "group", "aria-label": "Ranks" }, el("table", { class: "ranks" }, el("thead", {}, el("tr", {}, ...heads)), this.body)),
      this.more,
    );
    this.rows = new Children(this.body, ({ key }) => key, () => new Row(), (row, group) => row.update(group));
  }

  update(run) {
    this.run = run;
    this.#draw();
    this.#announce();
  }

  tick() {
    if (this.run) this.#draw();
  }

  #draw() {
    const { run } = this;
    show(this.present, several(run));
    text(this.present, several(run) ? present(run) : "");
    const few = run.ranks.length <= EACH;
    show(this.more, !few);
    text(this.more, this.each ? "Those that are alike as one" : `Each of the ${count(run.ranks.length)} ranks`);
    this.rows.show(grouped(run.ranks, few || this.each));
  }

  /** Announces new troubles, but not which rank is behind: that changes all the time. */
  #announce() {
    const { run } = this;
    const wrong = new Map();
    for (const { rank, trouble } of several(run) ? run.ranks : []) if (trouble && trouble !== "behind") wrong.set(`${rank} ${trouble}`, rank);
    const news = [...wrong].filter(([key]) => this.wrong && !this.wrong.has(key)).map(([, rank]) => rank);
    this.wrong = wrong;
    for (const { those } of grouped(run.ranks.filter(({ rank }) => news.includes(rank)), false)) {
      announce(`${this.id}: ${name(those.map(({ rank }) => rank))} ${note(those)}`, isMissed(those[0]));
    }
  }
}
