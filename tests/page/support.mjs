// A server, a way to it over TCP, and a browser.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { request } from "node:http";
import { createServer } from "node:net";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

export const modules = resolve(import.meta.dirname, "../../target/page/node_modules");
export const { chromium } = createRequire(`${modules}/`)("playwright-core");

/** The programs that were started. */
const started = [];

export const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** Waits until a function returns something. */
export async function until(what, limit = 30_000) {
  const end = Date.now() + limit;
  for (;;) {
    const found = await what();
    if (found) return found;
    if (Date.now() > end) throw new Error(`it did not come to pass: ${what}`);
    await pause(50);
  }
}

export function run(command, args, options = {}) {
  const child = spawn(command, args, { stdio: ["ignore", "ignore", "inherit"], ...options });
  started.push(child);
  return child;
}

/** Starts a program, and waits until it has ended well. */
export async function finish(command, args, options = {}) {
  const [code] = await once(run(command, args, options), "exit");
  if (code !== 0) throw new Error(`${command} ${args.join(" ")}: ${code}`);
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  return port;
}

/** A server in a directory of its own. */
export class Server {
  static async start(program, args) {
    const server = new Server();
    Object.assign(server, { program, args, directory: mkdtempSync(join(tmpdir(), "memnbd-page-")) });
    server.control = join(server.directory, "control");
    await server.begin();
    server.port = await freePort();
    run("socat", [`TCP-LISTEN:${server.port},bind=127.0.0.1,fork,reuseaddr`, `UNIX-CONNECT:${server.control}`],
      { stdio: "ignore" });
    server.url = `http://127.0.0.1:${server.port}/`;
    await until(() => fetch(server.url).then((answer) => answer.ok, () => false));
    return server;
  }

  async begin() {
    const options = ["--control", "unix:control", "-U", "socket", "--log", "null", ...this.args];
    this.process = run(this.program, options, { cwd: this.directory });
    await until(() => existsSync(this.control));
    await until(() => this.call("GET", "/v1/openapi.json").then(() => true, () => false));
  }

  async end() {
    this.process.kill("SIGTERM");
    await once(this.process, "exit");
  }

  /** Sends a request to the API, not through the browser. */
  call(method, path, body) {
    return new Promise((resolve, reject) => {
      const headers = body === undefined ? {} : { "content-type": "application/json" };
      const sent = request({ socketPath: this.control, method, path, headers }, async (answer) => {
        let text = "";
        for await (const chunk of answer) text += chunk;
        if (answer.statusCode >= 400) return reject(new Error(`${method} ${path}: ${answer.statusCode} ${text}`));
        const isJson = answer.headers["content-type"]?.includes("json");
        resolve(isJson ? JSON.parse(text) : text);
      });
      sent.on("error", reject);
      sent.end(body === undefined ? undefined : JSON.stringify(body));
    });
  }

  api(method, path, body) {
    return this.call(method, `/v1/tenants/default/${path}`, body);
  }

  /** Runs Python code with a function `use(disk)` that connects to one. */
  python(code) {
    const connect = [
      "import nbd, random, time",
      "def use(name):",
      "    c = nbd.NBD()",
      "    c.set_export_name(name)",
      `    c.connect_unix(${JSON.stringify(join(this.directory, "socket"))})`,
      "    return c",
    ];
    return ["/usr/bin/python3", ["-c", [...connect, code].join("\n")]];
  }
}

/** Ends all that was started. */
export function endAll(servers) {
  for (const child of started) if (child.exitCode === null) child.kill("SIGTERM");
  for (const server of servers) rmSync(server.directory, { recursive: true, force: true });
}

export function browser() {
  const sandbox = process.getuid() === 0 ? ["--no-sandbox"] : [];
  return chromium.launch({ executablePath: "/usr/bin/chromium", args: [...sandbox, "--disable-dev-shm-usage"] });
}
