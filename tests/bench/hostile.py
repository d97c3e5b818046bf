"""The attacks: what hostile clients do, and what hostile components are asked for. Each is a function of
the tenants that returns how it ended."""

import os
import signal
import time

import machine
import nbd
from tenants import MIB, option, read, tell

GIB = 1 << 30

# An attack ends when it costs so much, or leaves so little of the machine, in bytes.
ENOUGH, SPARE = 8 * GIB, 3 * GIB

# How long attacks last that have no end of their own, in seconds.
WHILE = 5


def block(name, text):
    return f";; begin {name}\n{text}\n;; end {name}\n"


def refused(tenants, export="a"):
    """How the server refuses an export."""
    try:
        tenants.connect(export).close()
    except nbd.Error as error:
        return f"refused: {str(error).rpartition(': ')[2][:160]}"
    return None


def overwrite(tenants):
    """Grows a 64-bit memory beyond its place, and writes there."""
    refusal = refused(tenants)
    if refusal:
        return refusal
    try:
        with tenants.connect() as connection:
            connection.call(nbd.FLUSH)
    except (OSError, nbd.Error) as error:
        return tell(str(error))
    return "**it overwrote what is not its own**"


def start(tenants):
    refusals = [refused(tenants, name) for name in ("start", "describe", "open")]
    return f"the neighbour is served after {tenants.start:.1f} s; {'; '.join(map(str, refusals))}"


def once(command, offset=0, length=4096):
    """One request; how it is answered."""

    def attack(tenants):
        refusal = refused(tenants)
        if refusal:
            return refusal
        with tenants.connect() as connection:
            try:
                connection.call(command, offset, length)
            except nbd.Error as error:
                return tell(str(error))
        return "answered"

    return attack


def reading(clients, offset=2 * MIB, seconds=30):
    """Clients that read over and over, until that fails."""
    return lambda tenants: tenants.crowd(
        clients, seconds, lambda connection: connection.read(offset, 4096)
    )


def computing(clients):
    """Clients whose reads compute for half of a second each."""

    def attack(tenants):
        with tenants.connect() as connection:
            before = time.perf_counter()
            connection.read(200 * 4096, 4096)
            steps = int(200 * 0.5 / (time.perf_counter() - before)) or 1
        return reading(clients, steps * 4096, WHILE)(tenants)

    return attack


def paused(tenants):
    """Stops the process in the middle of a call for longer than the deadline."""
    with tenants.connect() as connection:
        before = time.perf_counter()
        connection.read(200 * 4096, 4096)
        steps = int(200 * 0.4 / (time.perf_counter() - before)) or 1
        connection.socket.sendall(read(steps * 4096, 4096))
        time.sleep(0.1)
        os.kill(tenants.pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(tenants.pid, signal.SIGCONT)
        try:
            connection._simple_reply()
        except nbd.Error as error:
            return f"**{tell(str(error))}**"
    return "answered after the pause"


def striping(tenants):
    """Writes to many stripes, each of which wants an instance."""
    refusal = refused(tenants)
    if refusal:
        return refusal
    done, errors = 0, []
    with tenants.connect() as connection:
        for stripe in range(700):
            try:
                connection.write(stripe << 16, bytes(4096))
                done += 1
            except nbd.Error as error:
                errors.append(tell(str(error)))
    return f"{done} of 700 written, {len(errors)} {', '.join(sorted(set(errors)))}".removesuffix(
        ", 0 "
    )


def printing(tenants):
    before = len(tenants.log())
    ended = reading(16)(tenants)
    return f"{ended}; {(len(tenants.log()) - before) / MIB:.2f} MiB of log"


def unread(requests, clients, patience=0.02, **options):
    """Clients that send requests and read no reply."""

    def attack(tenants):
        for count in range(clients):
            connection = tenants.connect(patience=patience, **options)
            tenants.hold(connection)
            try:
                connection.socket.sendall(requests)
            except TimeoutError:
                pass
            if tenants.resident() > ENOUGH or machine.memory("MemAvailable") < SPARE:
                return f"**stopped at {count + 1} clients for want of memory**"
        time.sleep(2)
        return f"{clients} clients wait"

    return attack


def half_sent(tenants):
    header = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.WRITE, 1, 0, 64 * MIB)
    return unread(header + bytes(64 * MIB - 4096), 50, patience=0.5)(tenants)


def data_unread(tenants):
    with tenants.connect() as connection:
        for index in range(64):
            connection.write(index * MIB, b"\x5a" * MIB)
    return unread(read(0, 64 * MIB, 4), 1100)(tenants)


def status_unread(tenants):
    with tenants.connect() as connection:
        for index in range(2048):
            connection.write(index << 16, b"\x5a" * (32 << 10))
    request = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.STATUS, 1, 0, 128 * MIB)
    return unread(request * 200, 1100, block_status=True)(tenants)


def idle(tenants):
    """As many clients as there can be, each of which could be served at once."""
    for _ in range(1100):
        tenants.hold(tenants.raw())
    time.sleep(WHILE)
    return "1100 clients hold what they got"


def slow(tenants):
    """Negotiates a byte at a time."""
    streams = [tenants.raw() for _ in range(1000)]
    for stream in streams:
        tenants.hold(stream)
    end, data = time.monotonic() + 15, option(9999, bytes(4000))
    at, alive = 0, len(streams)
    while time.monotonic() < end and alive:
        alive = 0
        for stream in streams:
            try:
                stream.sendall(b"\0\0\0\3"[at : at + 1] if at < 4 else data[at - 4 : at - 3])
                alive += 1
            except OSError:
                pass
        at += 1
        time.sleep(0.5)
    return f"{alive} of 1000 are left after {at / 2:.0f} s or more"


def connecting(tenants):
    for _ in range(10_000):
        tenants.raw().close()
    for _ in range(3000):
        tenants.connect().close()
    return "10,000 connections and 3000 handshakes"


def asking(tenants):
    """Options whose answers nobody reads."""
    flood = option(3) * 4000
    for _ in range(200):
        stream = tenants.raw()
        tenants.hold(stream)
        stream.settimeout(0.02)
        try:
            stream.sendall(b"\0\0\0\3" + flood)
        except OSError:
            pass
    time.sleep(WHILE)
    return "200 clients"


def broken(tenants):
    before = len(tenants.log())
    for _ in range(3000):
        stream = tenants.raw()
        stream.sendall(b"\xff" * 64)
        while stream.recv(4096):
            pass
        stream.close()
    return f"{(len(tenants.log()) - before) >> 10} KiB of log"


def filling(tenants):
    """Writes until there is no space."""
    offset = [0]

    def write(connection):
        offset[0] += MIB
        connection.write(offset[0], b"\x5a" * MIB)

    return tenants.crowd(4, 30, write)


def loading(command, length):
    """An ordinary load: 4 connections, 16 requests at once on each."""
    batch = nbd.Batch(command, [index * length for index in range(16)], length)

    def ask(connection):
        connection.send(batch)
        connection.receive(batch)

    return lambda tenants: tenants.crowd(4, WHILE, ask)


def zeroing(tenants):
    def ask(connection):
        connection.call(nbd.ZERO, 0, (1 << 32) - 4096)
        connection.call(nbd.TRIM, 0, (1 << 32) - 4096)

    return tenants.crowd(8, WHILE, ask)


def vanishing(tenants):
    with tenants.connect() as connection:
        connection.write(0, b"\x5a" * (32 * MIB))
    for _ in range(100):
        connection = tenants.connect()
        connection.socket.sendall(read(0, 32 * MIB, 4))
        connection.socket.close()
    end = time.monotonic() + 60
    while descriptors(tenants) > 20 and time.monotonic() < end:
        time.sleep(0.1)
    return f"{descriptors(tenants)} file descriptors are left"


def descriptors(tenants):
    return len(os.listdir(f"/proc/{tenants.pid}/fd"))


def nested(loops):
    """Loops in loops, each with a local of its own that all others carry along."""
    parts = [f"(func $nested {'(local i64) ' * loops}"]
    for index in range(loops):
        parts.append(f"(loop (local.set {index} (i64.add (local.get {index}) (i64.const 1)))")
    for index in reversed(range(loops)):
        parts.append(f"(br_if 0 (i64.eqz (local.get {index}))))")
    return block("fields", "\n".join(parts) + ")")


def compiled(tenants):
    return f"the neighbour is served after {tenants.start:.1f} s; {refused(tenants) or 'served'}"
