// Requests to the control API, and its events.

const KEY = "memnbd-token";

/** Why a request failed: what the server says of it. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** Asked for a token when the server wants one; returns a promise. */
let askForToken = async () => {};
let asking = null;
let declined = -Infinity;

export function onToken(ask) {
  askForToken = ask;
}

/** Keeps a token until the tab is closed. */
export function setToken(token) {
  sessionStorage.setItem(KEY, token);
}

function headers(more) {
  const token = sessionStorage.getItem(KEY);
  return token ? { ...more, authorization: `Bearer ${token}` } : more;
}

async function send(path, options, more) {
  for (let attempt = 0; ; attempt++) {
    const answer = await fetch(path, {
      ...options, headers: headers(more), cache: "no-store", credentials: "omit", redirect: "error",
    });
    if (answer.status !== 401 || attempt === 3 || performance.now() < declined + 60_000) return answer;
    // All requests that fail at the same time wait for the same answer.
    asking ??= askForToken(attempt > 0).finally(() => (asking = null));
    if (!(await asking)) declined = performance.now();
  }
}

async function problem(answer) {
  let detail = `${answer.status} ${answer.statusText}`;
  try {
    detail = (await answer.json()).detail ?? detail;
  } catch {}
  return new Problem(answer.status, detail);
}

/** Sends a request; returns what is in the answer. */
export async function call(method, path, body) {
  const options = { method, signal: AbortSignal.timeout(130_000) };
  const more = {};
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    more["content-type"] = "application/json";
  }
  const answer = await send(path, options, more);
  if (!answer.ok) throw await problem(answer);
  return answer.status === 204 ? null : answer.json();
}

/** Returns a path, each part of which is a text. */
export function at(tenant, ...parts) {
  return ["v1", "tenants", tenant, ...parts].map(encodeURIComponent).join("/").replace(/^/, "/");
}

/**
 * Reads events until `signal` is aborted, again and again. An EventSource would put the token into no
 * header.
 */
export async function follow(path, signal, on) {
  let last = null;
  for (let pause = 500; !signal.aborted; pause = Math.min(2 * pause, 8000)) {
    try {
      const answer = await send(path, { signal }, last ? { "last-event-id": last } : {});
      if (!answer.ok) throw await problem(answer);
      on.open();
      pause = 250;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        text += value;
        const events = text.split("\n\n");
        text = events.pop();
        for (const event of events) {
          const field = (name) => event.split("\n").find((line) => line.startsWith(`${name}:`))?.slice(name.length + 1).trim();
          last = field("id") ?? last;
          const data = field("data");
          if (data) on.event(JSON.parse(data));
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      on.problem(error);
    }
    on.close();
    await new Promise((done) => setTimeout(done, pause));
  }
}
