// Learn: from pictures in folders to a model that serves.

import { all, at, get, may, request } from "../api.js";
import { bars } from "../chart.js";
import { button, choice, confirmed, empty, field, h, meter, named, show } from "../dom.js";
import { FINISHED } from "../jobs.js";
import { explain, guarded, notify } from "../notices.js";
import { picker } from "../picker.js";
import { bytes, has, moment, number, t } from "../text.js";
import { admissionReport } from "../report.js";
import { trainingForm, watchTraining } from "../training.js";
import { isArchive, sendArchive, sendFolders } from "../upload.js";
import { versionsOf } from "../versions.js";

export async function render(main, { query }) {
  const [datasets, trainings, models] = await Promise.all([all("v1/datasets"), get("v1/jobs", { kind: "training", limit: 20 }), all("v1/models")]);
  const page = new LearnPage(main, datasets, trainings.items, models);
  page.draw();
  const chosen = ["job", "dataset", "model"].find((name) => query.has(name));
  const job = query.get("job") ?? (chosen ? null : trainings.items.find((one) => !FINISHED.has(one.state))?.id);
  if (job) page.watch(job);
  else if (chosen === "model") await page.versions(query.get("model"));
  else if (query.get("dataset") ?? datasets[0]?.id) await page.choose(query.get("dataset") ?? datasets[0].id);
  return () => page.leave();
}

class LearnPage {
  constructor(main, datasets, trainings, models) {
    Object.assign(this, { main, datasets, trainings, models });
    this.list = h("div", { class: "stack" });
    this.content = h("div", { class: "stack" });
    this.sending = h("div", { "aria-live": "polite" });
  }

  leave() {
    this.hasLeft = true;
    this.end?.();
    this.upload?.abort();
    this.files.destroy();
  }

  /** What is shown, in the list and in the address: a reload and the back button lead here again. */
  mark(name, id) {
    this.end?.();
    this.current = id;
    if (!this.hasLeft) history.replaceState(null, "", id ? `#/learn?${name}=${encodeURIComponent(id)}` : "#/learn");
    this.drawList();
  }

  draw() {
    this.files = picker({ label: t("learn.drop"), hint: t("learn.drop.hint"), accept: ".zip,.tar,.tgz,.gz", multiple: false, folders: true, onFiles: guarded((files) => this.send(files)) });
    show(
      this.main,
      h("div", { class: "heading" }, h("div", {}, h("h1", {}, t("nav.learn")), h("p", { class: "muted" }, t("learn.about")))),
      h("div", { class: "columns" }, h("div", { class: "stack side" }, this.files.element, this.sending, this.list), this.content),
    );
    this.drawList();
    if (!this.datasets.length && !this.trainings.length) show(this.content, empty(t("learn.empty"), t("learn.empty.help")), layout());
  }

  drawList() {
    const trained = this.models.filter((model) => model.versions.length > (model.name === model.network ? 1 : 0));
    const item = (id, text, note, action) =>
      h("li", {}, h("button", { type: "button", class: "entry", "data-focus": id, "aria-current": id === this.current ? "true" : undefined, on: { click: guarded(() => this.go(action)) } }, named(text), h("small", {}, note)));
    show(
      this.list,
      this.datasets.length > 0 && h("section", { class: "card" }, h("h2", {}, t("learn.datasets")), h("ul", { class: "entries" }, this.datasets.map((one) => item(one.id, one.name, t("learn.counts", { classes: Object.keys(one.classes).length, images: number(total(one)) }), () => this.choose(one.id))))),
      this.trainings.length > 0 && h("section", { class: "card" }, h("h2", {}, t("learn.trainings")), h("ul", { class: "entries" }, this.trainings.slice(0, 8).map((job) => item(job.id, job.about ?? job.result?.model ?? t("kind.training"), `${t(`state.${job.state}`)} · ${moment(job.created_at)}`, () => this.watch(job.id))))),
      trained.length > 0 && h("section", { class: "card" }, h("h2", {}, t("learn.models")), h("ul", { class: "entries" }, trained.map((model) => item(model.name, model.name, t("learn.versions", { n: model.versions.length }), () => this.versions(model.name))))),
    );
  }

  /** On a phone, what was chosen lies below the lists. */
  async go(action) {
    await action();
    if (matchMedia("(max-width: 860px)").matches) this.content.scrollIntoView({ block: "start" });
  }

  async send(files) {
    const bar = meter(t("learn.uploading"), 0);
    const phase = h("p", {});
    this.upload = new AbortController();
    show(this.sending, h("section", { class: "card stack" }, phase, bar, h("div", {}, button(t("app.cancel"), () => this.upload.abort()))));
    const options = { signal: this.upload.signal, onProgress: (part) => (bar.value = part), onPhase: (text) => (phase.textContent = text) };
    try {
      const dataset = files.length === 1 && isArchive(files[0]) ? await sendArchive(files[0], options) : await sendFolders(files, options);
      this.datasets = await all("v1/datasets");
      show(this.sending);
      await this.choose(dataset.id);
    } catch (error) {
      show(this.sending);
      if (error.name === "AbortError") return;
      if (error.status === undefined) notify(error.message, "bad", { seconds: 20 });
      else throw error;
    }
  }

  async choose(id) {
    this.mark("dataset", id);
    const dataset = await get(at`v1/datasets/${id}`);
    if (this.current !== id) return;
    const remove = guarded(async () => {
      if (!(await confirmed(t("learn.delete.ask", { name: dataset.name }), t("jobs.delete"), t("app.cancel")))) return;
      await request("DELETE", at`v1/datasets/${id}`);
      this.datasets = this.datasets.filter((one) => one.id !== id);
      this.mark("dataset", null);
      show(this.content, empty(t("learn.empty"), t("learn.empty.help")), layout());
    });
    show(
      this.content,
      h(
        "section",
        { class: "card" },
        h("div", { class: "row spread" }, h("h2", {}, named(dataset.name)), button(t("learn.delete"), remove, { class: "danger" })),
        h("p", { class: "muted" }, [t("learn.counts", { classes: Object.keys(dataset.classes).length, images: number(total(dataset)) }), bytes(dataset.size ?? 0), moment(dataset.created_at)].join(" · ")),
        splits(dataset),
        bars(Object.entries(dataset.classes).slice(0, 40).map(([label, count]) => ({ label: named(label), value: count, text: number(count) }))),
        (dataset.warnings ?? []).map((one) => h("p", { class: "warning" }, has(`warning.${one.code}`) && `${t(`warning.${one.code}`)}: `, one.detail)),
        dataset.reason && h("p", { class: "warning" }, dataset.reason),
      ),
      admissionReport(dataset),
      dataset.trainable && trainingForm(dataset, this.models, (job) => this.begun(job)),
    );
  }

  begun(job) {
    this.trainings.unshift(job);
    this.watch(job.id);
  }

  watch(id) {
    this.mark("job", id);
    const place = h("div", { class: "stack" });
    show(this.content, place);
    this.end = watchTraining(place, id, {
      onState: guarded(async (job) => {
        if (this.trainings.find((one) => one.id === job.id)?.state === job.state) return;
        this.trainings = (await get("v1/jobs", { kind: "training", limit: 20 })).items; // the next one has begun, too
        if (!this.hasLeft) this.drawList();
      }),
      onEnd: guarded(async (job) => {
        this.trainings = this.trainings.map((one) => (one.id === job.id ? job : one));
        this.models = await all("v1/models");
        this.drawList();
      }),
      onVersions: (model) => this.versions(model),
      onError: (error) => show(place, h("section", { class: "card" }, explain(error))),
    });
  }

  async versions(name) {
    this.mark("model", name);
    show(this.content, h("p", { class: "muted" }, t("app.loading")));
    const again = guarded(async () => {
      this.models = await all("v1/models");
      await this.versions(name);
    });
    show(this.content, await versionsOf(name, may("models"), again));
  }
}

const total = (dataset) => Object.values(dataset.classes).reduce((sum, count) => sum + count, 0);

const splits = (dataset) =>
  h("p", { class: "row" }, Object.entries(dataset.splits ?? {}).map(([name, count]) => h("span", { class: "chip" }, `${t(`split.${name}`)}: ${number(count)}`)));

/** How a dataset has to be arranged, drawn as a tree. */
const layout = () => h("section", { class: "card" }, h("h2", {}, t("learn.layout")), h("pre", { tabindex: 0, role: "region", "aria-label": t("learn.layout") }, "pets.zip\n├── cat/\n│   ├── 1.jpg\n│   └── 2.jpg\n└── dog/\n    └── 3.jpg"), h("p", { class: "muted" }, t("learn.layout.hint")));
