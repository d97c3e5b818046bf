"""What is computed from measurements: medians, ratios, means. It knows nothing of servers."""

import math
import statistics
from dataclasses import dataclass, field

MORE = "more"
LESS = "less"


@dataclass
class Measurement:
    """One workload on all servers: for each server its figures, one per round.

    `better` says whether more is better, as of rates, or less, as of seconds. The workloads of fio
    have a cost as well: the server's CPU seconds for the amount of work that `cost_unit` names.
    """

    name: str
    unit: str
    better: str
    values: dict = field(default_factory=dict)
    cost_unit: str = ""
    cost: dict = field(default_factory=dict)

    def add(self, server, value):
        self.values.setdefault(server, []).append(value)

    def add_cost(self, server, value):
        self.cost.setdefault(server, []).append(value)

    def median(self, server):
        """The server's median, or None when there is nothing to take it of."""
        return median(self.values.get(server, []))

    def ratio(self, server, base):
        """How many times as good the server is as another one; None when one has no figures."""
        return ratio(self.median(server), self.median(base), self.better)

    def cost_median(self, server):
        return median(self.cost.get(server, []))

    def cost_ratio(self, server, base):
        """How many times as cheap the server is as another one."""
        return ratio(self.cost_median(server), self.cost_median(base), LESS)


def median(values):
    return statistics.median(values) if values else None


def ratio(value, base, better):
    """Above 1 when `value` is better than `base`. What took no time at all has no ratio."""
    if value is None or base is None or value <= 0 or base <= 0:
        return None
    return value / base if better == MORE else base / value


def rank_test(ones, others):
    """Mann and Whitney's test: the probability that one of the others is greater than one of these, of
    which equal ones count half, and by how many standard deviations it differs from a half."""
    count, other_count = len(ones), len(others)
    values = sorted([(value, 0) for value in ones] + [(value, 1) for value in others])
    ranks, ties, at = 0, 0, 0
    while at < len(values):
        end = at
        while end < len(values) and values[end][0] == values[at][0]:
            end += 1
        # The ranks begin with 1, and equal values have the mean of theirs.
        ranks += (at + 1 + end) / 2 * sum(of for _, of in values[at:end])
        ties += (end - at) ** 3 - (end - at)
        at = end
    total = count + other_count
    greater = ranks - other_count * (other_count + 1) / 2
    variance = count * other_count / 12 * (total + 1 - ties / (total * (total - 1)))
    z = (greater - count * other_count / 2) / math.sqrt(variance) if variance > 0 else 0.0
    return greater / (count * other_count), z


def geometric_mean(values):
    """The geometric mean of what is there; None when nothing is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return math.exp(sum(math.log(value) for value in known) / len(known))


def mean_ratio(measurements, server, base, cost=False):
    """The geometric mean over workloads of how much better a server is than another one."""
    if cost:
        return geometric_mean(each.cost_ratio(server, base) for each in measurements)
    return geometric_mean(each.ratio(server, base) for each in measurements)


def number(value):
    """A figure as people read it, with three digits that count."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        digits = 2 - math.floor(math.log10(abs(value)))
        return f"{round(value, digits):,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 6)}f}"


def times(value):
    """A ratio as people read it."""
    return "-" if value is None else f"{value:.2f}"
