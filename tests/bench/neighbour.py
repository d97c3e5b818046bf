"""The neighbour of an attacker, as a process of its own: it reads 4 KiB after the other, connects ten
times a second, and prints what that took, as JSON, when its standard input ends.
"""

import json
import select
import sys
import time

import nbd

BLOCK = 4096

# How much of the disk has data, which are looked at.
KEPT = 4 << 20

BETWEEN_CONNECTS = 0.1


def fill(address):
    """Writes what the neighbour looks at."""
    with nbd.Connection(address, "b") as connection:
        connection.write(0, nbd.pattern(BLOCK, KEPT))


def changed(address):
    """How many blocks are not as they were."""
    with nbd.Connection(address, "b") as connection:
        data, expected = connection.read(0, KEPT), nbd.pattern(BLOCK, KEPT)
    ends = range(0, KEPT, BLOCK)
    return sum(data[at : at + BLOCK] != expected[at : at + BLOCK] for at in ends)


def main(address):
    reads, connects, error = [], [], None
    start = time.perf_counter()
    try:
        with nbd.Connection(address, "b") as connection:
            use(connection, address, reads, connects)
    except (OSError, nbd.Error) as failure:
        error = str(failure)
    seconds = time.perf_counter() - start - sum(connects)
    json.dump(figures(sorted(reads), connects, seconds) | {"error": error}, sys.stdout)


def use(connection, address, reads, connects):
    expected = nbd.pattern(BLOCK, KEPT)
    next_connect = 0.0
    while not is_over():
        at = len(reads) * BLOCK % KEPT
        before = time.perf_counter()
        data = connection.read(at, BLOCK)
        now = time.perf_counter()
        reads.append(now - before)
        if data != expected[at : at + BLOCK]:
            raise nbd.Error(f"other data at {at}")
        if now >= next_connect:
            nbd.Connection(address, "b").close()
            connects.append(time.perf_counter() - now)
            next_connect = time.perf_counter() + BETWEEN_CONNECTS


def figures(reads, connects, seconds):
    return {
        "rate": len(reads) / seconds,
        "p50": at_rank(reads, 0.5),
        "p99": at_rank(reads, 0.99),
        "longest": reads[-1] if reads else None,
        "connect": max(connects, default=None),
    }


def at_rank(times, rank):
    """The time that this share of the sorted times does not exceed; None where there are none."""
    if not times:
        return None
    return times[min(len(times) - 1, int(len(times) * rank))]


def is_over():
    return bool(select.select([sys.stdin], [], [], 0)[0])


if __name__ == "__main__":
    main(sys.argv[1])
