"""Tests of what the comparison of filters tells."""

import unittest

import filters
from figures import MORE, Measurement


def measured(chain, rate, cost):
    """Every workload as many times as fast, and as cheap, as on nbdkit."""
    found = []
    for workload in filters.WORKLOADS:
        one = Measurement(f"{chain.name}/{workload.name}", "requests/s", MORE)
        for server, value, seconds in (("memnbd", rate, 1.0), ("nbdkit", 1.0, cost)):
            one.add(server, value)
            one.add_cost(server, seconds)
        found.append(one)
    return found


class Filters(unittest.TestCase):
    def test_filters_below_their_goal_are_told(self):
        slow, fast = filters.one("slow", "pass"), filters.one("fast", "data")
        results = [(slow, measured(slow, 1.4, 2.0)), (fast, measured(fast, 1.1, 0.5))]
        text = filters.markdown({"cpu": "one"}, "quick", results, ["busy"])
        rows = {line.split(" | ")[0]: line for line in text.splitlines() if " 1.40 " in line}
        self.assertIn("below the goal", rows["| slow"])
        self.assertNotIn("| fast |", "".join(rows.values()))
        self.assertEqual(text.count("below the goal"), 1)
        self.assertIn("**busy**", text)
        self.assertIn("| slow | 2.00 |", text)

    def test_chains_are_the_same_for_both_servers(self):
        names = [chain.name for chain in filters.CHAINS]
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual(names[0], filters.NONE)
        for chain in filters.CHAINS:
            self.assertIn(chain.kind, filters.GOALS)
            self.assertTrue(all("=" in word for word in chain.parameters), chain)

    def test_command_has_the_filters_before_the_disk_and_the_parameters_after_it(self):
        class Server:
            name, stores = "x", True

            def command(self, listen, size, file):
                return ["x", "-U", listen, "memory", f"size={size}"]

        chain = filters.one("offset", "pass", "offset=4k")
        command = filters.WithFilters(Server(), chain).command("s", 1 << 20, None)
        expected = ["x", "--filter=offset", "-U", "s", "memory", f"size={2 << 20}", "offset=4k"]
        self.assertEqual(command, expected)


if __name__ == "__main__":
    unittest.main()
