// What asks before something is done.

import { $, el } from "./dom.js";

let end = null;

/**
 * Asks for fields, and does something with them. The dialog stays open, with the reason, while `act` fails.
 * Fields have a name, a title, and a value or options; the promise is of what was done, or null.
 */
export function ask({ title, text, fields = [], button, danger, act }) {
  end?.(null);
  const inputs = new Map();
  const parts = fields.map(({ name, title, value = "", options, type = "text", hint }) => {
    const input = options
      ? el("select", { name }, options.map(([value, text]) => el("option", { value }, text)))
      : el("input", { name, type, value, autocomplete: "off", spellcheck: false, placeholder: hint ?? "" });
    inputs.set(name, input);
    return el("label", {}, title, input);
  });
  const problem = el("p", { className: "problem", role: "alert" });
  const submit = el("button", { type: "submit", className: danger ? "danger" : "primary" }, button);
  const cancel = el("button", { type: "button", onclick: () => $("dialog").close() }, "Cancel");
  $("form").replaceChildren(
    el("h2", { id: "dialog-title" }, title), ...(text ? [el("p", { className: "quiet" }, text)] : []), ...parts,
    problem, el("div", { className: "buttons" }, cancel, submit));
  return new Promise((resolve) => {
    end = (result) => {
      end = null;
      $("dialog").onclose = null;
      if ($("dialog").open) $("dialog").close();
      resolve(result);
    };
    $("dialog").onclose = () => end?.(null);
    $("form").onsubmit = async (event) => {
      event.preventDefault();
      const values = Object.fromEntries([...inputs].map(([name, input]) => [name, input.value]));
      submit.disabled = true;
      problem.textContent = "";
      try {
        const result = await act(values);
        end?.(result ?? true);
      } catch (error) {
        problem.textContent = error.message;
      } finally {
        submit.disabled = false;
      }
    };
    $("dialog").showModal();
    const first = inputs.values().next().value;
    (first ?? (danger ? cancel : submit)).focus();
    first?.select?.();
  });
}
