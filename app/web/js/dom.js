// Elements without a framework: text is always text, never markup.

/** An element: `on…` are listeners, `dataset` and `style` are objects, true and false set or leave out an attribute. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name === "style") for (const [property, text] of Object.entries(value)) element.style.setProperty(property, text);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Replace what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Tell people who listen instead of look. */
export function announce(text) {
  document.getElementById("announce").textContent = text;
}

/** A table: head is an array of texts, rows are elements, or a body that has them. */
export function table(caption, head, rows, attributes = {}) {
  return h("table", attributes,
    h("caption", { class: "unseen" }, caption),
    h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name)))),
    Array.isArray(rows) ? h("tbody", {}, rows) : rows);
}

/** A row of buttons of which one is pressed; `choose` is called with its value. Gives the element and `show(value)`. */
export function choice(label, options, chosen, choose) {
  const buttons = options.map(([value, text, title]) =>
    h("button", { type: "button", title, dataset: { value }, onclick: () => { show(value); choose(value); } }, text));
  const show = (value) => buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.value === String(value))));
  show(chosen);
  return { element: h("div", { class: "choice", role: "group", "aria-label": label }, buttons), show };
}
