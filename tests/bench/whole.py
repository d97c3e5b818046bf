"""Zero, trim and block status of a whole disk of 1 TiB, sparsely filled."""

import time

import servers
from figures import LESS, Measurement
from nbd import STATUS, TRIM, ZERO, Connection, pattern
from process import Failed

MIB = 1 << 20
GIB = 1 << 30
SIZE = 1 << 40

# As much as one request can name, in whole pages of any server.
MOST = (4 << 30) - MIB

NAMES = {STATUS: "disk/status-1t", TRIM: "disk/trim-1t", ZERO: "disk/zero-1t"}


def measure(found, place, settings, report):
    chosen = [command for command, name in NAMES.items() if settings.chooses(name)]
    measurements = {command: Measurement(NAMES[command], "ms", LESS) for command in chosen}
    if not chosen:
        return []
    for turn in range(settings.rounds):
        for server in settings.in_turn([each for each in found if each.stores], turn):
            with (
                report.failures(f"whole disk on {server.name}"),
                servers.started(server, place, "unix", SIZE, settings.pin_servers) as running,
            ):
                for command, seconds in measure_server(running.address, chosen):
                    measurements[command].add(server.name, seconds * 1000)
    for each in measurements.values():
        report.progress(each)
    return list(measurements.values())


def measure_server(address, chosen):
    """Yields each command with the seconds that it took for the whole disk."""
    for command in chosen:
        with Connection(address) as plain:
            populate(plain)
        with Connection(address, block_status=command == STATUS) as connection:
            start = time.perf_counter()
            if command == STATUS:
                data = count_data(connection)
            else:
                for offset, length in pieces():
                    connection.call(command, offset, length)
            seconds = time.perf_counter() - start
            if command == STATUS and data < SIZE // GIB * MIB:
                raise Failed(f"block status tells of {data} bytes, not of all that is there")
            if command != STATUS and any(connection.read(SIZE // 2, MIB)):
                raise Failed("there is data where there should be none")
            yield command, seconds


def pieces():
    for offset in range(0, SIZE, MOST):
        yield offset, min(MOST, SIZE - offset)


def populate(connection):
    """Writes 1 MiB at the start of every GiB."""
    data = pattern(0, MIB)
    for offset in range(0, SIZE, GIB):
        connection.write(offset, data)


def count_data(connection):
    """The bytes that block status calls data."""
    offset = data = 0
    while offset < SIZE:
        extents = connection.status(offset, min(MOST, SIZE - offset))
        data += sum(length for length, flags in extents if not flags & 1)
        offset += sum(length for length, _ in extents)
    return data
