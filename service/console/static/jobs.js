// Follows a job by server-sent events, through lost connections and restarts of the service.

import { at, get, post, url } from "./api.js";

export const FINISHED = new Set(["succeeded", "failed", "cancelled"]);
const KINDS = ["state", "progress", "metrics", "artifact"];
const MIN_WAIT = 300; // milliseconds between two reads of the job

/**
 * Calls `onJob` with the job now and after every change, until it has finished.
 *
 * An event only says that something is new; the job itself is read from the API. So nothing is
 * missed, whatever happened while the connection was lost. Returns a function that stops it.
 */
export function follow(id, onJob, onError = () => {}) {
  const path = at`v1/jobs/${id}`;
  let source = null;
  let timer = null;
  let isStopped = false;
  let delay = 1000;

  const stop = () => {
    isStopped = true;
    clearTimeout(timer);
    source?.close();
  };
  const later = (action, milliseconds) => {
    clearTimeout(timer);
    timer = setTimeout(action, milliseconds);
  };
  const read = async () => {
    try {
      const job = await get(path);
      if (isStopped) return;
      if (FINISHED.has(job.state)) stop();
      onJob(job);
    } catch (error) {
      if (isStopped) return;
      if (error.status >= 400 && error.status < 500 && error.status !== 429) {
        stop();
        onError(error);
      }
    }
  };
  const connect = () => {
    if (isStopped) return;
    source = new EventSource(url(`${path}/events`));
    for (const kind of KINDS) {
      source.addEventListener(kind, () => {
        delay = 1000;
        if (timer === null) {
          timer = setTimeout(() => {
            timer = null;
            read();
          }, MIN_WAIT);
        }
      });
    }
    source.addEventListener("error", () => {
      // The browser reconnects by itself, unless the service answered with an error.
      if (source.readyState !== EventSource.CLOSED || isStopped) return;
      delay = Math.min(10_000, delay * 1.5);
      later(async () => {
        timer = null;
        await read();
        connect();
      }, delay);
    });
  };
  read().then(connect);
  return stop;
}

/** Waits for the end of a job; `onJob` sees its progress. */
export const finished = (id, onJob = () => {}) =>
  new Promise((resolve, reject) => {
    follow(
      id,
      (job) => {
        onJob(job);
        if (FINISHED.has(job.state)) resolve(job);
      },
      reject,
    );
  });

export const cancel = (id) => post(at`v1/jobs/${id}/cancel`);
