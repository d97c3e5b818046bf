// Takes the pictures of the page that the README shows:
//
//     node tests/page/picture.mjs MEMNBD-HOST FILE.png [light|dark]

import { resolve } from "node:path";
import { Server, browser, endAll, finish, pause, run, until } from "./support.mjs";

const [program, file, scheme = "light"] = process.argv.slice(2);
const servers = [];
try {
  const server = await Server.start(resolve(program), ["memory", "4G", "-e", "scratch"]);
  servers.push(server);
  const suites = ["nightly", "smoke", "fuzz", "release"];
  const disks = {};
  for (let index = 0; index < 997; index++) {
    const filters = index % 5 === 0 ? ["error"] : index % 7 === 0 ? ["delay"] : [];
    const name = `ci-${String(index).padStart(3, "0")}`;
    disks[name] = { parameters: ["size=2G"], filters, labels: { suite: suites[index % 4] } };
  }
  await server.api("POST", "populate", { disks });
  await server.api("PUT", "disks/golden", { parameters: ["size=1G"], filters: ["error", "delay"], labels: { image: "debian-12", suite: "release" } });
  await server.api("PUT", "disks/broken", { component: "offset", parameters: ["base=missing"] }).catch(() => {});
  await finish(...server.python(`
random.seed(7)
c = use("golden")
at = 0
while at < 1 << 30:
    run = random.choice([1, 2, 6, 14, 40]) << 20
    if random.random() < 0.45:
        for offset in range(at, min(at + run, 1 << 30), 1 << 20):
            c.pwrite(bytes([random.randrange(1, 255)]) * (1 << 20 if random.random() < 0.6 else 1 << 18), offset)
    at += run
c.shutdown()
`));
  await server.api("PUT", "snapshots/clean", { disk: "golden" });
  await server.api("PUT", "disks/test-1", { snapshot: "clean", filters: ["error"], parameters: ["error-pwrite-rate=0"] });
  run(...server.python(`
import threading
def work(name, pace, length):
    c = use(name)
    size = c.get_size()
    while True:
        reads, writes = places[name]
        try:
            if random.random() < 0.6: c.pread(length, random.choice(reads))
            else: c.pwrite(bytes(length), random.choice(writes))
            if random.random() < 0.02: c.flush()
        except nbd.Error: pass
        time.sleep(random.expovariate(1) * pace)
places = {}
names = [("golden", 0.003, 65536), ("golden", 0.006, 16384), ("scratch", 0.01, 4096), ("test-1", 0.01, 32768)]
names += [("ci-%03d" % i, 0.02 + i % 7 * 0.01, 4096 << i % 5) for i in range(24)]
def parts(count):
    """Some runs of a file system, of which the first are used more than the last."""
    runs = [(random.randrange(3900), random.choice([1, 4, 12, 60])) for _ in range(count)]
    return [min(begin + i, 4095) * 262144 for at, (begin, length) in enumerate(runs) for i in range(length) for _ in range(count - at)]
for name, pace, length in names: places[name] = (parts(40), parts(20))
for one in names: threading.Thread(target=work, args=one, daemon=True).start()
time.sleep(600)
`));
  await server.api("GET", "disks/broken/commands").catch(() => {});
  await server.api("POST", "disks/golden/commands", { component: "delay", command: "set", parameters: ["delay-read=1ms"] });
  const chrome = await browser();
  const page = await chrome.newPage({ viewport: { width: 1440, height: 1010 }, colorScheme: scheme });
  page.on("console", (message) => console.log(message.text()));
  page.on("pageerror", (error) => console.log(error));
  await page.goto(server.url);
  await until(() => page.locator("#rows tr.row").count());
  await page.getByRole("button", { name: "Requests/s" }).click();
  await page.locator("tr.row", { hasText: "golden" }).click();
  await pause(Number(process.env.SECONDS ?? 100) * 1000);
  await server.api("POST", "disks/test-1/commands", { component: "error", command: "set", parameters: ["error-pwrite-rate=5%"] });
  await server.api("PUT", "snapshots/golden-2", { disk: "golden" });
  await server.api("PUT", "disks/test-2", { snapshot: "golden-2" });
  await server.api("POST", "disks/test-1/reset", {});
  await server.api("PATCH", "disks/ci-003", { labels: { suite: "nightly" } });
  await pause(3000);
  await page.screenshot({ path: file });
  if (process.env.DOWN) {
    await page.locator("#chosen").evaluate((element) => element.scrollTo(0, 9999));
    await pause(500);
    await page.screenshot({ path: process.env.DOWN });
  }
  await chrome.close();
} finally {
  endAll(servers);
}
process.exit();
