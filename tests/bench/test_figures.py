"""Medians, ratios and means, and how they are written."""

import unittest

from figures import (
    LESS,
    MORE,
    Measurement,
    geometric_mean,
    mean_ratio,
    number,
    rank_test,
    ratio,
    times,
)


class Figures(unittest.TestCase):
    def measurement(self, better=MORE):
        each = Measurement("unix/w", "requests/s", better, cost_unit="s/M requests")
        for value in (30, 10, 20):
            each.add("memnbd", value)
        each.add("nbdkit", 10)
        for value in (2, 4):
            each.add_cost("memnbd", value)
        each.add_cost("nbdkit", 6)
        return each

    def test_ratio_is_of_medians(self):
        self.assertEqual(self.measurement().ratio("memnbd", "nbdkit"), 2)

    def test_ratio_above_one_is_better_where_less_is_better(self):
        self.assertEqual(self.measurement(LESS).ratio("memnbd", "nbdkit"), 0.5)
        self.assertEqual(self.measurement().cost_ratio("memnbd", "nbdkit"), 2)

    def test_server_without_figures_has_no_ratio(self):
        each = self.measurement()
        self.assertIsNone(each.median("qemu-nbd"))
        self.assertIsNone(each.ratio("memnbd", "qemu-nbd"))

    def test_nothing_measured_has_no_ratio(self):
        self.assertIsNone(ratio(0.0, 1.0, LESS))
        self.assertIsNone(ratio(1.0, 0.0, MORE))

    def test_ranks_tell_which_are_greater_and_how_surely(self):
        greater, z = rank_test(list(range(100)), [each + 50.5 for each in range(100)])
        # Of 10,000 pairs, in 49 + 48 + ... + 1 the first is the greater one.
        self.assertAlmostEqual(greater, 1 - 1225 / 10_000)
        self.assertGreater(z, 9)
        self.assertAlmostEqual(rank_test([1, 2], [3, 4])[1], 2 / (4 / 12 * 5) ** 0.5)
        for ones, others in (([1, 2, 3], [1, 2, 3]), ([7] * 5, [7] * 9)):
            self.assertEqual(rank_test(ones, others), (0.5, 0.0))
        self.assertLess(rank_test([2] * 50, [1] * 50)[1], -9)

    def test_geometric_mean_leaves_out_what_is_missing(self):
        self.assertAlmostEqual(geometric_mean([0.5, None, 8]), 2)
        self.assertIsNone(geometric_mean([None]))

    def test_mean_ratio_is_over_workloads(self):
        both = [self.measurement(MORE), self.measurement(LESS)]
        self.assertAlmostEqual(mean_ratio(both, "memnbd", "nbdkit"), 1)
        self.assertAlmostEqual(mean_ratio(both, "memnbd", "nbdkit", cost=True), 2)

    def test_numbers_have_three_digits(self):
        figures = (0, 0.01234, 1.5, 99.96, 123.4, 1234, 987654, None)
        expected = ["0", "0.0123", "1.50", "100.0", "123", "1,230", "988,000", "-"]
        self.assertEqual([number(figure) for figure in figures], expected)
        self.assertEqual([times(1.234), times(None)], ["1.23", "-"])
