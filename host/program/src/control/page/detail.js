// The chosen disk: what it is, what is asked of it, where it is stored, its faults and clients.

import { call } from "./api.js";
import { $, el, put, replace, say, tableOf } from "./dom.js";
import { COLUMNS, ROWS, lines, map } from "./draw.js";
import { Heat } from "./heat.js";
import { connectionTable } from "./panes.js";
import { age, bytes, count, plain, time } from "./text.js";

const SAMPLES = 120;

/** Parameters that are faults by themselves: what to set to begin, and to end them. */
const SWITCHES = [
  [/^error-rate$/, "All requests fail", "1", "0"],
  [/^error-pread-rate$/, "Reads fail", "1", "0"],
  [/^error-pwrite-rate$/, "Writes fail", "1", "0"],
  [/^delay-read$/, "Reads take 100 ms more", "100ms", "0"],
  [/^delay-write$/, "Writes take 100 ms more", "100ms", "0"],
  [/^paused$/, "All requests wait", "true", "false"],
  [/^readonly$/, "Writes are refused", "true", "false"],
];

/** The filters that can be put on a disk for that. */
const FAULTS = ["error", "delay", "pause"];

export class Detail {
  #app;
  #disk = null;
  #parts = {};
  #history = new Map();
  #controls = null;
  #cell = null;
  #map = null;
  #mapDue = 0;
  #begun = 0;

  constructor(app) {
    this.#app = app;
  }

  get name() {
    return this.#disk?.name ?? null;
  }

  /** Records the numbers of the chosen disk. */
  sample(disk) {
    const history = this.#history.get(disk.id) ?? [];
    history.push(disk.rates ?? {});
    if (history.length > SAMPLES) history.shift();
    this.#history = new Map([[disk.id, history]]);
  }

  /** Shows a disk, or nothing. */
  show(disk) {
    const other = disk?.name !== this.name;
    this.#disk = disk;
    $("chosen").hidden = !disk;
    $("nothing").hidden = Boolean(disk);
    if (!disk) return;
    if (other) this.#build();
    this.#draw();
  }

  #build() {
    this.#begun++;
    [this.#controls, this.#map, this.#mapDue, this.#history] = [null, null, 0, new Map()];
    const disk = this.#disk.name;
    const parts = (this.#parts = {});
    const chart = (key, title, names) => el("div", { className: "chart" }, el("p", {}, title),
      el("p", {}, names.map((name) => [el("i", { className: name }), (parts[name + key] = el("b"))]).flat()),
      (parts[key] = el("canvas", { role: "img", "aria-label": `${title}, the last two minutes` })));
    const button = (text, act, className = "") => el("button", { type: "button", className, onclick: act }, text);
    parts.heat = new Heat(this.#app.at("disks", disk, "heat"));
    parts.canvas = el("canvas", { id: "map", role: "img" });
    parts.canvas.addEventListener("mousemove", (event) => this.#point(event));
    parts.canvas.addEventListener("mouseleave", () => this.#describe());
    replace($("chosen"),
      el("div", { className: "part" },
        el("div", { className: "title" }, el("h2", { id: "detail-title" }, plain(disk)), (parts.state = el("span", { className: "pill" }))),
        (parts.reason = el("p", { className: "problem", hidden: true })),
        (parts.facts = el("dl", { className: "facts" })),
        el("div", { className: "buttons" },
          button("Snapshot", () => this.#app.snapshot(disk)), button("Clone", () => this.#app.clone(disk)),
          button("Reset", () => this.#app.reset(disk)), button("Remove", () => this.#app.remove(disk), "danger"))),
      el("div", { className: "part" },
        el("div", { className: "charts" }, chart("requests", "Requests/s", ["read"]), chart("bytes", "Read and written/s", ["read", "write"]))),
      el("div", { className: "part" }, el("h3", {}, "Where it is stored"), parts.canvas,
        el("div", { className: "scale" }, el("span", { className: "ramp", "aria-hidden": "true" }), el("span", {}, "none to all stored"),
          (parts.map = el("span", { id: "map-text" })))),
      parts.heat.element,
      el("div", { className: "part" }, el("h3", {}, "Operations"), (parts.operations = el("div"))),
      el("div", { className: "part" }, el("h3", {}, "Faults"), (parts.faults = el("div", { className: "stack" }))),
      el("div", { className: "part" }, el("h3", {}, "Clients"), (parts.clients = el("div"))));
    this.loadFaults();
  }

  #draw() {
    const [disk, parts] = [this.#disk, this.#parts];
    put(parts.state, disk.state);
    parts.state.className = `pill ${disk.state}`;
    parts.reason.hidden = disk.state !== "failed";
    put(parts.reason, plain(disk.detail));
    const spec = disk.spec;
    const facts = [
      ["Made of", spec ? [...spec.filters, spec.snapshot ? `snapshot ${spec.snapshot}` : spec.component].map((layer) => plain(layer)).join(" \u2192 ") : "what a client asked for"],
      ["Parameters", spec?.parameters.length ? spec.parameters.map(plain).join(" ") : null],
      ["Size", disk.size === undefined ? null : `${bytes(disk.size)}${disk.memory ? `, ${bytes(disk.memory)} in memory` : ""}`],
      ["Access", spec?.read_only ? "read-only" : null],
      ["Latency", disk.rates?.latency ? `${time(disk.rates.latency)} at present` : null],
    ].filter(([, value]) => value);
    const labels = Object.entries(spec?.labels ?? {});
    const written = JSON.stringify([facts, labels]);
    if (parts.facts.dataset.written !== written) {
      parts.facts.dataset.written = written;
      parts.facts.replaceChildren(
        ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
        ...(labels.length ? [el("dt", {}, "Labels"), el("dd", {}, labels.map(([name, value]) => el("span", { className: "tag" }, plain(`${name}: ${value}`))))] : []));
    }
    this.#operations(disk.operations ?? {});
    this.#clients();
    const history = this.#history.get(disk.id) ?? [];
    const of = (key) => history.map((rates) => rates[key] ?? NaN);
    lines(parts.requests, [{ values: of("requests"), name: "--read" }], SAMPLES);
    lines(parts.bytes, [{ values: of("read"), name: "--read" }, { values: of("written"), name: "--write" }], SAMPLES);
    const rates = disk.rates ?? { requests: 0, read: 0, written: 0 };
    put(parts.readrequests, count(rates.requests));
    put(parts.readbytes, bytes(rates.read));
    put(parts.writebytes, bytes(rates.written));
    parts.heat.show(disk.state === "live");
    if (disk.state !== "live") {
      this.#map = null;
      put(parts.map, "known while the disk is open");
      parts.canvas.hidden = true;
    } else if (performance.now() > this.#mapDue) this.#loadMap();
    if (disk.state === "live" && this.#controls === null) this.loadFaults();
  }

  #operations(operations) {
    const written = JSON.stringify(operations);
    const place = this.#parts.operations;
    if (place.dataset.written === written) return;
    place.dataset.written = written;
    const rows = Object.entries(operations);
    if (!rows.length) return replace(place, el("p", { className: "quiet" }, "Nobody asked for anything yet."));
    const number = (text) => el("td", { className: "number" }, text);
    replace(place, tableOf(["", "Requests", "Errors", "Median", "99 %"], rows.map(([name, of]) => [name, number(count(of.requests)),
      number(count(of.errors)), number(time(of.latency_median_ns)), number(time(of.latency_p99_ns))])));
  }

  #clients() {
    const clients = this.#app.connections.filter((client) => client.disk === this.name);
    const written = JSON.stringify(clients.map(({ id, seconds }) => [id, age(seconds)]));
    const place = this.#parts.clients;
    if (place.dataset.written === written) return;
    place.dataset.written = written;
    replace(place, clients.length ? connectionTable(clients) : el("p", { className: "quiet" }, "None."));
  }

  async #loadMap() {
    const [begun, from] = [this.#begun, performance.now()];
    this.#mapDue = Infinity;
    try {
      const map = await call("GET", `${this.#app.at("disks", this.name, "map")}?cells=${COLUMNS * ROWS}`);
      if (begun !== this.#begun) return;
      this.#map = map;
      this.#parts.canvas.hidden = false;
      this.drawMap();
    } catch (error) {
      if (begun !== this.#begun) return;
      put(this.#parts.map, plain(error.message));
    }
    // What takes long is asked for seldom.
    this.#mapDue = performance.now() + Math.max(2500, 20 * (performance.now() - from));
  }

  drawMaps() {
    this.#parts.heat?.draw();
    this.drawMap();
  }

  drawMap() {
    if (!this.#map) return;
    this.#cell = map(this.#parts.canvas, this.#map);
    this.#describe();
  }

  #describe() {
    if (!this.#map) return;
    const { size, stored, estimated } = this.#map;
    const sum = stored.reduce((sum, one) => sum + one, 0);
    const share = size ? (100 * sum) / size : 0;
    const percent = share > 0 && share < 1 ? "less than 1" : share.toFixed(0);
    const text = `${estimated ? "about " : ""}${bytes(sum)} of ${bytes(size)}, ${percent} %`;
    put(this.#parts.map, text);
    this.#parts.canvas.setAttribute("aria-label", `Map of the disk: ${text} stored`);
  }

  #point(event) {
    if (!this.#map || !this.#cell) return;
    const { cell, size, stored } = this.#map;
    const index = this.#cell(event.offsetX, event.offsetY);
    if (index === null) return this.#describe();
    const length = Math.min(cell, size - index * cell);
    put(this.#parts.map, `${bytes(stored[index])} of ${bytes(length)} from ${bytes(index * cell)} on`);
  }

  /** Loads what the layers of the disk can be told. */
  async loadFaults() {
    const [begun, { name, state }] = [this.#begun, this.#disk];
    const place = this.#parts.faults;
    // To ask would open the disk.
    if (state !== "live") {
      this.#controls = null;
      return replace(place, el("p", { className: "quiet" }, "Known while the disk is open."));
    }
    this.#controls = [];
    try {
      const controls = await call("GET", this.#app.at("disks", name, "commands"));
      if (begun === this.#begun) replace(place, this.#faults((this.#controls = controls)));
    } catch (error) {
      if (begun === this.#begun) replace(place, el("p", { className: "problem" }, plain(error.message)));
    }
  }

  #faults(controls) {
    const missing = FAULTS.filter((filter) => !this.#disk.spec?.filters.includes(filter));
    const add = missing.map((filter) => el("button", {
      type: "button", className: "small", "data-key": `add ${filter}`, onclick: () => this.#app.addFilter(this.#disk, filter),
    }, `Add ${filter}`));
    const sets = controls.map((layer) => {
      const set = layer.commands.find(({ name }) => name === "set");
      const names = set?.parameters.map(({ name }) => name) ?? [];
      const switches = SWITCHES.flatMap(([pattern, title, on, off]) =>
        names.filter((name) => pattern.test(name)).map((name) => this.#switch(layer, name, title, on, off)));
      const others = layer.commands.filter(({ name, parameters }) => name !== "set" && !parameters.some(({ required }) => required));
      const buttons = others.map(({ name, summary }) => el("button", {
        type: "button", className: "small", title: plain(summary), "data-key": `${layer.component} ${name}`,
        onclick: () => this.#command(layer.component, name, []),
      }, plain(name)));
      return el("fieldset", {}, el("legend", {}, plain(layer.component)), switches,
        set ? this.#setter(layer, set) : null, buttons.length ? el("div", { className: "buttons" }, buttons) : null);
    });
    return [...sets, ...(this.#disk.spec && add.length ? [el("div", { className: "buttons" }, add)] : [])];
  }

  #switch(layer, name, title, on, off) {
    const input = el("input", {
      type: "checkbox", role: "switch", "data-key": `${layer.component} ${name}`,
      checked: this.#app.setting(this.#disk, layer.component, name) === on,
    });
    input.addEventListener("change", async () => {
      const done = await this.#command(layer.component, "set", [`${name}=${input.checked ? on : off}`]);
      if (!done) input.checked = !input.checked;
    });
    return el("label", { className: "switch" }, input, title);
  }

  #setter(layer, set) {
    const choice = el("select", { "aria-label": `Parameter of ${plain(layer.component)}`, "data-key": `${layer.component} choice` },
      set.parameters.map(({ name, summary }) => el("option", { value: name, title: plain(summary) }, plain(name))));
    const value = el("input", { "aria-label": "Value", "data-key": `${layer.component} value`, spellcheck: false, autocomplete: "off" });
    const hint = () => {
      const of = set.parameters.find(({ name }) => name === choice.value);
      value.placeholder = plain(of?.type ?? "");
      value.title = plain(of?.summary ?? "");
    };
    choice.addEventListener("change", hint);
    hint();
    return el("form", {
      className: "inline",
      onsubmit: (event) => {
        event.preventDefault();
        this.#command(layer.component, "set", [`${choice.value}=${value.value}`]);
      },
    }, choice, value, el("button", { className: "small", "data-key": `${layer.component} set` }, "Set"));
  }

  async #command(component, command, parameters) {
    try {
      const { answer } = await call("POST", this.#app.at("disks", this.name, "commands"), { component, command, parameters });
      say(plain(answer || `${component}: ${command} ${parameters.join(" ")}`));
      return true;
    } catch (error) {
      say(plain(error.message));
      return false;
    }
  }
}
