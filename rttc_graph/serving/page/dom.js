// Elements from data. Texts become text nodes and nothing is ever parsed as HTML, so that a sample,
// a question or an answer cannot bring markup along.

const PROPERTIES = new Set(["value", "checked", "disabled", "selected", "open", "htmlFor"]);
const SVG = "http://www.w3.org/2000/svg";

function filled(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "css") for (const [key, set] of Object.entries(value)) element.style.setProperty(key, set);
    else if (PROPERTIES.has(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const h = (tag, props, ...children) => filled(document.createElement(tag), props, children);
export const svg = (tag, props, ...children) => filled(document.createElementNS(SVG, tag), props, children);

/** A name with its value, in a `dl`. */
export const fact = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
/** Text for those who listen. */
export const unseen = (text) => h("span", { class: "unseen" }, text);

let last = 0;
export const newId = (prefix = "f") => `${prefix}${(last += 1)}`;

/** A label with its control and, if there is one, a hint that the control is described by. */
export function field(label, control, hint) {
  control.id ||= newId();
  const told = hint && h("small", { id: `${control.id}-hint` }, hint);
  if (told) control.setAttribute("aria-describedby", told.id);
  return h("div", { class: "field" }, h("label", { htmlFor: control.id }, label), control, told);
}

export const input = (props) => h("input", { type: "text", autocomplete: "off", ...props });

/** A select of texts, or of pairs of value and text. */
export function choice(options, chosen, props) {
  return h("select", props, options.map((option) => {
    const [value, text] = Array.isArray(option) ? option : [option, option];
    return h("option", { value, selected: value === chosen }, text);
  }));
}

export function button(text, onclick, props) {
  return h("button", { type: "button", onclick, ...props }, text);
}

export const number = (value, digits = 3) => (value === null || value === undefined ? "–" : Number(value).toFixed(digits));
export const percent = (value) => (value === null || value === undefined || Number.isNaN(value) ? "–" : `${(100 * value).toFixed(1)} %`);
export const seconds = (value) => (value >= 100 ? `${value.toFixed(0)} s` : `${value.toFixed(2)} s`);
export const count = (value) => Number(value).toLocaleString("en");
export const moment = (text) => new Date(text).toISOString().slice(0, 16).replace("T", " ");
export const short = (text, most = 140) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/** Say something to everybody, also to those who do not look. */
export function note(text, kind = "") {
  const shown = h("p", { class: `note ${kind}` }, text);
  document.getElementById("notes").append(shown);
  setTimeout(() => shown.remove(), kind === "bad" ? 12000 : 6000);
}

/** An error in words, where the work was. */
export function problem(error) {
  return h("p", { class: "problem", role: "alert" }, error.message || String(error));
}

/** Run work for a button: it cannot be pressed twice, and what fails is said. */
export async function busy(pressed, work) {
  pressed.disabled = true;
  try {
    return await work();
  } catch (error) {
    note(error.message || String(error), "bad");
    return undefined;
  } finally {
    pressed.disabled = false;
  }
}

/** A table; the first column is the name of its row. */
export function table(caption, columns, rows, props) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", props,
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, rows)));
}

/** Ask a question and return whether it was confirmed. */
export function confirmed(title, text, yes) {
  return dialog(title, [h("p", {}, text)], yes, () => true, "danger");
}

/**
 * Show a dialog with a form; returns what `take` gives, or undefined where it was left.
 * What `take` throws is said in the dialog, which stays open.
 */
export function dialog(title, parts, yes, take, kind = "main") {
  return new Promise((resolve) => {
    const failed = h("div", {});
    const submit = h("button", { type: "submit", class: kind }, yes);
    let result;
    const form = h("form", {
      onsubmit: async (event) => {
        event.preventDefault();
        submit.disabled = true;
        try {
          result = await take();
          shown.close();
        } catch (error) {
          failed.replaceChildren(problem(error));
        } finally {
          submit.disabled = false;
        }
      },
    }, h("h2", { id: newId("d") }, title), parts, failed,
    h("div", { class: "actions" }, submit, button("Cancel", () => shown.close())));
    const shown = h("dialog", { "aria-labelledby": form.firstChild.id, onclose: () => { shown.remove(); resolve(result); } }, form);
    document.body.append(shown);
    shown.showModal();
  });
}
