"""A client of NBD as small as the benchmarks allow: it does what it is told and checks the replies.

It knows simple replies, and structured ones for block status.
"""

import socket
import struct

READ, WRITE, DISC, FLUSH, TRIM, ZERO, STATUS = 0, 1, 2, 3, 4, 6, 7
OPTIONS = b"IHAVEOPT"
REQUEST = struct.Struct(">IHHQQI")
REPLY = struct.Struct(">IIQ")
REQUEST_MAGIC, REPLY_MAGIC, CHUNK_MAGIC = 0x25609513, 0x67446698, 0x668E33EF

# How long a server may take for anything, in seconds.
PATIENCE = 300


class Error(Exception):
    """The server refused something, or does not speak NBD."""


class Connection:
    """A connection in the transmission phase."""

    def __init__(self, address, export="", block_status=False):
        """`address` is a path, or a tuple of host and port."""
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE)
        try:
            self.socket.connect(address)
            if family == socket.AF_INET:
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._haggle(export.encode(), block_status)
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        try:
            self.socket.sendall(REQUEST.pack(REQUEST_MAGIC, 0, DISC, 0, 0, 0))
        except OSError:
            pass
        self.socket.close()

    def _haggle(self, export, block_status):
        greeting = self._receive(18)
        if greeting[:16] != b"NBDMAGIC" + OPTIONS:
            raise Error(f"no NBD server: {bytes(greeting)!r}")
        # Fixed newstyle, and no zeroes.
        self.socket.sendall(struct.pack(">I", 3))
        name = struct.pack(">I", len(export)) + export
        if block_status:
            self._option(8, b"")
            query = b"base:allocation"
            self._option(10, name + struct.pack(">II", 1, len(query)) + query)
        for kind, data in self._option(7, name + b"\0\0"):
            if kind == 3 and data[:2] == b"\0\0":
                self.size, self.flags = struct.unpack(">QH", data[2:12])

    def _option(self, option, data):
        """All replies to an option until it is acknowledged."""
        self.socket.sendall(OPTIONS + struct.pack(">II", option, len(data)) + data)
        replies = []
        while True:
            _, _, kind, length = struct.unpack(">QIII", self._receive(20))
            data = bytes(self._receive(length))
            if kind == 1:
                return replies
            if kind >> 31:
                raise Error(f"option {option}: error {kind:#x}: {data.decode(errors='replace')}")
            replies.append((kind, data))

    def _receive(self, length):
        data = bytearray(length)
        self._receive_into(memoryview(data))
        return data

    def _receive_into(self, view):
        while view:
            count = self.socket.recv_into(view)
            if count == 0:
                raise Error("the server hung up")
            view = view[count:]

    def call(self, command, offset=0, length=0, data=b"", flags=0):
        """One request with a simple reply; returns what it read."""
        header = REQUEST.pack(REQUEST_MAGIC, flags, command, 1, offset, length)
        self.socket.sendall(header + data if data else header)
        self._simple_reply()
        return self._receive(length) if command == READ else b""

    def _simple_reply(self):
        magic, error, _ = REPLY.unpack(self._receive(16))
        if magic != REPLY_MAGIC or error:
            raise Error(f"reply {magic:#x}, error {error}")

    def read(self, offset, length):
        return self.call(READ, offset, length)

    def write(self, offset, data):
        self.call(WRITE, offset, len(data), data)

    def status(self, offset, length):
        """The extents of one reply, as pairs of length and flags; the connection must know them."""
        self.socket.sendall(REQUEST.pack(REQUEST_MAGIC, 0, STATUS, 1, offset, length))
        extents = []
        while True:
            magic, flags, kind, _, size = struct.unpack(">IHHQI", self._receive(20))
            data = self._receive(size)
            if magic != CHUNK_MAGIC or kind >> 15:
                raise Error(f"block status: reply {magic:#x}, chunk {kind:#x}")
            if kind == 5:
                extents += struct.iter_unpack(">II", data[4:])
            if flags & 1:
                return extents

    def send(self, batch):
        """Sends a batch of requests, all of the same kind."""
        self.socket.sendall(batch.requests)

    def receive(self, batch):
        """Waits for the replies to a batch, in whichever order they come."""
        data = self._receive(batch.count * batch.stride)
        for at in range(0, len(data), batch.stride):
            magic, error, _ = REPLY.unpack_from(data, at)
            if magic != REPLY_MAGIC or error:
                raise Error(f"reply {magic:#x}, error {error}")


class Batch:
    """Requests of one kind and length, made once and sent as often as you like."""

    def __init__(self, command, offsets, length):
        payload = b"\x5a" * length if command == WRITE else b""
        self.count = len(offsets)
        self.stride = REPLY.size + (length if command == READ else 0)
        self.requests = b"".join(
            REQUEST.pack(REQUEST_MAGIC, 0, command, cookie, offset, length) + payload
            for cookie, offset in enumerate(offsets)
        )


def pattern(offset, length):
    """Bytes that tell where they belong: each 4 KiB hold their own offset, over and over."""
    pages = range(offset, offset + length, 4096)
    return b"".join(struct.pack(">Q", page) * 512 for page in pages)
