// Numbers, times and names as people read them, as in the command line: spark_fast/cli/formatting.py.

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A count, with its thousands separated. */
export function count(number) {
  return grouped.format(number);
}

/** A duration in its two largest units: 42s, 5m03s, 2h05m, 3d04h. */
export function duration(seconds) {
  const whole = Math.floor(Math.max(0, seconds));
  for (const [size, unit, below, small] of [
    [86400, "d", 3600, "h"],
    [3600, "h", 60, "m"],
    [60, "m", 1, "s"],
  ]) {
    if (whole >= size) {
      const rest = Math.floor((whole % size) / below);
      return `${Math.floor(whole / size)}${unit}${String(rest).padStart(2, "0")}${small}`;
    }
  }
  return `${whole}s`;
}

/** A duration to the millisecond, as people type it: 500ms, 1.5s, 1h00m, 2h05m30s. */
export function exactDuration(seconds) {
  if (seconds < 1) return `${Number((seconds * 1000).toPrecision(4))}ms`;
  let left = Math.round(seconds * 1000);
  const words = [];
  for (const [size, unit] of [
    [86400000, "d"],
    [3600000, "h"],
    [60000, "m"],
    [1000, "s"],
  ]) {
    const number = Math.floor(left / size);
    left %= size;
    let fraction = "";
    if (unit === "s" && left) {
      fraction = `.${String(left).padStart(3, "0").replace(/0+$/, "")}`;
      left = 0;
    }
    if (words.length || number || unit === "s") {
      words.push(`${words.length ? String(number).padStart(2, "0") : number}${fraction}${unit}`);
    }
    if (words.length > 1 && !left) break;
  }
  return words.join("");
}

/** A number per second, to about three figures. */
export function speed(perSecond) {
  if (perSecond === null || perSecond === undefined) return "–";
  if (perSecond >= 1e6) return `${(perSecond / 1e6).toFixed(1)}M`;
  if (perSecond >= 1e4) return `${(perSecond / 1e3).toFixed(0)}k`;
  if (perSecond >= 100) return perSecond.toFixed(0);
  return perSecond >= 1 ? perSecond.toFixed(1) : String(Number(perSecond.toPrecision(2)));
}

/** Bytes. */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (bytes >= 1024 && at < units.length - 1) {
    bytes /= 1024;
    at += 1;
  }
  return `${at === 0 || bytes >= 100 ? bytes.toFixed(0) : bytes.toFixed(1)} ${units[at]}`;
}

/** The local time, with the date if it is not today. */
export function clock(seconds) {
  const when = new Date(seconds * 1000);
  if (Number.isNaN(when.getTime())) return "?";
  const two = (number) => String(number).padStart(2, "0");
  const time = `${two(when.getHours())}:${two(when.getMinutes())}:${two(when.getSeconds())}`;
  if (when.toDateString() === new Date().toDateString()) return time;
  return `${when.getFullYear()}-${two(when.getMonth() + 1)}-${two(when.getDate())} ${time}`;
}

/** A value on one line; numbers to six figures. */
export function short(value) {
  if (typeof value === "number") return figure(value);
  if (typeof value === "string") return value;
  if (value === null || value === undefined) return "–";
  return JSON.stringify(value);
}

/** A number to six figures, without noise at its end. */
export function figure(number) {
  if (number === null || number === undefined) return "–";
  if (Number.isInteger(number) && Math.abs(number) < 1e15) return String(number);
  return String(Number(number.toPrecision(6)));
}

/** A value as it is typed. */
export function literal(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "string" ? value : String(value);
}

/** JSON over several lines. */
export function json(value) {
  return JSON.stringify(value, null, 2);
}

/** The last part of a path. */
export function base(path) {
  return path.split("/").pop() || path;
}

/** A command without the folder of its script, which is long, and the same for most. */
export function command(words) {
  if (!words || words.length === 0) return "";
  return [base(words[0]), ...words.slice(1)].map(quoted).join(" ");
}

function quoted(word) {
  if (/^[\w@%+=:,./-]+$/.test(word)) return word;
  return `'${word.replaceAll("'", `'"'"'`)}'`;
}

/** The status of a run that has ended. */
const ENDED = new Set(["stopped", "finished", "failed", "lost"]);

export function isLive(run) {
  return !ENDED.has(run.status);
}

/** How far the loops of a run are: "3/20 120/500". */
export function loops(progress) {
  return progress.loops.map(([done, total]) => (total === null ? count(done) : `${count(done)}/${count(total)}`)).join("  ");
}
