// An error for a person: what happened, why, what to mend; the code small, for a report.
import { h } from "./dom.js";
import { advice } from "./words.js";

/** A panel for a Problem or for the `error` of a job; more are further children, such as buttons. */
export function problemPanel(problem, ...more) {
  return h("section", { class: "panel problem", role: "alert" },
    h("h2", {}, problem.title),
    h("p", {}, problem.detail),
    advice(problem.code) && h("p", { class: "advice" }, h("strong", {}, "What to do: "), advice(problem.code)),
    h("p", { class: "muted small" }, "Code ", h("code", {}, problem.code)),
    ...more);
}
