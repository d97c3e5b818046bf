// The page in a real Chromium, against a real server:
//
//     MEMNBD_HOST_PROGRAM=target/debug/memnbd-host node --test tests/page/
//
// Pictures of it are in target/page/pictures then.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { after, before, beforeEach, afterEach, test } from "node:test";
import { Server, browser, endAll, finish, modules, pause, run, until } from "./support.mjs";

const program = resolve(process.env.MEMNBD_HOST_PROGRAM ?? "target/debug/memnbd-host");
const servers = [];
let chrome, page, problems;

before(async () => {
  chrome = await browser();
});

after(async () => {
  await chrome?.close();
  endAll(servers);
});

beforeEach(async () => {
  problems = [];
  page = await chrome.newPage({ viewport: { width: 1280, height: 900 } });
  page.setDefaultTimeout(20_000);
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (message) => {
    if (message.type() === "error") problems.push(message.text());
  });
  page.on("request", (request) => {
    if (!request.url().startsWith("http://127.0.0.1:")) problems.push(request.url());
  });
});

afterEach(async () => {
  await page.close();
  assert.deepEqual(problems, []);
});

async function serve(...args) {
  const server = await Server.start(program, args.length ? args : ["memory", "16M"]);
  servers.push(server);
  return server;
}

const row = (name) => page.locator("tr.row").filter({ has: page.locator("td.name", { hasText: new RegExp(`^${name}$`) }) });
const cell = (name, column) => row(name).locator("td").nth(column);
const REQUESTS = 4, READ = 5, ERRORS = 8, CLIENTS = 9;

/** Keeps a picture of what can be seen. */
const picture = (name) => page.screenshot({ path: resolve(modules, `../pictures/${name}.png`) });

async function open(server, disk) {
  await page.goto(server.url);
  await page.locator("#link.live").waitFor();
  if (disk) await row(disk).click();
}

test("loads, and updates while clients are at work", async () => {
  const server = await serve();
  await open(server, "disk");
  run(...server.python("c = use('disk')\nwhile True: c.pwrite(bytes(65536), 0); c.pread(65536, 0); time.sleep(0.01)"));
  await until(async () => Number(await cell("disk", REQUESTS).textContent()) > 0);
  await until(async () => /[KM]iB/.test(await cell("disk", READ).textContent()));
  await until(async () => (await cell("disk", CLIENTS).textContent()) === "1");
  await page.locator("#map").waitFor();
  await until(async () => /of 16 MiB, less than 1 %/.test(await page.locator("#map-text").textContent()));
  await page.locator("#chosen tbody tr", { hasText: "write" }).waitFor();
  await page.locator(".events", { hasText: "client 0 came from" }).waitFor();
  // A disk that somebody else creates appears, without a click.
  await server.api("PUT", "disks/later", { parameters: ["1M"] });
  await row("later").waitFor();
  await server.api("DELETE", "disks/later");
  await row("later").waitFor({ state: "detached" });
  await page.getByRole("tab", { name: "Connections" }).click();
  await page.getByRole("tabpanel").getByRole("button", { name: "Disconnect client 0" }).click();
  await page.getByText("Nobody is connected.").waitFor();
});

test("shows where a disk is read and written", async () => {
  const server = await serve();
  await finish(...server.python("c = use('disk')\nc.pread(512, 0)\nc.shutdown()"));
  await open(server, "disk");
  const [read, written] = [page.locator("#heat-read"), page.locator("#heat-written")];
  await until(async () => /^Read recently: nothing\./.test(await read.getAttribute("aria-label")));
  run(...server.python("c = use('disk')\nwhile True: c.pread(4096, 4 << 20); c.pwrite(bytes(4096), 12 << 20); time.sleep(0.01)"));
  const of = (where) => new RegExp(`, in 1 of 1024 parts, most from ${where} on\\. What is older counts half after 10 s\\.$`);
  await until(async () => of("4 MiB").test(await read.getAttribute("aria-label")));
  await until(async () => of("12 MiB").test(await written.getAttribute("aria-label")));
  // Which cells have another colour than most.
  const coloured = (canvas) => canvas.evaluate((element) => {
    const [context, scale] = [element.getContext("2d"), window.devicePixelRatio];
    const [across, down] = [element.clientWidth / 64, element.clientHeight / 16];
    const colours = Array.from({ length: 1024 }, (_, index) => {
      const [x, y] = [((index % 64) + 0.4) * across, (Math.floor(index / 64) + 0.4) * down];
      return String(context.getImageData(Math.floor(x * scale), Math.floor(y * scale), 1, 1).data);
    });
    return colours.flatMap((one, index) => (one === colours[1] ? [] : [index]));
  });
  assert.deepEqual(await coloured(read), [256]);
  assert.deepEqual(await coloured(written), [768]);
  const { width, height } = await read.boundingBox();
  await read.hover({ position: { x: width / 128, y: (height * 4.5) / 16 } });
  await page.locator(".heat", { hasText: /iB from 4 MiB on/ }).waitFor();
});

test("takes a snapshot, clones and resets", async () => {
  const server = await serve();
  await finish(...server.python("c = use('disk')\nc.pwrite(b'a' * 65536, 0)\nc.shutdown()"));
  await open(server, "disk");
  await page.getByRole("button", { name: "Clone" }).click();
  await page.getByLabel("Name of the clone").fill("copy");
  await page.keyboard.press("Enter");
  await row("copy").waitFor();
  assert.equal(await row("copy").getAttribute("aria-selected"), "true");
  assert.deepEqual((await server.api("GET", "snapshots")).map(({ name, disk }) => [name, disk]), [["disk-1", "disk"]]);
  await finish(...server.python("c = use('copy')\nassert c.pread(65536, 0) == b'a' * 65536\nc.pwrite(b'b' * 65536, 0)\nc.shutdown()"));
  await page.getByRole("button", { name: "Reset" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Reset" }).click();
  await page.locator(".events", { hasText: "reset to disk-1" }).waitFor();
  await finish(...server.python("c = use('copy')\nassert c.pread(65536, 0) == b'a' * 65536\nc.shutdown()"));
  await page.getByRole("button", { name: "Snapshot" }).first().click();
  await page.getByRole("dialog").getByLabel("Name").fill("second");
  await page.keyboard.press("Enter");
  await page.getByRole("tab", { name: "Snapshots" }).click();
  await page.getByRole("button", { name: "Delete the snapshot second" }).click();
  await until(async () => (await server.api("GET", "snapshots")).length === 1);
  await page.getByRole("button", { name: "Remove" }).click();
  // Nothing is removed by pressing Enter twice.
  await page.keyboard.press("Enter");
  await row("copy").waitFor();
  await page.getByRole("button", { name: "Remove" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Remove" }).click();
  await row("copy").waitFor({ state: "detached" });
});

test("creates disks, and says why it cannot", async () => {
  const server = await serve();
  await open(server);
  await page.getByRole("button", { name: "New disk" }).click();
  await page.getByLabel("Component").fill("memroy");
  await page.keyboard.press("Enter");
  await page.getByRole("alert").filter({ hasText: "memory" }).waitFor();
  await page.getByLabel("Component").fill("memory");
  await page.getByLabel("Filters").fill("error delay");
  await page.keyboard.press("Enter");
  await row("disk-1").waitFor();
  const { spec } = await server.api("GET", "disks/disk-1");
  assert.deepEqual([spec.filters, spec.parameters], [["error", "delay"], ["size=1G"]]);
  // That request was refused on purpose.
  problems = problems.filter((problem) => !problem.includes("400"));
});

test("toggles faults", async () => {
  const server = await serve();
  await finish(...server.python("c = use('disk')\nc.pread(512, 0)\nc.shutdown()"));
  await open(server, "disk");
  await page.getByRole("button", { name: "Add error" }).click();
  const fails = page.getByRole("switch", { name: "Reads fail" });
  await fails.check();
  const read = (expected) => server.python([
    "c = use('disk')", "failed = False", "try: c.pread(512, 0)", "except nbd.Error: failed = True", `assert failed == ${expected}`,
  ].join("\n"));
  await page.locator(".events", { hasText: "error: set error-pread-rate=1" }).waitFor();
  await finish(...read("True"));
  await until(async () => (await cell("disk", ERRORS).textContent()) === "1");
  // Another window sees it.
  await page.reload();
  await page.locator("#link.live").waitFor();
  await row("disk").click();
  await until(() => fails.isChecked());
  await fails.uncheck();
  await page.locator(".events", { hasText: "error-pread-rate=0" }).waitFor();
  await finish(...read("False"));
});

test("goes on when the server is started anew", async () => {
  const server = await serve();
  await open(server, "disk");
  await server.api("PUT", "disks/lost", { parameters: ["1M"] });
  await row("lost").waitFor();
  await server.end();
  await page.locator("#banner", { hasText: "The server cannot be reached" }).waitFor();
  await server.begin();
  await page.locator("#link.live").waitFor();
  await page.locator("#banner").waitFor({ state: "hidden" });
  await row("lost").waitFor({ state: "detached" });
  await server.api("PUT", "disks/found", { parameters: ["1M"] });
  await row("found").waitFor();
  run(...server.python("c = use('disk')\nwhile True: c.pread(512, 0); time.sleep(0.01)"));
  await until(async () => Number(await cell("disk", REQUESTS).textContent()) > 0);
  problems = problems.filter((problem) => !/ERR_|Failed to load/.test(problem));
});

test("a thousand disks are as quick as one", async () => {
  const server = await serve();
  const disks = {};
  for (let index = 0; index < 1000; index++) disks[`d${index}`] = { parameters: ["1M"], labels: { group: `g${index % 10}` } };
  await server.api("POST", "populate", { disks });
  await open(server);
  await page.locator("#count", { hasText: "1001" }).waitFor();
  assert.ok((await page.locator("tr.row").count()) < 60, "only the rows that are seen exist");
  // By numbers, not by characters.
  assert.deepEqual((await page.locator("td.name").allTextContents()).slice(0, 4), ["d0", "d1", "d2", "d3"]);
  await page.locator("#disks").focus();
  await page.keyboard.press("End");
  await row("disk").waitFor();
  assert.equal(await row("disk").getAttribute("aria-rowindex"), "1002");
  assert.equal(await page.locator("#detail-title").textContent(), "disk");
  await page.keyboard.press("ArrowUp");
  assert.equal(await page.locator("#detail-title").textContent(), "d999");
  await page.getByRole("searchbox").fill("group:g7 d1");
  await page.locator("#count", { hasText: "of" }).waitFor();
  for (const name of await page.locator("td.name").allTextContents()) assert.match(name, /^d\d*1\d*7$|^d1\d*7$/);
  await page.getByRole("searchbox").fill("");
  await page.getByRole("button", { name: "Name" }).click();
  assert.equal(await page.locator("td.name").first().textContent(), "disk");
  assert.equal(await page.locator("th", { hasText: "Name" }).getAttribute("aria-sort"), "descending");
  // How long the page keeps the browser from anything else, with all numbers new.
  const longest = await page.evaluate(() => new Promise((done) => {
    let longest = 0;
    new PerformanceObserver((list) => list.getEntries().forEach(({ duration }) => (longest = Math.max(longest, duration)))).observe({ type: "longtask" });
    setTimeout(() => done(longest), 4000);
  }));
  console.log(`the longest task with 1000 disks: ${longest} ms`);
  // As it is used: many disks at work, the busiest first.
  run(...server.python(`
all = [use(f"d{random.randrange(1000)}") for _ in range(40)]
while True:
    for disk in all:
        disk.pwrite(bytes(4096 * random.randrange(1, 9)), 65536 * random.randrange(8))
        disk.pread(4096, 65536 * random.randrange(16))
    time.sleep(0.02)`));
  await page.getByRole("button", { name: "Requests/s" }).click();
  await until(async () => Number(await page.locator("tr.row").nth(10).locator("td").nth(REQUESTS).textContent()) > 0);
  await page.locator("tr.row").first().click();
  await page.locator(".heat", { hasText: /Read \d.*[KM]iBWritten \d.*[KM]iB/ }).waitFor();
  await pause(5000);
  await picture("thousand");
});

test("texts of others stay texts", async () => {
  const server = await serve();
  const evil = "<img src=x onerror=\"document.title='evil'\"><script>document.title='evil'</script>";
  const path = `disks/${encodeURIComponent(evil)}`;
  await server.api("PUT", path, { parameters: ["1M", "error-rate=0"], filters: ["error"], labels: { [evil.slice(0, 60)]: evil } });
  await server.api("PUT", `disks/${encodeURIComponent("\u202egnp.exe\n")}`, { parameters: ["1M"] });
  await open(server);
  await page.locator("td.name", { hasText: "<img" }).click();
  await page.locator("#detail-title", { hasText: evil }).waitFor();
  await page.locator(".tag", { hasText: "onerror" }).waitFor();
  await page.locator("td.name", { hasText: "\ufffdgnp.exe\ufffd" }).waitFor();
  await page.getByRole("button", { name: "Snapshot" }).first().click();
  await page.keyboard.press("Enter");
  await page.locator(".events", { hasText: "snapshot <img" }).waitFor();
  await page.getByRole("tab", { name: "Snapshots" }).click();
  await page.getByRole("tabpanel").getByText("<img").first().waitFor();
  assert.equal(await page.title(), "memnbd");
  assert.equal(await page.locator("main img").count(), 0);
});

test("the page may load and run nothing else", async () => {
  const server = await serve();
  const answer = await page.goto(server.url);
  const policy = answer.headers()["content-security-policy"];
  assert.match(policy, /^default-src 'none'/);
  assert.doesNotMatch(policy, /unsafe|\*|https?:/);
  const blocked = await page.evaluate(async () => {
    const found = [];
    const attempt = (act) => {
      try {
        act();
      } catch {
        found.push("html");
      }
    };
    document.addEventListener("securitypolicyviolation", ({ effectiveDirective }) => found.push(effectiveDirective));
    attempt(() => (document.body.innerHTML = "<p>evil</p>"));
    document.body.append(Object.assign(document.createElement("img"), { src: "data:image/gif;base64,AA" }));
    await fetch("http://127.0.0.1:1/").catch(() => {});
    await new Promise((done) => setTimeout(done, 200));
    return found;
  });
  for (const kind of ["html", "require-trusted-types-for", "img-src", "connect-src"]) assert.ok(blocked.includes(kind), `${kind}: ${blocked}`);
  problems = problems.filter((problem) => !/Content Security Policy|TrustedHTML|Trusted Type/.test(problem) && !problem.startsWith("data:"));
});

test("asks for a token, and sends it in a header", async () => {
  const server = await serve();
  const { secret } = await server.api("PUT", "tokens/page", { role: "admin" });
  await page.route("**/v1/**", async (route) => {
    assert.ok(!route.request().url().includes(secret));
    if (route.request().headers().authorization === `Bearer ${secret}`) return route.continue();
    await route.fulfill({ status: 401, contentType: "application/problem+json", body: '{"detail": "a token is missing"}' });
  });
  await page.goto(server.url);
  await page.getByRole("textbox", { name: "Token" }).fill("wrong");
  await page.keyboard.press("Enter");
  await page.getByText("It does not accept the last one.").waitFor();
  await page.getByRole("textbox", { name: "Token" }).fill(secret);
  await page.keyboard.press("Enter");
  await page.locator("#link.live").waitFor();
  await row("disk").waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.getItem("memnbd-token")), secret);
  assert.equal(await page.evaluate(() => localStorage.length + document.cookie.length), 0);
  problems = problems.filter((problem) => !problem.includes("401"));
});

for (const colorScheme of ["light", "dark"]) {
  test(`can be used with screen readers and without colours (${colorScheme})`, async () => {
    const server = await serve();
    await server.api("PUT", "disks/faulty", { parameters: ["1M"], filters: ["error", "delay"] });
    await server.api("PUT", "disks/broken", { component: "offset", parameters: ["base=missing"] });
    await server.api("GET", "disks/broken/commands").catch(() => {});
    await finish(...server.python("c = use('faulty')\nc.pread(512, 0)\nc.shutdown()"));
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    await open(server, "faulty");
    await page.getByRole("switch").first().waitFor();
    await page.evaluate(readFileSync(`${modules}/axe-core/axe.min.js`, "utf8"));
    const check = async () => {
      const { violations } = await page.evaluate(() => window.axe.run());
      assert.deepEqual(violations.map(({ id, nodes }) => [id, nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`)]), []);
    };
    await check();
    await picture(colorScheme);
    await page.getByRole("button", { name: "Clone" }).click();
    await check();
    await page.keyboard.press("Escape");
    for (const tab of ["Connections", "Snapshots", "Tenants"]) {
      await page.getByRole("tab", { name: tab }).click();
      await check();
    }
  });
}

test("everything can be reached by keys", async () => {
  const server = await serve();
  await open(server);
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the disks");
  await page.keyboard.press("Enter");
  await page.locator("#disks").focus();
  await page.keyboard.press("ArrowDown");
  await page.locator("#detail-title", { hasText: "disk" }).waitFor();
  assert.equal(await page.locator("#disks").getAttribute("aria-activedescendant"), await row("disk").getAttribute("id"));
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Snapshot");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Snapshot", "the focus comes back");
  await page.locator("#disks").focus();
  await page.keyboard.press("/");
  assert.equal(await page.evaluate(() => document.activeElement.id), "filter");
  await page.getByRole("tab", { name: "Events" }).focus();
  await page.keyboard.press("ArrowLeft");
  assert.equal(await page.getByRole("tab", { name: "Tenants" }).getAttribute("aria-selected"), "true");
  await pause(1500);
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Tenants", "and stays while numbers change");
});
