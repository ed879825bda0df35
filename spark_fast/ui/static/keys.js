// Single keys, and the help that lists them.

import { tell } from "./dialogs.js";
import { el, freshId, remember, remembered } from "./dom.js";

const HELP = [
  ["Anywhere", [["?", "this help"], ["g", "the list of runs"]]],
  [
    "The list",
    [
      ["j  k", "the next run, the one before"],
      ["Enter", "open the run"],
      ["/", "find a run"],
    ],
  ],
  [
    "A run (open, or with the focus in its row)",
    [
      ["p", "pause"],
      ["r", "resume"],
      ["a", "advance, by a number of steps"],
      ["l", "reload what changed on disk"],
      ["s", "stop, after a question"],
    ],
  ],
  [
    "An open run",
    [
      ["1 … 6", "values, plots, functions, journal, code, ranks"],
      ["Enter", "in a value: send it"],
      ["Esc", "in a value: take back what was typed"],
      ["Ctrl+Enter", "in the editor and in JSON: send it"],
    ],
  ],
];

/** Calls handle(key) for each key that is pressed outside of inputs and dialogs. handle() returns whether the key means something. */
export function listen(handle) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const target = event.target;
    if (target instanceof Element && target.closest("input, textarea, select, dialog, .js-plotly-plot")) {
      if (!target.closest(".js-plotly-plot")) return;
    }
    if (event.key !== "?" && !remembered("keys", true)) return;
    if (handle(event.key)) event.preventDefault();
  });
}

export function help() {
  const id = freshId();
  const box = el("input", {
    type: "checkbox",
    role: "switch",
    id,
    onchange: () => remember("keys", box.checked),
  });
  box.checked = remembered("keys", true);
  const lists = HELP.map(([heading, keys]) =>
    el(
      "section",
      {},
      el("h3", {}, heading),
      el("dl", { class: "keys" }, ...keys.flatMap(([key, meaning]) => [el("dt", {}, ...caps(key)), el("dd", {}, meaning)])),
    ),
  );
  const plots = el(
    "p",
    {},
    "In a plot: drag to zoom, double click to see the whole run again. Vertical lines are what was asked of the run: the journal lists them.",
  );
  const choice = el("p", { class: "choice" }, box, el("label", { for: id }, "Single keys do this"));
  return tell("Help", el("div", {}, el("div", { class: "help" }, ...lists), plots, choice));
}

function caps(key) {
  return key.split("  ").flatMap((each, at) => (at ? [" ", el("kbd", {}, each)] : [el("kbd", {}, each)]));
}
