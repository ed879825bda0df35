// Makes and changes nodes, always by text and attributes, so that the browser reads nothing from a run as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** A new element. Functions among the attributes are listeners ("onclick"), true and false set or leave out. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** A new SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else attribute(node, name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Sets an attribute if it differs; null and false remove it. */
export function attribute(node, name, value) {
  if (value === null || value === undefined || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
    return;
  }
  const wanted = value === true ? "" : String(value);
  if (node.getAttribute(name) !== wanted) node.setAttribute(name, wanted);
}

/** Sets a node's text if it differs, so that a selection and the position of a screen reader stay. */
export function text(node, value) {
  const wanted = value === null || value === undefined ? "" : String(value);
  if (node.textContent !== wanted) node.textContent = wanted;
}

/** Shows or hides a node. */
export function show(node, visible) {
  attribute(node, "hidden", !visible);
}

/**
 * The children of a parent, one for each item, made once and then updated in place.
 *
 * make(item) returns an object that has `node`, and update(part, item) is called each time. Only children whose place
 * changed are moved, and the focus stays.
 */
export class Children {
  constructor(parent, keyOf, make, update) {
    this.parent = parent;
    this.keyOf = keyOf;
    this.make = make;
    this.update = update;
    this.parts = new Map();
  }

  show(items) {
    const wanted = new Set(items.map(this.keyOf));
    for (const [key, part] of this.parts) {
      if (wanted.has(key)) continue;
      part.leave?.();
      part.node.remove();
      this.parts.delete(key);
    }
    const focused = document.activeElement;
    let at = this.parent.firstElementChild;
    for (const item of items) {
      const key = this.keyOf(item);
      let part = this.parts.get(key);
      if (!part) this.parts.set(key, (part = this.make(item)));
      this.update(part, item);
      if (part.node === at) at = at.nextElementSibling;
      else this.parent.insertBefore(part.node, at);
    }
    if (focused && focused !== document.activeElement && this.parent.contains(focused)) {
      focused.focus({ preventScroll: true });
    }
  }
}

let numbers = 0;

/** An id for a label to point to. */
export function freshId() {
  numbers += 1;
  return `n${numbers}`;
}

/** Announces something to a screen reader; urgent: at once. */
export function announce(message, urgent = false) {
  const region = document.getElementById(urgent ? "urgent" : "polite");
  const line = el("p", {}, message);
  region.append(line);
  setTimeout(() => line.remove(), 10_000);
}

/** A setting that this browser has stored. */
export function remembered(name, fallback) {
  try {
    const found = localStorage.getItem(`spark-fast ${name}`);
    return found === null ? fallback : JSON.parse(found);
  } catch {
    return fallback; // the browser keeps nothing for this page, or something else
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`spark-fast ${name}`, JSON.stringify(value));
  } catch {
    // The browser stores nothing. The caller keeps the value until the page is closed.
  }
}

const ICONS = {
  pause: { d: "M4 3h3v10H4zM9 3h3v10H9z" },
  resume: { d: "M4.5 2.5v11l9-5.5z" },
  advance: { d: "M3 2.5v11l7.5-5.5zM11 3h2v10h-2z" },
  stop: { d: "M3.5 3.5h9v9h-9z" },
  reload: { d: "M13.2 8.6a5.2 5.2 0 1 1-1.4-4.2M13 1.8v3.4H9.6", stroke: true },
};

/** A small drawing that screen readers leave out. */
export function icon(name) {
  const { d, stroke } = ICONS[name];
  return svg(
    "svg",
    { viewBox: "0 0 16 16", class: stroke ? "icon line" : "icon", "aria-hidden": "true", focusable: "false" },
    svg("path", { d }),
  );
}
