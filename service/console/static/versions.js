// The versions of a model: compare, promote, roll back, download, delete.

import { get, post, request, url } from "./api.js";
import { button, choice, confirmed, field, h, named, show, table } from "./dom.js";
import { guarded, notify } from "./notices.js";
import { moment, number, percent, t } from "./text.js";

const FORMATS = ["saved_model", "keras", "tflite", "onnx", "labels"];
const METRICS = ["accuracy", "macro_f1", "loss"];

export async function versionsOf(name, mayChange, again) {
  const model = await get(`v1/models/${encodeURIComponent(name)}`);
  const path = `v1/models/${encodeURIComponent(name)}`;
  const read = (version) => get(`${path}/versions/${version}`);
  const versions = await Promise.all([...model.versions].reverse().slice(0, 30).map(read));
  const champion = model.aliases.champion;
  const compared = h("div", {});
  const options = versions.map((one) => [String(one.version), String(one.version)]);
  const [left, right] = [choice(options, String(champion ?? versions[0]?.version)), choice(options, String(versions[0]?.version))];
  const compare = () => show(compared, comparison(...[left, right].map((select) => versions.find((one) => String(one.version) === select.value))));
  for (const select of [left, right]) select.addEventListener("change", compare);
  if (versions.length > 1) compare();
  return [
    h(
      "section",
      { class: "card" },
      h("div", { class: "row spread" }, h("h2", {}, named(name)), h("a", { class: "button primary", href: `#/classify?model=${encodeURIComponent(name)}` }, t("train.try"))),
      h("p", { class: "muted" }, [model.network, model.classes && t("versions.classes", { n: number(model.classes) }), model.runtime].filter(Boolean).join(" · ")),
      table(t("versions.title"), ["model.version", "train.accuracy", "jobs.created", "jobs.actions"].map((key) => t(key)), versions.map((one) => row(one, { path, champion, mayChange, again }))),
      !mayChange && h("p", { class: "muted" }, t("versions.scope")),
    ),
    versions.length > 1 && h("section", { class: "card" }, h("h2", {}, t("versions.compare")), h("div", { class: "grid2" }, field(t("versions.left"), left), field(t("versions.right"), right)), compared),
  ];
}

/** A version's metrics on the images that it was not trained on. */
const heldOut = ({ metrics = {} }) =>
  Object.fromEntries(METRICS.map((name) => [name, metrics[`test_${name}`] ?? metrics[`validation_${name}`] ?? metrics[name]]));

function row(one, { path, champion, mayChange, again }) {
  const isChampion = one.version === champion;
  const { accuracy } = heldOut(one);
  const promote = guarded(async () => {
    await post(`${path}/aliases`, { json: { alias: "champion", version: one.version } });
    notify(t("versions.promoted", { version: one.version }), "good");
    await again();
  });
  const remove = guarded(async () => {
    if (!(await confirmed(t("versions.delete.ask", { version: one.version }), t("jobs.delete"), t("app.cancel")))) return;
    await request("DELETE", `${path}/versions/${one.version}`);
    await again();
  });
  const format = choice([["", t("versions.download")], ...FORMATS], "", (value) => {
    if (value) location.assign(url(`${path}/versions/${one.version}/download?format=${value}`));
    format.value = "";
  });
  format.setAttribute("aria-label", t("versions.download.of", { version: one.version }));
  return [
    [h("strong", {}, one.version), isChampion && h("span", { class: "state ready" }, "champion")],
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

function comparison(left, right) {
  const rows = METRICS.map((name) => [name, heldOut(left)[name], heldOut(right)[name]]).filter(([, a, b]) => a !== undefined || b !== undefined);
  if (!rows.length) return h("p", { class: "muted" }, t("versions.nometrics"));
  const lower = new Set(["loss"]);
  return table(
    t("versions.compare"),
    [t("versions.metric"), `${t("model.version")} ${left.version}`, `${t("model.version")} ${right.version}`, "Δ"],
    rows.map(([name, a, b]) => {
      const change = b - a;
      const isBetter = lower.has(name) ? change < 0 : change > 0;
      return [t(`metric.${name}`), number(a ?? NaN, 4), number(b ?? NaN, 4), h("span", { class: change === 0 ? "" : isBetter ? "better" : "worse" }, `${change > 0 ? "+" : ""}${number(change, 4)}`)];
    }),
  );
}
