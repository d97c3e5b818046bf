// The page of a memnbd server: what it knows, and when it asks.

import { Problem, at, call, follow, onToken, setToken } from "./api.js";
import { Detail } from "./detail.js";
import { ask } from "./dialogs.js";
import { $, el, put, say } from "./dom.js";
import { begin, events, pane } from "./panes.js";
import { Table } from "./table.js";
import { bytes, count, plain, time } from "./text.js";

const EVENTS = 300;

/** What is known of the tenant, and what can be done. */
const app = {
  tenant: "default",
  disks: [],
  connections: [],
  snapshots: [],
  tenants: [],
  /** What was set by commands, of each disk. */
  settings: new Map(),
  chosen: null,

  at: (...parts) => at(app.tenant, ...parts),

  /** What a parameter of a layer was last set to, as far as that is known. */
  setting(disk, component, name) {
    const set = app.settings.get(disk.name)?.get(`${component} ${name}`);
    const given = disk.spec?.parameters.findLast((word) => word.startsWith(`${name}=`) || word.startsWith(`${component}.${name}=`));
    return set ?? given?.slice(given.indexOf("=") + 1);
  },

  snapshot(disk) {
    return ask({
      title: `Take a snapshot of ${plain(disk)}`, button: "Take it",
      fields: [{ name: "name", title: "Name", value: free(`${disk}-`, app.snapshots) }],
      act: async ({ name }) => {
        await call("PUT", app.at("snapshots", name), { disk });
        say(`Snapshot ${plain(name)} taken`);
        await load();
      },
    });
  },

  clone(disk) {
    const own = app.snapshots.filter((snapshot) => snapshot.disk === disk).map(({ name }) => [name, plain(name)]).reverse();
    return ask({
      title: `Clone ${plain(disk)}`, button: "Clone",
      fields: [
        { name: "name", title: "Name of the clone", value: free(`${disk}-clone-`, app.disks) },
        { name: "snapshot", title: "It begins with", options: [["", "what the disk holds now"], ...own] },
      ],
      act: async ({ name, snapshot }) => {
        if (!snapshot) {
          snapshot = free(`${disk}-`, app.snapshots);
          await call("PUT", app.at("snapshots", snapshot), { disk });
        }
        await call("PUT", app.at("disks", name), { snapshot });
        say(`Clone ${plain(name)} created`);
        await load();
        choose(name);
      },
    });
  },

  reset(disk) {
    const spec = app.disks.find(({ name }) => name === disk)?.spec;
    const all = app.snapshots.filter((snapshot) => snapshot.disk === disk || snapshot.name === spec?.snapshot);
    const options = all.map(({ name }) => [name, plain(name)]).reverse();
    return ask({
      title: `Reset ${plain(disk)}`, button: "Reset", danger: true,
      text: options.length ? "What was written since then is lost." : "There is no snapshot of it yet, and it began with none.",
      fields: options.length ? [{ name: "snapshot", title: "To", options }] : [],
      act: async ({ snapshot }) => {
        await call("POST", app.at("disks", disk, "reset"), snapshot ? { snapshot } : {});
        say(`${plain(disk)} was reset`);
        await load();
      },
    });
  },

  remove(disk) {
    return ask({
      title: `Remove ${plain(disk)}?`, button: "Remove", danger: true,
      text: "Its clients are disconnected, and what is stored in memory is lost.",
      act: async () => {
        await call("DELETE", app.at("disks", disk));
        say(`${plain(disk)} was removed`);
        choose(null);
        await load();
      },
    });
  },

  async addFilter({ name, spec }, filter) {
    try {
      await call("PATCH", app.at("disks", name), { filters: [filter, ...spec.filters], parameters: spec.parameters });
      say(`${plain(name)} has the filter ${filter} now`);
      await load();
    } catch (error) {
      say(plain(error.message));
    }
  },

  attempt,
};

const table = new Table((name) => choose(name));
const detail = new Detail(app);

async function attempt(act) {
  try {
    await act();
    await load();
  } catch (error) {
    say(plain(error.message));
  }
}

/** Returns a name with a number that no other has. */
function free(begin, others) {
  const taken = new Set(others.map(({ name }) => name));
  let number = 1;
  while (taken.has(begin + number)) number++;
  return begin + number;
}

function choose(name) {
  app.chosen = name;
  table.choose(name);
  show();
}

function show() {
  table.set(app.disks);
  detail.show(app.disks.find(({ name }) => name === app.chosen) ?? null);
}

// What is asked for: all disks now and then, what is asked of them each second.

let loading = null;
let again = false;

/** Loads all disks, snapshots and tenants. Who asks while they are loaded gets what is loaded next. */
async function load() {
  if (loading) {
    again = true;
    return loading;
  }
  loading = (async () => {
    do {
      again = false;
      const [disks, snapshots] = await Promise.all([call("GET", app.at("disks")), call("GET", app.at("snapshots"))]);
      const before = new Map(app.disks.map((disk) => [disk.name, disk]));
      const order = (key) => new Map([...new Set(disks.map((disk) => disk[key]))].sort(new Intl.Collator("en", { numeric: true }).compare).map((text, index) => [text, index]));
      const [names, states] = [order("name"), order("state")];
      app.disks = disks.map((disk) => {
        const { id, rates, memory, errors, seen } = before.get(disk.name) ?? {};
        const words = [disk.name, disk.state, ...Object.entries(disk.spec?.labels ?? {}).map((label) => label.join(":")),
          ...(disk.spec?.filters ?? []), disk.spec?.component ?? "", disk.spec?.snapshot ?? ""];
        return { ...disk, id, rates, memory, errors, seen, search: words.join(" ").toLowerCase(),
          order: { name: names.get(disk.name), state: states.get(disk.state) } };
      });
      app.snapshots = snapshots;
    } while (again);
    totals();
    show();
    pane();
  })();
  try {
    await loading;
  } finally {
    loading = null;
  }
}

const sum = { requests: 0, read: 0, written: 0, memory: 0, latency: 0, clients: 0 };

/** Loads what is asked of the disks, and computes rates from the differences. */
async function measure() {
  const [usage, connections] = await Promise.all([call("GET", app.at("usage")), call("GET", app.at("connections"))]);
  const now = performance.now();
  app.connections = connections;
  Object.assign(sum, { requests: 0, read: 0, written: 0, memory: 0, latency: 0, clients: connections.length });
  const used = new Map(usage.disks.map((disk) => [disk.disk, disk]));
  for (const disk of app.disks) {
    const next = used.get(disk.name);
    const last = disk.seen?.usage;
    disk.connections = next?.connections ?? 0;
    disk.memory = next?.memory_bytes ?? disk.memory;
    disk.errors = next?.errors ?? 0;
    disk.id = next?.id ?? disk.id;
    const seconds = last && (now - disk.seen.at) / 1000;
    const begun = next && !last && disk.seen;
    if (next && last?.id === next.id && next.requests >= last.requests && seconds > 0) {
      const requests = next.requests - last.requests;
      disk.rates = {
        requests: requests / seconds,
        read: (next.read_bytes - last.read_bytes) / seconds,
        written: (next.written_bytes - last.written_bytes) / seconds,
        latency: requests ? (next.latency_sum_ns - last.latency_sum_ns) / requests : 0,
      };
      sum.requests += disk.rates.requests;
      sum.read += disk.rates.read;
      sum.written += disk.rates.written;
      sum.latency += disk.rates.latency * disk.rates.requests;
    } else if (begun || !next) disk.rates = undefined;
    disk.seen = { at: now, usage: next };
    sum.memory += disk.memory ?? 0;
    if (disk.name === app.chosen) detail.sample(disk);
  }
  if (usage.total !== app.disks.length) load().catch(failed);
  totals();
  show();
  pane("connections");
}

/** Loads more of the chosen disk than of the others. */
async function look() {
  const disk = app.disks.find(({ name }) => name === app.chosen);
  if (!disk) return;
  const path = app.at("disks", disk.name);
  try {
    const found = await call("GET", path);
    const reopened = found.state !== disk.state || found.generation !== disk.generation;
    Object.assign(disk, found);
    if (reopened && app.chosen === disk.name) detail.loadFaults();
  } catch (error) {
    if (error.status !== 404) throw error;
  }
}

function totals() {
  const live = app.disks.filter(({ state }) => state === "live").length;
  const failures = app.disks.filter(({ state }) => state === "failed").length;
  const latency = sum.requests ? time(sum.latency / sum.requests) : "\u2013";
  const shown = [
    ["Disks", count(app.disks.length), failures ? `${count(live)} open, ${count(failures)} failed` : `${count(live)} open`],
    ["Requests/s", count(sum.requests), latency === "\u2013" ? "" : `${latency} each`],
    ["Read/s", bytes(sum.read)], ["Written/s", bytes(sum.written)],
    ["In memory", bytes(sum.memory)],
    ["Clients", count(sum.clients)],
  ];
  const place = $("totals");
  if (!place.children.length) place.append(...shown.map(([name]) => el("div", {}, el("dt", {}, name), el("dd", {}, el("span"), " ", el("small")))));
  shown.forEach(([, value, more = ""], index) => {
    const dd = place.children[index].lastChild;
    put(dd.firstChild, value);
    put(dd.lastChild, more);
  });
}

// Events, which tell what is out of date.

let following = null;
let due = null;

function follower() {
  following?.abort();
  following = new AbortController();
  events.length = 0;
  app.settings.clear();
  follow(app.at("events"), following.signal, {
    open: () => {
      link(true);
      load().catch(failed);
    },
    close: () => link(false),
    problem: failed,
    event: happened,
  });
}

function happened(event) {
  events.unshift(event);
  events.length = Math.min(events.length, EVENTS);
  const { disk } = event;
  if (event.event === "command" && event.command === "set") {
    const settings = app.settings.get(disk) ?? new Map();
    app.settings.set(disk, settings);
    for (const word of event.parameters) {
      const [name, ...value] = word.split("=");
      settings.set(`${event.component} ${name}`, value.join("="));
    }
  } else if (["disk-removed", "disk-updated", "disk-reset", "disk-closed"].includes(event.event)) app.settings.delete(disk);
  const shown = !["log", "client-connected", "client-disconnected"].includes(event.event);
  due ??= setTimeout(() => {
    due = null;
    pane("events");
    if (stale) load().then(() => detail.name && detail.loadFaults()).catch(failed);
    stale = false;
  }, 250);
  stale ||= shown && event.event !== "command" || event.event === "command" && disk === app.chosen;
}

let stale = false;

function link(live) {
  put($("link"), live ? "live" : "reconnecting");
  $("link").classList.toggle("live", live);
  if (live) $("banner").hidden = true;
}

function failed(error) {
  const text = error instanceof Problem ? error.message : "The server cannot be reached; trying again.";
  put($("banner"), plain(text));
  $("banner").hidden = false;
}

/** Does something again and again while the page can be seen. */
async function every(pause, act) {
  for (;;) {
    if (!document.hidden) {
      try {
        await act();
      } catch (error) {
        failed(error);
      }
    }
    await new Promise((done) => setTimeout(done, pause));
  }
}

$("create").addEventListener("click", () => ask({
  title: "New disk", button: "Create",
  fields: [
    { name: "name", title: "Name", value: free("disk-", app.disks) },
    { name: "component", title: "Component", value: "memory" },
    { name: "parameters", title: "Parameters, separated by spaces", value: "size=1G" },
    { name: "filters", title: "Filters, separated by spaces", hint: "error delay" },
  ],
  act: async ({ name, component, parameters, filters }) => {
    const words = (text) => text.split(/\s+/).filter(Boolean);
    await call("PUT", app.at("disks", name), { component, parameters: words(parameters), filters: words(filters) });
    say(`${plain(name)} was created`);
    await load();
    choose(name);
  },
}));

onToken((again) => ask({
  title: "This server wants a token", button: "Use it",
  text: again ? "It does not accept the last one." : "It is kept until this tab is closed.",
  fields: [{ name: "token", title: "Token", type: "password" }],
  act: async ({ token }) => setToken(token.trim()),
}));

async function tenants() {
  const { paths } = await call("GET", "/v1/openapi.json");
  const found = paths["/v1/tenants"] ? await call("GET", "/v1/tenants") : [app.tenant];
  app.tenants = found.map((tenant) => (typeof tenant === "string" ? { name: tenant } : tenant));
  const names = app.tenants.map(({ name }) => name);
  if (!names.includes(app.tenant) && names.length) app.tenant = names[0];
  $("tenant").replaceChildren(...names.map((name) => el("option", { value: name, selected: name === app.tenant }, plain(name))));
  $("tenant-choice").hidden = names.length < 2;
}

$("tenant").addEventListener("change", () => {
  app.tenant = $("tenant").value;
  app.disks = [];
  choose(null);
  follower();
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => detail.drawMaps());
addEventListener("resize", () => detail.drawMaps());
begin(app);
totals();
try {
  await tenants();
} catch (error) {
  failed(error);
}
follower();
every(1000, measure);
every(2000, look);
every(15_000, load);
