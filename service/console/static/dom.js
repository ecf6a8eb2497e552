// Builds elements. Text is always text: nothing here, or anywhere else in the console, parses HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") {
      for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    } else if (name === "style") {
      for (const [key, item] of Object.entries(value)) element.style.setProperty(key, item);
    } else if (name === "value" || name === "checked" || name === "disabled") {
      element[name] = value;
    } else {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

/** An element: `h("p", {class: "muted", on: {click}}, "text", other)`. */
export const h = (tag, props = {}, ...children) => fill(document.createElement(tag), props, children);

/** An element of SVG. */
export const s = (tag, props = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), props, children);

const FOCUSABLE = "a[href], button, input, select, summary, [tabindex='0']";
const nameOf = (one) => `${one.tagName} ${one.dataset.focus ?? one.getAttribute("aria-label") ?? one.labels?.[0]?.textContent ?? one.textContent}`;

/**
 * Replaces what an element contains.
 *
 * The keyboard's place is kept: what had the focus gets it again, or what has its name now, which
 * is `data-focus` where the text may change.
 */
export function show(element, ...children) {
  const held = element.contains(document.activeElement) && document.activeElement !== element ? document.activeElement : null;
  const name = held && nameOf(held);
  element.replaceChildren();
  append(element, children);
  if (held && document.activeElement !== held) {
    const again = held.isConnected ? held : [...element.querySelectorAll(FOCUSABLE)].find((one) => nameOf(one) === name);
    again?.focus({ preventScroll: true });
  }
  return element;
}

/** A name that somebody else chose: isolated, so that right-to-left marks stay inside it. */
export const named = (text) => h("bdi", { class: "name" }, text);

let ids = 0;
export const newId = (prefix = "id") => `${prefix}-${(ids += 1)}`;

/** A labeled control, with a hint below it. */
export function field(label, control, hint) {
  control.id ||= newId("field");
  const note = hint && h("small", { class: "hint", id: `${control.id}-hint` }, hint);
  if (note) control.setAttribute("aria-describedby", note.id);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, note);
}

/** A list to choose from; `options` are texts or `[value, text]`. */
export function choice(options, value, change) {
  const items = options.map((option) => (Array.isArray(option) ? option : [option, option]));
  const select = h(
    "select",
    { on: { change: () => change?.(select.value) } },
    items.map(([key, text]) => h("option", { value: key }, text)),
  );
  if (value !== undefined && value !== null) select.value = value;
  return select;
}

/** A button that is disabled, and says so, while its action runs. */
export function button(text, action, props = {}) {
  const element = h("button", { type: "button", ...props }, text);
  element.addEventListener("click", async (event) => {
    if (element.getAttribute("aria-busy") === "true") return;
    element.setAttribute("aria-busy", "true");
    try {
      await action(event);
    } finally {
      element.removeAttribute("aria-busy");
    }
  });
  return element;
}

/** A dialog that asks before something is lost; resolves to whether to go on. */
export function confirmed(question, yes, no) {
  return new Promise((resolve) => {
    const id = newId("question");
    const dialog = h(
      "dialog",
      { "aria-labelledby": id },
      h("p", { id }, question),
      h(
        "form",
        { method: "dialog", class: "row end" },
        h("button", { value: "no" }, no),
        h("button", { value: "yes", class: "danger" }, yes),
      ),
    );
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "yes");
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** A progress bar with a name. */
export function meter(label, fraction) {
  const element = h("progress", { max: 1, "aria-label": label });
  if (fraction !== null && fraction !== undefined) element.value = fraction;
  return element;
}

/**
 * A table with a caption for screen readers. It can be scrolled by keyboard where it is wide.
 *
 * A `stacked` one becomes a list on a phone, with the head of its column before each value.
 */
export function table(caption, heads, rows, { stacked = false } = {}) {
  const cell = (content, index) => (stacked ? h("td", { "data-label": heads[index] }, h("div", { class: "cell-body" }, content)) : h("td", {}, content));
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h(
      "table",
      { class: stacked ? "stacked" : undefined },
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map(cell)))),
    ),
  );
}

/** What a page is for, while it has nothing to show. */
export const empty = (title, text, ...actions) =>
  h("div", { class: "empty" }, h("h2", {}, title), h("p", {}, text), actions.length > 0 && h("div", { class: "row" }, actions));
