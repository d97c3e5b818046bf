"""What other programs and the kernel print, and what people type, is understood or refused."""

import argparse
import json
import unittest

import fio
import instructions
import machine
import process
import settings
from process import Failed


def fio_output(error=0, ios=100):
    side = {"iops": 10.5, "bw_bytes": 1 << 20, "total_ios": ios, "io_bytes": ios * 4096}
    return json.dumps({"jobs": [{"error": error, "read": side, "write": side}]})


class Parsing(unittest.TestCase):
    def test_reads_and_writes_are_added_up(self):
        result = fio.parse("fio: a message\n" + fio_output())
        self.assertEqual(result, fio.Result(21, 2 << 20, 200, 200 * 4096))

    def test_output_without_figures_is_a_failure(self):
        for output in ("", "fio: no", "{}", '{"jobs": []}', fio_output(error=5), fio_output(ios=0)):
            with self.assertRaises(Failed, msg=output):
                fio.parse(output)

    def test_cpu_time_is_found_behind_any_name(self):
        stat = "7 (a) b (c)) S " + " ".join(str(field) for field in range(1, 50))
        self.assertAlmostEqual(process.parse_cpu_seconds(stat), (11 + 12) * process.TICK)

    def test_times_of_the_machine_are_told_apart(self):
        stat = "cpu  1 2 4 8 16 32 64 128 256 512\ncpu0 0\n"
        self.assertEqual(machine.parse_times(stat), (255, 24, 128))

    def test_count_of_callgrind_is_found(self):
        self.assertEqual(instructions.parse("events: Ir\n\nfn=x\n1 2\ntotals: 1234\n"), 1234)
        with self.assertRaises(Failed):
            instructions.parse("events: Ir\n")

    def test_sizes_have_suffixes(self):
        for text, expected in (("5", 5), ("1k", 1 << 10), ("2M", 2 << 20), ("1g", 1 << 30)):
            self.assertEqual(settings.size(text), expected)
        for text in ("", "g", "-1", "1t", "0"):
            with self.assertRaises(argparse.ArgumentTypeError, msg=text):
                settings.size(text)

    def test_lists_of_cpus_have_ranges(self):
        self.assertEqual(settings.cpus("0,2-4"), {0, 2, 3, 4})


class Choice(unittest.TestCase):
    def resolve(self, *words):
        return settings.resolve(settings.parser().parse_args(["run", *words]))

    def test_pattern_chooses_workloads(self):
        chosen = self.resolve("--only", "^unix/rand.*qd1$")
        names = [each.name for each in fio.WORKLOADS if chosen.chooses(f"unix/{each.name}")]
        self.assertEqual(names, ["randread-4k-qd1", "randwrite-4k-qd1", "randrw-4k-qd1"])
        self.assertFalse(chosen.chooses("tcp/randread-4k-qd1"))

    def test_quick_mode_measures_less(self):
        names = [f"{kind}/{each.name}" for kind in ("unix", "tcp") for each in fio.WORKLOADS]
        quick = [name for name in names if self.resolve("--quick").chooses(name)]
        self.assertEqual(len(quick), len(fio.CHOSEN) + 2)
        self.assertEqual(len([name for name in names if self.resolve().chooses(name)]), 38)

    def test_usual_workloads_exist(self):
        self.assertLessEqual(set(fio.CHOSEN), {each.name for each in fio.WORKLOADS})

    def test_rounds_begin_with_servers_in_turn(self):
        chosen = self.resolve()
        self.assertEqual(chosen.in_turn(["a", "b", "c"], 4), ["b", "c", "a"])
        self.assertEqual(chosen.in_turn([], 4), [])

    def test_jobs_share_the_fixed_amount_of_work(self):
        workload = fio.Workload("randread", "4k", 16, 4)
        command = fio.command(workload, "nbd://localhost", 1 << 30, 3)
        self.assertIn(f"--io_size={200_000 * 4096 // 4}", command)
        self.assertNotIn("--time_based", command)
