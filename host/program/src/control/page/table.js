// The table of disks. Only the rows that can be seen exist, so a thousand disks cost as much as thirty.

import { $, el, put } from "./dom.js";
import { bytes, count, plain, time } from "./text.js";

const ROW = 34;

const number = (value, write) => (value ? write(value) : value === 0 ? "0" : "");

/** The columns: what is sorted by, and what is written. */
const COLUMNS = [
  { key: "name", title: "Name", text: true, value: (disk) => disk.name },
  { key: "state", title: "State", text: true, width: "86px", value: (disk) => disk.state },
  { key: "size", minor: true, title: "Size", width: "74px", value: (disk) => disk.size ?? 0, write: (value) => (value ? bytes(value) : "") },
  { key: "memory", title: "Memory", width: "84px", value: (disk) => disk.memory ?? 0, write: (value) => number(value, bytes) },
  { key: "rate", title: "Requests/s", live: true, width: "104px", value: (disk) => disk.rates?.requests ?? 0, write: (value) => number(value, count) },
  { key: "read", title: "Read/s", live: true, width: "84px", value: (disk) => disk.rates?.read ?? 0, write: (value) => number(value, bytes) },
  { key: "written", title: "Written/s", live: true, width: "88px", value: (disk) => disk.rates?.written ?? 0, write: (value) => number(value, bytes) },
  { key: "latency", minor: true, title: "Latency", live: true, width: "78px", value: (disk) => disk.rates?.latency ?? 0, write: (value) => (value ? time(value) : "") },
  { key: "errors", title: "Errors", width: "66px", value: (disk) => disk.errors ?? 0, write: (value) => number(value, count) },
  { key: "connections", title: "Clients", width: "66px", value: (disk) => disk.connections, write: (value) => number(value, count) },
];

/** Of a small table, those are not seen that are minor. */
const kind = ({ key, text, minor }) => `${key}${text ? " text" : ""}${minor ? " minor" : ""}`;

export class Table {
  #disks = [];
  #shown = [];
  #sort = { key: "name", down: false };
  #chosen = null;
  #sorted = 0;
  #pool = [];
  #choose;

  constructor(choose) {
    this.#choose = choose;
    $("head").append(...COLUMNS.map((column) => {
      const cell = el("th", { scope: "col", className: kind(column) },
        el("button", { type: "button", onclick: () => this.sort(column) }, column.title));
      cell.style.width = column.width ?? "";
      column.head = cell;
      return cell;
    }));
    this.#mark();
    $("filter").addEventListener("input", () => this.#anew());
    $("scroller").addEventListener("scroll", () => this.#draw(), { passive: true });
    new ResizeObserver(() => this.#draw()).observe($("scroller"));
    $("disks").addEventListener("keydown", (event) => this.#key(event));
    $("rows").addEventListener("click", (event) => {
      const row = event.target.closest("tr.row");
      if (row) this.#choose(row.disk.name);
    });
  }

  /** Shows other disks, or other numbers of them. */
  set(disks) {
    this.#disks = disks;
    this.#arrange(false);
  }

  choose(name) {
    this.#chosen = name;
    this.#draw();
    this.#reveal();
  }

  sort(column) {
    const same = this.#sort.key === column.key;
    this.#sort = { key: column.key, down: same ? !this.#sort.down : !column.text };
    this.#mark();
    this.#anew();
  }

  #anew() {
    $("scroller").scrollTop = 0;
    this.#arrange(true);
  }

  #mark() {
    for (const { key, head } of COLUMNS) {
      const sorted = key === this.#sort.key && (this.#sort.down ? "descending" : "ascending");
      sorted ? head.setAttribute("aria-sort", sorted) : head.removeAttribute("aria-sort");
    }
  }

  /** Rows that are sorted by live numbers move only every few seconds, and never under the pointer. */
  #arrange(now) {
    const column = COLUMNS.find(({ key }) => key === this.#sort.key);
    const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.#disks.filter((disk) => words.every((word) => disk.search.includes(word)));
    const due = now || !column.live || performance.now() - this.#sorted > 3000 && !$("rows").matches(":hover");
    const places = due ? null : new Map(this.#shown.map((disk, index) => [disk.name, index]));
    const sign = this.#sort.down ? -1 : 1;
    const by = column.text ? (a, b) => a.order[column.key] - b.order[column.key] : (a, b) => column.value(a) - column.value(b);
    this.#shown = found.sort(places
      ? (a, b) => (places.get(a.name) ?? Infinity) - (places.get(b.name) ?? Infinity) || 0
      : (a, b) => sign * by(a, b) || a.order.name - b.order.name);
    if (due) this.#sorted = performance.now();
    const total = this.#disks.length;
    put($("count"), found.length === total ? count(total) : `${count(found.length)} of ${count(total)}`);
    $("empty").hidden = found.length > 0;
    put($("empty"), total ? "No disk is like that." : "There are no disks yet.");
    this.#draw();
  }

  #draw() {
    const body = $("rows");
    const height = $("scroller").clientHeight;
    const first = Math.max(0, Math.floor($("scroller").scrollTop / ROW) - 4);
    const last = Math.min(this.#shown.length, first + Math.ceil(height / ROW) + 8);
    // An even number of rows is left out, so that the stripes do not move.
    const begin = first - (first % 2);
    while (this.#pool.length < last - begin) this.#pool.push(this.#row(this.#pool.length));
    this.above ??= el("tr", { "aria-hidden": "true" }, el("td"));
    this.below ??= el("tr", { "aria-hidden": "true" }, el("td"));
    // An even one before the rows.
    this.none ??= el("tr", { "aria-hidden": "true", hidden: true });
    const rows = this.#pool.slice(0, Math.max(0, last - begin));
    this.above.firstChild.style.height = `${begin * ROW}px`;
    this.below.firstChild.style.height = `${Math.max(0, this.#shown.length - last) * ROW}px`;
    if (body.children.length !== rows.length + 3) body.replaceChildren(this.above, this.none, ...rows, this.below);
    $("disks").setAttribute("aria-rowcount", this.#shown.length + 1);
    let active = null;
    rows.forEach((row, index) => {
      const disk = this.#shown[begin + index];
      this.#fill(row, disk, begin + index);
      if (disk.name === this.#chosen) active = row.id;
    });
    active ? $("disks").setAttribute("aria-activedescendant", active) : $("disks").removeAttribute("aria-activedescendant");
  }

  #row(index) {
    const cells = COLUMNS.map((column) => {
      const cell = el("td", { role: "gridcell", className: kind(column) });
      if (column.key === "state") cell.append(el("span", { className: "pill" }));
      return cell;
    });
    return el("tr", { id: `row-${index}`, className: "row", role: "row" }, cells);
  }

  #fill(row, disk, index) {
    row.disk = disk;
    row.setAttribute("aria-rowindex", index + 2);
    row.setAttribute("aria-selected", disk.name === this.#chosen);
    COLUMNS.forEach(({ key, value, write }, at) => {
      const cell = row.cells[at];
      if (key === "state") {
        put(cell.firstChild, disk.state);
        cell.firstChild.className = `pill ${disk.state}`;
      } else if (key === "name") {
        put(cell, plain(disk.name));
        cell.title = plain(disk.name);
      } else {
        const text = write(value(disk));
        put(cell, text);
        cell.classList.toggle("zero", text === "0");
      }
    });
  }

  #reveal() {
    const index = this.#shown.findIndex((disk) => disk.name === this.#chosen);
    if (index < 0) return;
    const scroller = $("scroller");
    const [top, room] = [index * ROW, scroller.clientHeight - $("head").offsetHeight];
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top + ROW > scroller.scrollTop + room) scroller.scrollTop = top + ROW - room;
  }

  #key(event) {
    if (event.target !== $("disks") || !this.#shown.length || event.ctrlKey || event.altKey || event.metaKey) return;
    const last = this.#shown.length - 1;
    const now = this.#shown.findIndex((disk) => disk.name === this.#chosen);
    const page = Math.max(1, Math.floor($("scroller").clientHeight / ROW) - 2);
    const next = {
      ArrowDown: now + 1, ArrowUp: now < 0 ? 0 : now - 1, Home: 0, End: last, PageDown: now + page, PageUp: now - page,
    }[event.key];
    if (event.key === "/") $("filter").focus();
    else if (event.key === "Enter" && now >= 0) $("detail").querySelector("button")?.focus();
    else if (next === undefined) return;
    else this.#choose(this.#shown[Math.min(last, Math.max(0, next))].name);
    event.preventDefault();
  }
}
