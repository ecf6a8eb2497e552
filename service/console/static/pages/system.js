// System: models and what keeps them from being ready, workers, keys.

import { all, at, get, may, post, request, url } from "../api.js";
import { button, confirmed, field, h, named, show, table } from "../dom.js";
import { guarded, notify, submitted } from "../notices.js";
import { moment, number, t } from "../text.js";

const POLL = 5000;
const SCOPES = ["infer", "train", "faces", "models", "admin"];

export async function render(main) {
  const live = h("div", { class: "stack" });
  const keys = h("section", { class: "card" });
  show(
    main,
    h("div", { class: "heading" }, h("div", {}, h("h1", {}, t("nav.system")), h("p", { class: "muted" }, t("system.about")))),
    live,
    keys,
    h("section", { class: "card" }, h("h2", {}, t("system.links")), h("ul", {}, links())),
  );
  const read = async () => show(live, overview(await get("v1/system")));
  await read();
  if (may("admin")) await drawKeys(keys);
  else show(keys, h("h2", {}, t("keys.title")), h("p", { class: "muted" }, t("keys.admin")));
  const timer = setInterval(() => live.contains(document.activeElement) || read().catch(() => {}), POLL);
  return () => clearInterval(timer);
}

const links = () =>
  [["docs", "system.docs"], ["openapi.json", "system.openapi"], ["metrics", "system.metrics"], ["readyz", "system.ready"]].map(([path, key]) => h("li", {}, h("a", { href: url(path) }, t(key))));

function overview(system) {
  const ready = system.models.filter((model) => model.state === "ready").length;
  const stats = [
    [t("system.version"), system.version],
    [t("system.models"), t("system.models.ready", { ready, all: system.models.length })],
    [t("queue.workers"), number(system.workers.length + system.job_workers.length)],
    [t("system.devices"), system.devices.join(", ") || "–"],
    [t("system.since"), moment(system.started_at * 1000)],
  ];
  return [
    h("div", { class: "cards" }, stats.map(([title, text]) => h("div", { class: "card stat" }, h("h2", {}, title), h("p", {}, text)))),
    h("section", { class: "card" }, h("h2", {}, t("system.models")), table(t("system.models"), ["model.model", "model.state", "model.versions", "model.classes", "model.runtime"].map((key) => t(key)), system.models.map(modelRow), { stacked: true })),
    h("section", { class: "card" }, h("h2", {}, t("system.workers")), workers(system)),
  ];
}

// Without its classifier a network still embeds: not ready, but not unavailable either.
const isPartly = (model) => model.state === "unavailable" && model.operations.length > 0;
const stateText = (model) => (isPartly(model) ? t("model.partly", { operations: model.operations.filter((name) => name !== "study").join(", ") }) : t(`model.${model.state}`));

const modelRow = (model) => [
  [h("strong", {}, named(model.name)), model.licence && h("div", {}, h("small", { class: "muted" }, model.licence))],
  [h("span", { class: `state ${isPartly(model) ? "loading" : model.state}` }, stateText(model)), model.reason && h("div", { class: "reason" }, model.reason)],
  model.versions.map((n, place) => [place > 0 && ", ", n === model.aliases.champion ? h("strong", {}, t("versions.champion", { version: n })) : n]),
  model.classes ? number(model.classes) : "–",
  [model.runtime ?? "–", model.runtime_reason && h("div", { class: "reason" }, model.runtime_reason)],
];

function workers(system) {
  const rows = [...system.workers.map((one) => [one, t("system.inference")]), ...system.job_workers.map((one) => [one, t("nav.jobs")])];
  if (!rows.length) return h("p", {}, t("system.noworkers"));
  const heads = ["system.host", "system.role", "system.devices", "system.models", "system.since"].map((key) => t(key));
  return table(t("system.workers"), heads, rows.map(([one, role]) => [`${one.host} · ${one.pid}`, role, one.devices.join(", "), one.models.filter((model) => model.state !== "unavailable" || model.version).map((model) => (model.version ? `${model.name}:${model.version}` : model.name)).join(", ") || "–", moment(one.started_at * 1000)]), { stacked: true });
}

async function drawKeys(place) {
  const items = await all("v1/keys");
  const again = guarded(() => drawKeys(place));
  const heads = ["keys.name", "keys.scopes", "keys.created", "keys.used", "keys.status", "jobs.actions"].map((key) => t(key));
  show(
    place,
    h("h2", {}, t("keys.title")),
    h("p", { class: "muted" }, t("keys.about")),
    items.length === 0 && h("p", { class: "warning" }, t("keys.none")),
    items.length > 0 && table(t("keys.title"), heads, items.map((key) => keyRow(key, again)), { stacked: true }),
    keyForm(again),
  );
}

function keyRow(key, again) {
  const isOver = key.revoked_at || (key.expires_at && new Date(key.expires_at) < new Date());
  const revoke = guarded(async () => {
    if (!(await confirmed(t("keys.revoke.ask", { name: key.name }), t("keys.revoke"), t("app.cancel")))) return;
    await request("DELETE", at`v1/keys/${key.id}`);
    await again();
  });
  return [
    named(key.name),
    key.scopes.join(", "),
    moment(key.created_at),
    moment(key.last_used_at),
    t(key.revoked_at ? "keys.revoked" : isOver ? "keys.expired" : "keys.valid"),
    isOver ? "–" : button(t("keys.revoke"), revoke, { class: "danger", "aria-label": `${t("keys.revoke")}: ${key.name}` }),
  ];
}

function keyForm(again) {
  const name = h("input", { type: "text", required: true, maxlength: 100, autocomplete: "off" });
  const boxes = SCOPES.map((scope) => h("label", { class: "check" }, h("input", { type: "checkbox", name: "scope", value: scope, checked: scope === "infer" }), scope));
  const create = submitted(async ({ target }) => {
    const scopes = [...target.querySelectorAll("input[name=scope]:checked")].map((box) => box.value);
    const made = await post("v1/keys", { json: { name: name.value, scopes } });
    await again();
    notify(h("div", {}, h("p", {}, t("keys.made")), h("code", { class: "secret" }, made.key), made.note && h("p", {}, made.note)), "good", { seconds: 0 });
  });
  return h(
    "details",
    {},
    h("summary", {}, t("keys.create")),
    h("form", { class: "stack", on: { submit: create } }, field(t("keys.name"), name), h("fieldset", { class: "row" }, h("legend", {}, t("keys.scopes")), boxes), h("div", {}, h("button", { class: "primary" }, t("keys.create")))),
  );
}
