// A small curve without axes: the last minute or so of one number.

import { attribute, svg } from "./dom.js";

const WIDTH = 72;
const HEIGHT = 20;
const POINTS = 60;

export class Curve {
  constructor() {
    this.points = [];
    this.line = svg("polyline", { class: "curve-line" });
    this.node = svg(
      "svg",
      { class: "curve", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true", preserveAspectRatio: "none" },
      this.line,
    );
  }

  /** Draws the curve through these numbers; null is a gap. */
  show(numbers) {
    const known = numbers.filter((number) => number !== null);
    if (known.length < 2) {
      attribute(this.line, "points", null);
      return;
    }
    const top = Math.max(...known);
    const scale = top > 0 ? (HEIGHT - 2) / top : 0;
    const gap = WIDTH / (POINTS - 1);
    const left = WIDTH - (numbers.length - 1) * gap;
    const points = numbers.map((number, at) => `${(left + at * gap).toFixed(1)},${(HEIGHT - 1 - (number ?? 0) * scale).toFixed(1)}`);
    attribute(this.line, "points", points.join(" "));
  }
}

/** The path of a line through (xs, ys) on a field of this size, for the time until the plot library is there. A null is a gap. */
export function sketch(xs, ys, width, height) {
  const known = ys.filter((y) => y !== null);
  if (known.length === 0) return "";
  const [left, bottom, top] = [xs[0], Math.min(...known), Math.max(...known)];
  const across = (xs.at(-1) - left) / width || 1;
  const up = (top - bottom) / height || 1;
  let pen = "M";
  let path = "";
  ys.forEach((y, at) => {
    if (y === null) pen = "M";
    else {
      path += `${pen}${((xs[at] - left) / across).toFixed(1)} ${(height - (y - bottom) / up).toFixed(1)}`;
      pen = "L";
    }
  });
  return path;
}

/** The speeds of all runs, once a second since this page was opened. */
export class Speeds {
  constructor() {
    this.known = new Map();
  }

  note(runs) {
    for (const id of this.known.keys()) if (!runs.has(id)) this.known.delete(id);
    for (const [id, run] of runs) {
      let points = this.known.get(id);
      if (!points) this.known.set(id, (points = []));
      points.push(run.steps_per_second ?? null);
      if (points.length > POINTS) points.shift();
    }
  }

  of(id) {
    return this.known.get(id) ?? [];
  }
}
