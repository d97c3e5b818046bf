"""The benchmarks of memnbd, as `python3 tests/bench run|scale|filters|snapshots|noise|lookups|instructions|attacks`;
see `--help`, and the Makefile for what must be built before.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import attacks
import filters
import fio
import image
import instructions
import lookups
import machine
import noise
import plot
import report
import scale
import servers
import settings as options
import snapshots
import startup
import whole
from process import Failed

# Where servers keep disks that are files in memory.
TMPFS = Path("/dev/shm")


def main():
    arguments = options.parser().parse_args()
    # Also where a shell that starts us in the background told us to ignore it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    commands = {
        "run": run,
        "scale": scale.main,
        "instructions": instructions.main,
        "attacks": attacks.main,
        "filters": filters.main,
        "snapshots": snapshots.main,
        "noise": noise.main,
        "lookups": lookups.main,
    }
    try:
        with places() as place:
            commands[arguments.what](arguments, place)
    except (Failed, OSError) as error:
        sys.exit(f"tests/bench: {error}")


def interrupted(number, _):
    """Ends the program by way of all that stops servers and removes directories, in peace."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


@contextlib.contextmanager
def places():
    """Directories that are gone at the end, whichever way it comes."""
    with contextlib.ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="memnbd-bench-")
        directory = stack.enter_context(temporary)
        in_memory = None
        if TMPFS.is_dir():
            temporary = tempfile.TemporaryDirectory(prefix="memnbd-bench-", dir=TMPFS)
            in_memory = stack.enter_context(temporary)
        yield servers.Place(directory, in_memory)


def run(arguments, place):
    """Compares the servers, and writes what came out."""
    directory = directory_of(arguments)
    if arguments.render:
        try:
            return write(json.loads(arguments.render.read_text()), arguments, directory)
        except (ValueError, LookupError, TypeError) as error:
            raise Failed(f"{arguments.render} has no results: {error!r}") from error
    write(measure(arguments, options.resolve(arguments), place), arguments, directory)


def directory_of(arguments):
    """Where the results go: those that are not complete do not replace those that are."""
    if arguments.output or arguments.render:
        return arguments.output or arguments.render.parent
    all_servers = arguments.servers == options.SERVERS and not arguments.also
    all_servers &= arguments.backend == "memory" and not arguments.filters
    if all_servers and not arguments.quick and not arguments.only:
        return options.HERE
    if arguments.readme:
        raise Failed("the README shows complete results; for others, say --output DIRECTORY")
    return options.ROOT / "target/bench"


def measure(arguments, settings, place):
    teller = report.begin()
    if settings.pin_clients:
        os.sched_setaffinity(0, options.cpus(settings.pin_clients))
    found, missing = servers.find(
        arguments.servers,
        arguments.binary,
        arguments.null,
        place,
        arguments.also,
        arguments.backend,
        arguments.filters,
    )
    for note in missing:
        teller.note(note)
    if not found:
        raise Failed("there is no server to measure; `make build` makes one")
    about = machine.describe()
    versions = {server.name: server.version() for server in found}
    for name, text in (about | versions).items():
        teller.say(f"{name}: {text}")
    teller.say(f"settings: {settings}")
    start, before = time.monotonic(), machine.times()
    measurements = []
    for transport in ("unix", "tcp"):
        if shutil.which("fio"):
            measurements += fio.measure(transport, found, place, settings, teller)
    if not shutil.which("fio"):
        teller.note("fio is missing, and with it what it measures")
    for module in (image, whole, startup):
        measurements += module.measure(found, place, settings, teller)
    after = machine.times()
    stolen = (after[2] - before[2]) / max(1, after[0] - before[0])
    about["stolen by other machines"] = f"{stolen:.1%} of the time"
    teller.say(f"took {time.monotonic() - start:.0f} s")
    return {
        "machine": about,
        "servers": versions,
        "clients": machine.client_versions(),
        "settings": str(settings),
        "notes": teller.notes,
        "measurements": [dataclasses.asdict(each) for each in measurements],
    }


def write(results, arguments, directory):
    """Writes results.json, .md and .svg, and prints the tables."""
    directory.mkdir(parents=True, exist_ok=True)
    tables, picture = report.markdown(results), plot.svg(results)
    (directory / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (directory / "results.md").write_text(tables)
    (directory / "results.svg").write_text(picture)
    print(f"\n{tables}\nwritten to {directory}/results.json, results.md and results.svg")
    if arguments.readme:
        readme = options.ROOT / "README.md"
        path = os.path.relpath(directory / "results.svg", options.ROOT)
        readme.write_text(report.update_readme(readme.read_text(), results, path))


if __name__ == "__main__":
    main()
