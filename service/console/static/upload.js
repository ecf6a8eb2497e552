// Sends archives and class folders as datasets.

import { at, get, post, uploadOnce } from "./api.js";
import { h } from "./dom.js";
import { finished } from "./jobs.js";
import { explain, notify } from "./notices.js";
import { t } from "./text.js";

const BATCH = 16;
const SPLITS = { train: "train", training: "train", val: "validation", valid: "validation", validation: "validation", test: "test" };
const UNFIT = new Set(["invalid_image", "image_too_large", "payload_too_large", "unsupported_media_type"]);
const ARCHIVE = /\.(zip|tar|tgz|tar\.gz)$/i;

export const isArchive = (file) => ARCHIVE.test(file.name);

/**
 * Where a file of a dropped folder belongs: its class is the folder it lies in; a folder named
 * `train`, `validation` or `test` above that is its split.
 */
export function placeOf(path) {
  const parts = path.split("/").filter(Boolean);
  if (parts.length < 2) return null;
  if (parts.some((part) => part.startsWith(".") || part === "__MACOSX")) return null;
  const label = parts.at(-2);
  const split = parts.length > 2 ? SPLITS[parts.at(-3).toLowerCase()] : undefined;
  return { label, split };
}

const pathOf = (file) => file.folderPath ?? file.webkitRelativePath ?? "";
const folderOf = (file) => pathOf(file).split("/").slice(0, -1).join("/");

/** Folders that contain folders: files beside these, such as a readme, belong to no class. */
function parentsOf(files) {
  const parents = new Set();
  for (const file of files) {
    const parts = folderOf(file).split("/");
    for (let count = 1; count < parts.length; count += 1) parents.add(parts.slice(0, count).join("/"));
  }
  return parents;
}

/** Says that an upload waits for the connection, and that it goes on. */
const waiting = (onPhase) => (isLost) => onPhase(t(isLost ? "learn.lost" : "learn.uploading"));

/** Sends one archive; answers the dataset. */
export async function sendArchive(file, { signal, onProgress, onPhase }) {
  const form = new FormData();
  form.append("archive", file, file.name);
  form.append("name", file.name.replace(ARCHIVE, "").slice(0, 100) || t("learn.unnamed"));
  onPhase(t("learn.uploading"));
  const answer = await uploadOnce("v1/datasets", form, { signal, onProgress, onLost: waiting(onPhase) });
  if (answer.classes) return answer;
  onPhase(t("learn.checking"));
  const job = await finished(answer.id, (now) => onProgress(now.progress.fraction));
  if (job.state !== "succeeded") throw new Error(job.error?.detail ?? t(`state.${job.state}`));
  return get(at`v1/datasets/${job.result.id}`);
}

/** Sends the images of class folders, some at a time; answers the dataset. */
export async function sendFolders(files, { signal, onProgress, onPhase }) {
  const groups = new Map();
  const parents = parentsOf(files);
  for (const file of files) {
    const place = parents.has(folderOf(file)) ? null : placeOf(pathOf(file));
    if (!place) continue;
    const key = JSON.stringify([place.label, place.split]);
    groups.set(key, [...(groups.get(key) ?? []), file]);
  }
  if (!groups.size) throw new Error(t("learn.nofolders"));
  const name = pathOf(files[0]).split("/")[0].slice(0, 100);
  const dataset = await post("v1/datasets", { json: { name }, signal });
  const total = [...groups.values()].reduce((sum, group) => sum + group.length, 0);
  let sent = 0;
  onPhase(t("learn.uploading"));
  for (const [key, group] of groups) {
    const [label, split] = JSON.parse(key);
    for (let start = 0; start < group.length; start += BATCH) {
      const some = group.slice(start, start + BATCH);
      const form = new FormData();
      for (const file of some) form.append("image", file, file.name);
      const before = sent;
      try {
        await uploadOnce(at`v1/datasets/${dataset.id}/images`, form, { query: { label, split }, signal, onLost: waiting(onPhase), onProgress: (part) => onProgress((before + part * some.length) / total) });
      } catch (error) {
        // A file that is sent alone, and is no image, is an error and not in the report.
        if (some.length > 1 || !UNFIT.has(error.code)) throw error;
        notify([h("p", {}, t("learn.left", { name: pathOf(some[0]) })), explain(error)], "bad", { seconds: 20 });
      }
      sent += some.length;
      onProgress(sent / total);
    }
  }
  return get(at`v1/datasets/${dataset.id}`);
}
