"""The workloads of fio's nbd engine, over Unix and TCP sockets."""

import contextlib
import json
from dataclasses import dataclass

import servers
from figures import MORE, Measurement
from process import Failed, run

MIB = 1 << 20
GIB = 1 << 30
BLOCKS = {"4k": 4 << 10, "256k": 256 << 10, "1m": 1 << 20}


@dataclass(frozen=True)
class Workload:
    """Requests of one kind and size, so many at once on each of so many connections."""

    rw: str
    block: str
    depth: int
    jobs: int = 1

    @property
    def name(self):
        # Where only the number of connections differs, it is part of every name.
        jobs = f"x{self.jobs}" if self.block == "4k" and self.depth == 16 else ""
        return f"{self.rw}-{self.block}-qd{self.depth}{jobs}"

    @property
    def counts_requests(self):
        """Whether its rate is in requests a second, not in MiB."""
        return self.block == "4k"

    @property
    def measured_bytes(self):
        """How much is transferred to take the CPU time of: some hundred ticks of the clock."""
        if not self.counts_requests:
            return 2 * GIB
        return BLOCKS[self.block] * (30_000 if self.depth == 1 else 200_000)


WORKLOADS = [
    *(
        Workload(rw, "4k", depth, jobs)
        for depth, jobs in ((1, 1), (64, 1), (16, 1), (16, 4), (16, 16))
        for rw in ("randread", "randwrite", "randrw")
    ),
    Workload("read", "256k", 16),
    Workload("write", "256k", 16),
    Workload("read", "1m", 8),
    Workload("write", "1m", 8),
]

# The ones that stand for all where there is little time.
CHOSEN = (
    "randread-4k-qd1 randwrite-4k-qd1 randread-4k-qd64 randwrite-4k-qd64 randread-4k-qd16x4 "
    "randrw-4k-qd16x4 read-256k-qd16 write-256k-qd16 read-1m-qd8 write-1m-qd8"
).split()


def command(workload, uri, size, seconds, ramp=None):
    """Runs for so many seconds after a ramp; with none, until its fixed amount of work is done, or
    else for so many seconds."""
    if ramp is None:
        length = [f"--io_size={workload.measured_bytes // workload.jobs}"]
    else:
        length = ["--time_based", f"--ramp_time={ramp * 1000:.0f}ms"]
    return [
        "fio",
        f"--name={workload.name}",
        "--ioengine=nbd",
        f"--uri={uri}",
        f"--rw={workload.rw}",
        f"--bs={workload.block}",
        f"--iodepth={workload.depth}",
        f"--numjobs={workload.jobs}",
        *length,
        f"--runtime={seconds * 1000:.0f}ms",
        f"--size={size}",
        "--group_reporting",
        "--output-format=json",
        "--randrepeat=0",
        "--norandommap",
    ]


@dataclass
class Result:
    """What fio measured, of reads and writes together."""

    requests_per_second: float
    bytes_per_second: float
    requests: int
    bytes: int


def parse(output):
    """Takes the figures from fio's JSON, before which there may be messages."""
    try:
        job = json.loads(output[output.index("{") :])["jobs"][0]
        both = [job["read"], job["write"]]
        result = Result(
            sum(each["iops"] for each in both),
            sum(each["bw_bytes"] for each in both),
            sum(each["total_ios"] for each in both),
            sum(each["io_bytes"] for each in both),
        )
        error = job["error"]
    except (ValueError, LookupError) as cause:
        raise Failed(f"fio printed no figures: {output[:200]!r}") from cause
    if error:
        raise Failed(f"fio: error {error}")
    if not result.requests:
        raise Failed("fio made no request")
    return result


def fill(uri, size):
    """Writes the whole disk once, so that nothing is written for the first time later."""
    options = ["--ioengine=nbd", f"--uri={uri}", "--rw=write", "--bs=1m", "--iodepth=4"]
    run(["fio", "--name=fill", *options, f"--size={size}"])


def measure(transport, found, place, settings, report):
    """All workloads chosen, on all servers that start, in turns; over one kind of socket."""
    chosen = [each for each in WORKLOADS if settings.chooses(f"{transport}/{each.name}")]
    if not chosen:
        return []
    with contextlib.ExitStack() as stack:
        running = []
        for server in found:
            with report.failures(f"{transport}, {server.name}"):
                where = place, transport, settings.size, settings.pin_servers
                one = stack.enter_context(servers.started(server, *where))
                if server.stores:
                    fill(one.uri, settings.size)
                running.append(one)
        return [measure_one(each, transport, running, settings, report) for each in chosen]


def measure_one(workload, transport, running, settings, report):
    unit, cost_unit = ("requests/s", "s/M requests")
    if not workload.counts_requests:
        unit, cost_unit = ("MiB/s", "s/GiB")
    measurement = Measurement(f"{transport}/{workload.name}", unit, MORE, cost_unit=cost_unit)
    for turn in range(settings.rounds):
        for server in settings.in_turn(running, turn):
            with report.failures(f"{measurement.name} on {server.name}"):
                length = settings.seconds, settings.ramp
                result = parse(run(command(workload, server.uri, settings.size, *length)))
                measurement.add(server.name, rate(workload, result))
                spent = cost(workload, server, settings.size, settings.seconds)
                measurement.add_cost(server.name, spent)
    report.progress(measurement)
    return measurement


def rate(workload, result):
    if workload.counts_requests:
        return result.requests_per_second
    return result.bytes_per_second / MIB


def cost(workload, server, size, seconds):
    """CPU seconds of the server per million requests, or per GiB. Nothing but these requests falls
    into the time, while a ramp would."""
    before = server.cpu()
    result = parse(run(command(workload, server.uri, size, seconds)))
    spent = server.cpu() - before
    if workload.counts_requests:
        return spent / result.requests * 1e6
    return spent / result.bytes * GIB
