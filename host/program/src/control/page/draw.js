// Charts and the map of a disk, on canvases. What they show is also in text beside them.

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function surface(canvas) {
  const scale = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  return { context, width, height };
}

/** Draws lines of the last `samples` values each, the newest at the right. */
export function lines(canvas, series, samples) {
  const { context, width, height } = surface(canvas);
  const top = Math.max(1, ...series.flatMap(({ values }) => values.filter(Number.isFinite))) * 1.08;
  context.strokeStyle = colour("--line");
  context.beginPath();
  context.moveTo(0, height - 0.5);
  context.lineTo(width, height - 0.5);
  context.stroke();
  for (const { values, name } of series) {
    const at = (index) => width - (values.length - 1 - index) * (width / (samples - 1));
    const level = (value) => height - 1 - (value / top) * (height - 3);
    context.strokeStyle = colour(name);
    context.lineWidth = 1.5;
    context.lineJoin = "round";
    context.beginPath();
    let pen = false;
    values.forEach((value, index) => {
      if (!Number.isFinite(value)) {
        pen = false;
        return;
      }
      pen ? context.lineTo(at(index), level(value)) : context.moveTo(at(index), level(value));
      pen = true;
    });
    context.stroke();
    const last = values.at(-1);
    if (Number.isFinite(last)) {
      context.fillStyle = colour(name);
      context.beginPath();
      context.arc(width - 2, level(last), 2, 0, 7);
      context.fill();
    }
  }
}

/** How many cells a map has. */
export const COLUMNS = 64;
export const ROWS = 16;

/** Draws a cell for each level from 0 to 1, in a colour. Returns which cell is at a place. */
export function cells(canvas, levels, name) {
  const { context, width, height } = surface(canvas);
  const columns = Math.min(COLUMNS, levels.length) || 1;
  const rows = Math.ceil(levels.length / columns) || 1;
  const [across, down] = [width / columns, Math.min(height / rows, 24)];
  const gap = Math.min(1, across / 4);
  const [empty, full] = [colour("--cell"), colour(name)];
  levels.forEach((level, index) => {
    const [x, y] = [(index % columns) * across, Math.floor(index / columns) * down];
    context.fillStyle = empty;
    context.fillRect(x, y, across - gap, down - gap);
    if (level > 0) {
      // A little is seen, too.
      context.globalAlpha = 0.22 + 0.78 * Math.min(1, level);
      context.fillStyle = full;
      context.fillRect(x, y, across - gap, down - gap);
      context.globalAlpha = 1;
    }
  });
  return (x, y) => {
    const index = Math.floor(y / down) * columns + Math.floor(x / across);
    return x < width && index < levels.length && index >= 0 ? index : null;
  };
}

/** Draws how much of each cell of a disk is stored. */
export function map(canvas, { size, cell, stored }) {
  return cells(canvas, stored.map((bytes, index) => bytes / Math.min(cell, size - index * cell)), "--accent");
}
