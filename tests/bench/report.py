"""What a run tells: progress, tables in Markdown, and the summary in the README."""

import contextlib
import sys

import fio
import machine
from figures import Measurement, mean_ratio, number, times
from nbd import Error
from process import Failed

SUBJECT = "memnbd"
BASE = "nbdkit"
CEILING = "null"

BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"


def begin():
    """A report that notes first whether the machine is busy."""
    teller = Report()
    busy = machine.warning()
    if busy:
        teller.note(busy)
    return teller


class Report:
    """Tells how the run goes, and keeps what failed."""

    def __init__(self, out=sys.stdout):
        self.out = out
        self.notes = []

    def say(self, text):
        print(text, file=self.out, flush=True)

    def note(self, text):
        self.notes.append(text)
        self.say(f"! {text}")

    @contextlib.contextmanager
    def failures(self, doing):
        """What fails in the block is noted, and the rest goes on."""
        try:
            yield
        except (Failed, Error, OSError) as error:
            self.note(f"{doing}: {error}")

    def progress(self, measurement):
        figures = "  ".join(
            f"{name} {number(measurement.median(name))}" for name in measurement.values
        )
        against = times(measurement.ratio(SUBJECT, BASE))
        self.say(f"{measurement.name}, {measurement.unit}: {figures}  ({against} x {BASE})")


def measurements_of(results):
    return [Measurement(**each) for each in results["measurements"]]


def group(measurements, prefix):
    return [each for each in measurements if each.name.startswith(prefix + "/")]


def markdown(results):
    """The whole report."""
    measurements = measurements_of(results)
    names = list(results["servers"])
    parts = ["# Speed", preamble(results), summary(results)]
    for title, prefix in (
        ("fio over a Unix socket", "unix"),
        ("fio over TCP", "tcp"),
        ("An image, into an empty disk and out", "image"),
        ("A whole disk of 1 TiB, of which 1 GiB is written", "disk"),
        ("Start", "start"),
        ("Memory", "memory"),
    ):
        chosen = group(measurements, prefix)
        if chosen:
            parts.append(f"## {title}")
            parts.append(values_table(chosen, names))
            if any(each.cost for each in chosen):
                parts.append("The server's CPU seconds for the same:")
                parts.append(cost_table(chosen, names))
    return "\n\n".join(parts) + "\n"


def preamble(results):
    lines = [f"- {key}: {value}" for key, value in results["machine"].items()]
    lines += [f"- {name}: {text}" for name, text in results["servers"].items()]
    clients = ", ".join(f"{name} {version}" for name, version in results["clients"].items())
    lines.append(f"- clients: {clients or 'none'}")
    lines.append(f"- settings: {results['settings']}")
    lines += [f"- **{note}**" for note in results["notes"]]
    text = (
        "Medians of all rounds. A ratio is how many times as good memnbd is as another server: "
        "above 1 it is faster, cheaper or smaller. `null` only moves bytes and stores nothing, so "
        "that its figures are those of the sockets and of the client."
    )
    return text + "\n\n" + "\n".join(lines)


def table(header, rows):
    """A table of which the first column is text and the others are figures."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def values_table(measurements, names):
    def row(each):
        values = [each.median(name) for name in names]
        return each.unit, values, lambda name: each.ratio(SUBJECT, name)

    return comparison(measurements, names, row, cost=False)


def cost_table(measurements, names):
    def row(each):
        values = [each.cost_median(name) for name in names]
        return each.cost_unit, values, lambda name: each.cost_ratio(SUBJECT, name)

    return comparison(measurements, names, row, cost=True)


def comparison(measurements, names, row, cost):
    """A row for each workload, and their mean where they are of one kind."""
    others = [name for name in names if name in (BASE, CEILING)]
    header = ["workload", "unit", *names, *(f"to {name}" for name in others)]
    rows = []
    for each in measurements:
        unit, values, ratio = row(each)
        workload = each.name.split("/", 1)[1]
        rows.append([workload, unit, *map(number, values), *(times(ratio(name)) for name in others)])
    if measurements[0].cost_unit:
        means = (times(mean_ratio(measurements, SUBJECT, name, cost=cost)) for name in others)
        rows.append(["geometric mean", "", *["" for _ in names], *means])
    return table(header, rows)


def summary(results):
    """How many times as good memnbd is as each other server, in a few rows."""
    measurements = measurements_of(results)
    others = [name for name in results["servers"] if name != SUBJECT]
    rows = []

    def row(title, chosen, cost=False):
        if chosen:
            count = f", {len(chosen)} workloads" if len(chosen) > 1 else ""
            means = [times(mean_ratio(chosen, SUBJECT, name, cost)) for name in others]
            rows.append([title + count, *means])

    usual = [f"unix/{name}" for name in fio.CHOSEN]
    chosen = [each for each in measurements if each.name in usual]
    if len(chosen) < len(group(measurements, "unix")):
        row("fio, Unix socket, the usual ones", chosen)
    for title, prefix in (("Unix socket", "unix"), ("TCP", "tcp")):
        row(f"fio, {title}", group(measurements, prefix))
        row(f"fio, {title}, CPU time of the server", group(measurements, prefix), cost=True)
    row("images, in and out", group(measurements, "image"))
    row("zero, trim, status of 1 TiB", group(measurements, "disk"))
    for each in group(measurements, "start") + group(measurements, "memory"):
        row(each.name.replace("/", ": ").replace("-", " "), [each])
    return table([f"times as good as, for {SUBJECT}", *others], rows)


def update_readme(text, results, picture):
    """The README with the summary and the picture between its markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise Failed(f"the README has no lines {BEGIN} and {END}")
    machine = results["machine"]
    where = f"Measured on {machine['cpu']}, {machine['memory']}, {machine['kernel']}"
    versions = ", ".join(
        version for name, version in results["servers"].items() if name not in (SUBJECT, CEILING)
    )
    alt = f"How many times as fast as {BASE} memnbd is, by workload"
    parts = [f"![{alt}]({picture})", summary(results), f"{where}, with {versions}."]
    return before + begin + "\n" + "\n\n".join(parts) + "\n" + end + after
