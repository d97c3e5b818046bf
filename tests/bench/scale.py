"""That cost does not grow: with what is stored, with connections, with exports; and that memory
comes back. The cost is the server's CPU time, which tells more than rates where the client is the
bottleneck."""

import contextlib
import re
import resource
import time

import fio
import machine
import nbd
import report
import servers
import settings as options
from figures import median, number
from process import Failed

MIB = 1 << 20
GIB = 1 << 30

# Of what is left beside the disk, for the server, the client and the machine.
SPARE = 2 * GIB

# Requests at once on each connection.
DEPTH = 16

ROUNDS = 3


def main(arguments, place):
    teller = report.begin()
    raise_limit_of_files()
    names = ["memnbd", "nbdkit", "null"]
    found, missing = servers.find(names, arguments.binary, arguments.null, place)
    for note in missing:
        teller.note(note)
    if not found or found[0].name != "memnbd":
        raise Failed("there is no memnbd-host to measure; `make build` makes it")
    for key, text in machine.describe().items():
        teller.say(f"{key}: {text}")
    parts = ["# Scale"]
    for part in (stored, connections, exports, filled):
        if not re.search(arguments.only, part.__name__):
            continue
        title, text = part(arguments, place, found, teller)
        teller.say(f"\n## {title}\n\n{text}\n")
        parts += [f"## {title}", text]
    parts += [f"- {note}" for note in teller.notes]
    directory = arguments.output or options.ROOT / "target/bench"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "scale.md").write_text("\n\n".join(parts) + "\n")
    teller.say(f"written to {directory}/scale.md")


def raise_limit_of_files():
    """A thousand connections take a thousand files, here and in the servers that we start."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def fits(size, what, teller):
    """Whether so much memory is free; says so when it is not."""
    free = machine.memory("MemAvailable")
    if free >= size + size // 16 + SPARE:
        return True
    teller.note(f"{what} is left out: the machine has {free / GIB:.1f} GiB of free memory")
    return False


def stored(arguments, place, found, teller):
    """The cost of a request, by how much is stored."""
    found = [server for server in found if server.stores]
    sizes = [MIB, 16 * MIB, 256 * MIB, GIB, 4 * GIB, 16 * GIB]
    workloads = [fio.Workload(rw, "4k", 64) for rw in ("randread", "randwrite")]
    rows = []
    for size in sizes[: 4 if arguments.quick else None]:
        name = f"{size // GIB} GiB" if size >= GIB else f"{size // MIB} MiB"
        if not fits(size, f"{name} stored", teller):
            continue
        cells = {}
        for server in found:
            with (
                teller.failures(f"{name} stored on {server.name}"),
                servers.started(server, place, "unix", size, arguments.pin) as running,
            ):
                fio.fill(running.uri, size)
                for each in workloads:
                    costs = [fio.cost(each, running, size, 30) for _ in range(ROUNDS)]
                    cells[server.name, each.rw] = median(costs)
                cells[server.name, "memory"] = running.resident() / size
        row = [number(cells.get((server.name, each.rw))) for each in workloads for server in found]
        row += [number(cells.get((server.name, "memory"))) for server in found]
        rows.append([name, *row])
        teller.say(f"{name} stored: {' '.join(row)}")
    header = [f"{each.rw}, {server.name}" for each in workloads for server in found]
    header += [f"bytes of memory per byte, {server.name}" for server in found]
    title = "Stored: CPU seconds per million requests of 4 KiB, 64 at once"
    return title, report.table(["stored", *header], rows)


class Load:
    """Connections, each of which asks for the same batch, over and over."""

    def __init__(self, stack, address, names):
        self.connections = [
            stack.enter_context(nbd.Connection(address, export)) for export in names
        ]
        offsets = [index * 4096 for index in range(DEPTH)]
        self.reads, self.writes = (
            nbd.Batch(command, offsets, 4096) for command in (nbd.READ, nbd.WRITE)
        )

    def prepare(self):
        """Writes what is going to be read."""
        for connection in self.connections:
            connection.write(0, nbd.pattern(0, DEPTH * 4096))

    def cost(self, running, requests, mixed=False):
        """CPU seconds of the server per million requests: reads or, if `mixed`, of every second
        connection writes."""
        rounds = max(1, requests // DEPTH // len(self.connections))
        each = [self.reads, self.writes if mixed else self.reads]
        batches = [(connection, each[n % 2]) for n, connection in enumerate(self.connections)]
        before = running.cpu()
        for _ in range(rounds):
            for connection, batch in batches:
                connection.send(batch)
            for connection, batch in batches:
                connection.receive(batch)
        made = rounds * len(self.connections) * DEPTH
        return (running.cpu() - before) / made * 1e6


def connections(arguments, place, found, teller):
    """The cost of a request, by how many connections make them, all to the same 64 KiB. What it costs
    the server that only moves bytes is what sockets cost."""
    requests = 64_000 if arguments.quick else 256_000
    rows = []
    for count in (1, 10, 100) if arguments.quick else (1, 10, 100, 1000):
        row = []
        for server in found:
            cells = ["-", "-", "-"]
            with (
                teller.failures(f"{count} connections to {server.name}"),
                servers.started(server, place, "unix", GIB, arguments.pin) as running,
                contextlib.ExitStack() as stack,
            ):
                before = running.resident()
                load = Load(stack, running.address, [""] * count)
                cells[2] = number((running.resident() - before) / count / 1024)
                if server.stores:
                    load.prepare()
                for cell, mixed in enumerate((False, True)):
                    costs = [load.cost(running, requests, mixed) for _ in range(ROUNDS)]
                    cells[cell] = number(median(costs))
            row += cells
        rows.append([str(count), *row])
        teller.say(f"{count} connections: {' '.join(row)}")
    header = ["connections"]
    for server in found:
        header += [f"{server.name}, s/M reads", f"{server.name}, s/M, every second one writes"]
        header += [f"{server.name}, KiB per idle connection"]
    title = f"Connections: 4 KiB, the same {DEPTH} requests at once on each"
    return title, report.table(header, rows)


def exports(arguments, place, found, teller):
    """The cost of a request on 100 connections, by how many exports they are spread over."""
    requests = 64_000 if arguments.quick else 256_000
    rows = []
    for count in (1, 10, 100) if arguments.quick else (1, 10, 100, 1000):
        names = [f"export-{index}" for index in range(count)]
        options_of_all = [f"--export={name}=memory,size=16M" for name in names]
        with teller.failures(f"{count} exports"), contextlib.ExitStack() as stack:
            start = time.perf_counter()
            server = Several("memnbd", found[0].program)
            where = place, "unix", 0, arguments.pin
            running = stack.enter_context(servers.started(server, *where, options_of_all))
            seconds = time.perf_counter() - start
            memory = running.resident()
            # Evenly: every tenth of a thousand, or each several times.
            used = names[:: max(1, count // 100)] * max(1, 100 // count)
            load = Load(stack, running.address, used)
            load.prepare()
            costs = [load.cost(running, requests) for _ in range(ROUNDS)]
            figures = [median(costs), seconds * 1000, memory / MIB, running.resident() / MIB]
            rows.append([str(count), *(number(figure) for figure in figures)])
            teller.say(f"{count} exports: {' '.join(rows[-1][1:])}")
    header = ["exports", "s/M requests", "start, ms", "idle, MiB", "in use, MiB"]
    return "Exports: reads of 4 KiB on 100 connections", report.table(header, rows)


class Several(servers.Memnbd):
    """memnbd-host with no disk but its exports."""

    def command(self, listen, size, file):
        return [self.program, "-f", "-U", listen]


def filled(arguments, place, found, teller):
    """Much is written, read back byte by byte, and trimmed; the memory must come and go with it."""
    size = GIB if arguments.quick else 12 * GIB
    name = f"{size // GIB} GiB"
    rows = []
    title = f"{name} written, read back, verified and trimmed"
    if not fits(size, name, teller):
        return title, "Left out, for want of memory."
    server, zeroes = found[0], bytes(MIB)
    with (
        teller.failures(name),
        servers.started(server, place, "unix", 1 << 40, arguments.pin) as running,
        nbd.Connection(running.address) as connection,
    ):

        def step(what, action):
            start, before = time.perf_counter(), running.cpu()
            for offset in range(0, size, MIB):
                action(offset)
            seconds, cpu = time.perf_counter() - start, running.cpu() - before
            resident = running.resident() / MIB
            rows.append([what, number(seconds), number(cpu / size * GIB), f"{resident:,.0f}"])
            teller.say(f"{what}: {' '.join(rows[-1][1:])}")

        def verify(offset):
            if connection.read(offset, MIB) != nbd.pattern(offset, MIB):
                raise Failed(f"at {offset} there is not what was written")

        def verify_zero(offset):
            if connection.read(offset, MIB) != zeroes:
                raise Failed(f"at {offset} there is data after the trim")

        rows.append(["start", "-", "-", f"{running.resident() / MIB:,.0f}"])
        step("written", lambda offset: connection.write(offset, nbd.pattern(offset, MIB)))
        step("read back and verified", verify)
        step("trimmed", lambda offset: connection.call(nbd.TRIM, offset, MIB))
        step("read as zeroes", verify_zero)
        step("written again", lambda offset: connection.write(offset, nbd.pattern(offset, MIB)))
    return title, report.table(["step", "seconds", "CPU s/GiB", "memory, MiB"], rows)
