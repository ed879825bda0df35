// The traces and the layout for the plot library, made of histories, marks and colours.

import { count, figure } from "./format.js";

const MARKS = 80;
const LABEL_WIDTH = 56;
/** Colours for values, in turn. */
export const COLOURS = 6;
/** A history of at most so many points is drawn as steps: between two points the value does not change. */
export const SPARSE = 60;

/** The colours of the page's style at a node. */
export function colours(node) {
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

/** The history as it is drawn: one of few points goes on to the step `last`, and a logarithmic one has positive numbers only. */
export function drawn(history, last, log) {
  let { steps, mean, low, high } = history;
  const sparse = steps.length <= SPARSE;
  if (sparse && steps.length > 0 && last > steps.at(-1)) {
    const more = (numbers) => [...numbers, history.last.at(-1)];
    [steps, mean, low, high] = [[...steps, last], more(mean), more(low), more(high)];
  }
  if (log) {
    const least = Math.min(...mean.filter((number) => number > 0));
    low = low.map((number) => (number === null || number > 0 ? number : least));
  }
  return { steps, mean, low, high, sparse };
}

/** The layout of a plot. last: the step at which the run is; log: whether the values have a logarithmic axis. */
export function layoutOf({ theme, marks: all, last, log, width, height }) {
  const axis = {
    gridcolor: theme.grid,
    linecolor: theme.grid,
    zeroline: false,
    tickfont: { size: 11, color: theme.text },
    fixedrange: false,
    automargin: true,
  };
  const marks = all.slice(-MARKS);
  const labelled = apart(marks, ((LABEL_WIDTH / Math.max(width, 1)) * last) | 0);
  return {
    autosize: false,
    width: Math.max(160, Math.floor(width)),
    height: Math.floor(height),
    margin: { l: 8, r: 10, t: marks.length ? 16 : 6, b: 8 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", color: theme.text },
    showlegend: false,
    hovermode: "x",
    dragmode: "zoom",
    uirevision: log ? "log" : "linear",
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
    yaxis: { ...axis, type: log ? "log" : "linear", exponentformat: "power", nticks: 6 },
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

/** Escapes a text, so that the library shows it as it is. */
function plain(words) {
  return words.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

/** The history without its first entry, of step 0, where the script assigns the value often: `expose(loss=0.0)` is no loss. */
export function measured(history) {
  if (!history || history.steps.length <= SPARSE || history.steps[0] !== 0) return history;
  return Object.fromEntries(Object.entries(history).map(([name, numbers]) => [name, numbers.slice(1)]));
}

/** A line, and behind it a band from the lowest to the highest number, where points were merged. */
export function lines(history, at, theme) {
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

/** The marks that have room for a label, the newest first. gap: the least distance, in steps. */
function apart(marks, gap) {
  const found = [];
  for (const mark of [...marks].reverse()) if (found.length === 0 || found.at(-1).step - mark.step >= gap) found.push(mark);
  return found;
}

function clipped(title) {
  return title.length > 14 ? `${title.slice(0, 13)}…` : title;
}

export function nearest(steps, step) {
  let [from, to] = [0, steps.length - 1];
  while (to - from > 1) {
    const middle = (from + to) >> 1;
    if (steps[middle] <= step) from = middle;
    else to = middle;
  }
  return to >= 0 && Math.abs(steps[to] - step) < Math.abs(steps[from] - step) ? to : from <= to ? from : -1;
}

export function summary(histories) {
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
