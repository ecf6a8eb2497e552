// Records a challenge: shows each action as it has to be done, and tells what the camera sees.

import { post } from "./api.js";
import { button, h, show } from "./dom.js";
import { openCamera, snapshot } from "./picker.js";
import { guarded, notify } from "./notices.js";
import { t } from "./text.js";

const NEUTRAL_SECONDS = 1.2;
const ACTION_SECONDS = 2.4;
const CHECK_MS = 700;
const SIGNS = { turn_left: "←", turn_right: "→", look_up: "↑", close_eyes: "– –", open_mouth: "◯", neutral: "☺" };
const TYPES = ["video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/webm", "video/mp4"];

/** What has to be shown, one after the other, with times that fit the challenge's limit. */
function script({ actions, max_seconds: limit }) {
  const whole = NEUTRAL_SECONDS * 2 + ACTION_SECONDS * actions.length;
  const factor = Math.min(1, (limit - 0.7) / whole);
  const steps = actions.map((action) => ({ action, seconds: ACTION_SECONDS * factor }));
  const neutral = { action: "neutral", seconds: NEUTRAL_SECONDS * factor };
  return [neutral, ...steps, neutral];
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

/**
 * Opens the camera in `place`. `begin()` answers a challenge once the person is ready;
 * `done(video, challenge)` gets the recording. Answers a function that closes the camera.
 */
export async function recordChallenge(place, begin, done) {
  const video = h("video", { muted: true, playsinline: true, class: "camera mirrored", "aria-label": t("picker.camera") });
  const prompt = h("p", { class: "prompt", role: "status", "aria-live": "assertive" }, t("camera.opening"));
  const feedback = h("p", { class: "feedback" });
  const actions = h("div", { class: "row" });
  show(place, h("div", { class: "camera-box" }, h("div", { class: "oval-box" }, video, h("div", { class: "oval", "aria-hidden": "true" })), prompt, feedback, actions));
  place.scrollIntoView({ block: "nearest" });
  let close;
  try {
    close = await openCamera(video, { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 30 } });
  } catch {
    show(place);
    notify(t("camera.denied"), "bad");
    return () => {};
  }
  let isOpen = true;
  const end = () => {
    if (!isOpen) return;
    isOpen = false;
    close();
    show(place);
  };
  const watch = watchQuality(video, feedback, () => isOpen);
  prompt.textContent = t("camera.ready");
  const start = async () => {
    watch.act();
    actions.hidden = true;
    let answer;
    let isWanted = false;
    try {
      const challenge = await begin();
      answer = [await perform(video, challenge, prompt), challenge];
      isWanted = isOpen; // and the page was not left meanwhile
    } finally {
      end(); // before the result, which is shown in the same place
    }
    if (isWanted) await done(...answer);
  };
  show(actions, button(t("camera.start"), guarded(start), { class: "primary" }), button(t("app.cancel"), end));
  return end;
}

async function perform(video, challenge, prompt) {
  const mimeType = TYPES.find((type) => MediaRecorder.isTypeSupported(type));
  const recorder = new MediaRecorder(video.srcObject, { mimeType, videoBitsPerSecond: 2_500_000 });
  const parts = [];
  recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
  const stopped = new Promise((resolve) => recorder.addEventListener("stop", resolve, { once: true }));
  recorder.start(500);
  for (const { action, seconds } of script(challenge)) {
    show(prompt, h("span", { class: "sign", "aria-hidden": "true" }, SIGNS[action]), t(`action.${action}`));
    prompt.dataset.action = action;
    await pause(seconds);
  }
  if (recorder.state !== "inactive") recorder.stop();
  await stopped;
  return new File([new Blob(parts, { type: recorder.mimeType })], recorder.mimeType.includes("mp4") ? "camera.mp4" : "camera.webm", { type: recorder.mimeType });
}

// What an action does to a face is no fault of the frame.
const POSED = new Set(["extreme_pose", "expression", "occluded", "blurred"]);

/** Says what is wrong with the frames: too dark, too far away; before the recording, also the pose. */
function watchQuality(video, place, isOpen) {
  let acts = false;
  const check = async () => {
    while (isOpen()) {
      try {
        const { faces } = await post("v1/faces/detect", { body: await snapshot(video), headers: { "Content-Type": "image/jpeg" } });
        const [text, isGood] = judge(faces, acts);
        place.textContent = text;
        place.dataset.quality = isGood ? "good" : "bad";
      } catch {
        place.textContent = "";
      }
      await pause(CHECK_MS / 1000);
    }
  };
  check();
  return { act: () => (acts = true) };
}

function judge([face, other], acts) {
  if (!face) return [t("quality.no_face"), false];
  if (other) return [t("quality.many_faces"), false];
  const reasons = face.quality.reasons.filter((reason) => !acts || !POSED.has(reason));
  if (reasons.length) return [reasons.map((reason) => t(`quality.${reason}`)).join(" "), false];
  return [t(acts ? "quality.seen" : "quality.good"), true];
}
