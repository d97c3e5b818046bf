// The panes below the disks: events, connections, snapshots, tenants.

import { call } from "./api.js";
import { $, el, replace, tableOf } from "./dom.js";
import { age, bytes, happening, plain } from "./text.js";

/** The last events, the newest first. */
export const events = [];
let tab = "events";
let app = null;

/** Shows the pane that is chosen, if it is this one or none is named. */
export function pane(name = tab) {
  if (name !== tab || !app) return;
  const place = $("pane");
  const none = (text) => el("p", { className: "empty" }, text);
  if (tab === "connections") {
    return replace(place, app.connections.length ? connectionTable(app.connections) : none("Nobody is connected."));
  }
  if (tab === "snapshots") {
    const rows = app.snapshots.slice(0, 500).map(({ name, disk, size, seconds }) => [
      plain(name), plain(disk), bytes(size), `${age(seconds)} ago`,
      el("button", {
        type: "button", className: "small danger", "data-key": `delete ${name}`, "aria-label": `Delete the snapshot ${plain(name)}`,
        onclick: () => app.attempt(() => call("DELETE", app.at("snapshots", name))),
      }, "Delete")]);
    return replace(place, rows.length ? tableOf(["Snapshot", "Of", "Size", "Taken", ""], rows) : none("There are no snapshots."));
  }
  if (tab === "tenants") {
    const rows = app.tenants.map(({ name, usage = {}, spec = {} }) => {
      const quotas = spec.quotas ?? {};
      const of = (key, shown = String) => plain(key in quotas ? `${shown(usage[key])} of ${shown(quotas[key])}` : shown(usage[key] ?? 0));
      return [plain(name), of("disks"), of("snapshots"), of("connections"), of("memory", bytes),
        "inflight" in quotas ? of("inflight", bytes) : "-", quotas.cpus ? of("cpus") : "-", quotas.size ? of("size", bytes) : "-"];
    });
    return replace(place, tableOf(["Tenant", "Disks", "Snapshots", "Clients", "Memory", "In flight", "Processors", "Sizes"], rows));
  }
  replace(place, events.length ? el("ul", { className: "events" }, events.map(line)) : none("Nothing has happened yet."));
}

/** A table of clients. */
export function connectionTable(clients) {
  const all = clients !== app.connections;
  return tableOf(["Client", ...(all ? [] : ["Disk"]), "For", ""], clients.slice(0, 500).map(({ id, peer, disk, seconds }) => [
    plain(`${id} ${peer}`), ...(all ? [] : [plain(disk)]), age(seconds),
    el("button", {
      type: "button", className: "small danger", "data-key": `drop ${id}`, "aria-label": `Disconnect client ${id}`,
      onclick: () => app.attempt(() => call("DELETE", app.at("connections", String(id)))),
    }, "Disconnect")]));
}

function line(event) {
  const level = event.event === "disk-failed" ? "error" : event.level ?? "";
  return el("li", { className: level },
    el("time", { dateTime: event.time, title: event.time }, new Date(event.time).toLocaleTimeString("en-GB")),
    el("b", { title: plain(event.disk ?? "") }, plain(event.disk ?? "")), el("span", {}, plain(happening(event))));
}

function select(name) {
  tab = name;
  for (const button of document.querySelectorAll("[role=tab]")) {
    const chosen = button.id === `tab-${name}`;
    button.setAttribute("aria-selected", chosen);
    button.tabIndex = chosen ? 0 : -1;
    if (chosen) $("pane").setAttribute("aria-labelledby", button.id);
  }
  pane();
}

/** Shows the panes of what is known. */
export function begin(known) {
  app = known;
  const all = [...document.querySelectorAll("[role=tab]")];
  for (const [index, button] of all.entries()) {
    button.addEventListener("click", () => select(button.id.slice(4)));
    button.addEventListener("keydown", ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (!step) return;
      const other = all.at((index + step) % all.length);
      select(other.id.slice(4));
      other.focus();
    });
  }
  select("events");
}
