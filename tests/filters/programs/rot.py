"""Reads records that were written long ago.

careless: trusts what the disk returns.

careful: has a checksum with each record, and a second copy in the other half of the disk.

`write` writes the records that both read.
"""

import struct
import sys
import zlib

import nbd

RECORD = 4096
COUNT = 200
disk = nbd.NBD()
disk.connect_uri(sys.argv[2])
half = disk.get_size() // 2


def content(number):
    return bytes([number]) * (RECORD - 4)


def write(number):
    data = content(number)
    for copy in range(2):
        disk.pwrite(data + struct.pack(">I", zlib.crc32(data)), copy * half + number * RECORD)


def careless(number):
    return disk.pread(RECORD, number * RECORD)[:-4]


def careful(number):
    for copy in range(2):
        record = disk.pread(RECORD, copy * half + number * RECORD)
        data, checksum = record[:-4], struct.unpack(">I", record[-4:])[0]
        if zlib.crc32(data) == checksum:
            return data
    return None


if sys.argv[1] == "write":
    for number in range(COUNT):
        write(number)
else:
    records = [globals()[sys.argv[1]](number) for number in range(COUNT)]
    right = sum(record == content(number) for number, record in enumerate(records))
    missing = sum(record is None for record in records)
    print("right:", right, "missing:", missing, "wrong:", COUNT - right - missing)
