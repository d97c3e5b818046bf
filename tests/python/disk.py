"""A disk in Python: a bytearray, and what the contract in wit/ asks of a component around it."""

import sys

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.block_store import Description, Disk
from wit_world.imports.log import Level, log
from wit_world.imports.types import (
    Capabilities, Chunk_Data, Error, ErrorCode, Parameter, ParameterType_Size, SizeRange,
)

# A WebAssembly memory ends at 4 GiB, and the interpreter needs a part of it.
LARGEST = 1 << 30


class BlockStore(exports.BlockStore):
    # Of the class: each call from the host gets an object of its own.
    content = bytearray()

    def describe(self):
        sizes = ParameterType_Size(SizeRange(0, LARGEST))
        size = Parameter("size", "the size of the disk", sizes, True, False, None)
        return Description("python", "1", "a disk in Python", [size], "size", False)

    def open(self, request):
        [size] = [argument.value.value for argument in request.arguments]
        BlockStore.content = bytearray(size)
        print(f"{size} bytes, opened", file=sys.stderr)
        log(Level.WARN, "everything is kept in memory")
        # Of the capabilities it has only the one to be written, and no limit to requests.
        return Disk(size, 1, 4096, 0, Capabilities.WRITABLE, "")

    def read(self, offset, length):
        return [Chunk_Data(bytes(self.content[offset:offset + length]))]

    def write(self, offset, data, fua):
        if data.startswith(b"too much"):
            raise Err(Error(ErrorCode.ENOSPC, "that is too much"))
        self.content[offset:offset + len(data)] = data

    # The host calls none of these, for want of the capability.

    def zero(self, offset, length, options):
        raise Err(Error(ErrorCode.ENOTSUP, None))

    def trim(self, offset, length, fua):
        raise Err(Error(ErrorCode.ENOTSUP, None))

    def flush(self):
        pass

    def extents(self, offset, length):
        raise Err(Error(ErrorCode.ENOTSUP, None))

    def cache(self, offset, length):
        pass
