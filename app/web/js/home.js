// The first page: send a scan, and the scans that were sent.
import { h, fill } from "./dom.js";
import { uploadForm } from "./upload.js";
import { jobList } from "./jobs.js";

export function homePage(main, go) {
  document.title = "Hepaseg";
  const form = uploadForm(go);
  const list = jobList(go);
  fill(main,
    h("div", { class: "home" },
      h("div", { class: "intro" },
        h("h1", {}, "Liver and lesions from an abdominal CT"),
        h("p", { class: "muted" }, "Volumes, a row for every lesion, and masks on the grid of your scan. Everything stays on this service.")),
      form.element,
      list.element));
  return {
    mayLeave: form.mayLeave,
    leave() { form.leave(); list.leave(); },
    onKey(event) {
      if (event.key === "/") { list.search(); return true; }
      return false;
    },
  };
}
