// Faces: enroll people, recognize them, erase them.

import { all, at, get, may, post, request, upload } from "../api.js";
import { recordChallenge } from "../challenge.js";
import { lineChart } from "../chart.js";
import { button, choice, confirmed, empty, field, h, meter, named, show, table } from "../dom.js";
import { finished } from "../jobs.js";
import { explain, guarded, notify, report, submitted } from "../notices.js";
import { picker } from "../picker.js";
import { day, has, moment, number, percent, t } from "../text.js";

export async function render(main) {
  const [people, threshold] = await Promise.all([all("v1/faces/subjects"), get("v1/faces/threshold").catch(() => null)]);
  const page = new FacesPage(main, people, threshold);
  page.draw();
  return () => page.leave();
}

/** The wording of a reason that the API gives as a code. */
const reasonText = (code) => (has(`quality.${code}`) ? t(`quality.${code}`) : has(`liveness.${code}`) ? t(`liveness.${code}`) : code.replaceAll("_", " "));

class FacesPage {
  constructor(main, people, threshold) {
    Object.assign(this, { main, people, threshold });
    this.list = h("div", { class: "stack" });
    this.work = h("div", { class: "stack" });
    this.endCamera = () => {};
  }

  leave() {
    this.endCamera();
    this.finder?.destroy();
    this.photos?.destroy();
  }

  draw() {
    show(
      this.main,
      h("div", { class: "heading" }, h("div", {}, h("h1", {}, t("nav.faces")), h("p", { class: "muted" }, t("faces.about")))),
      h("div", { class: "columns" }, h("div", { class: "stack side" }, this.addForm(), this.list), h("div", { class: "stack" }, this.work, this.identification(), this.calibration())),
    );
    this.drawList();
    this.drawNobody();
  }

  /** What the page is for, while no person is chosen. */
  drawNobody() {
    show(this.work, empty(t(this.people.length ? "faces.choose" : "faces.empty"), t("faces.empty.help")));
  }

  addForm() {
    const name = h("input", { type: "text", required: true, maxlength: 200, autocomplete: "off" });
    const agreed = h("input", { type: "checkbox", required: true });
    const add = async () => {
      const consent = { version: "console-1", text_digest: t("faces.consent.digest"), by: "console" };
      const person = await post("v1/faces/subjects", { json: { name: name.value, consent } });
      name.value = "";
      agreed.checked = false;
      this.people.unshift(person);
      this.choose(person);
    };
    return h("form", { class: "card stack", on: { submit: submitted(add) } }, h("h2", {}, t("faces.add")), field(t("faces.name"), name), h("label", { class: "check" }, agreed, h("span", {}, t("faces.consent"))), h("div", {}, h("button", { class: "primary" }, t("faces.add"))));
  }

  drawList() {
    show(
      this.list,
      this.people.length > 0 &&
        h(
          "section",
          { class: "card" },
          h("h2", {}, t("faces.people", { n: number(this.people.length) })),
          h(
            "ul",
            { class: "entries" },
            this.people.map((person) =>
              h(
                "li",
                {},
                h(
                  "button",
                  { type: "button", class: "entry", "data-focus": person.id, "aria-current": person.id === this.current ? "true" : undefined, on: { click: () => this.choose(person) } },
                  named(person.name),
                  h("small", {}, person.templates.current ? t("faces.templates", { n: person.templates.current }) : t("faces.notenrolled"), ` · ${consentOf(person)}`),
                ),
              ),
            ),
          ),
        ),
    );
  }

  choose(person) {
    this.endCamera();
    this.photos?.destroy();
    this.current = person.id;
    this.drawList();
    this.stage = h("div", { class: "stack", "aria-live": "polite" });
    this.photos = picker({ label: t("faces.photos"), hint: t("faces.photos.hint"), accept: "image/*", onFiles: guarded((files) => this.enroll(person, files.map((file) => ["image", file]))) });
    const enroll = guarded(async () => {
      this.endCamera = await recordChallenge(this.stage, () => this.challenge("enroll", person), guarded((video, challenge) => this.enroll(person, answerOf(video, challenge))));
    });
    const login = guarded(async () => {
      this.endCamera = await recordChallenge(this.stage, () => this.challenge("login", person), guarded((video, challenge) => this.login(person, answerOf(video, challenge))));
    });
    show(
      this.work,
      h(
        "section",
        { class: "card stack" },
        h("div", { class: "row spread" }, h("h2", {}, named(person.name)), button(t("faces.erase"), () => this.erase(person), { class: "danger" })),
        h("p", { class: "muted" }, [t("faces.templates", { n: person.templates.current }), consentOf(person), t("faces.used", { at: moment(person.last_used_at) })].join(" · ")),
        h("div", { class: "row" }, button(t("faces.enroll"), enroll, { class: "primary" }), person.templates.current > 0 && button(t("faces.login"), login)),
        this.stage,
        this.photos.element,
      ),
    );
    this.work.scrollIntoView({ block: "nearest" });
  }

  challenge(purpose, person) {
    return post("v1/faces/challenges", { json: { purpose, subject_id: person.id } });
  }

  async enroll(person, fields) {
    const bar = meter(t("faces.enrolling"));
    show(this.stage, h("p", {}, t("faces.enrolling")), bar);
    const form = new FormData();
    for (const [name, value] of fields) form.append(name, value);
    try {
      const job = await finished((await upload(at`v1/faces/subjects/${person.id}/enrollments`, form)).id, (now) => (bar.value = now.progress.fraction));
      await this.refresh(person.id);
      show(this.stage, job.state === "succeeded" ? enrolled(job.result) : h("p", { class: "warning", role: "alert" }, job.error?.detail ?? t(`state.${job.state}`)));
    } catch (error) {
      show(this.stage, h("div", { class: "warning" }, explain(error)));
    }
  }

  async login(person, fields) {
    show(this.stage, h("p", {}, t("faces.checking")));
    const form = new FormData();
    form.append("subject_id", person.id);
    for (const [name, value] of fields) form.append(name, value);
    try {
      const answer = await upload("v1/faces/login", form);
      const isMatch = answer.decision === "match";
      show(
        this.stage,
        h(
          "div",
          { class: isMatch ? "good-box" : "warning", role: "status" },
          h("h3", {}, t(`decision.${answer.decision}`, { name: person.name })),
          answer.reason && h("p", {}, reasonText(answer.reason)),
          (answer.quality_reasons ?? []).map((reason) => h("p", {}, reasonText(reason))),
          isMatch && h("p", { class: "muted" }, t("faces.token", { at: moment(answer.expires_at) })),
        ),
      );
    } catch (error) {
      show(this.stage, h("div", { class: "warning" }, explain(error)));
    }
  }

  async refresh(id) {
    const person = await get(at`v1/faces/subjects/${id}`);
    this.people = this.people.map((one) => (one.id === id ? person : one));
    if (this.current === id) {
      const { stage } = this;
      this.choose(person);
      this.stage.replaceWith(stage);
      this.stage = stage;
    }
  }

  erase = guarded(async (person) => {
    if (!(await confirmed(t("faces.erase.ask", { name: person.name }), t("faces.erase"), t("app.cancel")))) return;
    const { erased } = await request("DELETE", at`v1/faces/subjects/${person.id}`);
    this.people = this.people.filter((one) => one.id !== person.id);
    this.current = null;
    this.drawList();
    this.drawNobody();
    notify(t("faces.erased", { templates: erased.templates, files: erased.files }), "good");
  });

  identification() {
    const place = h("div", { class: "stack", "aria-live": "polite" });
    this.finder = picker({
      label: t("faces.identify"),
      hint: t("faces.identify.hint"),
      accept: "image/*",
      multiple: false,
      camera: true,
      onFiles: async ([file]) => {
        try {
          show(place, h("p", { class: "muted" }, t("app.working")));
          show(place, await found(file));
        } catch (error) {
          show(place, h("div", { class: "warning" }, explain(error)));
        }
      },
    });
    return h("section", { class: "card stack" }, h("h2", {}, t("faces.identify.title")), this.finder.element, place);
  }

  calibration() {
    const now = this.threshold;
    const place = h("div", { class: "stack" });
    const begin = guarded(async () => {
      const job = await post("v1/faces/calibrations", { json: { dataset_id: dataset.value } });
      const bar = meter(t("kind.calibration"));
      show(place, bar);
      showCalibration(place, await finished(job.id, (current) => (bar.value = current.progress.fraction)));
    });
    const dataset = choice([["", "–"]], "");
    if (may("train")) {
      all("v1/datasets")
        .then((items) => dataset.append(...items.map((one) => h("option", { value: one.id }, one.name))))
        .catch(report);
    }
    get("v1/jobs", { kind: "calibration", state: "succeeded", limit: 1 })
      .then(({ items: [job] }) => job && showCalibration(place, job))
      .catch(() => {});
    return h(
      "details",
      { class: "card" },
      h("summary", {}, t("faces.calibration")),
      h("p", { class: "muted" }, t("faces.calibration.about")),
      now && h("p", {}, t("faces.threshold", { similarity: number(now.similarity, 3), source: has(`faces.source.${now.source}`) ? t(`faces.source.${now.source}`) : now.source })),
      may("train") && h("div", { class: "row controls" }, field(t("faces.calibration.dataset"), dataset), button(t("faces.calibrate"), begin)),
      place,
    );
  }
}

const consentOf = ({ consent }) => (consent ? t("faces.consent.at", { at: day(consent.at) }) : t("faces.consent.none"));

const answerOf = (video, challenge) => [["video", video], ["challenge_id", challenge.id], ["nonce", challenge.nonce]];

function enrolled(result) {
  const { frames, liveness } = result;
  const left = Object.entries(frames.rejected);
  return h(
    "div",
    { class: result.templates_added ? "good-box" : "warning" },
    h("h3", {}, t("faces.enrolled", { n: result.templates_added })),
    h("p", {}, t("faces.frames", { read: frames.read, used: frames.used })),
    left.length > 0 && h("ul", {}, left.map(([reason, count]) => h("li", {}, `${number(count)} × ${reasonText(reason)}`))),
    liveness && h("p", {}, liveness.passed === false || liveness.reason ? reasonText(liveness.reason ?? "") : t("faces.live")),
  );
}

/** The image with a box around each face and the names of those who may be meant. */
async function found(file) {
  const { faces } = await post("v1/faces/identify", { body: file, headers: { "Content-Type": "application/octet-stream" } });
  const image = h("img", { src: URL.createObjectURL(file), alt: t("faces.identify.image") });
  await image.decode().catch(() => {});
  const share = (value, whole) => `${(100 * value) / (whole || 1)}%`;
  const boxes = faces.map(({ box, candidates }) =>
    h(
      "div",
      { class: "face-box", style: { left: share(box.x, image.naturalWidth), top: share(box.y, image.naturalHeight), width: share(box.width, image.naturalWidth), height: share(box.height, image.naturalHeight) } },
      h("span", {}, candidates[0] ? named(candidates[0].name) : t("faces.unknown")),
    ),
  );
  const rows = faces.flatMap((face, index) => (face.candidates.length ? face.candidates : [null]).map((one) => [number(index + 1), one ? named(one.name) : t("faces.unknown"), one ? percent(one.similarity) : "–"]));
  return [
    h("div", { class: "stage" }, image, boxes),
    faces.length ? table(t("faces.identify.title"), [t("faces.face"), t("faces.name"), t("faces.similarity")], rows) : h("p", {}, t("quality.no_face")),
  ];
}

function showCalibration(place, job) {
  if (job.state !== "succeeded") {
    show(place, h("p", { class: "warning" }, job.error?.detail ?? t(`state.${job.state}`)));
    return;
  }
  const result = job.result;
  const log = (rate) => Math.log10(Math.max(rate, 1e-5));
  const points = (result.curve ?? []).map((one) => [one.threshold * 100, one]);
  show(
    place,
    h("p", {}, t("faces.calibrated", { threshold: number(result.threshold, 3), fmr: percent(result.fmr.rate ?? 0, 3), fnmr: percent(result.fnmr.rate ?? 0, 2), people: result.people })),
    points.length > 1 &&
      lineChart(t("faces.curve"), [{ label: "FMR", points: points.map(([x, one]) => [x, log(one.fmr)]) }, { label: "FNMR", points: points.map(([x, one]) => [x, log(one.fnmr)]) }], { low: -5, high: 0, from: Infinity, xLabel: t("faces.curve.axis") }),
    job.artifacts.map((one) => one.media_type === "image/png" && h("img", { class: "wide", src: one.url, alt: t("faces.curve") })),
  );
}
