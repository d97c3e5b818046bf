"""An attacker and a neighbour in one server, and the ways in which clients attack."""

import contextlib
import errno
import re
import socket
import struct
import threading
import time

import nbd
import process
import servers

# How long one request of an attacker may take, in seconds.
PATIENCE = 60

MIB = 1 << 20


class Server(servers.Server):
    """memnbd-host with the exports `a` of the attacker and `b` of the neighbour, each at a socket of
    its own."""

    def __init__(self, program, attacker, exports, options, limits):
        super().__init__("memnbd", program)
        self.attacker, self.options, self.limits = attacker, options, limits
        self.exports = [f"--export={each}" for each in exports]

    def command(self, listen, size, file):
        where = [f"--listen=unix:{self.attacker}", f"--listen=unix:{listen},export=b"]
        command = [self.program, *where, *self.exports, "--export=b=memory,64M", *self.options]
        if self.limits:
            return ["sh", "-c", f'ulimit {self.limits}; exec "$0" "$@"', *command]
        return command


class Lab:
    """Where attacks take place: the program, and the one that assembles components."""

    def __init__(self, program, assembler, place):
        self.program, self.assembler, self.place = program, assembler, place

    def assemble(self, overlays):
        """A file with the component of these overlays: names, or texts of several lines."""
        words = []
        for overlay in overlays:
            if "\n" in overlay:
                path = self.place.new("wat")
                with open(path, "w", encoding="ascii") as file:
                    file.write(overlay)
                overlay = path
            words.append(overlay)
        output = self.place.new("wasm")
        process.run([self.assembler, output, *words])
        return output

    @contextlib.contextmanager
    def serve(self, row):
        """The tenants of a row's server, for as long as the block runs."""
        exports = [f"{name}={self.assemble(of)}" for name, of in row.components.items()]
        exports = exports or ["a=memory,1T"]
        attacker = self.place.new("sock")
        server = Server(self.program, attacker, exports, row.options, row.limits)
        start = time.monotonic()
        with servers.started(server, self.place, "unix", 0) as running:
            tenants = Tenants(running, attacker, time.monotonic() - start)
            try:
                yield tenants
            finally:
                tenants.release()


class Tenants:
    def __init__(self, running, attacker, start):
        self.running, self.attacker, self.start = running, attacker, start
        self.held = []

    @property
    def address(self):
        """Where the neighbour connects."""
        return self.running.address

    @property
    def pid(self):
        return self.running.child.pid

    def connect(self, export="a", patience=PATIENCE, **options):
        connection = nbd.Connection(self.attacker, export, **options)
        connection.socket.settimeout(patience)
        return connection

    def hold(self, connection):
        """Keeps a connection or socket open until the attack is over."""
        self.held.append(connection)

    def release(self):
        """The attacker's clients vanish."""
        for each in self.held:
            getattr(each, "socket", each).close()
        self.held.clear()

    def raw(self):
        """A connection on which nothing was said."""
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.settimeout(PATIENCE)
        stream.connect(self.attacker)
        return stream

    def log(self):
        with open(self.running.log, "rb") as file:
            return file.read()

    def resident(self):
        return process.resident(self.pid)

    def crowd(self, clients, seconds, ask):
        """So many clients call `ask(connection)` over and over for so long, or until it fails. Returns
        how that ended."""
        end = time.monotonic() + seconds
        lock, failures, count = threading.Lock(), [], [0]

        def client():
            try:
                with self.connect() as connection:
                    while time.monotonic() < end:
                        ask(connection)
                        with lock:
                            count[0] += 1
            except (OSError, nbd.Error) as error:
                with lock:
                    failures.append(str(error))

        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asked = f"{count[0]} requests of {clients} clients answered"
        return f"{asked}; then {tell(failures[0])}" if failures else asked


def tell(failure):
    """An error of a client, with the names of error codes."""
    return re.sub(
        r"reply 0x67446698, error (\d+)",
        lambda match: errno.errorcode.get(int(match[1]), match[0]),
        failure,
    )


def read(offset, length, count=1):
    """The bytes of requests to read."""
    return nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.READ, 1, offset, length) * count


def option(number, data=b""):
    return nbd.OPTIONS + struct.pack(">II", number, len(data)) + data
