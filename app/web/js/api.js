// The service's HTTP contract. Every failure is a Problem with a title, a sentence and a code.

export class Problem extends Error {
  constructor({ title = "Error", detail = "", code = "error", status = 0 }) {
    super(detail || title);
    Object.assign(this, { title, detail, code, status });
  }
}

const RETRY_MS = 2000;
const HIDDEN_MS = 5000;
const ENDED = new Set(["succeeded", "failed", "canceled", "expired"]);
const UNREACHABLE = { title: "The service does not answer", detail: "The connection failed.", code: "network" };

function problemOf(status, text) {
  try {
    return new Problem(JSON.parse(text));
  } catch {
    return new Problem({ title: `Error ${status}`, detail: "The answer could not be understood.", status });
  }
}

/** The answer as JSON; null for 204. Throws Problem. */
export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Problem(UNREACHABLE);
  }
  if (!response.ok) throw problemOf(response.status, await response.text());
  return response.status === 204 ? null : response.json();
}

export const getJob = (id) => ask(`/jobs/${encodeURIComponent(id)}`);
export const cancelJob = (id) => ask(`/jobs/${encodeURIComponent(id)}/cancel`, { method: "POST" });
export const eraseJob = (id) => ask(`/jobs/${encodeURIComponent(id)}`, { method: "DELETE" });

export function listJobs({ status, cursor, limit = 25 }) {
  const query = new URLSearchParams({ limit });
  if (status) query.set("status", status);
  if (cursor) query.set("cursor", cursor);
  return ask(`/jobs?${query}`);
}

/** A key for one sending: if its answer got lost, sending again under it gives the job that was made, not another one. */
export const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** Send a scan. `onProgress(sent, total)` in bytes. Gives { done, abort }: done becomes the job or throws Problem. */
export function sendScan(form, key, onProgress) {
  const request = new XMLHttpRequest();
  const done = new Promise((resolve, reject) => {
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded, event.total);
    request.onload = () => {
      if (request.status < 300) resolve(JSON.parse(request.responseText));
      else reject(problemOf(request.status, request.responseText));
    };
    request.onerror = () => reject(new Problem({ ...UNREACHABLE, detail: "The connection broke before everything was sent." }));
    request.onabort = () => reject(new Problem({ title: "Upload canceled", code: "aborted" }));
    request.open("POST", "/segment");
    request.setRequestHeader("Idempotency-Key", key);
    request.send(form);
  });
  return { done, abort: () => request.abort() };
}

/**
 * Follow a job until it ends. The browser reconnects by itself where the line breaks; where the service answers with an
 * error, or the browser gives up, the job is asked for and the line opened again. A page that nobody looks at asks now and
 * then instead: a browser opens six lines to a service at most, in all its tabs together.
 * handlers: onStep({status, stage, progress}), onEnd(job), onLost(problem or null). Gives a function that stops.
 */
export function watchJob(id, { onStep, onEnd, onLost }) {
  let [source, timer, turn] = [null, 0, 0];
  const isSeen = () => document.visibilityState === "visible";
  const hangUp = () => { turn += 1; source?.close(); clearTimeout(timer); };
  const stop = () => { hangUp(); document.removeEventListener("visibilitychange", look); };
  const end = (job) => { stop(); onLost(null); onEnd(job); };
  const listen = (event) => { onLost(null); onStep(JSON.parse(event.data)); };

  function open() {
    source = new EventSource(`/jobs/${encodeURIComponent(id)}/events`);
    source.addEventListener("stage", listen);
    source.addEventListener("progress", listen);
    source.addEventListener("completed", (event) => end(JSON.parse(event.data)));
    source.onerror = () => {
      onLost(new Problem({ ...UNREACHABLE, title: "Connection lost", detail: "Trying again…" }));
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(look, RETRY_MS);
    };
  }

  async function look() {
    hangUp();
    const mine = turn;
    const [job, problem] = await getJob(id).then((found) => [found, null], (error) => [null, error]);
    if (mine !== turn) return;
    onLost(problem);
    if (job && ENDED.has(job.status)) end(job);
    else if (job && isSeen()) open();
    else if (job) { onStep(job); timer = setTimeout(look, HIDDEN_MS); }
    else if (problem.status === 0 || problem.status >= 500) timer = setTimeout(look, RETRY_MS);
  }

  document.addEventListener("visibilitychange", look);
  if (isSeen()) open(); else look();
  return stop;
}

/** Names of files stay in this browser tab: they may name a patient, so the service never learns them. */
export const names = {
  keep(id, name) { try { sessionStorage.setItem(`name-${id}`, name); } catch { /* the id alone is shown then */ } },
  of(id) { try { return sessionStorage.getItem(`name-${id}`); } catch { return null; } },
};
