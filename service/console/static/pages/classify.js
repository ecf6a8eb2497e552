// Classify: images in, predictions and the reason for them out.

import { ApiError, post, url } from "../api.js";
import { bars } from "../chart.js";
import { button, choice, empty, field, h, named, show } from "../dom.js";
import { COLORMAPS, drawHeatmap } from "../heatmap.js";
import { finished } from "../jobs.js";
import { classifiers, layersOf } from "../models.js";
import { explain, guarded, notify, report } from "../notices.js";
import { picker } from "../picker.js";
import { number, percent, t } from "../text.js";

const METHODS = ["grad_cam", "hires_cam", "grad_cam_plus_plus", "layer_cam", "score_cam", "smooth_grad", "integrated_gradients", "occlusion"];
const LAYERLESS = new Set(["smooth_grad", "integrated_gradients", "occlusion"]);
const PATIENCE_MS = "120000"; // some methods are slow, and each computes slowly the first time
const BATCH = 16;
const MAX_ITEMS = 200;

// What is shown stays when another page is visited.
const state = { items: [], chosen: 0, model: null, version: null, method: "grad_cam", layer: "", opacity: 0.5, colormap: "jet", target: null, sort: "order", inside: "", opened: new Set() };

export async function render(main, { query }) {
  const models = await classifiers();
  const wanted = query.get("model");
  if (wanted) Object.assign(state, { model: wanted, version: query.get("version"), target: null, layer: "", inside: "" });
  if (!models.some((model) => model.name === state.model)) Object.assign(state, { model: models[0]?.name ?? null, version: null });
  const results = h("div", { class: "results" });
  const page = new Page(main, results, models);
  const files = picker({
    label: t("classify.drop"),
    hint: t("classify.drop.hint"),
    accept: "image/*,.heic,.avif,.tif,.tiff",
    camera: true,
    paste: true,
    beside: samples(page),
    onFiles: (list) => page.add(list),
  });
  show(
    main,
    h("div", { class: "heading" }, h("div", {}, h("h1", {}, t("nav.classify")), h("p", { class: "muted" }, t("classify.about"))), page.modelChoice()),
    models.length === 0 ? empty(t("classify.none"), t("classify.none.help")) : files.element,
    results,
  );
  page.draw();
  if (wanted && state.items.length) await page.classify(state.items);
  return files.destroy;
}

function samples(page) {
  const names = document.documentElement.dataset.samples.split(" ").filter(Boolean);
  if (!names.length) return null;
  const use = guarded(async (name) => {
    const answer = await fetch(url(`_console/samples/${name}`));
    if (!answer.ok) throw new ApiError({ status: answer.status, detail: t("classify.sample.gone") });
    const blob = await answer.blob();
    await page.add([new File([blob], name, { type: blob.type })]);
  });
  return h(
    "div",
    { class: "samples" },
    h("span", { class: "muted" }, t("classify.samples")),
    names.map((name) =>
      h(
        "button",
        { type: "button", class: "sample", "aria-label": t("classify.sample", { name: name.replace(/\.\w+$/, "") }), on: { click: () => use(name) } },
        h("img", { src: url(`_console/samples/${name}`), alt: "", loading: "lazy", width: 72, height: 72 }),
      ),
    ),
  );
}

class Page {
  constructor(main, results, models) {
    Object.assign(this, { main, results, models });
  }

  get item() {
    return state.items[state.chosen];
  }

  /** Parameters of every request: the model and its version. */
  get target() {
    return { model: state.model, version: state.version || undefined };
  }

  modelChoice() {
    if (!this.models.length) return null;
    const name = choice(
      this.models.map((model) => [model.name, model.state === "ready" ? model.name : `${model.name} (${t(`model.${model.state}`)})`]),
      state.model,
      guarded(async (value) => {
        Object.assign(state, { model: value, version: null, target: null, layer: "", inside: "" });
        const changed = this.versionChoice();
        versions.replaceWith(changed);
        versions = changed;
        await this.classify(state.items);
      }),
    );
    let versions = this.versionChoice();
    return h("div", { class: "row controls" }, field(t("model.model"), name), versions);
  }

  versionChoice() {
    const model = this.models.find((one) => one.name === state.model);
    const champion = model?.aliases.champion;
    const options = [["", champion ? t("model.champion", { version: champion }) : "–"], ...(model?.versions ?? []).map((n) => [String(n), String(n)])];
    const select = choice(
      options,
      state.version ?? "",
      guarded(async (value) => {
        Object.assign(state, { version: value, target: null });
        await this.classify(state.items);
      }),
    );
    return field(t("model.version"), select);
  }

  async add(files) {
    const room = MAX_ITEMS - state.items.length;
    if (files.length > room) notify(t("classify.many", { limit: MAX_ITEMS }), "bad");
    const added = files.slice(0, room).map((file) => ({ file, src: URL.createObjectURL(file), name: file.name }));
    state.items.push(...added);
    state.chosen = Math.max(0, state.items.length - added.length);
    state.target = null;
    await this.classify(added);
  }

  /** Classifies images, some at a time, and shows each result as it comes. */
  async classify(items) {
    for (const item of items) Object.assign(item, { result: null, error: null, heatmap: null, isBusy: true });
    this.draw();
    for (let start = 0; start < items.length; start += BATCH) {
      const some = items.slice(start, start + BATCH);
      const form = new FormData();
      for (const item of some) form.append("image", item.file, item.name);
      try {
        const answer = await post("v1/classify", { query: { ...this.target, top_k: 5 }, body: form });
        some.forEach((item, index) => {
          const result = answer.results[index];
          Object.assign(item, { isBusy: false, result: result.error ? null : result, error: result.error ? new ApiError(result.error) : null });
        });
      } catch (error) {
        for (const item of some) Object.assign(item, { isBusy: false, error });
        if (error.name !== "AbortError" && !(error instanceof ApiError)) report(error);
      }
      this.draw();
    }
  }

  draw() {
    if (!this.models.length) return;
    this.main.classList.toggle("compact", state.items.length > 0);
    if (!state.items.length) {
      show(this.results, empty(t("classify.empty"), t("classify.empty.help")));
      return;
    }
    show(this.results, state.items.length > 1 && this.gallery(), this.detail());
    if (this.item.result && !this.item.heatmap) this.explain();
    else if (this.item.heatmap) this.paint();
  }

  gallery() {
    const confidence = (item) => item.result?.predictions[0]?.probability ?? -1;
    const order = state.items.map((item, index) => ({ item, index }));
    if (state.sort === "surest") order.sort((a, b) => confidence(b.item) - confidence(a.item));
    if (state.sort === "unsure") order.sort((a, b) => confidence(a.item) - confidence(b.item));
    const sort = choice([["order", t("gallery.order")], ["surest", t("gallery.surest")], ["unsure", t("gallery.unsure")]], state.sort, (value) => {
      state.sort = value;
      this.draw();
    });
    return h(
      "section",
      { class: "card", "aria-label": t("gallery.title") },
      h("div", { class: "row spread" }, h("h2", {}, t("gallery.count", { n: state.items.length })), h("div", { class: "row controls" }, field(t("gallery.sort"), sort), button(t("gallery.clear"), () => this.clear()))),
      h("ul", { class: "gallery" }, order.map(({ item, index }) => h("li", {}, this.tile(item, index)))),
    );
  }

  tile(item, index) {
    const best = item.result?.predictions[0];
    const text = item.isBusy ? "…" : best ? best.label : t("classify.failed");
    return h(
      "button",
      {
        type: "button",
        class: "tile",
        "data-focus": `tile:${index}`,
        "aria-current": index === state.chosen ? "true" : undefined,
        on: { click: () => { Object.assign(state, { chosen: index, target: null }); this.draw(); } },
      },
      h("img", { src: item.src, alt: "", loading: "lazy" }),
      h("span", { class: "tile-text" }, named(text), best && h("small", {}, percent(best.probability))),
    );
  }

  clear() {
    for (const item of state.items) URL.revokeObjectURL(item.src);
    Object.assign(state, { items: [], chosen: 0, target: null });
    this.draw();
  }

  detail() {
    const { item } = this;
    const stage = h("div", { class: "stage fitted" });
    const image = h("img", { src: item.src, alt: t("classify.image", { name: item.name }) });
    this.canvas = h("canvas", { class: "overlay waiting", "aria-hidden": "true", style: { opacity: String(state.opacity) } });
    stage.append(image, this.canvas);
    image.addEventListener("load", () => {
      stage.style.setProperty("--ratio", String(image.naturalWidth / image.naturalHeight));
      stage.classList.toggle("coarse", Math.max(image.naturalWidth, image.naturalHeight) < 100);
    });
    image.addEventListener("error", () => this.drawElsewhere(image), { once: true });
    this.caption = h("p", { class: "muted", role: "status" });
    return h(
      "section",
      { class: "detail" },
      h("div", { class: "card flush sticky" }, stage, h("div", { class: "card-body" }, h("p", { class: "file" }, named(item.name)), this.caption)),
      h("div", { class: "stack" }, this.predictions(), item.result && this.controls(), item.result && this.inside(), this.copy()),
    );
  }

  /** A format that the browser cannot show, such as HEIC: the service draws it. */
  async drawElsewhere(image) {
    const { item } = this;
    try {
      const blob = await post("v1/heatmap", { query: { ...this.target, alpha: 0 }, body: item.file, accept: "image/png" });
      item.src = URL.createObjectURL(blob);
      image.src = item.src;
    } catch (error) {
      image.alt = t("classify.noimage");
      if (!item.error) report(error);
    }
  }

  predictions() {
    const { item } = this;
    const card = h("section", { class: "card", "aria-live": "polite" }, h("h2", {}, t("classify.predictions")));
    if (item.isBusy) card.append(h("p", { class: "muted" }, t("app.working")));
    else if (item.error) card.append(explain(item.error), h("div", {}, button(t("app.retry"), () => this.classify([item]))));
    else if (item.result) {
      const chosen = state.target ?? item.result.predictions[0].index;
      card.append(
        bars(
          item.result.predictions.map((one) => ({
            label: named(one.label),
            value: one.probability,
            of: 1,
            text: percent(one.probability),
            isChosen: one.index === chosen,
            action: () => {
              state.target = one.index;
              item.heatmap = null;
              this.draw();
            },
          })),
        ),
        h("p", { class: "hint" }, t("classify.target.hint")),
      );
    }
    return card;
  }

  controls() {
    const change = (name) => (value) => {
      state[name] = value;
      this.item.heatmap = null;
      this.explain();
    };
    const layer = choice([["", t("heatmap.last")]], "", change("layer"));
    layer.disabled = LAYERLESS.has(state.method);
    layersOf(state.model, state.version)
      .then(({ items }) => {
        const fit = items.filter((one) => one.explainable);
        layer.append(...fit.map((one) => h("option", { value: one.name }, `${one.name} · ${one.output_shape.slice(0, 2).join("×")}`)));
        layer.value = fit.some((one) => one.name === state.layer) ? state.layer : "";
      })
      .catch(report);
    const opacity = h("input", { type: "range", min: 0, max: 1, step: 0.01, value: state.opacity });
    opacity.addEventListener("input", () => {
      state.opacity = Number(opacity.value);
      this.canvas.style.opacity = opacity.value;
    });
    const method = choice(METHODS.map((name) => [name, t(`method.${name}`)]), state.method, (value) => {
      layer.disabled = LAYERLESS.has(value);
      change("method")(value);
    });
    const colors = choice(COLORMAPS, state.colormap, (value) => {
      state.colormap = value;
      this.paint();
    });
    return h(
      "section",
      { class: "card" },
      h("h2", {}, t("heatmap.title")),
      h("div", { class: "grid2" }, field(t("heatmap.method"), method), field(t("heatmap.layer"), layer), field(t("heatmap.opacity"), opacity), field(t("heatmap.colors"), colors)),
    );
  }

  get heatmapQuery() {
    return {
      ...this.target,
      method: state.method,
      layer: LAYERLESS.has(state.method) ? undefined : state.layer,
      class_index: state.target ?? undefined,
    };
  }

  async explain() {
    const { item } = this;
    this.request?.abort();
    const request = (this.request = new AbortController());
    this.caption.textContent = t("app.working");
    this.canvas.classList.add("waiting");
    try {
      const heatmap = await post("v1/heatmap", { query: this.heatmapQuery, body: item.file, accept: "application/json", signal: request.signal, headers: { "Content-Type": "application/octet-stream", "X-Timeout-Ms": PATIENCE_MS } });
      if (request.signal.aborted) return;
      item.heatmap = heatmap;
      if (item === this.item) this.paint();
    } catch (error) {
      if (error.name === "AbortError") return;
      show(this.caption, explain(error));
    }
  }

  paint() {
    const { heatmap } = this.item;
    if (!heatmap) return;
    this.canvas.classList.remove("waiting");
    drawHeatmap(this.canvas, heatmap, state.colormap);
    const values = { label: heatmap.target.label, milliseconds: number(heatmap.timing_ms?.total ?? 0) };
    this.caption.textContent = t(heatmap.empty ? "heatmap.nothing" : "heatmap.shown", values);
  }

  /** What the layers see: feature maps of this image, and the patterns that filters answer to. */
  inside() {
    const place = h("div", { class: "stack" });
    const choose = choice([["", t("heatmap.last")]], "", (value) => (state.inside = value));
    const layer = () => choose.value || undefined;
    layersOf(state.model, state.version)
      .then(({ items }) => {
        const maps = items.filter((one) => one.output_shape.length === 3);
        choose.append(...maps.map((one) => h("option", { value: one.name }, `${one.name} · ${one.output_shape.join("×")}`)));
        choose.value = maps.some((one) => one.name === state.inside) ? state.inside : "";
      })
      .catch(report);
    const maps = guarded(async () => {
      show(place, h("p", { class: "muted" }, t("app.working")));
      const blob = await post("v1/activations", { query: { ...this.target, layer: layer(), channels: 36 }, body: this.item.file, accept: "image/png" });
      show(place, h("img", { class: "wide", src: URL.createObjectURL(blob), alt: t("inside.maps.alt") }));
    });
    const filters = guarded(async () => {
      const json = { model: state.model, layer: layer(), filters: [0, 1, 2, 3, 4, 5, 6, 7, 8], steps: 30 };
      if (state.version) json.version = Number(state.version);
      const job = await post("v1/filters", { json });
      const done = await finished(job.id, (now) => show(place, h("p", { class: "muted" }, t(`state.${now.state}`), " ", percent(now.progress.fraction, 0))));
      const picture = done.artifacts[0];
      if (picture) show(place, h("img", { class: "wide", src: picture.url, alt: t("inside.filters.alt") }));
      else show(place, h("p", {}, done.error?.detail ?? t(`state.${done.state}`)));
    });
    return folded(
      "inside",
      h("summary", {}, t("inside.title")),
      h("p", { class: "muted" }, t("inside.about")),
      h("div", { class: "row controls" }, field(t("heatmap.layer"), choose), button(t("inside.maps"), maps), button(t("inside.filters"), filters)),
      place,
    );
  }

  copy() {
    const query = new URLSearchParams(Object.entries({ ...this.target, top_k: "5" }).filter(([, value]) => value));
    const address = url(`v1/classify?${query}`);
    const withKey = document.documentElement.dataset.needsKey === "true";
    const curl = `curl ${withKey ? '-H "X-API-Key: $OPSIN_API_KEY" ' : ""}-F ${inShell(`image=@${inForm(this.item.name)}`)} ${inShell(address)}`;
    const python = [
      withKey && "import os",
      withKey && "",
      "import httpx",
      "",
      `with open(${JSON.stringify(this.item.name)}, "rb") as image:`,
      "    answer = httpx.post(",
      `        ${JSON.stringify(address)},`,
      '        files={"image": image},',
      withKey && '        headers={"X-API-Key": os.environ["OPSIN_API_KEY"]},',
      "    )",
      'print(answer.raise_for_status().json()["results"][0]["predictions"])',
    ]
      .filter((line) => line !== false)
      .join("\n");
    return folded(
      "copy",
      h("summary", {}, t("copy.title")),
      [["curl", curl], ["Python", python]].map(([name, text]) =>
        h("div", { class: "code" }, h("div", { class: "row spread" }, h("h3", {}, name), button(t("copy.copy"), () => copied(text), { "aria-label": t("copy.what", { name }) })), h("pre", { tabindex: 0, role: "region", "aria-label": name }, h("code", {}, text))),
      ),
    );
  }
}

/** A part that stays open, or closed, when the page is drawn anew. */
function folded(name, ...children) {
  const element = h("details", { class: "card", open: state.opened.has(name) }, children);
  element.addEventListener("toggle", () => state.opened[element.open ? "add" : "delete"](name));
  return element;
}

const inShell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A file name as curl takes it in `-F`, where an unquoted one ends at a comma or semicolon. */
const inForm = (name) => (/^[\w.\- ]+$/.test(name) ? name : `"${name.replace(/["\\]/g, "\\$&")}"`);

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    notify(t("copy.done"), "good", { seconds: 3 });
  } catch {
    notify(t("copy.failed"), "bad");
  }
}
