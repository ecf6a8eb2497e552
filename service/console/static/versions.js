// The versions of a model: compare, promote, roll back, download, delete.

import { at, get, may, post, request, url } from "./api.js";
import { comparisonOf, heldOut } from "./comparison.js";
import { button, choice, confirmed, h, named, table } from "./dom.js";
import { guarded, notify } from "./notices.js";
import { moment, number, percent, t } from "./text.js";

const FORMATS = ["saved_model", "keras", "tflite", "onnx", "labels"];

export async function versionsOf(name, mayChange, again) {
  const model = await get(at`v1/models/${name}`);
  const path = at`v1/models/${name}`;
  const read = (version) => get(`${path}/versions/${version}`);
  const versions = await Promise.all([...model.versions].reverse().slice(0, 30).map(read));
  const champion = model.aliases.champion;
  return [
    h(
      "section",
      { class: "card" },
      h("div", { class: "row spread" }, h("h2", {}, named(name)), h("a", { class: "button primary", href: `#/classify?model=${encodeURIComponent(name)}` }, t("train.try"))),
      h("p", { class: "muted" }, [model.network, model.classes && t("versions.classes", { n: number(model.classes) }), model.runtime].filter(Boolean).join(" · ")),
      table(t("versions.title"), ["model.version", "train.accuracy", "jobs.created", "jobs.actions"].map((key) => t(key)), versions.map((one) => row(one, { path, champion, mayChange, again })), { stacked: true }),
      !mayChange && h("p", { class: "muted" }, t("versions.scope")),
    ),
    versions.length > 1 && comparisonOf(name, versions, champion, may("train")),
  ];
}

/** An action whose errors are reported; the list is read again if what it was about is gone. */
const acting = (again, action) =>
  guarded(async (value) => {
    try {
      await action(value);
    } catch (error) {
      if (error.status === 404) await again();
      throw error;
    }
  });

function row(one, { path, champion, mayChange, again }) {
  const isChampion = one.version === champion;
  const { accuracy } = heldOut(one);
  const promote = acting(again, async () => {
    await post(`${path}/aliases`, { json: { alias: "champion", version: one.version } });
    notify(t("versions.promoted", { version: one.version }), "good");
    await again();
  });
  const remove = acting(again, async () => {
    if (!(await confirmed(t("versions.delete.ask", { version: one.version }), t("jobs.delete"), t("app.cancel")))) return;
    await request("DELETE", `${path}/versions/${one.version}`);
    await again();
  });
  const download = acting(again, async (value) => {
    const file = `${path}/versions/${one.version}/download?format=${value}`;
    // An error is shown here; the browser would show it in place of the page.
    await request("HEAD", file).catch(() => request("GET", file));
    h("a", { href: url(file), download: "" }).click();
  });
  const format = choice([["", t("versions.download")], ...FORMATS], "", (value) => {
    if (value) download(value);
    format.value = "";
  });
  format.setAttribute("aria-label", t("versions.download.of", { version: one.version }));
  return [
    h("div", { class: "row tight" }, h("strong", {}, one.version), isChampion && h("span", { class: "state ready" }, "champion")),
    accuracy === undefined ? "–" : percent(accuracy),
    moment(one.created_at),
    h(
      "div",
      { class: "row tight" },
      mayChange && !isChampion && button(t(one.version < champion ? "versions.rollback" : "versions.promote"), promote, { "aria-label": t("versions.promote.of", { version: one.version }) }),
      mayChange && format,
      mayChange && !isChampion && button(t("jobs.delete"), remove, { class: "danger", "aria-label": t("versions.delete.of", { version: one.version }) }),
    ),
  ];
}
