// Requests to the public API, with the session's token. Errors carry the API's `detail`.

import { has, t } from "./text.js";

/** The address of the service, whatever the path prefix: this file lies two folders below it. */
export const root = new URL("../../", import.meta.url);
export const url = (path) => new URL(path.replace(/^\//, ""), root).href;

/** A path with values in it: at`v1/jobs/${id}`. None of them can lead to another route. */
export const at = (texts, ...values) => String.raw({ raw: texts }, ...values.map(encodeURIComponent));

/** The session: who I am and what I may do; null before that is known. */
export const session = { current: null };
export const events = new EventTarget();

export const may = (scope) => session.current?.scopes.includes(scope) ?? false;

/** An answer of the API that is an error, or no answer. */
export class ApiError extends Error {
  constructor(problem) {
    super(problem.detail || problem.title || t("error.unknown"));
    this.status = problem.status ?? 0;
    this.code = problem.code ?? "unreachable";
    this.requestId = problem.request_id;
    this.errors = problem.errors ?? [];
    this.retryAfter = problem.retryAfter;
  }

  /** What to do about it, in the page's language, where there is more to say than `detail`. */
  get advice() {
    return has(`advice.${this.code}`) ? t(`advice.${this.code}`, { request: this.requestId }) : "";
  }
}

function address(path, query = {}) {
  const target = new URL(url(path));
  for (const [name, value] of Object.entries(query)) {
    if (value === undefined || value === null || value === "") continue;
    for (const item of [value].flat()) target.searchParams.append(name, item);
  }
  return target;
}

function headersOf(method, { json, accept, headers = {} }) {
  const result = { Accept: accept ?? "application/json", ...headers };
  if (json !== undefined) result["Content-Type"] = "application/json";
  const token = session.current?.csrf_token;
  if (token && method !== "GET") result["X-CSRF-Token"] = token;
  return result;
}

function problemOf(status, text, retryAfter) {
  let problem = {};
  try {
    problem = JSON.parse(text);
  } catch {
    // Not from the service: a proxy's page, perhaps.
  }
  return new ApiError({ detail: t("error.status", { status }), ...problem, status, retryAfter });
}

let isReachable = true;

/** Notes whether the service answers, and tells the page when that changes. */
function reached(answers) {
  if (answers === isReachable) return;
  isReachable = answers;
  events.dispatchEvent(new Event(answers ? "reachable" : "unreachable"));
  if (!answers) waitForService();
}

async function waitForService() {
  for (let delay = 500; !isReachable; delay = Math.min(5000, delay * 1.5)) {
    await new Promise((resolve) => setTimeout(resolve, delay));
    try {
      if ((await fetch(url("healthz"), { cache: "no-store" })).ok) reached(true);
    } catch {
      // Still away.
    }
  }
}

/** Resolves when the service answers again. */
const untilReachable = (signal) =>
  new Promise((resolve, reject) => {
    if (isReachable) resolve();
    events.addEventListener("reachable", resolve, { once: true });
    signal?.addEventListener("abort", () => reject(new DOMException("", "AbortError")), { once: true });
  });

/** A key that makes a repeated request count once. */
const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

function failed(error) {
  if (error.code === "unauthorized") events.dispatchEvent(new Event("unauthorized"));
  return error;
}

/**
 * A request. Answers JSON, a Blob for any other type, or null for 204.
 *
 * Options: query, json, body, headers, accept, signal; `quiet` leaves a 401 to the caller.
 */
export async function request(method, path, options = {}) {
  const { json, body, query, signal, quiet } = options;
  let answer;
  try {
    answer = await fetch(address(path, query), {
      method,
      headers: headersOf(method, options),
      body: json === undefined ? body : JSON.stringify(json),
      signal,
      credentials: "same-origin",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    reached(false);
    throw new ApiError({ detail: t("error.unreachable") });
  }
  reached(true);
  if (!answer.ok) {
    const error = problemOf(answer.status, await answer.text(), answer.headers.get("Retry-After"));
    throw quiet ? error : failed(error);
  }
  if (answer.status === 204) return null;
  const type = answer.headers.get("Content-Type") ?? "";
  return type.includes("json") ? answer.json() : answer.blob();
}

export const get = (path, query, options = {}) => request("GET", path, { ...options, query });
export const post = (path, options) => request("POST", path, options);

/** A POST of a form whose progress is reported, as a fraction, to `onProgress`. */
export function upload(path, form, { query, headers, onProgress, signal } = {}) {
  return new Promise((resolve, reject) => {
    const sender = new XMLHttpRequest();
    sender.open("POST", address(path, query));
    for (const [name, value] of Object.entries(headersOf("POST", { headers }))) {
      sender.setRequestHeader(name, value);
    }
    sender.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) onProgress?.(event.loaded / event.total);
    });
    sender.addEventListener("load", () => {
      reached(true);
      const { status, responseText } = sender;
      if (status >= 200 && status < 300) resolve(responseText ? JSON.parse(responseText) : null);
      else reject(failed(problemOf(status, responseText, sender.getResponseHeader("Retry-After"))));
    });
    sender.addEventListener("error", () => {
      reached(false);
      reject(new ApiError({ detail: t("error.unreachable") }));
    });
    sender.addEventListener("abort", () => reject(new DOMException("", "AbortError")));
    signal?.addEventListener("abort", () => sender.abort());
    sender.send(form);
  });
}

const ATTEMPTS = 5;

/**
 * Like `upload`; what a lost connection has interrupted is sent again once the service answers, with
 * the same key, so that it counts once. `onLost(true)` and `onLost(false)` tell when that begins and ends.
 */
export async function uploadOnce(path, form, options = {}) {
  const headers = { ...options.headers, "Idempotency-Key": newKey() };
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await upload(path, form, { ...options, headers });
    } catch (error) {
      if (error.code !== "unreachable" || attempt === ATTEMPTS) throw error;
      options.onLost?.(true);
      await untilReachable(options.signal);
      options.onLost?.(false);
    }
  }
}

/** All items of a list, up to `limit`. */
export async function all(path, query = {}, limit = 1000) {
  const items = [];
  let cursor;
  do {
    const page = await get(path, { limit: 200, ...query, cursor });
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor && items.length < limit);
  return items;
}
