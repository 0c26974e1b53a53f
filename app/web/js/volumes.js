// Volumes over the line: bytes as they come, unpacked if they are packed, decided by content and not by name.
import { Problem } from "./api.js";

const GZIP = [0x1f, 0x8b];

/** The NIfTI file at `path`, unpacked, as an ArrayBuffer. `onProgress(received, total or null)` in bytes. */
export async function fetchNifti(path, onProgress = () => {}) {
  const response = await fetch(path).catch(() => null);
  if (!response?.ok) throw await failure(response);
  const total = Number(response.headers.get("Content-Length")) || null;
  const reader = response.body.getReader();
  const chunks = [];
  let received = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    received += value.length;
    onProgress(received, total);
  }
  const blob = new Blob(chunks);
  const head = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  if (!GZIP.every((byte, n) => head[n] === byte)) return blob.arrayBuffer();
  return new Response(blob.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

async function failure(response) {
  if (!response) return new Problem({ title: "The service does not answer", code: "network" });
  return new Problem(await response.json().catch(() => ({ title: `Error ${response.status}` })));
}

export const DIFFERENCE = { liverMissed: 1, liverExtra: 2, lesionMissed: 3, lesionExtra: 4 };

/** Voxel by voxel, where labels and reference (0, 1, 2) differ: the numbers of DIFFERENCE, 0 where they agree. */
export function difference(labels, reference) {
  if (labels.length !== reference.length) throw new Error("labels and reference have different grids");
  const found = new Uint8Array(labels.length);
  for (let n = 0; n < labels.length; n += 1) {
    const is = labels[n], should = reference[n];
    if (is === should) continue;
    if (should === 2) found[n] = DIFFERENCE.lesionMissed;
    else if (is === 2) found[n] = DIFFERENCE.lesionExtra;
    else found[n] = is ? DIFFERENCE.liverExtra : DIFFERENCE.liverMissed;
  }
  return found;
}

/** Instance ids with the hidden ones set to 0; the very array if none is hidden. */
export function without(ids, hidden) {
  return hidden.size ? ids.map((id) => (hidden.has(id) ? 0 : id)) : ids;
}

/** Instance ids of which those beyond `most` are `most`; the very array if there are none. */
export function atMost(ids, count, most) {
  return count > most ? ids.map((id) => Math.min(id, most)) : ids;
}
