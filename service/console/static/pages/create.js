// Create: style transfers and dreams, watched as they come about.

import { get, upload, url } from "../api.js";
import { button, choice, empty, field, h, meter, named, show } from "../dom.js";
import { cancel, FINISHED, follow } from "../jobs.js";
import { explain, guarded, notify, submitted } from "../notices.js";
import { picker } from "../picker.js";
import { duration, moment, percent, t } from "../text.js";

const KINDS = ["style_transfer", "dream"];
const EARLIER = 6;

const kept = { content: null, style: null, kind: "style", job: null, before: null };

export async function render(main, { query }) {
  const page = new CreatePage(main, await earlier());
  page.draw();
  const job = query.get("job") ?? kept.job;
  if (job) page.watch(job, job === kept.job ? kept.before : null);
  return () => page.leave();
}

/** The newest jobs of this page, of both kinds. */
async function earlier() {
  const pages = await Promise.all(KINDS.map((kind) => get("v1/jobs", { kind, limit: EARLIER })));
  const jobs = pages.flatMap((page) => page.items);
  return jobs.sort((a, b) => b.created_at.localeCompare(a.created_at)).slice(0, EARLIER);
}

class CreatePage {
  constructor(main, jobs) {
    Object.assign(this, { main, jobs });
    this.work = h("div", { class: "stack" });
    this.slots = [];
  }

  leave() {
    this.hasLeft = true;
    this.end?.();
    for (const slot of this.slots) slot.destroy();
  }

  draw() {
    const tabs = ["style", "dream"].map((kind) =>
      button(t(`create.${kind}`), () => {
        kept.kind = kind;
        for (const slot of this.slots) slot.destroy();
        this.draw();
      }, { class: "tab", "aria-pressed": String(kept.kind === kind) }),
    );
    this.slots = [];
    const isStyle = kept.kind === "style";
    const pictures = h("div", { class: "grid2" }, this.slot("content", t(isStyle ? "create.content" : "create.image")), isStyle && this.slot("style", t("create.painting")));
    show(
      this.main,
      h("div", { class: "heading" }, h("div", {}, h("h1", {}, t("nav.create")), h("p", { class: "muted" }, t("create.about"))), h("div", { class: "row", role: "group", "aria-label": t("nav.create") }, tabs)),
      h("div", { class: "columns" }, h("div", { class: "stack side" }, pictures, isStyle ? this.styleForm() : this.dreamForm(), this.earlier()), this.work),
    );
    if (!this.work.children.length) show(this.work, empty(t("create.empty"), t("create.empty.help")));
  }

  earlier() {
    const entry = (job) => {
      const state = `${t(`state.${job.state}`)} · ${moment(job.created_at)}`;
      return h("li", {}, h("a", { class: "entry", href: `#/create?job=${encodeURIComponent(job.id)}` }, named(t(`kind.${job.kind}`)), h("small", {}, state)));
    };
    return this.jobs.length > 0 && h("section", { class: "card" }, h("h2", {}, t("create.earlier")), h("ul", { class: "entries" }, this.jobs.map(entry)));
  }

  /** A place for one image, with the samples below it. */
  slot(name, label) {
    const preview = h("div", { class: "slot" });
    const choose = (file) => {
      kept[name] = file;
      show(preview, h("img", { src: URL.createObjectURL(file), alt: label }));
      files.element.classList.add("compact");
    };
    const files = picker({ label, hint: t("create.drop"), accept: "image/*", multiple: false, onFiles: ([file]) => choose(file) });
    this.slots.push(files);
    if (kept[name]) choose(kept[name]);
    const samples = document.documentElement.dataset.samples.split(" ").filter(Boolean);
    const use = guarded(async (sample) => {
      const blob = await (await fetch(url(`_console/samples/${sample}`))).blob();
      choose(new File([blob], sample, { type: blob.type }));
    });
    return h(
      "div",
      { class: "stack" },
      preview,
      files.element,
      h("div", { class: "samples" }, samples.map((sample) => h("button", { type: "button", class: "sample small", "aria-label": `${label}: ${sample.replace(/\.\w+$/, "")}`, on: { click: () => use(sample) } }, h("img", { src: url(`_console/samples/${sample}`), alt: "", loading: "lazy", width: 40, height: 40 })))),
    );
  }

  styleForm() {
    const size = choice([["256", "256"], ["384", "384"], ["512", "512"], ["768", "768"]], "256");
    const iterations = h("input", { type: "number", min: 1, max: 5000, value: 150 });
    const strength = choice([["0.3", t("create.weak")], ["1", t("create.middle")], ["3", t("create.strong")]], "1");
    const keep = h("input", { type: "checkbox" });
    return this.form(
      [field(t("create.size"), size), field(t("create.iterations"), iterations), field(t("create.strength"), strength), h("label", { class: "check" }, keep, t("create.colors"))],
      () => {
        if (!kept.content || !kept.style) return null;
        const form = new FormData();
        form.append("content", kept.content, kept.content.name);
        form.append("style", kept.style, kept.style.name);
        form.append("size", size.value);
        form.append("iterations", iterations.value);
        if (strength.value !== "1") form.append("style_weight", strength.value);
        if (keep.checked) form.append("preserve_colors", "true");
        return ["v1/style_transfers", form];
      },
    );
  }

  dreamForm() {
    const octaves = h("input", { type: "number", min: 1, max: 10, value: 3 });
    const iterations = h("input", { type: "number", min: 1, max: 500, value: 20 });
    const step = h("input", { type: "number", min: 0.001, max: 100, step: "any", placeholder: t("train.auto") });
    return this.form([field(t("create.octaves"), octaves), field(t("create.iterations"), iterations), field(t("create.step"), step)], () => {
      if (!kept.content) return null;
      const form = new FormData();
      form.append("image", kept.content, kept.content.name);
      form.append("octaves", octaves.value);
      form.append("iterations", iterations.value);
      if (step.value) form.append("step_size", step.value);
      return ["v1/dreams", form];
    });
  }

  form(fields, requestOf) {
    const begin = async () => {
      const wanted = requestOf();
      if (!wanted) {
        notify(t("create.missing"), "bad");
        return;
      }
      try {
        const job = await upload(...wanted);
        this.watch(job.id, kept.content);
      } catch (error) {
        show(this.work, h("section", { class: "card" }, explain(error)));
      }
    };
    return h("form", { class: "card stack", on: { submit: submitted(begin) } }, h("div", { class: "grid2" }, fields), h("div", {}, h("button", { class: "primary" }, t("create.begin"))));
  }

  /** Follows a job; `before` is the image it began with, if it is at hand. */
  watch(id, before) {
    this.end?.();
    Object.assign(kept, { job: id, before });
    if (!this.hasLeft) history.replaceState(null, "", `#/create?job=${encodeURIComponent(id)}`);
    const head = h("div", { class: "stack" });
    const stage = h("div", { class: "stack" });
    show(this.work, h("section", { class: "card stack" }, head, stage));
    const source = before && URL.createObjectURL(before);
    let slider = null;
    let shown = "";
    this.end = follow(
      id,
      (job) => {
        drawHead(head, job);
        const picture = job.artifacts.find((one) => one.name === "result.png") ?? job.artifacts.find((one) => one.name === "preview.png");
        const version = picture && `${picture.name}:${picture.size}:${job.progress.fraction}`;
        if (!picture || version === shown) return;
        shown = version;
        slider ??= compare(stage, source);
        slider(picture.url);
      },
      (error) => show(head, explain(error)),
    );
  }
}

function drawHead(head, job) {
  const isOver = FINISHED.has(job.state);
  const result = job.artifacts.find((one) => one.name === "result.png");
  show(
    head,
    h("div", { class: "row spread" }, h("h2", {}, t(`kind.${job.kind}`)), h("span", { class: `state ${job.state}`, role: "status" }, t(`state.${job.state}`))),
    !isOver && meter(t("jobs.progress"), job.state === "running" ? job.progress.fraction : null),
    !isOver && h("div", { class: "row spread" }, h("span", { class: "muted" }, percent(job.progress.fraction, 0), job.progress.eta_seconds ? ` · ${t("jobs.eta", { time: duration(job.progress.eta_seconds) })}` : ""), button(t("jobs.cancel"), guarded(() => cancel(job.id)), { class: "danger" })),
    job.error && h("p", { class: "warning" }, job.error.detail),
    isOver && result && h("div", {}, h("a", { class: "button primary", href: result.url, download: "opsin.png" }, t("create.save"))),
  );
}

/** A slider between two images, or the second alone; answers a function that replaces the second. */
function compare(place, before) {
  const after = h("img", { class: "after", alt: t("create.after") });
  const box = h("div", { class: before ? "compare" : "" }, before && h("img", { src: before, alt: t("create.before") }), after);
  const range = h("input", { type: "range", min: 0, max: 100, value: 0, "aria-label": t("create.slider") });
  const move = () => box.style.setProperty("--cut", `${range.value}%`);
  range.addEventListener("input", move);
  show(place, box, before && field(t("create.slider"), range));
  move();
  return async (address) => {
    const answer = await fetch(address, { cache: "no-store" });
    if (!answer.ok) return; // the next preview is soon there
    const old = after.src;
    after.src = URL.createObjectURL(await answer.blob());
    if (old) URL.revokeObjectURL(old);
  };
}
