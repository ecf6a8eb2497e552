// The frame: pages by the address's fragment, sign-in, theme, language, and the connection.

import { events, get, post, request, root, session } from "./api.js";
import { button, field, h, show } from "./dom.js";
import { clearNotices, explain, guarded, notify, report, submitted } from "./notices.js";
import * as classify from "./pages/classify.js";
import * as create from "./pages/create.js";
import * as faces from "./pages/faces.js";
import * as jobs from "./pages/jobs.js";
import * as learn from "./pages/learn.js";
import * as system from "./pages/system.js";
import { language, t } from "./text.js";

const PAGES = { classify, learn, faces, create, jobs, system };
const main = document.getElementById("main");
const html = document.documentElement;

let leave = () => {};
let visit = 0;
let isShown = true;

/** Shows the page that the address names. */
async function open() {
  const number = (visit += 1);
  isShown = true;
  leave();
  leave = () => {};
  const [, name = "classify", search = ""] = location.hash.match(/^#\/(\w+)(?:\?(.*))?$/) ?? [];
  const page = PAGES[name] ? name : "classify";
  document.title = `${t(`nav.${page}`)} · Opsin`;
  for (const link of document.querySelectorAll("#pages a")) {
    if (link.dataset.page === page) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!session.current) return;
  const place = h("div", { class: "page stack" }, h("h1", {}, t(`nav.${page}`)), h("p", { class: "muted" }, t("app.loading")));
  show(main, place);
  try {
    const done = await PAGES[page].render(place, { query: new URLSearchParams(search) });
    if (number === visit) leave = done ?? leave;
    else done?.();
  } catch (error) {
    if (number === visit) isShown = false;
    if (number === visit) show(place, h("h1", {}, t(`nav.${page}`)), h("section", { class: "card" }, explain(error), h("div", {}, button(t("app.retry"), open))));
    if (error.name === "TypeError") report(error);
  }
}

window.addEventListener("hashchange", () => {
  open();
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
});

/** Reads who I am; without a key where one is needed, asks for it. */
async function start() {
  try {
    session.current = await get("v1/session", {}, { quiet: true });
  } catch (error) {
    session.current = null;
    drawTools();
    if (error.code === "unauthorized") askForKey();
    else show(main, h("section", { class: "card narrow" }, h("h1", {}, t("app.title")), explain(error), h("div", {}, button(t("app.retry"), start))));
    return;
  }
  html.dataset.needsKey = String(session.current.signed_in_by !== "none");
  keyId = session.current.key_id;
  drawTools();
  await open();
}

let keyId = null; // whose page this is

function askForKey(message = storedMessage()) {
  leave();
  leave = () => {};
  clearNotices();
  const key = h("input", { type: "password", required: true, autocomplete: "current-password", spellcheck: "false" });
  const problem = h("div", { role: "alert" }, message && h("p", {}, message));
  const signIn = async () => {
    try {
      session.current = await post("v1/session", { headers: { Authorization: `Bearer ${key.value.trim()}` }, quiet: true });
      key.value = "";
      if (keyId !== null && keyId !== session.current.key_id) {
        location.reload(); // somebody else: nothing of the one before is left
        return;
      }
      keyId = session.current.key_id;
      html.dataset.needsKey = "true";
      drawTools();
      await open();
      main.focus();
    } catch (error) {
      show(problem, explain(error));
      key.select();
    }
  };
  show(
    main,
    h(
      "form",
      { class: "card narrow stack", on: { submit: submitted(signIn, 0) } },
      h("h1", {}, t("signin.title")),
      h("p", { class: "muted" }, t("signin.about")),
      field(t("signin.key"), key, t("signin.hint")),
      problem,
      h("div", {}, h("button", { class: "primary" }, t("signin.do"))),
    ),
  );
  key.focus();
}

const MESSAGE = "opsin.message";
const tabs = new BroadcastChannel(`opsin ${root.pathname}`);

/** A message for after a reload; only once. */
function storedMessage() {
  try {
    const message = sessionStorage.getItem(MESSAGE);
    sessionStorage.removeItem(MESSAGE);
    return message;
  } catch {
    return null;
  }
}

/** Begins anew, so that neither an image nor an answer of this person stays in the page. */
function forget(message) {
  try {
    sessionStorage.setItem(MESSAGE, message);
  } catch {
    // Without storage there is no message.
  }
  location.reload();
}

const signOut = guarded(async (message) => {
  await request("DELETE", "v1/session");
  session.current = null;
  tabs.postMessage(message);
  forget(message);
});

tabs.addEventListener("message", ({ data }) => session.current?.signed_in_by === "session" && forget(data));

// A page that the browser kept while another was shown may be that of an ended session.
addEventListener("pageshow", (event) => event.persisted && start());

function drawTools() {
  const other = language === "zh" ? "en" : "zh";
  const switchLanguage = () => {
    const path = root.pathname.replace(/;/g, "%3B");
    document.cookie = `opsin_language=${other}; Path=${path}; SameSite=Strict; Max-Age=31536000`;
    location.reload();
  };
  show(
    document.getElementById("tools"),
    button(other === "zh" ? "中文" : "English", switchLanguage, { class: "plain", lang: other === "zh" ? "zh-Hans" : "en" }),
    button("◐", switchTheme, { class: "plain", "aria-label": t("app.theme"), title: t("app.theme") }),
    session.current?.signed_in_by === "session" && button(t("signin.leave"), () => signOut(t("signin.out")), { class: "plain" }),
  );
}

function switchTheme() {
  const isDark = html.dataset.theme ? html.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  html.dataset.theme = isDark ? "light" : "dark";
  try {
    localStorage.setItem("opsin.theme", html.dataset.theme);
  } catch {
    // It then lasts until the page is closed.
  }
}

events.addEventListener("unauthorized", () => {
  if (!session.current) return;
  session.current = null;
  drawTools();
  askForKey(t("signin.ended"));
});

let hideLoss = null;
events.addEventListener("unreachable", () => {
  hideLoss ??= notify(t("app.lost"), "bad", { seconds: 0, key: "connection" });
});
events.addEventListener("reachable", async () => {
  hideLoss?.();
  hideLoss = null;
  notify(t("app.back"), "good", { seconds: 4, key: "connection" });
  if (!session.current) await start();
  else if (!isShown) await open();
});

/** An open tab that nobody uses ends its session too: only requests renew it, and pages poll. */
let usedAt = Date.now();
for (const name of ["pointerdown", "keydown", "wheel", "touchstart"]) {
  addEventListener(name, () => (usedAt = Date.now()), { passive: true });
}
setInterval(() => {
  const idle = session.current?.idle_seconds;
  if (idle && Date.now() - usedAt > 1000 * idle) signOut(t("signin.idle"));
}, 10_000);

start();
