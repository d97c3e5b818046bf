"""What the kernel tells of a process, and commands that must succeed."""

import os
import subprocess
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Failed(Exception):
    """Something could not be measured; the text says why."""


def cpu_seconds(pid):
    """The CPU time of all threads of a process, those that ended included."""
    return parse_cpu_seconds(Path(f"/proc/{pid}/stat").read_text())


def parse_cpu_seconds(stat):
    # The name is in parentheses and may hold spaces; the third field comes after it.
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


def resident(pid):
    """The memory that a process has, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def run(command, **options):
    """Runs a command to its end, and returns its stdout; fails with what it complained of."""
    command = [str(word) for word in command]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, **options
        )
    except OSError as error:
        raise Failed(f"{command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{command[0]} did not end in {error.timeout:.0f} s") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Failed(f"{command[0]}: exit {done.returncode}: {said[-1] if said else 'no message'}")
    return done.stdout
