// Elements. Texts are always texts: nothing here parses HTML.

export const $ = (id) => document.getElementById(id);

/** Creates an element with properties (or attributes, where the name has a dash or is `role`) and content. */
export function el(name, properties = {}, ...content) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key.includes("-") || key === "role" || key === "for") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...content.flat().filter((one) => one !== null && one !== undefined && one !== false));
  return element;
}

/** Sets a text if it is another one, so that nothing is laid out for nothing. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Tells the user, and screen readers. */
export function say(text) {
  $("said").textContent = text;
  const toast = el("p", {}, text);
  $("toasts").append(toast);
  while ($("toasts").children.length > 4) $("toasts").firstChild.remove();
  setTimeout(() => toast.remove(), 6000);
}

/** A table. */
export function tableOf(titles, rows) {
  const head = titles.map((title) => (title ? el("th", { scope: "col" }, title) : el("td")));
  return el("table", { className: "plain" }, el("thead", {}, el("tr", {}, head)),
    el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((cell) => (cell instanceof HTMLTableCellElement ? cell : el("td", {}, cell)))))));
}

/** Puts elements into one, and leaves the focus where it was if what had it is still there. */
export function replace(parent, ...content) {
  const key = parent.contains(document.activeElement) && document.activeElement.dataset.key;
  parent.replaceChildren(...content.flat());
  if (key) [...parent.querySelectorAll("[data-key]")].find((one) => one.dataset.key === key)?.focus();
}
