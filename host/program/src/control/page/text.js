// How numbers and events are written.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

function short(value) {
  return value >= 100 || Number.isInteger(value) ? Math.round(value).toString() : value.toPrecision(value >= 10 ? 3 : 2);
}

export function bytes(value) {
  let unit = 0;
  while (value >= 1023.5 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${short(value)} ${UNITS[unit]}`;
}

export function count(value) {
  if (value >= 999_500) return `${short(value / 1e6)} M`;
  return value >= 9_999.5 ? `${short(value / 1e3)} k` : short(value);
}

/** A time in nanoseconds. */
export function time(nanos) {
  if (nanos >= 999.5e6) return `${short(nanos / 1e9)} s`;
  return nanos >= 999.5e3 ? `${short(nanos / 1e6)} ms` : `${short(nanos / 1e3)} \u00b5s`;
}

export function age(seconds) {
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return seconds < 86400 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} d`;
}

/** Control characters and changes of direction are shown, so that no text poses as another. */
export function plain(text) {
  return String(text).replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, "\ufffd");
}

/** Says what happened. */
export function happening(event) {
  switch (event.event) {
    case "disk-created": return "created";
    case "disk-removed": return "removed";
    case "disk-relabelled": return "got other labels";
    case "disk-updated": return "got other filters";
    case "disk-reset": return `reset to ${event.snapshot}`;
    case "snapshot-taken": return `snapshot ${event.snapshot} taken, requests held back for ${time(event.held_us * 1000)}`;
    case "snapshot-deleted": return `snapshot ${event.snapshot} deleted`;
    case "disk-replaced": return "replaced under its clients";
    case "disk-opened": return "opened";
    case "disk-closed": return "closed";
    case "disk-failed": return `failed: ${event.reason}`;
    case "command": return `${event.component}: ${event.command} ${event.parameters.join(" ")}`;
    case "client-connected": return `client ${event.connection} came from ${event.peer}`;
    case "client-disconnected": return `client ${event.connection} left after ${age(event.seconds)}`;
    case "log": return event.message;
    case "lost": return event.restarted ? "the server was started anew" : `${event.events} events are missing`;
    default: return event.event;
  }
}
