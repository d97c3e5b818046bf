"""How soon a server replies after it was started, and how much memory it takes."""

import contextlib
import os
import tempfile
import time

import nbd
import servers
from figures import LESS, Measurement
from process import Failed

MIB = 1 << 20
GIB = 1 << 30
SIZE = 2 * GIB

FIRST_REPLY = "start/first-reply"
NOTHING_CACHED = "start/first-reply-nothing-cached"
IDLE = "memory/idle"
PER_GIB = "memory/per-gib-stored"


def measure(found, place, settings, report):
    started = measure_start(found, place, settings, report)
    return started + measure_memory(found, place, settings, report)


def measure_start(found, place, settings, report):
    measurements = []
    for name in (FIRST_REPLY, NOTHING_CACHED):
        if not settings.chooses(name):
            continue
        measurement = Measurement(name, "ms", LESS)
        # Once in advance, for what is read from disk the first time.
        for turn in range(settings.starts + 1):
            for server in settings.in_turn(found, turn):
                with report.failures(f"{name} on {server.name}"):
                    cached = name == FIRST_REPLY
                    seconds = first_reply(server, place, settings.pin_servers, cached)
                    if turn:
                        measurement.add(server.name, seconds * 1000)
        report.progress(measurement)
        measurements.append(measurement)
    return measurements


def first_reply(server, place, cpus, cached):
    """The seconds from the start of the process to the reply to a first read."""
    with contextlib.ExitStack() as stack:
        environment = None
        if not cached:
            empty = stack.enter_context(tempfile.TemporaryDirectory(dir=place.directory))
            environment = os.environ | {"XDG_CACHE_HOME": empty}
        start = time.perf_counter()
        running = servers.spawn(server, place, "unix", SIZE, cpus, environment=environment)
        stack.callback(running.stop)
        with connect(running) as connection:
            connection.read(0, 4096)
            return time.perf_counter() - start


def connect(running):
    """A connection as soon as there can be one."""
    end = time.monotonic() + servers.PATIENCE
    while True:
        try:
            return nbd.Connection(running.address)
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > end or running.child.poll() is not None:
                raise Failed(f"{running.name} did not listen") from None
            time.sleep(0.0001)


def measure_memory(found, place, settings, report):
    """The memory of a server before anything is stored, and what it takes for each GiB stored."""
    idle, per_gib = Measurement(IDLE, "MiB", LESS), Measurement(PER_GIB, "MiB", LESS)
    chosen = [each for each in (idle, per_gib) if settings.chooses(each.name)]
    for server in found if chosen else []:
        with (
            report.failures(f"memory of {server.name}"),
            servers.started(server, place, "unix", SIZE, settings.pin_servers) as running,
            nbd.Connection(running.address) as connection,
        ):
            connection.read(0, 4096)
            before = running.stored()
            idle.add(server.name, before / MIB)
            if per_gib in chosen and server.stores:
                for offset in range(0, GIB, MIB):
                    connection.write(offset, nbd.pattern(offset, MIB))
                per_gib.add(server.name, (running.stored() - before) / MIB)
    for each in chosen:
        report.progress(each)
    return chosen
