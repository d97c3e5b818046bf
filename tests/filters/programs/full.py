"""Copies a file to a disk, as a backup does.

careless: ignores an error of a write, and says that the backup is complete.

careful: stops at the error, and says that there is no backup.
"""

import sys

import nbd

BLOCK = 64 << 10
disk = nbd.NBD()
disk.connect_uri(sys.argv[2])
data = open(sys.argv[3], "rb").read()
blocks = [(offset, data[offset:offset + BLOCK]) for offset in range(0, len(data), BLOCK)]


def careless():
    for offset, block in blocks:
        try:
            disk.pwrite(block, offset)
        except nbd.Error:
            pass
    return "complete"


def careful():
    try:
        for offset, block in blocks:
            disk.pwrite(block, offset)
        disk.flush()
    except nbd.Error as error:
        return "failed: " + error.errno
    return "complete"


print("backup:", globals()[sys.argv[1]]())
print("wrong:", sum(disk.pread(len(block), offset) != block for offset, block in blocks))
