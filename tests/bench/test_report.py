"""Tables and the chart say what was measured, and do with what is missing."""

import dataclasses
import io
import unittest
import xml.etree.ElementTree as xml

import plot
import report
from figures import LESS, MORE, Measurement
from process import Failed


def measurement(name, better=MORE, **values):
    each = Measurement(name, "requests/s", better, {key: [value] for key, value in values.items()})
    if name.startswith(("unix/", "tcp/")):
        each.cost_unit, each.cost = "s/M requests", {"memnbd": [2.0], "nbdkit": [3.0]}
    return each


def results(measurements, servers=("memnbd", "nbdkit", "null")):
    return {
        "machine": {"cpu": "Abacus", "memory": "1 bead", "kernel": "wood"},
        "servers": {name: f"{name} 1.0" for name in servers},
        "clients": {"fio": "3"},
        "settings": "as they are",
        "notes": ["somebody was in the way"],
        "measurements": [dataclasses.asdict(each) for each in measurements],
    }


SOME = results(
    [
        measurement("unix/randread-4k-qd1", memnbd=30, nbdkit=20, null=60),
        measurement("unix/write-1m-qd8", memnbd=10, nbdkit=20),
        measurement("tcp/randread-4k-qd1", memnbd=40, nbdkit=20),
        measurement("start/first-reply", LESS, memnbd=5, nbdkit=10),
    ]
)


class Tables(unittest.TestCase):
    def test_rows_have_figures_and_ratios(self):
        text = report.markdown(SOME)
        self.assertIn("| randread-4k-qd1 | requests/s | 30.0 | 20.0 | 60.0 | 1.50 | 0.50 |", text)
        self.assertIn("| write-1m-qd8 | requests/s | 10.0 | 20.0 | - | 0.50 | - |", text)
        self.assertIn("| geometric mean |  |  |  |  | 0.87 | 0.50 |", text)
        self.assertIn("| first-reply | requests/s | 5.00 | 10.0 | - | 2.00 | - |", text)
        self.assertIn("| randread-4k-qd1 | s/M requests | 2.00 | 3.00 | - | 1.50 | - |", text)

    def test_notes_and_machine_are_told(self):
        text = report.markdown(SOME)
        for line in ("- cpu: Abacus", "- **somebody was in the way**", "- settings: as they are"):
            self.assertIn(line + "\n", text)

    def test_server_that_is_missing_has_no_column(self):
        text = report.markdown(results([measurement("unix/read-1m-qd8", memnbd=3)], ["memnbd"]))
        self.assertIn("| read-1m-qd8 | requests/s | 3.00 |\n", text)

    def test_nothing_measured_is_a_report_too(self):
        self.assertIn("# Speed", report.markdown(results([])))

    def test_failure_is_noted_and_the_rest_goes_on(self):
        teller = report.Report(io.StringIO())
        with teller.failures("this"):
            raise Failed("that")
        self.assertEqual(teller.notes, ["this: that"])


class Readme(unittest.TestCase):
    def test_only_what_is_between_the_markers_changes(self):
        old = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
        new = report.update_readme(old, SOME, "results.svg")
        self.assertTrue(new.startswith(f"before\n{report.BEGIN}\n!["))
        self.assertTrue(new.endswith(f"{report.END}\nafter\n"))
        self.assertNotIn("old", new)
        self.assertEqual(report.update_readme(new, SOME, "results.svg"), new)

    def test_markers_must_be_there(self):
        with self.assertRaises(Failed):
            report.update_readme("no markers", SOME, "results.svg")


class Chart(unittest.TestCase):
    def bars(self, data, kind):
        space = "{http://www.w3.org/2000/svg}"
        rects = xml.fromstring(plot.svg(data)).iter(f"{space}rect")
        return [rect for rect in rects if rect.get("class") == kind and rect.get("height") != "10"]

    def test_bars_grow_from_one_to_the_side_that_is_better(self):
        faster, slower = self.bars(SOME, "unix")
        self.assertEqual(slower.get("width"), f"{plot.Scale([0.5, 3]).x(1) - plot.LABELS:.1f}")
        self.assertLess(float(slower.get("x")), float(faster.get("x")))

    def test_every_figure_has_a_bar(self):
        self.assertEqual(len(self.bars(SOME, "tcp")), 1)
        self.assertEqual(len(self.bars(SOME, "ceiling")), 1)

    def test_chart_of_nothing_is_well_formed(self):
        self.assertEqual(self.bars(results([]), "unix"), [])

    def test_scale_ends_at_powers_of_two_and_bounds_what_is_far(self):
        scale = plot.Scale([0.4, 100])
        self.assertEqual(scale.ticks(), [0.25, 0.5, 1, 2, 4, 8])
        self.assertEqual(scale.x(100), scale.x(8))
