// The service's HTTP contract. Every failure is a Problem with a title, a sentence and a code.

export class Problem extends Error {
  constructor({ title = "Error", detail = "", code = "error", status = 0 }) {
    super(detail || title);
    Object.assign(this, { title, detail, code, status });
  }
}

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

/** Send a scan. `onProgress(sent, total)` in bytes. Gives { done, abort }: done becomes the job or throws Problem. */
export function sendScan(form, onProgress) {
  const request = new XMLHttpRequest();
  const done = new Promise((resolve, reject) => {
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded, event.total);
    request.onload = () => {
      if (request.status < 300) resolve(JSON.parse(request.responseText));
      else reject(problemOf(request.status, request.responseText));
    };
    request.onerror = () => reject(new Problem(UNREACHABLE));
    request.onabort = () => reject(new Problem({ title: "Upload canceled", code: "aborted" }));
    request.open("POST", "/segment");
    request.send(form);
  });
  return { done, abort: () => request.abort() };
}

/**
 * Follow a job until it ends. The browser reconnects by itself where the line breaks; where the service answers with an
 * error, or the browser gives up, the job is asked for and the line opened again.
 * handlers: onStep({status, stage, progress}), onEnd(job), onLost(problem or null). Gives a function that stops.
 */
export function watchJob(id, { onStep, onEnd, onLost }) {
  let source = null;
  let timer = 0;
  const stop = () => { source?.close(); clearTimeout(timer); };
  const listen = (event) => { onLost(null); onStep(JSON.parse(event.data)); };
  const retry = async () => {
    try {
      await getJob(id);
      open();
    } catch (problem) {
      onLost(problem);
      if (problem.status === 0 || problem.status >= 500) timer = setTimeout(retry, 2000);
    }
  };
  const open = () => {
    source = new EventSource(`/jobs/${encodeURIComponent(id)}/events`);
    source.addEventListener("stage", listen);
    source.addEventListener("progress", listen);
    source.addEventListener("completed", (event) => { stop(); onLost(null); onEnd(JSON.parse(event.data)); });
    source.onerror = () => {
      onLost(new Problem({ ...UNREACHABLE, title: "Connection lost", detail: "Trying again…" }));
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(retry, 2000);
    };
  };
  open();
  return stop;
}

/** Names of files stay in this browser tab: they may name a patient, so the service never learns them. */
export const names = {
  keep(id, name) { try { sessionStorage.setItem(`name-${id}`, name); } catch { /* the id alone is shown then */ } },
  of(id) { try { return sessionStorage.getItem(`name-${id}`); } catch { return null; } },
};
