"""Each filter beside nbdkit's filter of the same name: the same parameters, memory below, in turns.
The figures of the servers without a filter show what the filter costs by itself."""

import contextlib
import json
import re
from dataclasses import asdict, dataclass, field

import fio
import machine
import report
import servers
import settings as options
from figures import MORE, Measurement, mean_ratio, number, times
from process import Failed, run
from report import BASE, SUBJECT

# What clients do through each filter.
WORKLOADS = [
    *(fio.Workload(rw, "4k", depth) for depth in (1, 16) for rw in ("randread", "randwrite")),
    *(fio.Workload(rw, "256k", 4) for rw in ("read", "write")),
]

# What the table calls no filter at all.
NONE = "none"

# How many times as fast as nbdkit's a filter is to be: one that passes requests on, and one that moves
# or computes data.
GOALS = {"pass": 1.5, "data": 1.0}


@dataclass(frozen=True)
class Chain:
    """Filters with parameters, which are the same for both servers."""

    name: str
    kind: str
    filters: tuple
    parameters: tuple = field(default=())
    read_only: bool = False


def one(name, kind, *parameters, read_only=False):
    return Chain(name, kind, (name,), parameters, read_only)


# Every filter that nbdkit 1.32 has and that keeps the disk as it is, so that fio can write anywhere.
# tls-fallback needs TLS, luks and the decompressors need an image, and with exitlast the server is gone after
# the first client.
CHAINS = [
    Chain(NONE, "pass", ()),
    one("blocksize", "data", "minblock=4k"),
    one("blocksize-policy", "pass", "blocksize-minimum=512", "blocksize-preferred=4096"),
    one("cache", "data"),
    one("cacheextents", "pass"),
    one("checkwrite", "data", read_only=True),
    one("cow", "data"),
    one("ddrescue", "data", read_only=True),
    one("delay", "pass"),
    one("error", "pass", "error-rate=0"),
    one("exitwhen", "pass", "exit-when-file-created=/nonexistent"),
    one("exportname", "pass", "exportname-list=keep"),
    one("extentlist", "pass", "extentlist=/dev/null"),
    one("fua", "pass", "fuamode=force"),
    one("ip", "pass", "allow=all"),
    one("limit", "pass", "limit=0"),
    one("log", "pass", "logfile=/dev/null"),
    one("multi-conn", "pass", "multi-conn-mode=auto"),
    one("nocache", "pass"),
    one("noextents", "pass"),
    one("noparallel", "pass"),
    one("nozero", "pass"),
    one("offset", "pass", "offset=4k"),
    one("pause", "pass"),
    one("protect", "pass", "protect=0-511"),
    one("rate", "pass", "rate=1T"),
    one("readahead", "data"),
    one("retry", "pass"),
    one("retry-request", "pass"),
    one("scan", "data", "scan-forever=false"),
    one("stats", "pass", "statsfile=/dev/null"),
    one("swab", "data", "swab-bits=16"),
    one("truncate", "pass"),
    Chain(
        "offset delay error",
        "pass",
        ("offset", "delay", "error"),
        ("offset=4k", "error-rate=0"),
    ),
]


class WithFilters:
    """A server whose command line has a chain."""

    def __init__(self, server, chain):
        self.server, self.chain = server, chain
        self.name, self.stores = server.name, server.stores

    def prepare(self, place, size):
        return None

    def input(self, listen):
        return self.server.input(listen)

    def command(self, listen, size, file):
        # What is cut off or moved is added, so that fio finds its size everywhere.
        more = size + (1 << 20)
        program, *rest = self.server.command(listen, more, file)
        filters = [f"--filter={name}" for name in self.chain.filters]
        return [program, *filters, *rest, *self.chain.parameters]


def main(arguments, place):
    settings = options.resolve(arguments)
    teller = report.begin()
    found, missing = servers.find([SUBJECT, BASE], arguments.binary, None, place)
    if missing:
        raise Failed("; ".join(missing))
    about = machine.describe() | {server.name: server.version() for server in found}
    for key, text in about.items():
        teller.say(f"{key}: {text}")
    results = []
    for chain in CHAINS:
        if not re.search(settings.pattern, chain.name):
            continue
        measured = measure(chain, found, place, settings, teller)
        if measured:
            results.append((chain, measured))
    directory = arguments.output or options.ROOT / "target/bench"
    directory.mkdir(parents=True, exist_ok=True)
    text = markdown(about, str(settings), results, teller.notes)
    (directory / "filters.md").write_text(text)
    kept = [{"filter": chain.name, "measurements": [asdict(m) for m in ms]} for chain, ms in results]
    (directory / "filters.json").write_text(json.dumps(kept, indent=1) + "\n")
    print(f"\n{text}\nwritten to {directory}/filters.md and filters.json")


def measure(chain, found, place, settings, teller):
    """All workloads through a chain on both servers, in turns; none if one of them lacks it."""
    with contextlib.ExitStack() as stack:
        running = []
        for server in found:
            where = place, "unix", settings.size, settings.pin_servers
            try:
                started = servers.started(WithFilters(server, chain), *where)
                running.append(stack.enter_context(started))
                if not chain.read_only:
                    fio.fill(running[-1].uri, settings.size)
            except Failed as error:
                # A server may accept the parameters and end when the first client comes.
                teller.note(f"{chain.name} is left out: {server.name}: {error}")
                return []
        chosen = [each for each in WORKLOADS if not (chain.read_only and "write" in each.rw)]
        return [measure_one(chain, each, running, settings, teller) for each in chosen]


def measure_one(chain, workload, running, settings, teller):
    unit, cost_unit = ("requests/s", "s/M requests")
    if not workload.counts_requests:
        unit, cost_unit = ("MiB/s", "s/GiB")
    name = f"{chain.name}/{workload.name}"
    measurement = Measurement(name, unit, MORE, cost_unit=cost_unit)
    for turn in range(settings.rounds):
        for server in settings.in_turn(running, turn):
            with teller.failures(f"{name} on {server.name}"):
                # Rate and CPU time of the same run, which has no ramp: nothing else falls into it.
                before = server.cpu()
                length = settings.seconds, None
                command = fio.command(workload, server.uri, settings.size, *length)
                command = [word for word in command if not word.startswith("--io_size")]
                result = fio.parse(run([*command, "--time_based"]))
                spent = server.cpu() - before
                measurement.add(server.name, fio.rate(workload, result))
                per = result.requests / 1e6 if workload.counts_requests else result.bytes / fio.GIB
                measurement.add_cost(server.name, spent / per)
    teller.progress(measurement)
    return measurement


def markdown(about, settings, results, notes):
    """The tables: how many times as fast and as cheap as nbdkit each filter is, and what it costs."""
    names = [workload.name for workload in WORKLOADS]
    lines = [f"- {key}: {text}" for key, text in about.items()] + [f"- settings: {settings}"]
    lines += [f"- **{note}**" for note in notes]
    intro = (
        "How many times as many requests a second as nbdkit with the same filter, and below how many "
        "times less CPU time of the server for each request. Both serve memory over a Unix socket, in "
        "turns. `pass` are filters that pass requests on, whose goal is "
        f"{GOALS['pass']}; `data` are those that move or compute data, whose goal is {GOALS['data']}."
    )
    rate, cost, own = [], [], []
    for chain, measurements in results:
        by = {each.name.rpartition("/")[2]: each for each in measurements}
        present = [by[name] for name in names if name in by]
        mean = mean_ratio(present, SUBJECT, BASE)
        row = [times(by[name].ratio(SUBJECT, BASE)) if name in by else "-" for name in names]
        verdict = "" if mean is None or mean >= GOALS[chain.kind] else "below the goal"
        rate.append([chain.name, chain.kind, *row, times(mean), verdict])
        row = [times(by[name].cost_ratio(SUBJECT, BASE)) if name in by else "-" for name in names]
        cost.append([chain.name, *row, times(mean_ratio(present, SUBJECT, BASE, cost=True))])
        row = [number(by[name].cost_median(SUBJECT)) if name in by else "-" for name in names]
        own.append([chain.name, *row])
    parts = ["# Filters", "\n".join(lines), intro]
    parts += ["## Rate", report.table(["filter", "kind", *names, "mean", ""], rate)]
    parts += ["## CPU time", report.table(["filter", *names, "mean"], cost)]
    parts += [
        "## CPU time of memnbd itself",
        "Seconds for a million requests of 4 KiB, and for a GiB in requests of 256 KiB.",
        report.table(["filter", *names], own),
    ]
    return "\n\n".join(parts) + "\n"
