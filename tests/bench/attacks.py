"""Attacks on a neighbour in the same server, measured: what it notices, what they cost, how they end.

`rows.py` has the rows of the table, `hostile.py` the attacks; this module runs them and writes
`attacks.md`.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import machine
import nbd
import neighbour
import process
import report
import rows
import scale
import tenants
import settings as options
from figures import number
from process import Failed

MIB = 1 << 20

# How long the neighbour is measured by itself, in seconds.
ALONE = 1.5

# How often memory is looked at, in seconds.
SAMPLE = 0.02

HEADER = [
    "attack",
    "before",
    "after",
    "reads/s, alone -> attacked",
    "p50, us",
    "p99, us",
    "slowest, ms",
    "connecting, ms",
    "peak, MiB",
    "s",
    "held by",
]


@dataclass
class Outcome:
    """What one attack came to."""

    ended: str
    seconds: float = 0.0
    alone: dict | None = None
    attacked: dict | None = None
    peak: int = 0


def main(arguments, place):
    teller = report.begin()
    scale.raise_limit_of_files()
    for program in (arguments.binary, arguments.assemble):
        if not os.access(program, os.X_OK):
            raise Failed(f"there is no {program}; `make attacks` makes it")
    lab = tenants.Lab(str(arguments.binary), str(arguments.assemble), place)
    outcomes = {}
    for row in rows.ROWS:
        if row.attack and re.search(arguments.only, row.name):
            with teller.failures(row.name):
                outcomes[row.name] = outcome = run(row, lab)
                teller.say(f"{row.name}: {' | '.join(cells(outcome))}")
    directory = arguments.output
    if directory is None:
        directory = options.ROOT / "target/bench" if arguments.only else options.HERE
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "attacks.md").write_text(markdown(outcomes, teller.notes))
    teller.say(f"written to {directory}/attacks.md")


def run(row, lab):
    """One attack on a server of its own."""
    start = time.monotonic()
    try:
        with lab.serve(row) as served:
            return attack(row, served)
    except Failed as error:
        # A server that cannot be started is a result: a hostile component must not prevent it.
        return Outcome(f"**nobody is served**: {error}", time.monotonic() - start)


def attack(row, served):
    neighbour.fill(served.address)
    with Probe(served.address) as probe:
        time.sleep(ALONE)
    alone = probe.found
    with Peak(served.pid) as peak, Probe(served.address) as probe:
        start = time.monotonic()
        try:
            ended = row.attack(served)
        except (OSError, nbd.Error) as error:
            ended = f"a client failed: {error}"
        seconds = time.monotonic() - start
    served.release()
    outcome = Outcome(ended, seconds, alone, probe.found, peak.bytes)
    status = served.running.child.poll()
    if status is not None:
        outcome.ended = f"**the server ended with status {status}**"
        return outcome
    error = probe.found["error"] if probe.found else "no figures"
    if error:
        outcome.ended += f"; **the neighbour failed: {error}**"
    changed = neighbour.changed(served.address)
    if changed:
        outcome.ended += f"; **{changed} of the neighbour's blocks changed**"
    return outcome


class Probe:
    """The neighbour's process, for as long as the block runs. `found` is what it tells, or None."""

    def __init__(self, address):
        self.address, self.found = address, None

    def __enter__(self):
        self.child = subprocess.Popen(
            [sys.executable, "-B", neighbour.__file__, self.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(0.3)
        return self

    def __exit__(self, *_):
        try:
            told, _ = self.child.communicate(timeout=tenants.PATIENCE)
            self.found = json.loads(told)
        except (subprocess.TimeoutExpired, ValueError):
            self.child.kill()
            self.child.wait()


class Peak:
    """The most memory that a process and its children had while the block ran, beyond what they had
    at its beginning."""

    def __init__(self, pid):
        self.pid, self.bytes = pid, 0

    def __enter__(self):
        self.before = resident(self.pid)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.sample)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def sample(self):
        while not self.over.wait(SAMPLE):
            with contextlib.suppress(OSError, IndexError, ValueError):
                self.bytes = max(self.bytes, resident(self.pid) - self.before)


def resident(pid):
    """The memory of a process and of its children."""
    total = process.resident(pid)
    children = Path(f"/proc/{pid}/task/{pid}/children")
    with contextlib.suppress(OSError):
        for child in children.read_text().split():
            total += resident(int(child))
    return total


def cells(outcome):
    """What is known of an attack: how it ended, and the figures."""
    if outcome is None:
        return ["-"] * 8
    both = outcome.alone, outcome.attacked

    def change(key, scale):
        values = [found and found[key] for found in both]
        return " -> ".join("-" if value is None else number(value * scale) for value in values)

    return [
        outcome.ended.replace("|", "/"),
        change("rate", 1),
        change("p50", 1e6),
        change("p99", 1e6),
        change("longest", 1e3),
        change("connect", 1e3),
        f"{outcome.peak / MIB:,.0f}",
        number(outcome.seconds),
    ]


def table(lines):
    dashes = ["---"] * len(HEADER)
    return "\n".join("| " + " | ".join(line) + " |" for line in [HEADER, dashes, *lines])


def markdown(outcomes, notes):
    about = ", ".join(list(machine.describe().values())[:3])
    parts = ["# Attacks", INTRODUCTION, f"Measured on {about}."]
    for group in dict.fromkeys(row.group for row in rows.ROWS):
        lines = [
            [row.name, row.before, *cells(outcomes.get(row.name)), row.test]
            for row in rows.ROWS
            if row.group == group
        ]
        parts += [f"## {group}", table(lines)]
    parts += [f"- {note}" for note in notes]
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """\
Two tenants share a server: one attacks, the other one, the neighbour, reads 4 KiB after the other on
one connection and connects ten times a second. \"Before\" is what the attack did to the release whose
sandbox leaked, on the same kind of machine, with another client; **harm** is what reached others. Rates
are of reads, with their median and 99th percentile; the peak is what the attack cost the server.
`make attacks` measures again. The tests in the last column decide; rows without figures are held by
tests alone."""
