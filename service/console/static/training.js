// Trainings: what to choose, what happens, and what came out.

import { get, post } from "./api.js";
import { lineChart } from "./chart.js";
import { button, choice, field, h, meter, named, show, table } from "./dom.js";
import { cancel, FINISHED, follow } from "./jobs.js";
import { explain, guarded, notify, submitted } from "./notices.js";
import { answerCard, answersOf, filesOf } from "./predictions.js";
import { duration, number, percent, phaseText, t } from "./text.js";

const NETWORKS = ["efficientnet_lite0", "squeezenet", "vgg16", "vgg19", "vgg19_bn", "cnn_mnist", "cnn_small", "cnn_pets"];
const PRETRAINED = new Set(["efficientnet_lite0", "squeezenet", "vgg16"]);
const PHASES = { feature_extraction: ["head"], fine_tuning: ["head", "finetune"], from_scratch: ["scratch"] };
const OPTIMIZERS = ["adam", "adamw", "sgd", "rmsprop"];

const SHOWN = 24;

const input = (type, value, props = {}) => h("input", { type, value, ...props });
const slug = (name) => name.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 40) || "my-model";

/** The form that starts a training; what is left alone has the service's defaults. */
export function trainingForm(dataset, models, onBegun) {
  // A base without its classifier is unavailable to classify, and can be trained on: it has a version.
  const isReady = (name) => !PRETRAINED.has(name) || models.some((model) => model.network === name && (model.state !== "unavailable" || model.versions.length > 0));
  const fields = {
    model: input("text", slug(dataset.name), { required: true, pattern: "[a-z0-9][a-z0-9_\\-]{0,63}", autocomplete: "off", spellcheck: "false" }),
    preset: choice([["", t("train.nopreset")]], ""),
    network: choice(NETWORKS.map((name) => [name, isReady(name) ? name : `${name} (${t("model.unavailable")})`]), NETWORKS.find(isReady)),
    strategy: choice([["", t("train.auto")], ...["feature_extraction", "fine_tuning", "from_scratch"].map((name) => [name, t(`strategy.${name}`)])], ""),
    epochs: input("number", "", { min: 1, max: 1000, placeholder: t("train.auto") }),
    promote: choice(["if_better", "always", "never"].map((name) => [name, t(`promote.${name}`)]), "if_better"),
    image_size: input("number", "", { min: 16, max: 1024, placeholder: t("train.auto") }),
    batch_size: input("number", "", { min: 1, max: 1024, placeholder: t("train.auto") }),
    optimizer: choice([["", t("train.auto")], ...OPTIMIZERS], ""),
    learning_rate: input("number", "", { min: 0.0000001, max: 10, step: "any", placeholder: t("train.auto") }),
    patience: input("number", "", { min: 1, max: 1000, placeholder: t("train.auto") }),
    seed: input("number", "", { min: 0, max: 2147483647, placeholder: t("train.auto") }),
  };
  const flip = h("input", { type: "checkbox" });
  const about = h("p", { class: "hint", role: "status" });
  let preset = null;
  get("v1/presets")
    .then(({ items }) => {
      fields.preset.append(...items.map((one) => h("option", { value: one.name }, one.title ?? one.name)));
      fields.preset.addEventListener("change", () => {
        preset = items.find((one) => one.name === fields.preset.value);
        about.textContent = preset ? preset.description : "";
        fields.network.disabled = fields.strategy.disabled = Boolean(preset);
      });
    })
    .catch(() => {});
  const start = async () => {
    const json = { ...requestOf(fields, preset, flip.checked), dataset_id: dataset.id };
    const job = await post("v1/trainings", { json });
    notify(t("train.begun"), "good", { seconds: 4 });
    onBegun(job);
  };
  return h(
    "form",
    { class: "card stack", on: { submit: submitted(start) } },
    h("h2", {}, t("train.title")),
    h("div", { class: "grid2" }, field(t("train.model"), fields.model, t("train.model.hint")), field(t("train.network"), fields.network, t("train.network.hint")), field(t("train.strategy"), fields.strategy), field(t("train.epochs"), fields.epochs), field(t("train.promote"), fields.promote), field(t("train.preset"), fields.preset)),
    about,
    h(
      "details",
      {},
      h("summary", {}, t("train.more")),
      h("div", { class: "grid2" }, ["image_size", "batch_size", "optimizer", "learning_rate", "patience", "seed"].map((name) => field(t(`train.${name}`), fields[name])), h("label", { class: "check" }, flip, t("train.augment"))),
    ),
    h("div", {}, h("button", { class: "primary" }, t("train.start"))),
  );
}

/** The phases of the training that is wanted; those of a preset are its own. */
function phasesOf(fields, preset) {
  const { strategy, network } = preset?.request ?? { strategy: fields.strategy.value, network: fields.network.value };
  return PHASES[strategy || (PRETRAINED.has(network) ? "feature_extraction" : "from_scratch")];
}

function requestOf(fields, preset, augments) {
  const text = (name) => fields[name].value || undefined;
  const value = (name) => (fields[name].value === "" ? undefined : Number(fields[name].value));
  const json = { model: text("model"), promote: text("promote"), image_size: value("image_size"), batch_size: value("batch_size"), optimizer: text("optimizer"), early_stopping_patience: value("patience"), seed: value("seed") };
  if (preset) json.preset = preset.name;
  else Object.assign(json, { network: text("network"), strategy: text("strategy") });
  const phases = phasesOf(fields, preset);
  if (value("epochs")) json.epochs = Object.fromEntries(phases.map((phase) => [phase, value("epochs")]));
  if (value("learning_rate")) json.learning_rate = { [phases[0]]: value("learning_rate") };
  if (augments) json.augmentation = { rotation: 15, zoom: 0.15, width_shift: 0.1, height_shift: 0.1, horizontal_flip: true };
  return json;
}

/** Shows a training as it runs, then its result. Returns a function that stops following it. */
export function watchTraining(place, id, { onState, onEnd, onVersions, onError }) {
  const head = h("section", { class: "card stack" });
  const curves = h("div", { class: "charts" });
  const result = h("div", { class: "stack" });
  show(place, head, curves, result);
  let epochs = -1;
  let wasRunning = false;
  let state = null;
  return follow(
    id,
    (job) => {
      drawHead(head, job);
      if (job.state !== state) onState(job);
      state = job.state;
      if (job.metrics.length !== epochs) {
        epochs = job.metrics.length;
        show(curves, epochs > 0 && charts(job.metrics));
      }
      if (!FINISHED.has(job.state)) {
        wasRunning = true;
        return;
      }
      if (wasRunning) onEnd(job);
      if (job.result) show(result, report(job, onVersions));
    },
    onError,
  );
}

function drawHead(head, job) {
  const { fraction, phase, epoch, epochs, eta_seconds: eta } = job.progress;
  const isOver = FINISHED.has(job.state);
  const facts = [phase && t("train.phase", { phase: phaseText(phase) }), epoch && t("train.epoch", { epoch, epochs: epochs ?? "?" }), eta && t("jobs.eta", { time: duration(eta) })];
  show(
    head,
    h("div", { class: "row spread" }, h("h2", {}, job.about ?? job.result?.model ? named(job.about ?? job.result.model) : t("kind.training")), h("span", { class: `state ${job.state}`, role: "status" }, t(`state.${job.state}`))),
    !isOver && [meter(t("jobs.progress"), job.state === "running" ? fraction : null), h("p", { class: "muted" }, job.state === "queued" ? t("train.queued", { n: job.queue_position ?? 1 }) : facts.filter(Boolean).join(" · "))],
    !isOver && h("div", {}, button(t("jobs.cancel"), guarded(() => cancel(job.id)), { class: "danger" })),
    job.error && h("p", { class: "warning" }, job.error.detail),
    job.state === "cancelled" && h("p", { class: "muted" }, t("train.cancelled")),
  );
}

function charts(metrics) {
  const points = (name) => metrics.map((row, index) => [index + 1, row[name] ?? NaN]);
  const series = (name) => [{ label: t("train.learned"), points: points(name) }, { label: t("train.unseen"), points: points(`val_${name}`) }];
  return [
    h("div", { class: "card" }, lineChart(t("train.accuracy"), series("accuracy"), { low: 0, high: 1, xLabel: t("train.epoch.axis") })),
    h("div", { class: "card" }, lineChart(t("train.loss"), series("loss"), { low: 0, xLabel: t("train.epoch.axis") })),
  ];
}

function report(job, onVersions) {
  const { result } = job;
  const metrics = result.metrics[result.held_out];
  const stats = [
    [t("train.accuracy"), percent(metrics.accuracy)],
    [t("train.f1"), number(metrics.macro_f1, 3)],
    [t("train.calibration"), percent(metrics.calibration_error)],
    [t("train.images"), `${number(metrics.pictures)} · ${t(`split.${result.held_out}`)}`],
  ];
  const detail = h("div", { class: "stack" });
  return [
    h("div", { class: "cards" }, stats.map(([title, text]) => h("div", { class: "card stat" }, h("h3", {}, title), h("p", {}, text)))),
    h(
      "section",
      { class: "card row spread" },
      h("p", {}, t(result.promoted ? "train.promoted" : "train.kept", { version: result.version }), " ", h("span", { class: "muted" }, result.promotion?.reason)),
      h("div", { class: "row" }, h("a", { class: "button primary", href: `#/classify?model=${encodeURIComponent(result.model)}&version=${result.version}` }, t("train.try")), button(t("versions.title"), () => onVersions(result.model))),
    ),
    h("section", { class: "card stack" }, h("h2", {}, t("train.confusion")), h("p", { class: "muted" }, t("train.confusion.hint")), confusion(result, (row, column) => showCell(detail, job, row, column)), detail),
    result.most_wrong.length > 0 && mistakes(job),
    h("details", { class: "card" }, h("summary", {}, t("train.classes")), classTable(result)),
    job.artifacts.length > 0 && h("section", { class: "card" }, h("h2", {}, t("train.files")), h("div", { class: "row" }, job.artifacts.map((one) => h("a", { class: "chip", href: one.url, download: one.name }, one.name)))),
  ];
}

const classTable = (result) =>
  table(
    t("train.classes"),
    ["train.class", "train.precision", "train.recall", "train.f1", "train.images"].map((key) => t(key)),
    result.per_class.map((one) => [named(one.label), ...["precision", "recall", "f1"].map((key) => (one[key] === null ? "–" : percent(one[key]))), number(one.support)]),
  );

function confusion({ confusion_matrix: { labels, counts } }, onCell) {
  const most = Math.max(1, ...counts.flatMap((row, index) => row.filter((_, column) => column !== index)));
  let pressed = null;
  const cell = (count, row, column) => {
    const isRight = row === column;
    const whole = isRight ? counts[row].reduce((a, b) => a + b, 0) || 1 : most;
    const name = t("train.cell", { count, label: labels[row], predicted: labels[column] });
    const kind = count ? (isRight ? "right" : "wrong") : "none";
    const press = () => {
      pressed?.setAttribute("aria-pressed", "false");
      pressed = element;
      element.setAttribute("aria-pressed", "true");
      onCell(row, column);
    };
    const element = h("button", { type: "button", class: `cell ${kind}`, "aria-label": name, "aria-pressed": "false", title: name, style: { "--share": ((count / whole) ** 0.6).toFixed(3) }, on: { click: press } }, count || "·");
    return h("td", {}, element);
  };
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": t("train.confusion") },
    h(
      "table",
      { class: "confusion" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("train.true")), labels.map((label) => h("th", { scope: "col" }, named(label))))),
      h("tbody", {}, counts.map((row, index) => h("tr", {}, h("th", { scope: "row" }, named(labels[index])), row.map((count, column) => cell(count, index, column))))),
    ),
  );
}

/** The pictures of a cell: those of that class that the model took for the other. */
const showCell = guarded(async (place, job, row, column) => {
  const { labels, counts } = job.result.confusion_matrix;
  const [label, predicted] = [labels[row], labels[column]];
  const title = h("h3", {}, t("train.cell", { count: counts[row][column], label, predicted }));
  show(place, title, h("p", { class: "muted" }, t("app.loading")));
  const [answers, { dataset, files }] = await Promise.all([answersOf(job), filesOf(job, label)]);
  const all = (answers ?? job.result.most_wrong).filter((one) => one.label === label && one.predicted === predicted);
  all.sort((a, b) => b.probability - a.probability);
  const missing = counts[row][column] > all.length && !answers;
  show(
    place,
    title,
    all.length ? h("ul", { class: "mistakes" }, all.slice(0, SHOWN).map((one) => answerCard(job, one, dataset, files.get(one.sha256)).element)) : h("p", { class: "muted" }, t(counts[row][column] ? "train.cell.gone" : "train.cell.none")),
    all.length > SHOWN && h("p", { class: "muted" }, t("train.cell.more", { n: number(SHOWN) })),
    missing && all.length > 0 && h("p", { class: "muted" }, t("train.cell.some")),
  );
  place.scrollIntoView({ block: "nearest" });
});

/** The most confident mistakes, and what the model looked at. */
function mistakes(job) {
  const list = h("ul", { class: "mistakes" });
  const place = h("section", { class: "card stack" }, h("h2", {}, t("train.mistakes")), h("p", { class: "muted" }, t("train.mistakes.hint")), list);
  drawMistakes(list, job).catch((error) => show(list, h("li", {}, explain(error))));
  return place;
}

async function drawMistakes(list, job) {
  const wrong = job.result.most_wrong.slice(0, 12);
  const cards = [];
  for (const one of wrong) {
    const { dataset, files } = await filesOf(job, one.label);
    cards.push(answerCard(job, one, dataset, files.get(one.sha256)));
  }
  show(list, cards.map((card) => card.element));
  for (const card of cards) {
    if (!list.isConnected || !card.explain) return;
    try {
      await card.explain();
    } catch {
      return; // Not served at present; the button under each picture says why.
    }
  }
}
