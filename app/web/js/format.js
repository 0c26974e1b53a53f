// Numbers and times as people read them.

export const fixed = (value, digits) => (value === null || value === undefined ? "–" : value.toFixed(digits));
export const percent = (share, digits = 1) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(digits)} %`);
export const counted = (count, what) => `${count || "no"} ${what}${count === 1 ? "" : "s"}`;

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB"];
  let n = 0;
  while (count >= 1000 && n < units.length - 1) { count /= 1000; n += 1; }
  return `${count.toFixed(n && count < 100 ? 1 : 0)} ${units[n]}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

export function moment(iso) {
  if (!iso) return "–";
  const date = new Date(iso);
  const today = date.toDateString() === new Date().toDateString();
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
  return today ? `today ${time}` : `${date.toLocaleDateString()} ${time}`;
}

/** Millimetres as a radiologist says them: R 96 · A 20 · I 470 (coordinates are RAS+). */
export function position(mm) {
  const axes = [["R", "L"], ["A", "P"], ["S", "I"]];
  return mm.slice(0, 3).map((x, n) => `${axes[n][x >= 0 ? 0 : 1]} ${Math.abs(x).toFixed(0)}`).join(" · ");
}
