"""The chart: for each workload, how many times as fast as nbdkit memnbd is. Written by hand, so
that it needs no library and follows light and dark pages."""

import math
from xml.sax.saxutils import escape

from report import BASE, CEILING, SUBJECT, group, measurements_of

WIDTH = 800
LABELS = 190
RIGHT = 84
TOP = 64
BAR = 8
ROW = 26
GROUPS = ("unix", "tcp")
TITLES = {"unix": "Unix socket", "tcp": "TCP"}

# Beyond that, the figure beside the bar must do.
FARTHEST = 8

STYLE = """
    svg { font: 12px system-ui, sans-serif; }
    .page { fill: #ffffff; } text { fill: #24292f; } .faint { fill: #57606a; }
    .grid { stroke: #d8dee4; } .one { stroke: #24292f; stroke-width: 1.5; }
    .unix { fill: #0969da; } .tcp { fill: #8250df; } .ceiling { fill: #bc4c00; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117; } text { fill: #e6edf3; } .faint { fill: #8b949e; }
      .grid { stroke: #30363d; } .one { stroke: #e6edf3; }
      .unix { fill: #58a6ff; } .tcp { fill: #bc8cff; } .ceiling { fill: #f0883e; }
    }
"""


def rows(results):
    """Each workload of fio, with the ratios of its kinds of socket: memnbd's and the ceiling's."""
    found = {}
    for kind in GROUPS:
        for each in group(measurements_of(results), kind):
            ratios = each.ratio(SUBJECT, BASE), each.ratio(CEILING, BASE)
            if ratios[0] is not None:
                found.setdefault(each.name.split("/", 1)[1], {})[kind] = ratios
    return found


class Scale:
    """Ratios on a logarithmic axis that has whole powers of two at its ends."""

    def __init__(self, ratios):
        far = [min(max(ratio, 1 / FARTHEST), FARTHEST) for ratio in ratios]
        self.low = min(-1, math.floor(math.log2(min(far, default=1))))
        self.high = max(1, math.ceil(math.log2(max(far, default=1))))

    def x(self, ratio):
        exponent = min(max(math.log2(ratio), self.low), self.high)
        share = (exponent - self.low) / (self.high - self.low)
        return LABELS + share * (WIDTH - LABELS - RIGHT)

    def ticks(self):
        return [2.0**exponent for exponent in range(self.low, self.high + 1)]


def svg(results):
    found = rows(results)
    everything = [pair for kinds in found.values() for pair in kinds.values()]
    scale = Scale([ratio for pair in everything for ratio in pair if ratio is not None])
    bottom = TOP + ROW * len(found)
    height = bottom + 34
    title = f"How many times as fast as {BASE} {SUBJECT} is"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"  <title>{escape(title)}</title>",
        f"  <style>{STYLE}  </style>",
        f'  <rect class="page" width="{WIDTH}" height="{height}" rx="6"/>',
        f'  <text x="16" y="24" font-weight="600" font-size="14">{escape(title)}</text>',
        *legend({kind for kinds in found.values() for kind in kinds}),
    ]
    for tick in scale.ticks():
        x = scale.x(tick)
        kind = "one" if tick == 1 else "grid"
        line = f'x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{bottom}"'
        parts.append(f'  <line class="{kind}" {line}/>')
        parts.append(text(x, bottom + 18, f"{tick:g}", "faint", "middle"))
    for index, (name, kinds) in enumerate(found.items()):
        parts += row(name, kinds, TOP + index * ROW, scale)
    return "\n".join([*parts, "</svg>"]) + "\n"


def legend(kinds):
    x = 16
    entries = [(kind, TITLES[kind]) for kind in GROUPS if kind in kinds]
    entries.append(("ceiling", "a server that only moves bytes"))
    for kind, title in entries:
        yield f'  <rect class="{kind}" x="{x}" y="36" width="10" height="10" rx="2"/>'
        yield text(x + 16, 45, title, "faint", "start")
        x += 40 + 7 * len(title)


def row(name, kinds, y, scale):
    """A label and a bar for each kind of socket, from the line at 1 to the ratio."""
    yield text(LABELS - 12, y + 14, name, "", "end")
    one = scale.x(1)
    top = y + (ROW - 2 - BAR * len(kinds)) / 2
    for kind, (ratio, ceiling) in kinds.items():
        end = scale.x(ratio)
        left, width = min(one, end), max(abs(end - one), 1)
        yield (
            f'  <rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{BAR - 1}" rx="1"/>'
        )
        if ceiling is not None:
            x = scale.x(ceiling)
            yield (
                f'  <rect class="ceiling" x="{x - 1:.1f}" y="{top:.1f}" width="2" '
                f'height="{BAR - 1}"/>'
            )
        top += BAR
    ratios = " ".join(f"{ratio:.2f}" for ratio, _ in kinds.values())
    yield text(WIDTH - 6, y + 14, ratios, "faint", "end")


def text(x, y, content, kind, anchor):
    kind = f' class="{kind}"' if kind else ""
    return f'  <text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'
