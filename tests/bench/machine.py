"""What the figures were measured on, and whether it had anything else to do."""

import os
import platform
import time
from pathlib import Path

from process import Failed, run

# The share of the machine's time from which on others disturb the figures.
BUSY = 0.05


def describe():
    """The machine, as pairs of a word and a text."""
    cpus = len(os.sched_getaffinity(0))
    return {
        "cpu": f"{cpu_model()}, {cpus} core{'s' if cpus != 1 else ''}",
        "memory": f"{memory('MemTotal') / 2**30:.1f} GiB",
        # Without what whoever built it appended.
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "load average": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def cpu_model():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def memory(key):
    """A figure of /proc/meminfo, in bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) << 10
    raise Failed(f"/proc/meminfo has no {key}")


def times():
    """The CPU times since the machine started: all, idle, stolen by other machines."""
    return parse_times(Path("/proc/stat").read_text())


def parse_times(stat):
    # user nice system idle iowait irq softirq steal; guests are part of user.
    fields = [int(field) for field in stat.splitlines()[0].split()[1:9]]
    return sum(fields), fields[3] + fields[4], fields[7]


def share_busy(seconds=1.0):
    """The share of the machine's time that somebody takes while we do nothing."""
    total, idle, _ = times()
    time.sleep(seconds)
    total_after, idle_after, _ = times()
    return 1 - (idle_after - idle) / max(1, total_after - total)


def warning(seconds=1.0):
    """What to tell of a busy machine, or None."""
    busy = share_busy(seconds)
    load = os.getloadavg()[0]
    if busy < BUSY and load < 0.5 * len(os.sched_getaffinity(0)):
        return None
    return (
        f"the machine was busy at the start: {busy:.0%} of its time was taken, the load average "
        f"was {load:.2f}; rates are not to be trusted, CPU times are better"
    )


def client_versions():
    """The versions of the clients that are installed."""
    versions = {}
    for program in ("fio", "nbdcopy", "qemu-img"):
        try:
            words = run([program, "--version"]).splitlines()[0].split()
        except Failed:
            continue
        number = next((word for word in words if any(map(str.isdigit, word))), "?")
        versions[program] = number.removeprefix("fio-")
    return versions
