"""What snapshots, clones and resets take, and what a clone is worth beside the disk it was made of."""

import http.client
import json
import socket
import time

import fio
import machine
import process
import report
import servers
import settings as options
from figures import number
from process import Failed, run

API = "/v1/tenants/default"

# What clients do on the disk and on a clone of it.
WORKLOADS = [
    fio.Workload("randread", "4k", 1),
    fio.Workload("randwrite", "4k", 1),
    fio.Workload("randread", "4k", 16),
    fio.Workload("randwrite", "4k", 16),
    fio.Workload("read", "256k", 4),
    fio.Workload("write", "256k", 4),
]

# The length of a chain of snapshots that is compared with one.
CHAIN = 100


class Controlled(servers.Memnbd):
    """A server with a control API."""

    def __init__(self, program, control):
        super().__init__("memnbd", program)
        self.control = control

    def command(self, listen, size, file):
        program, *rest = super().command(listen, size, file)
        return [program, "--control", f"unix:{self.control}", "--max-connections=8192", *rest]


class Api(http.client.HTTPConnection):
    """A client of the control API, over one connection."""

    def __init__(self, path):
        super().__init__("memnbd")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self.path)

    def ask(self, method, path, body=None):
        """Returns how many seconds the answer took."""
        begin = time.perf_counter()
        text = None if body is None else json.dumps(body)
        self.request(method, API + path, text, {"content-type": "application/json"})
        response = self.getresponse()
        answer = response.read()
        taken = time.perf_counter() - begin
        if not 200 <= response.status < 300:
            raise Failed(f"{method} {path}: {response.status}: {answer.decode(errors='replace')}")
        return taken


def main(arguments, place):
    settings = options.resolve(arguments)
    teller = report.begin()
    count = 100 if settings.quick else 1000
    control = place.new("control")
    program = place.install(arguments.binary)
    with servers.started(Controlled(program, control), place, "unix", fio.GIB, None) as server:
        api = Api(control)
        fio.fill(uri(server, "disk"), fio.GIB)
        timed = times(api, server, count, teller)
        rates = compare(api, server, settings, teller)
    about = machine.describe() | {"memnbd": server.server.version()}
    directory = arguments.output or options.ROOT / "target/bench"
    directory.mkdir(parents=True, exist_ok=True)
    text = markdown(about, str(settings), timed, rates, teller.notes)
    (directory / "snapshots.md").write_text(text)
    print(f"\n{text}\nwritten to {directory}/snapshots.md")


def uri(server, disk):
    return f"nbd+unix:///{disk}?socket={server.address}"


def times(api, server, count, teller):
    """The times of what the API does, in seconds, and the memory of clones."""
    taken = {}

    def measure(what, calls):
        each = sorted(calls())
        taken[what] = each
        teller.say(f"{what}: {milliseconds(median(each))} ms, p99 {milliseconds(p99(each))} ms")

    def snapshots():
        for index in range(CHAIN):
            yield api.ask("PUT", f"/snapshots/s{index}", {"disk": "disk"})

    def clones():
        for index in range(count):
            # The disk is opened to see which commands it takes.
            yield api.ask("PUT", f"/disks/c{index}", {"snapshot": "s0"}) + api.ask(
                "GET", f"/disks/c{index}/commands"
            )

    def resets():
        for index in range(count):
            yield api.ask("POST", f"/disks/c{index}/reset", {})

    measure(f"snapshot of 1 GiB, {CHAIN} in a row", snapshots)
    before = server.resident()
    measure(f"clone, created and opened, {count} at once", clones)
    each = (server.resident() - before) / count / 1024
    measure("reset of a clone", resets)
    taken["memory of a clone, KiB"] = each
    begin = time.perf_counter()
    for index in range(count):
        api.ask("DELETE", f"/disks/c{index}")
    teller.say(f"{count} clones removed in {time.perf_counter() - begin:.2f} s")
    return taken


def compare(api, server, settings, teller):
    """The rates on a disk that was never snapshot, a clone of one snapshot, and one of a chain, in turns; of
    the clones, the first time that blocks are written as well."""
    api.ask("PUT", "/disks/origin", {"parameters": ["size=1G"]})
    fio.fill(uri(server, "origin"), fio.GIB)
    rates = {}
    for workload in WORKLOADS:
        for turn in range(settings.rounds):
            for kind in settings.in_turn(list(KINDS), turn):
                disk = KINDS[kind](api, turn)
                if "written" in kind:
                    fio.fill(uri(server, disk), fio.GIB)
                length = settings.seconds, None
                command = fio.command(workload, uri(server, disk), fio.GIB, *length)
                command = [word for word in command if not word.startswith("--io_size")]
                result = fio.parse(run([*command, "--time_based"]))
                rates.setdefault((workload, kind), []).append(fio.rate(workload, result))
                if disk != "origin":
                    api.ask("DELETE", f"/disks/{disk}")
        shown = [f"{kind} {number(median(rates[workload, kind]))}" for kind in KINDS]
        teller.say(f"{workload.name}: {', '.join(shown)}")
    return rates


def clone_of(snapshot):
    def clone(api, turn):
        name = f"{snapshot}-{turn}"
        api.ask("PUT", f"/disks/{name}", {"snapshot": snapshot})
        return name

    return clone


# What is compared, and how the disk of a turn is made.
KINDS = {
    "origin": lambda api, turn: "origin",
    "clone": clone_of("s0"),
    "clone, written": clone_of("s0"),
    f"clone of {CHAIN}th": clone_of(f"s{CHAIN - 1}"),
}


def median(each):
    return sorted(each)[len(each) // 2]


def p99(each):
    return sorted(each)[min(len(each) - 1, len(each) * 99 // 100)]


def milliseconds(seconds):
    return f"{seconds * 1000:.2f}"


def markdown(about, settings, timed, rates, notes):
    lines = [f"- {key}: {text}" for key, text in about.items()] + [f"- settings: {settings}"]
    lines += [f"- **{note}**" for note in notes]
    memory = timed.pop("memory of a clone, KiB")
    rows = [[what, milliseconds(median(each)), milliseconds(p99(each))] for what, each in timed.items()]
    compared = []
    for workload in WORKLOADS:
        origin = median(rates[workload, "origin"])
        row = [f"{median(rates[workload, kind]) / origin:.2f}" for kind in KINDS if kind != "origin"]
        compared.append([workload.name, number(origin), *row])
    others = [kind for kind in KINDS if kind != "origin"]
    parts = [
        "# Snapshots",
        "\n".join(lines),
        "Of a disk of 1 GiB in memory that was written everywhere. Times are those of a client of the "
        f"control API. An open clone takes {memory:.0f} KiB until it is written.",
        report.table(["what", "median, ms", "p99, ms"], rows),
        "Rates of clones, as a part of those of a disk of its own, in turns. `clone` begins with no block "
        "written: the first write to each of 64 KiB copies it. `written` was written everywhere before.",
        report.table(["workload", "origin", *others], compared),
    ]
    return "\n\n".join(parts) + "\n"
