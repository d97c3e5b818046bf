"""The table of attacks: it is well-formed, and the tests that it names are there."""

import re
import unittest
from pathlib import Path

import attacks
import hostile
import neighbour
import rows

TESTS = Path(__file__).resolve().parents[1]


class Table(unittest.TestCase):
    def test_every_line_has_all_columns(self):
        found = {"rate": 100.0, "p50": 1e-5, "p99": 1e-4, "longest": 0.1, "connect": None}
        outcome = attacks.Outcome("a | b", 2.0, found, found, 1 << 20)
        text = attacks.markdown({row.name: outcome for row in rows.ROWS[::2]}, ["a note"])
        lines = [line for line in text.splitlines() if line.startswith("| ")]
        self.assertEqual(len(lines), len(rows.ROWS) + 2 * 3)
        for line in lines:
            self.assertEqual(line.count("|"), len(attacks.HEADER) + 1, line)
        self.assertIn("| a / b | 100 -> 100 | 10.0 -> 10.0 | 100 -> 100 |", text)
        self.assertTrue(text.endswith("- a note\n"))

    def test_names_are_distinct(self):
        names = [row.name for row in rows.ROWS]
        self.assertEqual(len(names), len(set(names)))

    def test_hostile_tests_are_there(self):
        for row in rows.ROWS:
            for module, _, name in re.findall(r"`hostile::(\w+)(::(\w+))?`", row.test):
                source = (TESTS / f"hostile/{module}.rs").read_text()
                self.assertIn(f"fn {name}", source, row.name)


class Figures(unittest.TestCase):
    def test_percentiles(self):
        reads = [number / 100 for number in range(1, 101)]
        found = neighbour.figures(reads, [0.5, 0.25], 10.0)
        self.assertEqual((found["rate"], found["longest"], found["connect"]), (10, 1.0, 0.5))
        self.assertEqual((found["p50"], found["p99"]), (0.51, 1.0))
        self.assertIsNone(neighbour.figures([], [], 1.0)["p99"])

    def test_nested_loops_are_balanced(self):
        text = hostile.nested(3)
        self.assertEqual(text.count("("), text.count(")"))
        self.assertEqual(text.count("(loop"), 3)


if __name__ == "__main__":
    unittest.main()
