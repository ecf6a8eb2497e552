// The admission report: what was refused, and why, with thumbnails where there are any.

import { at, get, request } from "./api.js";
import { button, h, named, show } from "./dom.js";
import { guarded } from "./notices.js";
import { number, t } from "./text.js";

const SHOWN = 60;

export function admissionReport(dataset) {
  const count = dataset.rejected_count ?? dataset.rejected?.length ?? 0;
  const place = h("div", {});
  const load = guarded(async () => {
    const page = await get(at`v1/datasets/${dataset.id}/files`, { status: "rejected", limit: SHOWN });
    show(place, h("ul", { class: "report", tabindex: 0, "aria-label": t("report.refused", { n: number(count) }) }, page.items.map((file) => entry(dataset.id, file))), page.next_cursor && h("p", { class: "muted" }, t("report.more")));
  });
  if (count) load();
  return h(
    "details",
    { class: "card", open: count > 0 },
    h("summary", {}, count ? t("report.refused", { n: number(count) }) : t("report.clean")),
    place,
    gallery(dataset),
  );
}

const entry = (id, file) =>
  h("li", {}, thumbnail(id, file.id, ""), h("div", {}, h("div", { class: "file" }, named(file.path)), h("div", {}, h("span", { class: "chip" }, file.code), " ", file.detail), file.action && h("small", { class: "muted" }, file.action)));

/** A thumbnail, or a sign for a file that has none. */
export function thumbnail(dataset, file, alt) {
  const box = h("span", { class: "thumbnail" });
  request("GET", at`v1/datasets/${dataset}/files/${file}/thumbnail`, { accept: "image/*", quiet: true })
    .then((blob) => {
      const image = h("img", { src: URL.createObjectURL(blob), alt });
      image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
      show(box, image);
    })
    .catch(() => show(box, h("span", { "aria-hidden": "true" }, "∅")));
  return box;
}

function gallery(dataset) {
  const place = h("div", {});
  const look = (label) =>
    guarded(async () => {
      const page = await get(at`v1/datasets/${dataset.id}/files`, { status: "admitted", label, limit: 24 });
      show(place, h("ul", { class: "thumbnails" }, page.items.map((file) => h("li", {}, thumbnail(dataset.id, file.id, file.path)))));
    });
  return h("div", { class: "stack" }, h("p", {}, t("report.look")), h("div", { class: "row" }, Object.keys(dataset.classes).slice(0, 20).map((label) => button(named(label), look(label)))), place);
}
