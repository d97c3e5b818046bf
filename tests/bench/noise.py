"""What a tenant notices of another one that does all that its quotas allow."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import threading
import time

import fio
import machine
import process
import report
import servers
import settings as options
from figures import number
from process import Failed, run

SIZE = 64 << 20

# What the other tenant may ask for in a second.
REQUESTS = 20_000

CALM = fio.Workload("randread", "4k", 1)

CONFIGURATION = """
[tenants.calm]
listen = ["unix:{calm}"]
[tenants.calm.disks.work]
parameters = ["size={size}"]

[tenants.noisy]
listen = ["unix:{noisy}"]
quotas = {{ requests = {requests}, snapshots = 1000, memory = "1G" }}
tokens.noise = {{ role = "tenant", digest = "{digest}" }}
[tenants.noisy.disks.work]
parameters = ["size={size}"]
[tenants.noisy.disks.compute]
parameters = ["size={size}", "allocator=zstd"]
"""


class Shared(servers.Memnbd):
    """A server of two tenants, each at a socket of its own."""

    def __init__(self, program, configuration, control):
        super().__init__("memnbd", program)
        self.configuration, self.control = configuration, control

    def command(self, listen, size, file):
        control = f"--control=unix:{self.control}"
        return [self.program, "-f", "-U", listen, control, f"--config={self.configuration}", "1M"]


class Api(http.client.HTTPConnection):
    """A client of the control API that has a token."""

    def __init__(self, path, token):
        super().__init__("memnbd")
        self.path = path
        self.headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self.path)

    def ask(self, method, path, body=None):
        text = None if body is None else json.dumps(body)
        self.request(method, f"/v1/tenants/noisy/{path}", text, self.headers)
        return self.getresponse().read()


class Noise:
    """What the other tenant does, until it is told to end."""

    def __init__(self, place, control, token):
        self.place, self.control, self.token = place, control, token
        self.socket = place.new("noisy")
        self.kinds = {
            "reads, 4 connections x 16": lambda: [self.clients("work", "randread", "4k")],
            "components that compute, 4 x 16": lambda: [self.clients("compute", "randwrite", "64k")],
            "floods of the API, 4 clients": lambda: [self.floods for _ in range(4)],
            "snapshots, one after the other": lambda: [self.snapshots],
        }

    @contextlib.contextmanager
    def made(self, kinds):
        self.ended = threading.Event()
        work = [each for kind in kinds for each in self.kinds[kind]()]
        threads = [threading.Thread(target=each) for each in work]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.ended.set()
            for thread in threads:
                thread.join()

    def requests(self):
        """How many requests of NBD clients were answered."""
        usage = json.loads(Api(self.control, self.token).ask("GET", "usage"))
        return sum(disk["requests"] for disk in usage["disks"])

    def clients(self, disk, rw, block):
        workload = fio.Workload(rw, block, 16, 4)
        uri = f"nbd+unix:///{disk}?socket={self.socket}"

        def work():
            # Threads, for processes would go on without their parent.
            child = subprocess.Popen(
                [*fio.command(workload, uri, SIZE, 3600, 0), "--thread"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=self.place.directory,
            )
            self.ended.wait()
            child.kill()
            child.wait()

        return work

    def floods(self):
        api = Api(self.control, self.token)
        while not self.ended.is_set():
            api.ask("GET", "disks")

    def snapshots(self):
        api = Api(self.control, self.token)
        index = 0
        while not self.ended.is_set():
            api.ask("PUT", f"snapshots/s{index}", {"disk": "work"})
            if index >= 100:
                api.ask("DELETE", f"snapshots/s{index - 100}")
            index += 1


def main(arguments, place):
    settings = options.resolve(arguments)
    teller = report.begin()
    program = place.install(arguments.binary)
    client = os.path.join(os.path.dirname(arguments.binary), "memnbd")
    secret = json.loads(run([client, "token", "--json"]))
    control, configuration, calm = place.new("control"), place.new("toml"), place.new("calm")
    noise = Noise(place, control, secret["secret"])
    text = CONFIGURATION.format(
        calm=calm, noisy=noise.socket, requests=REQUESTS, digest=secret["digest"], size=SIZE
    )
    with open(configuration, "w", encoding="ascii") as file:
        file.write(text)
    found = {}
    with servers.started(Shared(program, configuration, control), place, "unix", SIZE, None) as server:
        about = machine.describe() | {"memnbd": server.server.version()}
        uri = f"nbd+unix:///work?socket={calm}"
        for address in (calm, noise.socket):
            fio.fill(f"nbd+unix:///work?socket={address}", SIZE)
        each = [[kind] for kind in noise.kinds] + [list(noise.kinds)]
        for _ in range(settings.rounds):
            for kinds in each:
                alone = look(uri, settings)
                before, start = noise.requests(), time.monotonic()
                with noise.made(kinds):
                    beside = look(uri, settings)
                asked = (noise.requests() - before) / (time.monotonic() - start)
                name = kinds[0] if len(kinds) == 1 else "all of these"
                found.setdefault(name, []).append((alone, beside))
                other = f"the other one asked {number(asked)} times a second"
                teller.say(f"{name}: {ratios([(alone, beside)])}; {other}")
    directory = arguments.output or options.ROOT / "target/bench"
    directory.mkdir(parents=True, exist_ok=True)
    text = markdown(about, str(settings), found, teller.notes)
    (directory / "noise.md").write_text(text)
    print(f"\n{text}\nwritten to {directory}/noise.md")


def look(uri, settings):
    """The rate of the calm tenant, and the time in us that 99 % of its requests take at most."""
    output = run(fio.command(CALM, uri, SIZE, settings.seconds, 0.5))
    try:
        reads = json.loads(output[output.index("{") :])["jobs"][0]["read"]
        return reads["iops"], reads["clat_ns"]["percentile"]["99.000000"] / 1000
    except (ValueError, LookupError) as cause:
        raise Failed(f"fio printed no figures: {output[:200]!r}") from cause


def ratios(pairs):
    """The median rate and p99 beside the other tenant, as parts of those alone."""
    middle = len(pairs) // 2
    rate = sorted(beside[0] / alone[0] for alone, beside in pairs)[middle]
    tail = sorted(beside[1] / alone[1] for alone, beside in pairs)[middle]
    return f"rate {rate:.2f}, p99 {tail:.1f}"


def markdown(about, settings, found, notes):
    lines = [f"- {key}: {text}" for key, text in about.items()] + [f"- settings: {settings}"]
    lines += [f"- **{note}**" for note in notes]
    rows = []
    for name, pairs in found.items():
        alone, beside = pairs[len(pairs) // 2]
        figures = [f"{number(rate)}, {tail:.0f}" for rate, tail in (alone, beside)]
        rows.append([name, *figures, ratios(pairs)])
    parts = [
        "# Noise",
        "\n".join(lines),
        "Reads of 4 KiB, one after the other, of one tenant, while another one does all that its quotas "
        f"allow ({REQUESTS} requests a second). Clients and server share the processors.",
        report.table(["noise", "alone: reads/s, p99 us", "beside it", "median of ratios"], rows),
    ]
    return "\n\n".join(parts) + "\n"
