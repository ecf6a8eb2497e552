// What a version took the held-out images for: the pictures behind the cells of a confusion matrix.

import { all, at, get, post } from "./api.js";
import { button, h, named, newId } from "./dom.js";
import { drawHeatmap } from "./heatmap.js";
import { guarded } from "./notices.js";
import { thumbnail } from "./report.js";
import { percent, t } from "./text.js";

const TABLE = "predictions.csv";

/** The rows of a CSV file as objects, by the names in its first row; fields may be quoted. */
export function rowsOf(text) {
  const rows = [[]];
  for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/g)) {
    rows.at(-1).push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
    if (end !== ",") rows.push([]);
  }
  const [names, ...values] = rows.filter((row) => row.length > 1);
  return values.map((row) => Object.fromEntries(names.map((name, index) => [name, row[index]])));
}

const known = new Map();
const once = (key, read) => {
  if (!known.has(key)) {
    const reading = read();
    reading.catch(() => known.delete(key));
    known.set(key, reading);
  }
  return known.get(key);
};

/** The held-out images with their answers; null for a training of a release that kept none. */
export function answersOf(job) {
  if (!job.artifacts.some((one) => one.name === TABLE)) return Promise.resolve(null);
  return once(`${job.id}:answers`, async () => rowsOf(await (await get(at`v1/jobs/${job.id}/artifacts/${TABLE}`, {}, { accept: "text/csv" })).text()));
}

/** The dataset of a training; undefined if it was deleted. */
function datasetOf(job) {
  const { dataset_digest: digest, spec } = job.result.provenance;
  return once(`${job.id}:dataset`, async () => {
    const datasets = await all("v1/datasets");
    return datasets.find((one) => one.id === spec?.dataset_id) ?? datasets.find((one) => one.digest === digest);
  });
}

/** The files of one class of a training's dataset, by digest. */
export async function filesOf(job, label) {
  const dataset = await datasetOf(job);
  if (!dataset) return { dataset, files: new Map() };
  const items = await once(`${job.id}:${label}`, () => all(at`v1/datasets/${dataset.id}/files`, { status: "admitted", label }, 20_000));
  return { dataset, files: new Map(items.map((file) => [file.sha256, file])) };
}

/**
 * An answer as a card: the picture, what the model said and, on request, what it looked at.
 *
 * Answers `{element, explain}`; `explain` draws the heatmap.
 */
export function answerCard(job, answer, dataset, file) {
  const stage = h("div", { class: "stage small" }, file ? thumbnail(dataset.id, file.id, answer.name) : h("span", { class: "muted", "aria-hidden": "true" }, "∅"));
  const explain = async () => {
    const blob = await get(at`v1/datasets/${dataset.id}/files/${file.id}/thumbnail`, {}, { accept: "image/*" });
    const { model, version } = job.result;
    const heatmap = await post("v1/heatmap", { query: { model, version }, body: blob, accept: "application/json", headers: { "Content-Type": "application/octet-stream" } });
    const canvas = h("canvas", { class: "overlay", style: { opacity: "0.5" }, "aria-hidden": "true", id: newId("map") });
    drawHeatmap(canvas, heatmap, "jet");
    stage.querySelector("canvas")?.remove();
    stage.append(canvas);
    why?.remove();
  };
  const why = file && button(t("train.why"), guarded(explain), { "aria-label": `${t("train.why")} ${answer.name}` });
  const isRight = answer.label === answer.predicted;
  const share = (value) => (value === undefined ? "" : ` ${percent(value)}`);
  const element = h(
    "li",
    {},
    stage,
    h(
      "div",
      {},
      h("div", {}, t("train.said"), " ", h("strong", { class: isRight ? "better" : "worse" }, named(answer.predicted)), share(answer.probability)),
      !isRight && h("div", {}, t("train.is"), " ", h("strong", {}, named(answer.label)), share(answer.label_probability)),
      h("small", { class: "muted file" }, named(answer.name)),
      why && h("div", {}, why),
    ),
  );
  return { element, explain: file ? explain : null };
}
