"""A disk in Python: a bytearray, and what the contract in wit/ asks of a component around it."""

import sys

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.block_store import (
    Capabilities, Chunk_Data, Description, Disk, ErrorCode, Parameter, Sharing_Exclusive,
)


class BlockStore(exports.BlockStore):
    # Of the class: each call from the host gets an object of its own.
    content = bytearray()

    def describe(self):
        size = Parameter("size", "the size of the disk in bytes", True, None)
        return Description("python", "1", "a disk in Python", [size], "size")

    def open(self, export_name, read_only, parameters):
        size = dict(parameters)["size"]
        if not size.isdecimal():
            raise Err(f"size: {size!r} is not a number of bytes")
        BlockStore.content = bytearray(int(size))
        print(f"{size} bytes, opened", file=sys.stderr)
        # Of the capabilities it has only the one to be written, and no limit to requests.
        return Disk(int(size), 1, 4096, 0, Capabilities.WRITABLE, Sharing_Exclusive(), "")

    def read(self, offset, length):
        return [Chunk_Data(bytes(self.content[offset:offset + length]))]

    def write(self, offset, data, fua):
        if data.startswith(b"too much"):
            raise Err(ErrorCode.ENOSPC)
        self.content[offset:offset + len(data)] = data

    # The host calls none of these, for want of the capability.

    def zero(self, offset, length, options):
        raise Err(ErrorCode.ENOTSUP)

    def trim(self, offset, length, fua):
        raise Err(ErrorCode.ENOTSUP)

    def flush(self):
        pass

    def extents(self, offset, length):
        raise Err(ErrorCode.ENOTSUP)

    def cache(self, offset, length):
        pass

    def stored(self):
        return len(self.content)
