// Compares two versions of a model: the figures of their trainings, or both measured on a dataset.

import { all, at, post } from "./api.js";
import { button, choice, field, h, meter, named, show, table } from "./dom.js";
import { cancel, finished } from "./jobs.js";
import { explain, guarded, submitted } from "./notices.js";
import { number, percent, t } from "./text.js";

const METRICS = ["accuracy", "macro_f1", "loss"];
const LOWER_IS_BETTER = new Set(["loss"]);

/** A version's metrics on the images that it was not trained on. */
export const heldOut = ({ metrics = {} }) =>
  Object.fromEntries(METRICS.map((name) => [name, metrics[`test_${name}`] ?? metrics[`validation_${name}`] ?? metrics[name]]));

/** The section of a model with several versions; `mayMeasure` says whether jobs may be begun. */
export function comparisonOf(name, versions, champion, mayMeasure) {
  const figures = h("div", {});
  const measured = h("div", { class: "stack", "aria-live": "polite" });
  const options = versions.map((one) => [String(one.version), one.version === champion ? t("versions.champion", { version: one.version }) : String(one.version)]);
  const newest = versions[0].version;
  const left = choice(options, String(champion && champion !== newest ? champion : versions[1].version));
  const right = choice(options, String(newest));
  const chosen = () => [left, right].map((select) => versions.find((one) => String(one.version) === select.value));
  const compare = () => {
    show(figures, figuresOf(...chosen()));
    show(measured);
  };
  for (const select of [left, right]) select.addEventListener("change", compare);
  compare();
  return h(
    "section",
    { class: "card stack" },
    h("h2", {}, t("versions.compare")),
    h("div", { class: "grid2" }, field(t("versions.left"), left), field(t("versions.right"), right)),
    figures,
    mayMeasure && measureForm(name, chosen, measured),
    measured,
  );
}

function figuresOf(left, right) {
  const rows = METRICS.map((name) => [name, heldOut(left)[name], heldOut(right)[name]]).filter(([, a, b]) => a !== undefined || b !== undefined);
  if (!rows.length) return h("p", { class: "muted" }, t("versions.nometrics"));
  return table(
    t("versions.compare"),
    [t("versions.metric"), `${t("model.version")} ${left.version}`, `${t("model.version")} ${right.version}`, "Δ"],
    rows.map(([name, a, b]) => {
      const change = b - a;
      const isBetter = LOWER_IS_BETTER.has(name) ? change < 0 : change > 0;
      const delta = Number.isFinite(change) ? `${change > 0 ? "+" : ""}${number(change, 4)}` : "–";
      return [t(`metric.${name}`), ...[a, b].map((value) => (value === undefined ? "–" : number(value, 4))), h("span", { class: !change ? "" : isBetter ? "better" : "worse" }, delta)];
    }),
  );
}

/** Both versions on the same images, as they answer now. */
function measureForm(name, chosen, place) {
  const dataset = choice([["", "–"]], "");
  all("v1/datasets")
    .then((items) => dataset.append(...items.map((one) => h("option", { value: one.id }, one.name))))
    .catch(() => {});
  const measure = submitted(async () => {
    const [left, right] = chosen();
    if (!dataset.value || left === right) {
      show(place, h("p", { class: "warning", role: "alert" }, t(dataset.value ? "versions.same" : "versions.nodataset")));
      return;
    }
    const path = at`v1/models/${name}/versions/${right.version}/evaluations`;
    try {
      const job = await post(path, { json: { dataset_id: dataset.value, against: left.version } });
      const bar = meter(t("kind.evaluation"));
      show(place, bar, h("div", {}, button(t("jobs.cancel"), guarded(() => cancel(job.id)), { class: "danger" })));
      show(place, measuredOf(await finished(job.id, (now) => (bar.value = now.progress.fraction))));
    } catch (error) {
      show(place, h("div", { class: "warning" }, explain(error)));
    }
  });
  return h(
    "form",
    { class: "row controls", on: { submit: measure } },
    field(t("versions.measure.on"), dataset),
    h("button", {}, t("versions.measure")),
  );
}

function measuredOf(job) {
  if (job.state !== "succeeded") return h("p", { class: "warning", role: "alert" }, job.error?.detail ?? t(`state.${job.state}`));
  const { comparison: one, warnings, version, split } = job.result;
  const range = ({ low, high }) => `${percent(low)} – ${percent(high)}`;
  const { accuracy_interval: interval } = job.result;
  const verdict = { better: "good-box", worse: "warning", no_difference: "neutral-box" }[one.verdict];
  return [
    h(
      "div",
      { class: verdict },
      h("h3", {}, t(`versions.verdict.${one.verdict}`, { version, against: one.against })),
      h("p", {}, t("versions.pvalue", { p: number(one.p_value, 4), n: number(one.pictures), split: t(`split.${split}`) })),
    ),
    table(
      t("versions.measured"),
      [t("model.version"), t("train.accuracy"), t("versions.interval"), t("versions.onlyright")],
      [
        [one.against, percent(one.against_accuracy), range(one.against_accuracy_interval), number(one.only_against_right)],
        [version, percent(one.accuracy), range(interval), number(one.only_version_right)],
      ],
    ),
    h("p", { class: "muted" }, t("versions.both", { right: number(one.both_right), wrong: number(one.both_wrong) })),
    warnings.map((warning) => h("p", { class: "warning" }, warning.detail)),
    job.artifacts.length > 0 && h("div", { class: "row" }, job.artifacts.map((file) => h("a", { class: "chip", href: file.url, download: file.name }, named(file.name)))),
  ];
}
