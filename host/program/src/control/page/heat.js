// Where a disk is read and written recently. The server counts that while it is asked for.

import { call } from "./api.js";
import { el, put } from "./dom.js";
import { cells } from "./draw.js";
import { bytes, plain } from "./text.js";

const PAUSE = 2500;

/** What is counted: its name in the API, what it is called, and its colour. */
const KINDS = [["read", "Read", "read"], ["written", "Written", "write"]];

/** The heat of a disk. */
export class Heat {
  #path;
  #heat = null;
  #due = 0;
  #parts = new Map();
  #problem = el("p", { className: "quiet" });

  constructor(path) {
    this.#path = path;
    const charts = KINDS.map(([kind, title, colour]) => {
      const canvas = el("canvas", { id: `heat-${kind}`, role: "img" });
      const part = { canvas, title, colour, text: el("b"), cell: () => null };
      canvas.addEventListener("mousemove", (event) => this.#point(kind, part, event));
      canvas.addEventListener("mouseleave", () => this.#describe(kind, part));
      this.#parts.set(kind, part);
      return el("div", { className: "chart" }, el("p", {}, el("i", { className: colour }), `${title} `, part.text), canvas);
    });
    this.charts = el("div", { className: "charts heat", hidden: true }, charts);
    this.element = el("div", { className: "part" }, el("h3", {}, "Where it is read and written recently"), this.charts, this.#problem);
  }

  /** Asks for it if it is time to, and the disk is open. */
  show(live) {
    if (!live) {
      this.#fail("Known while the disk is open.");
      this.#due = 0;
    } else if (performance.now() > this.#due) this.#load();
  }

  async #load() {
    this.#due = Infinity;
    try {
      this.#heat = await call("GET", this.#path);
      this.#problem.hidden = true;
      this.charts.hidden = false;
      this.draw();
    } catch (error) {
      this.#fail(plain(error.message));
    }
    this.#due = performance.now() + PAUSE;
  }

  #fail(text) {
    this.#heat = null;
    this.charts.hidden = true;
    this.#problem.hidden = false;
    put(this.#problem, text);
  }

  draw() {
    if (!this.#heat) return;
    for (const [kind, part] of this.#parts) {
      const counts = this.#heat[kind];
      const most = Math.max(...counts, 1);
      // A few parts may have nearly all of it, and the others are to be seen, too.
      part.cell = cells(part.canvas, counts.map((count) => Math.sqrt(count / most)), `--${part.colour}`);
      this.#describe(kind, part);
    }
  }

  #describe(kind, { canvas, title, text }) {
    if (!this.#heat) return;
    const { cell, half_life: halfLife, [kind]: counts } = this.#heat;
    const sum = counts.reduce((sum, one) => sum + one, 0);
    const warm = counts.filter((one) => one > 0).length;
    put(text, sum ? bytes(sum) : "nothing");
    const most = counts.indexOf(Math.max(...counts));
    const where = sum ? `${bytes(sum)}, in ${warm} of ${counts.length} parts, most from ${bytes(most * cell)} on` : "nothing";
    canvas.setAttribute("aria-label", `${title} recently: ${where}. What is older counts half after ${halfLife} s.`);
  }

  #point(kind, part, event) {
    if (!this.#heat) return;
    const index = part.cell(event.offsetX, event.offsetY);
    if (index === null) return this.#describe(kind, part);
    put(part.text, `${bytes(this.#heat[kind][index])} from ${bytes(index * this.#heat.cell)} on`);
  }
}
