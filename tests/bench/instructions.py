"""Instructions per request, counted by callgrind: they hardly differ from run to run, so they show
what a change costs on a machine whose times tell nothing.

Each kind of request is a run of the server in valgrind, of which the instructions of a run without
these requests are taken off. The client does the same every time, and both have one CPU, so that
which thread wakes which is the same every time, too. Then most kinds repeat to half a
percent. Reads of 256 KiB and more do not: how often the server has to wait until the client has
taken a part differs, and with it their count, by a tenth, or by half for 1 MiB.
"""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import machine
import report
import servers
import settings as options
from figures import number
from nbd import FLUSH, READ, STATUS, TRIM, WRITE, ZERO, Batch, Connection, pattern
from process import Failed

KIB = 1 << 10
MIB = 1 << 20
SIZE = 1 << 30

# What is written before anything is counted, at the start of the disk.
WRITTEN = 4 * MIB


@dataclass(frozen=True)
class Kind:
    """Requests of one kind: how many in all, how many at once, how far apart, from where on."""

    name: str
    command: int
    length: int
    count: int
    at_once: int = 1
    start: int = 0


SMALL, LARGE, FEW = 10_000, 2000, 200

KINDS = [
    Kind("read 4 KiB", READ, 4 * KIB, SMALL),
    Kind("read 4 KiB, 64 at once", READ, 4 * KIB, SMALL, 64),
    Kind("read 4 KiB of a hole", READ, 4 * KIB, SMALL, start=SIZE // 2),
    Kind("write 4 KiB", WRITE, 4 * KIB, SMALL),
    Kind("write 4 KiB, 64 at once", WRITE, 4 * KIB, SMALL, 64),
    Kind("read 64 KiB", READ, 64 * KIB, LARGE),
    Kind("write 64 KiB", WRITE, 64 * KIB, LARGE),
    Kind("read 256 KiB", READ, 256 * KIB, LARGE),
    Kind("write 256 KiB", WRITE, 256 * KIB, FEW),
    Kind("read 1 MiB", READ, MIB, LARGE),
    Kind("write 1 MiB", WRITE, MIB, FEW),
    Kind("zero 64 KiB", ZERO, 64 * KIB, SMALL),
    Kind("trim 64 KiB", TRIM, 64 * KIB, SMALL),
    Kind("flush", FLUSH, 0, SMALL),
    Kind("block status of 1 MiB", STATUS, MIB, SMALL),
]


class Counted(servers.Memnbd):
    """memnbd-host in callgrind."""

    def __init__(self, program, counts, filters):
        super().__init__("memnbd", program, filters=filters)
        self.counts = counts

    def command(self, listen, size, file):
        tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={self.counts}"]
        return [*tool, *super().command(listen, size, file)]


def main(arguments, place):
    chosen = [kind for kind in KINDS if re.search(arguments.only, kind.name)]
    if shutil.which("valgrind") is None:
        raise Failed("valgrind is missing; it is in the package valgrind")
    binary = shutil.which(str(arguments.binary))
    if binary is None:
        raise Failed(f"there is no {arguments.binary}; `make build` makes it")
    if not chosen:
        raise Failed(f"no kind of request is like {arguments.only!r}")
    before = earlier_counts(arguments.against)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"cpu: {machine.cpu_model()}\nmemnbd: {servers.Memnbd('memnbd', binary).version()}")
    idle = count(binary, place, arguments.filters, None)
    print(f"start, {WRITTEN >> 20} MiB written, stop: {idle / 1e6:.1f} million", flush=True)
    counts, rows = {}, []
    for kind in chosen:
        each = max(0, count(binary, place, arguments.filters, kind) - idle) / rounded(kind)
        counts[kind.name] = round(each)
        earlier = before.get(kind.name)
        change = f"{each / earlier - 1:+.1%}" if earlier else "-"
        rows.append([kind.name, f"{each:,.0f}", number(earlier), change])
        print(f"{kind.name}: {each:,.0f} {change}", flush=True)
    table = report.table(["request", "instructions", "before", "change"], rows)
    directory = arguments.output or options.ROOT / "target/bench"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "instructions.json").write_text(json.dumps(counts, indent=1) + "\n")
    print(f"\n{table}\n\nwritten to {directory}/instructions.json")


def earlier_counts(path):
    """What another run wrote, if there is one to compare with."""
    try:
        return json.loads(path.read_text()) if path else {}
    except ValueError as error:
        raise Failed(f"{path} has no counts: {error}") from error


def rounded(kind):
    """The requests in whole batches."""
    return kind.count // kind.at_once * kind.at_once


def count(binary, place, filters, kind):
    """The instructions of a server's whole life in which it was asked for this."""
    counts = Path(place.new("callgrind"))
    server = Counted(binary, counts, filters)
    with servers.started(server, place, "unix", SIZE) as running:
        # It is there in every run, for the runs to differ in nothing else.
        with Connection(running.address) as connection:
            for offset in range(0, WRITTEN, MIB):
                connection.write(offset, pattern(offset, MIB))
            if kind and kind.command != STATUS:
                ask(connection, kind)
        with Connection(running.address, block_status=True) as connection:
            if kind and kind.command == STATUS:
                for index in range(kind.count):
                    connection.status(index % 4 * MIB, kind.length)
    return parse(counts.read_text())


def ask(connection, kind):
    """Sends the requests, batch by batch; they go round in what was written."""
    room = WRITTEN // max(kind.length, 1)
    offsets = [kind.start + index % room * kind.length for index in range(rounded(kind))]
    batches = [
        Batch(kind.command, offsets[first : first + kind.at_once], kind.length)
        for first in range(0, min(len(offsets), room * kind.at_once), kind.at_once)
    ]
    for index in range(rounded(kind) // kind.at_once):
        batch = batches[index % len(batches)]
        connection.send(batch)
        connection.receive(batch)


def parse(text):
    """The number of instructions in a file of callgrind's."""
    match = re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE)
    if not match:
        raise Failed("callgrind wrote no count; did the server end before it could?")
    return int(match[1])
