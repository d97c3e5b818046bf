"""Commits records, as a database does: a record that was committed is there after a crash.

careless: flushes again after a flush has failed, and believes the second. Linux drops what it could not
write, so that the second has nothing to write, and succeeds.

careful: writes everything again that no flush has confirmed, before it flushes again.
"""

import sys

import nbd

RECORD = 4096
disk = nbd.NBD()
disk.connect_uri(sys.argv[2])


def record(number):
    return bytes([number + 1]) * RECORD


def careless(number):
    disk.pwrite(record(number), number * RECORD)
    while True:
        try:
            return disk.flush()
        except nbd.Error as error:
            print("flush:", error.errno)


def careful(number):
    while True:
        disk.pwrite(record(number), number * RECORD)
        try:
            return disk.flush()
        except nbd.Error as error:
            print("flush:", error.errno)


for number in range(20):
    globals()[sys.argv[1]](number)
lost = [number for number in range(20) if disk.pread(RECORD, number * RECORD) != record(number)]
print("lost:", lost)
