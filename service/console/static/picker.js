// Takes files by click, drop or paste, and photographs with a camera.

import { button, h, newId } from "./dom.js";
import { notify } from "./notices.js";
import { t } from "./text.js";

/**
 * A place for files. Answers `{element, destroy}`.
 *
 * `onFiles` gets a list of `File`. With `camera`, a photo may be taken; with `paste`, an image
 * pasted anywhere on the page counts.
 */
export function picker({ label, hint, accept, multiple = true, camera = false, paste = false, folders = false, beside = [], onFiles }) {
  const input = h("input", { type: "file", id: newId("files"), accept, multiple, class: "visually-hidden" });
  const zone = h(
    "div",
    { class: "drop" },
    input,
    h("label", { for: input.id }, h("span", { class: "drop-icon", "aria-hidden": "true" }, "+"), h("strong", {}, label), h("span", { class: "muted" }, hint)),
  );
  const take = (files) => files.length > 0 && onFiles(files);
  input.addEventListener("change", () => {
    take([...input.files]);
    input.value = "";
  });
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", async (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take(folders ? await dropped(event.dataTransfer) : [...event.dataTransfer.files]);
  });
  const pasted = (event) => {
    const files = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
    if (files.length) take(files);
  };
  if (paste) document.addEventListener("paste", pasted);
  const extras = h("div", { class: "row" });
  if (camera && navigator.mediaDevices) extras.append(button(t("picker.photograph"), () => photograph(extras, take)));
  if (folders) extras.append(folderButton(take));
  extras.append(...[beside].flat().filter(Boolean));
  return {
    element: h("div", { class: "picker" }, zone, extras.children.length > 0 && extras),
    destroy: () => document.removeEventListener("paste", pasted),
  };
}

function folderButton(take) {
  const input = h("input", { type: "file", multiple: true, webkitdirectory: true, class: "visually-hidden", tabindex: -1, "aria-label": t("picker.folder") });
  input.addEventListener("change", () => {
    take([...input.files].map((file) => withPath(file, file.webkitRelativePath)));
    input.value = "";
  });
  return h("span", {}, input, button(t("picker.folder"), () => input.click()));
}

/** Remembers where in a dropped folder a file was. */
function withPath(file, path) {
  file.folderPath = path;
  return file;
}

/** All files of a drop, also those in folders. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const files = [];
  const walk = async (entry, path) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      files.push(withPath(file, `${path}${entry.name}`));
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!batch.length) return;
      for (const child of batch) await walk(child, `${path}${entry.name}/`);
    }
  };
  for (const entry of entries) await walk(entry, "");
  return files;
}

/** Opens a camera in a video element; the caller stops it. */
export async function openCamera(video, constraints = {}) {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user", ...constraints } });
  video.srcObject = stream;
  await video.play();
  return () => stream.getTracks().forEach((track) => track.stop());
}

/** A JPEG of what a video shows at present. */
export function snapshot(video) {
  const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new Promise((resolve) => canvas.toBlob((blob) => resolve(new File([blob], "camera.jpg", { type: "image/jpeg" })), "image/jpeg", 0.92));
}

async function photograph(place, take) {
  const video = h("video", { muted: true, playsinline: true, class: "camera", "aria-label": t("picker.camera") });
  let stop;
  try {
    stop = await openCamera(video, { facingMode: "environment" });
  } catch {
    notify(t("camera.denied"), "bad");
    return;
  }
  const box = h("div", { class: "camera-box" }, video);
  const close = () => {
    stop();
    box.remove();
  };
  box.append(
    h(
      "div",
      { class: "row" },
      button(t("picker.shoot"), async () => {
        take([await snapshot(video)]);
        close();
      }, { class: "primary" }),
      button(t("app.cancel"), close),
    ),
  );
  place.after(box);
}
