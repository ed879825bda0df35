// Questions to the user, in the page itself.

import { el, freshId } from "./dom.js";

/**
 * Shows a dialog and waits for its answer: what `read` returns when it is confirmed, else null.
 *
 * read may return undefined: then the dialog stays, since what was typed does not fit.
 */
function open({ title, content, confirm, danger = false, read = () => true, first = null }) {
  return new Promise((answer) => {
    const id = freshId();
    const before = document.activeElement;
    const cancel = confirm ? el("button", { type: "button", onclick: () => dialog.close() }, "Cancel") : null;
    const submit = el("button", { type: "submit", class: danger ? "danger" : "primary" }, confirm ?? "Close");
    const form = el("form", { method: "dialog", novalidate: true }, content, el("div", { class: "buttons" }, cancel, submit));
    const dialog = el("dialog", { "aria-labelledby": id }, el("h2", { id }, title), form);
    let result = null;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const found = read();
      if (found === undefined) return;
      result = found;
      dialog.close();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (before?.isConnected) before.focus();
      answer(result);
    });
    document.body.append(dialog);
    dialog.showModal();
    (first ?? (danger ? cancel : submit)).focus();
  });
}

/** Asks the user to confirm something. */
export async function confirmed(title, text, confirm) {
  return (await open({ title, content: el("p", {}, text), confirm, danger: true })) === true;
}

/** Asks for numbers: fields are {name, label, value, min, whole, required}. Returns them by name, or null. */
export function numbers(title, fields, confirm, note = null) {
  const inputs = fields.map((field) => {
    const id = freshId();
    const problem = el("p", { class: "problem", id: `${id}p`, role: "alert", hidden: true });
    const input = el("input", {
      id,
      type: "text",
      inputmode: field.whole ? "numeric" : "decimal",
      autocomplete: "off",
      value: field.value ?? "",
      "aria-describedby": `${id}p`,
    });
    return { field, input, problem, node: el("div", { class: "field" }, el("label", { for: id }, field.label), input, problem) };
  });
  const read = () => {
    const found = {};
    for (const { field, input, problem } of inputs) {
      const typed = input.value.trim();
      const number = Number(typed);
      let wrong = "";
      if (typed === "") {
        if (field.required) wrong = "a number is needed";
        else continue;
      } else if (!Number.isFinite(number)) wrong = `${typed} is no number`;
      else if (field.whole && !Number.isSafeInteger(number)) wrong = "a whole number is needed";
      else if (number < field.min || (field.above && number <= field.min)) {
        wrong = field.above ? `more than ${field.min} is needed` : `${field.min} or more is needed`;
      }
      problem.textContent = wrong;
      problem.hidden = wrong === "";
      input.setAttribute("aria-invalid", String(wrong !== ""));
      if (wrong) {
        input.focus();
        return undefined;
      }
      found[field.name] = number;
    }
    return found;
  };
  const content = el("div", {}, note ? el("p", {}, note) : null, ...inputs.map(({ node }) => node));
  const answer = open({ title, content, confirm, read, first: inputs[0].input });
  inputs[0].input.select();
  return answer;
}

/** Shows something to read. */
export function tell(title, content) {
  return open({ title, content });
}
