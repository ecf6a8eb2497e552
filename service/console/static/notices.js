// Messages at the top of the page, which screen readers announce.

import { ApiError } from "./api.js";
import { button, h } from "./dom.js";
import { t } from "./text.js";

const place = document.getElementById("notices");

/** Shows a message; `kind` is info, good or bad. Returns a function that removes it. */
export function notify(message, kind = "info", { seconds = 8, key } = {}) {
  if (key) place.querySelector(`[data-key="${key}"]`)?.remove();
  const box = h("div", { class: `notice ${kind}`, "data-key": key });
  box.append(h("div", {}, [message].flat()), button("×", () => box.remove(), { class: "close", "aria-label": t("app.close") }));
  for (const one of [...place.children]) if (one.textContent === box.textContent) one.remove();
  place.append(box);
  while (place.children.length > 4) place.firstChild.remove();
  if (seconds) setTimeout(() => box.remove(), 1000 * seconds);
  return () => box.remove();
}

/** What an error says, as the API words it, and what to do about it. */
export function explain(error) {
  if (!(error instanceof ApiError)) return h("p", {}, t("error.page"));
  const isLong = error.errors.length > 0;
  return h(
    "div",
    { class: "problem" },
    h("p", {}, error.message),
    isLong && h("ul", {}, error.errors.slice(0, 5).map((one) => h("li", {}, `${[one.loc].flat().join(" › ")}: ${one.msg}`))),
    error.advice && h("p", { class: "muted" }, error.advice),
    error.retryAfter && h("p", { class: "muted" }, t("error.retry", { seconds: error.retryAfter })),
  );
}

/** Shows an error at the top of the page. An interrupted request is none. */
export function report(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof ApiError)) console.error(error);
  notify(explain(error), "bad", { seconds: 20 });
}

/** Removes all messages: they may show what only the person who was signed in should see. */
export const clearNotices = () => place.replaceChildren();

const REST_MS = 600; // a second click of a double click comes sooner

/** The handler of a form: until its action is done, and a moment longer, it begins nothing more. */
export const submitted = (action, rest = REST_MS) => async (event) => {
  event.preventDefault();
  const form = event.currentTarget;
  if (form.getAttribute("aria-busy") === "true") return;
  form.setAttribute("aria-busy", "true");
  try {
    await action(event);
    if (form.isConnected) await new Promise((resolve) => setTimeout(resolve, rest));
  } catch (error) {
    report(error);
  } finally {
    form.removeAttribute("aria-busy");
  }
};

/** An action whose errors are reported. */
export const guarded =
  (action) =>
  async (...values) => {
    try {
      return await action(...values);
    } catch (error) {
      report(error);
      return undefined;
    }
  };
