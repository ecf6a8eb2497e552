// The models and their layers, as several pages choose among them.

import { all, at, get } from "./api.js";

/** Models that can classify, ready ones first. */
export async function classifiers() {
  const models = await all("v1/models");
  const fit = models.filter((model) => model.classes && (model.state !== "ready" || model.operations.includes("classify")));
  return fit.sort((a, b) => Number(b.state === "ready") - Number(a.state === "ready"));
}

const layers = new Map();

/** The layers of a version, read once. */
export function layersOf(model, version) {
  const key = `${model}:${version ?? ""}`;
  if (!layers.has(key)) {
    const reading = get(at`v1/models/${model}/layers`, { version });
    reading.catch(() => layers.delete(key));
    layers.set(key, reading);
  }
  return layers.get(key);
}
