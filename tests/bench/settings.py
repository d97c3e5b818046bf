"""What is measured, for how long, and on what: the options of the command line, resolved."""

import argparse
import os
import re
from dataclasses import dataclass
from pathlib import Path

import fio

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
SERVERS = ["memnbd", "nbdkit", "qemu-nbd", "null"]

# What quick runs measure: what is most telling, in under three minutes.
QUICK = (
    f"^unix/({'|'.join(fio.CHOSEN)})$|^tcp/(randread-4k-qd64|write-1m-qd8)$"
    "|^(image|disk|start|memory)/"
)

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass
class Settings:
    """How a run goes."""

    rounds: int
    seconds: float
    ramp: float
    size: int
    image_size: int
    starts: int
    pattern: str
    quick: bool
    pin_servers: str | None
    pin_clients: str | None

    def chooses(self, name):
        """Whether a workload is to be measured."""
        if self.quick and not re.search(QUICK, name):
            return False
        return chooses(self.pattern, name)

    def in_turn(self, running, turn):
        """Each round begins with another server, so that none has the best place."""
        first = turn % len(running) if running else 0
        return running[first:] + running[:first]

    def __str__(self):
        text = (
            f"{self.rounds} rounds of {self.seconds:g} s after {self.ramp:g} s, "
            f"disk of {self.size >> 20} MiB, image of {self.image_size >> 20} MiB"
        )
        for what, cpus in (("servers", self.pin_servers), ("clients", self.pin_clients)):
            text += f", {what} on CPU {cpus}" if cpus else ""
        return text


def size(text):
    """A number of bytes, or of KiB, MiB or GiB with k, m, g."""
    match = re.fullmatch(r"(\d+)([kmg]?)", text.lower())
    if not match or not int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 512m or 1g")
    return int(match[1]) * UNITS[match[2]]


def pattern(text):
    try:
        re.compile(text)
    except re.error as error:
        complaint = f"{text!r} is not a regular expression: {error}"
        raise argparse.ArgumentTypeError(complaint) from error
    return text


def positive(text):
    value = float(text)
    if not 0 < value < 86400:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 86400")
    return value


def count(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def cpu_list(text):
    """Checked, and left as it is: taskset understands it, too."""
    try:
        missing = cpus(text) - os.sched_getaffinity(0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of CPUs like 0,2-3") from None
    if missing:
        raise argparse.ArgumentTypeError(f"there is no CPU {min(missing)} for us here")
    return text


def build(text):
    """NAME=PATH"""
    name, equals, path = text.partition("=")
    if not name or not equals or name in SERVERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH with a new name")
    return name, path


def names(text):
    found = text.split(",")
    unknown = [name for name in found if name not in SERVERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(SERVERS)}")
    return found


def parser():
    top = argparse.ArgumentParser(prog="tests/bench", description=__doc__)
    commands = top.add_subparsers(dest="what", required=True, metavar="WHAT")
    run = commands.add_parser("run", help="compare servers by what clients do")
    scale = commands.add_parser("scale", help="see that cost does not grow with size and number")
    instructions = commands.add_parser("instructions", help="count instructions per request")
    filters = commands.add_parser("filters", help="compare each filter with nbdkit's")
    snapshots = commands.add_parser("snapshots", help="time snapshots, clones and resets")
    noise = commands.add_parser("noise", help="measure what a tenant notices of another one")
    lookups = commands.add_parser("lookups", help="see that times tell nothing of other tenants")
    attacks = commands.add_parser("attacks", help="see what a neighbour notices of attacks")
    # As it is distributed.
    program = ROOT / "target/dist/memnbd-host"
    for command in (run, scale, filters, snapshots, noise, lookups, instructions, attacks):
        command.add_argument(
            "--binary", metavar="PATH", default=program, help="memnbd-host"
        )
        command.add_argument(
            "--output", metavar="DIRECTORY", type=Path, help="where the results are written"
        )
        command.add_argument(
            "--only", metavar="PATTERN", type=pattern, default="", help="a regular expression"
        )
    for command in (run, scale, filters, snapshots, noise):
        command.add_argument("--quick", action="store_true", help="take three minutes at most")
        command.add_argument("--null", metavar="PATH", default=ROOT / "target/release/null-server")
        command.add_argument(
            "--pin", metavar="CPUS", type=cpu_list, help="the CPUs that servers may use, as 0-3"
        )
    run.add_argument("--servers", metavar="NAME,...", type=names, default=SERVERS)
    run.add_argument(
        "--also",
        metavar="NAME=PATH",
        type=build,
        action="append",
        default=[],
        help="another build of memnbd-host",
    )
    run.add_argument(
        "--backend",
        metavar="NAME",
        default="memory",
        help="what memnbd and nbdkit serve: memory; file, of a file in memory; file-on-disk; or another"
        " backend with a size, for the workloads that it can do",
    )
    for command in (run, instructions):
        command.add_argument(
            "--filters",
            metavar="NAME,...",
            type=lambda text: text.split(","),
            default=[],
            help="the filters of memnbd and nbdkit, but not of other builds (--also)",
        )
    for command in (run, filters, snapshots, noise):
        command.add_argument("--rounds", metavar="N", type=count, help="3, or 1 with --quick")
        command.add_argument("--seconds", metavar="S", type=positive, help="3, or 0.7 with --quick")
        command.add_argument("--size", type=size, help="of fio's disk: 1g, or 512m with --quick")
    run.add_argument("--image-size", metavar="SIZE", type=size, help="256m, or 64m with --quick")
    run.add_argument(
        "--pin-clients", metavar="CPUS", type=cpu_list, help="the CPUs that clients may use, as 4-7"
    )
    run.add_argument("--readme", action="store_true", help="put the summary into README.md")
    run.add_argument(
        "--render", metavar="JSON", type=Path, help="measure nothing, write out these results again"
    )
    attacks.add_argument(
        "--assemble",
        metavar="PATH",
        default=ROOT / "target/debug/memnbd-assemble",
        help="memnbd-assemble",
    )
    lookups.add_argument(
        "--samples", metavar="N", type=count, default=5000, help="of each kind [default: 5000]"
    )
    instructions.add_argument("--against", metavar="JSON", type=Path, help="earlier results")
    return top


def chooses(pattern, name):
    """Whether something of this name is to be measured."""
    return re.search(pattern, name) is not None


def resolve(arguments):
    """The settings of a run."""
    quick = arguments.quick
    return Settings(
        rounds=arguments.rounds or (1 if quick else 3),
        seconds=arguments.seconds or (0.7 if quick else 3),
        ramp=0.3 if quick else 1,
        size=arguments.size or (512 << 20 if quick else 1 << 30),
        image_size=getattr(arguments, "image_size", None) or (64 << 20 if quick else 256 << 20),
        starts=5 if quick else 20,
        pattern=arguments.only,
        quick=quick,
        pin_servers=arguments.pin,
        pin_clients=getattr(arguments, "pin_clients", None),
    )


def cpus(text):
    """The numbers of a list like 0,2-3."""
    found = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found
