// Jobs: everything that takes long, live.

import { at, get, request } from "../api.js";
import { button, choice, confirmed, empty, field, h, meter, named, show, table } from "../dom.js";
import { cancel, FINISHED, follow } from "../jobs.js";
import { explain, guarded, notify } from "../notices.js";
import { bytes, duration, moment, number, percent, phaseText, t } from "../text.js";

const POLL = 4000;
const STREAMS = 2; // a browser opens six connections to a service in all
const STATES = ["queued", "running", "succeeded", "failed", "cancelled"];
const KINDS = ["training", "sweep", "dataset_import", "dataset_video", "quantize", "evaluation", "filters", "heatmap", "activations", "style_transfer", "dream", "enrollment", "calibration", "face_detection", "classify", "embed"];

/** Where more is to be seen of a job. */
const PAGES = { training: "learn", style_transfer: "create", dream: "create" };

const filter = { kind: "", state: "" };

export async function render(main) {
  const place = h("div", { class: "stack" });
  const queues = h("div", { class: "cards" });
  const more = button(t("app.more"), () => page.more(), { hidden: true });
  const page = new JobTable(place, queues, more);
  const again = (name) => (value) => {
    filter[name] = value;
    page.read(true);
  };
  const options = (names, prefix) => [["", t("jobs.all")], ...names.map((name) => [name, t(`${prefix}.${name}`)])];
  show(
    main,
    h("div", { class: "heading" }, h("div", {}, h("h1", {}, t("nav.jobs")), h("p", { class: "muted" }, t("jobs.about")))),
    queues,
    h("div", { class: "row controls" }, field(t("jobs.kind"), choice(options(KINDS, "kind"), filter.kind, again("kind"))), field(t("jobs.state"), choice(options(STATES, "state"), filter.state, again("state")))),
    place,
    more,
  );
  await page.read(true);
  page.start();
  return () => page.stop();
}

class JobTable {
  constructor(place, queues, moreButton) {
    Object.assign(this, { place, queues, moreButton, jobs: [], cursor: null, streams: new Map(), opened: new Set() });
  }

  start() {
    this.timer = setInterval(() => this.read(), POLL);
  }

  stop() {
    this.isStopped = true;
    clearInterval(this.timer);
    for (const end of this.streams.values()) end();
  }

  /** The newest jobs; those shown further down stay. */
  async read(anew = false) {
    try {
      const [page, system] = await Promise.all([get("v1/jobs", { ...filter, limit: 25 }), get("v1/system")]);
      if (this.isStopped) return;
      const known = new Set(page.items.map((job) => job.id));
      this.jobs = anew ? page.items : [...page.items, ...this.jobs.filter((job) => !known.has(job.id))];
      if (anew) this.cursor = page.next_cursor;
      this.drawQueues(system);
      this.draw();
      this.listen();
    } catch (error) {
      if (anew && error.name !== "AbortError") show(this.place, explain(error));
    }
  }

  async more() {
    const page = await get("v1/jobs", { ...filter, limit: 25, cursor: this.cursor });
    this.jobs.push(...page.items);
    this.cursor = page.next_cursor;
    this.draw();
  }

  /** Follows the running jobs by server-sent events. */
  listen() {
    const running = this.jobs.filter((job) => job.state === "running").slice(0, STREAMS);
    for (const [id, end] of this.streams) {
      if (!running.some((job) => job.id === id)) {
        end();
        this.streams.delete(id);
      }
    }
    for (const { id } of running) {
      if (!this.streams.has(id)) this.streams.set(id, follow(id, (job) => this.changed(job)));
    }
  }

  changed(job) {
    const index = this.jobs.findIndex((one) => one.id === job.id);
    if (index >= 0 && !this.isStopped) {
      this.jobs[index] = job;
      this.draw();
    }
  }

  drawQueues(system) {
    const cards = [
      ...(system.job_queues ?? []).map((queue) => [t(`queue.${queue.name}`), t("queue.load", { running: queue.running, queued: queue.queued })]),
      [t("queue.images"), t("queue.waiting", { n: system.queues.reduce((sum, queue) => sum + queue.depth, 0) })],
      [t("queue.workers"), t("queue.workers.count", { inference: system.workers.length, jobs: system.job_workers.length, devices: system.devices.join(", ") || "–" })],
    ];
    show(this.queues, cards.map(([title, text]) => h("div", { class: "card stat" }, h("h2", {}, title), h("p", {}, text))));
  }

  draw() {
    if (this.isStopped) return;
    this.moreButton.hidden = !this.cursor;
    if (!this.jobs.length) {
      show(this.place, empty(t("jobs.empty"), t("jobs.empty.help")));
      return;
    }
    const heads = ["kind", "state", "progress", "created", "actions"].map((name) => t(`jobs.${name}`));
    show(this.place, h("section", { class: "card" }, table(t("nav.jobs"), heads, this.jobs.map((job) => this.row(job)), { stacked: true })));
  }

  row(job) {
    const what = job.about ?? job.result?.model ?? job.result?.name;
    const isOver = FINISHED.has(job.state);
    const kind = t(`kind.${job.kind}`);
    const act = (name, action, props) => button(t(name), guarded(action), { ...props, "data-focus": `${name}:${job.id}`, "aria-label": `${t(name)}: ${kind}` });
    return [
      [PAGES[job.kind] ? h("a", { href: `#/${PAGES[job.kind]}?job=${encodeURIComponent(job.id)}` }, h("strong", {}, kind)) : h("strong", {}, kind), what && h("div", {}, named(what)), h("small", { class: "muted id" }, job.id)],
      h("span", { class: `state ${job.state}` }, t(`state.${job.state}`)),
      progressOf(job),
      h("span", { class: "nowrap" }, moment(job.created_at)),
      h(
        "div",
        { class: "row tight" },
        isOver
          ? act("jobs.delete", async () => {
              if (!(await confirmed(t("jobs.delete.ask"), t("jobs.delete"), t("app.cancel")))) return;
              await request("DELETE", at`v1/jobs/${job.id}`);
              this.jobs = this.jobs.filter((one) => one.id !== job.id);
              this.draw();
            })
          : act("jobs.cancel", async () => {
              this.changed(await cancel(job.id));
              notify(t("jobs.cancelled"), "good");
            }, { class: "danger" }),
        job.artifacts.map((one) => h("a", { href: one.url, download: one.name, class: "chip", title: bytes(one.size) }, one.name)),
      ),
    ];
  }
}

function progressOf(job) {
  if (job.error) return h("span", { class: "error-text" }, job.error.detail);
  if (job.state === "queued") return job.queue_position ? t("jobs.position", { n: number(job.queue_position) }) : "–";
  if (job.state !== "running") return job.finished_at && job.started_at ? h("span", { class: "nowrap" }, duration((new Date(job.finished_at) - new Date(job.started_at)) / 1000)) : "–";
  const { fraction, eta_seconds: eta, phase } = job.progress;
  return h("div", {}, meter(t("jobs.progress"), fraction), h("small", { class: "muted" }, [percent(fraction, 0), phase && phaseText(phase), eta && t("jobs.eta", { time: duration(eta) })].filter(Boolean).join(" · ")));
}
