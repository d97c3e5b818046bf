"""The rows of the table of attacks: what is served, what is done, and which tests hold it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import hostile
import nbd
from hostile import MIB, block
from tenants import read

LOOP = "(call $loop-forever) (unreachable)"
SEVEN = block(
    "modules", "(core module $one (memory 1))\n" + "(core instance (instantiate $one))\n" * 7
)
CROWD = ("--max-connections=4096",)


@dataclass
class Row:
    """An attack. The attacker has a component for each export in `components`, or a disk in memory.
    Without an attack, the tests alone hold the row."""

    group: str
    name: str
    before: str
    test: str
    attack: Callable | None = None
    components: dict = field(default_factory=dict)
    options: tuple = ()
    limits: str = ""


def component(name, before, test, attack=None, overlays=None, options=(), **others):
    components = {"a": overlays} if overlays is not None else {}
    return Row("Components", name, before, test, attack, components, options, **others)


def client(name, before, test, attack=None, options=()):
    return Row("Clients", name, before, test, attack, {}, options)


def operation(name, before, test, attack=None, overlays=None, options=(), limits=""):
    components = {"a": overlays} if overlays is not None else {}
    return Row("Operation", name, before, test, attack, components, options, limits)


COMPONENTS = [
    component(
        "a 64-bit memory grown past its mapping",
        "**harm**: other disks read and overwritten, SIGABRT",
        "`hostile::features`",
        hostile.overwrite,
        ["direct", "memory64"],
    ),
    component(
        "a 32-bit memory grown to 4 GiB and reached beyond",
        "-",
        "`hostile::memory::a_memory_of_4_gib_ends_where_it_ends`",
        hostile.once(nbd.FLUSH, 0, 0),
        ["direct", "limit32"],
        ("--max-memory=5G",),
    ),
    Row(
        "Components",
        "loops in start, describe, open",
        "**harm**: ends at the deadline, exit 1, nobody is served",
        "`hostile::starts::components_that_fail_before_they_are_open_stop_nobody`",
        hostile.start,
        {name: [block(name, LOOP.replace("(unreachable)", "") if name == "start" else LOOP)]
         for name in ("start", "describe", "open")},
        ("--deadline=1",),
    ),
    component(
        "a loop in read, one client",
        "contained; p99 of 60-70 us becomes up to 2.2 ms",
        "`hostile::processor::loops_in_any_function_end_at_the_deadline`",
        hostile.reading(1),
        ["interchangeable", block("read", LOOP)],
        ("--deadline=2",),
    ),
    component(
        "a loop in read, 16 clients",
        "-",
        "`hostile::processor::loops_of_many_clients_end_at_the_deadline`",
        hostile.reading(16),
        ["interchangeable", block("read", LOOP)],
        ("--deadline=2",),
    ),
    component(
        "computing below the deadline, 6 clients",
        "**harm**: 2 requests/s; connecting takes 719 ms",
        "`hostile::processor::computing_for_six_clients_delays_nobody_else`",
        hostile.computing(6),
        ["interchangeable", "compute"],
        ("--deadline=10",),
    ),
    component(
        "computing below the deadline, 16 clients",
        "-",
        "`hostile::processor::computing_for_sixteen_clients_delays_nobody_else`",
        hostile.computing(16),
        ["interchangeable", "compute"],
        ("--deadline=10",),
    ),
    component(
        "memory.fill of 2.75 GiB, 3 clients",
        "**harm**: the neighbour stalls for 15 s",
        "`hostile::processor::filling_much_memory_at_once_delays_nobody_else`",
        hostile.reading(3),
        ["interchangeable", "fill"],
        ("--deadline=2",),
    ),
    component(
        "memory.copy of 2.75 GiB, 3 clients",
        "-",
        "`hostile::processor::moving_much_memory_at_once_delays_nobody_else`",
        hostile.reading(3),
        ["interchangeable", "copy"],
        ("--deadline=2",),
    ),
    component(
        "random bytes, 64 MiB at once, 4 clients",
        "**harm**: the neighbour stalls for 7.6 s",
        "`hostile::processor::random_bytes_without_end_delay_nobody_else`",
        hostile.reading(4),
        ["interchangeable", "random"],
        ("--deadline=2",),
    ),
    component(
        "memory.grow without end",
        "contained",
        "`hostile::memory::growth_without_end_stops_at_the_budget`, "
        "`growth_of_many_instances_stops_at_the_budget`",
        hostile.once(nbd.FLUSH, 0, 0),
        ["direct", "grow"],
        ("--max-memory=256M",),
    ),
    component(
        "recursion, with calls of the host at the end of the stack",
        "contained",
        "`hostile::processor::recursion_ends_and_harms_only_its_disk`",
        hostile.once(nbd.FLUSH, 0, 0),
        ["recursion"],
    ),
    component(
        "table.grow without end",
        "contained by the budget, 4.9 GiB by default",
        "`hostile::memory::tables_are_bounded_whatever_memory_there_is`",
        hostile.once(nbd.FLUSH, 0, 0),
        ["table"],
    ),
    component(
        "99 memories in each of hundreds of instances",
        "**harm**: 46 of 64 writes of the neighbour fail, SIGABRT",
        "`hostile::memory::a_ninth_memory_is_refused`",
        hostile.striping,
        ["direct", "striped", "memories"],
        ("--max-memory=700G",),
    ),
    component(
        "8 memories in each of hundreds of instances",
        "-",
        "`hostile::memory::hundreds_of_instances_take_nothing_from_the_neighbour`",
        hostile.striping,
        ["direct", "striped", SEVEN],
        ("--max-memory=700G",),
    ),
    component(
        "many or large tables, memories or data at the start",
        "101 memories and 1100 instances refused",
        "`hostile::memory::greed_at_the_start_is_refused_or_bounded`",
    ),
    component(
        "2000 nested loops that carry 2000 locals, 45 KB",
        "**harm**: compiles for more than 120 s, 6.1 GiB, nobody is served",
        "foreign::others_are_served_while_a_bomb_is_compiled",
        hostile.compiled,
        [hostile.nested(2000)],
    ),
    component(
        "answers that lie: lengths near 2^32, millions of chunks or extents, texts of 100 MiB",
        "contained, 411 MiB",
        "`component::tests::answers`, `component::tests::opening`",
    ),
    component(
        "printing without end, 16 clients",
        "200 lines/s for each instance, 2 MB/s",
        "`hostile::processor::printing_without_end_is_bounded_and_delays_nobody_else`",
        hostile.printing,
        ["interchangeable", "print"],
        ("--deadline=2",),
    ),
    component(
        "waiting for a far timer, 16 clients",
        "contained, the deadline holds",
        "`hostile::processor::waiting_for_a_far_timer_ends_at_the_deadline`, "
        "`component::tests::wasi::hoarding_resources_is_a_fault`",
        hostile.reading(16, 1 << 39),
        ["interchangeable", "sleep"],
        ("--deadline=2",),
    ),
    component(
        "environment, arguments, files, sockets, names",
        "empty or denied",
        "`component::tests::wasi`",
    ),
    component(
        "lies about direct access",
        "contained",
        "`component::tests::direct`, `device::guest::tests::death::lies_about_what_is_stored_harm_the_liar`",
    ),
    component(
        "another disk on the second open",
        "contained",
        "`hostile::starts::a_component_that_opens_another_disk_the_second_time_harms_nobody`",
        hostile.reading(8, 0, 3),
        ["differs"],
    ),
]

CLIENTS = [
    client(
        "1100 idle clients at one socket",
        "**harm**: the neighbour is locked out until one leaves",
        "`hostile::quotas`",
        hostile.idle,
        ("--handshake-timeout=0",),
    ),
    client(
        "1100 clients read no holes",
        "**harm**: 64 MiB for 28 bytes, 6.9 GiB for 110 clients",
        "`hostile::clients::a_crowd_that_reads_no_holes_costs_little`",
        hostile.unread(read(1 << 30, 64 * MIB, 4), 1100),
        CROWD,
    ),
    client(
        "1100 clients read no data",
        "-",
        "`hostile::clients::a_crowd_that_reads_no_data_costs_little`",
        hostile.data_unread,
        CROWD,
    ),
    client(
        "1100 clients read no block status",
        "-",
        "`hostile::clients::a_crowd_that_reads_no_block_status_costs_little`",
        hostile.status_unread,
        CROWD,
    ),
    client(
        "50 writes of 64 MiB, half sent, to the built-in disk",
        "265 MiB",
        "`hostile::clients::a_crowd_of_half_sent_writes_costs_little`",
        hostile.half_sent,
    ),
    Row(
        "Clients",
        "50 writes of 64 MiB, half sent, to a component",
        "3.2 GiB for as long as they stay",
        "`hostile::clients::a_crowd_of_half_sent_writes_costs_little`",
        hostile.half_sent,
        {"a": []},
    ),
    client(
        "clients that stop reading, or want nothing",
        "no limit",
        "`hostile::quotas::a_client_that_stops_reading_is_closed_in_time`, "
        "`a_client_that_wants_nothing_is_closed_where_that_is_asked_for`",
    ),
    client(
        "1000 clients that negotiate a byte at a time",
        "all alive after 14 s",
        "`wire::crowds::who_does_not_negotiate_in_time_is_dropped`",
        hostile.slow,
    ),
    client(
        "10,000 connections, 3000 handshakes",
        "at most 19 ms",
        "`hostile::quotas::clients_that_come_and_go_delay_nobody_else`",
        hostile.connecting,
    ),
    client(
        "options without end whose answers are not read, 200 clients",
        "at most 19 ms",
        "`hostile::floods::unread_answers_to_options_cost_little`, "
        "`wire::crowds::options_without_end_are_ended`",
        hostile.asking,
    ),
    client(
        "TLS: handshakes, replies not read",
        "1800 handshakes: at most 22 ms",
        "`hostile::floods::unread_replies_inside_tls_cost_little`, `tls::hostile`",
    ),
    client(
        "3000 clients that break the protocol",
        "525 KB of warnings in 0.4 s",
        "`life::flood::thousands_of_broken_clients_log_little`",
        hostile.broken,
    ),
    client(
        "a disk is filled to its limit",
        "contained",
        "`hostile::memory::a_disk_that_is_filled_takes_nothing_from_the_neighbour`",
        hostile.filling,
        ("--max-memory=512M",),
    ),
    client(
        "zeroes and trims of 4 GiB, 8 clients",
        "-",
        "`hostile::floods::requests_about_a_whole_huge_disk_delay_nobody_else`",
        hostile.zeroing,
    ),
    client(
        "100 clients vanish with 128 MiB of reads in flight",
        "-",
        "`hostile::floods::clients_that_vanish_with_requests_in_flight_leave_nothing`",
        hostile.vanishing,
    ),
    client(
        "4 connections, 16 reads of 4 KiB at once",
        "p99 399 us",
        "`hostile::floods::busy_clients_leave_time_for_the_neighbour`",
        hostile.loading(nbd.READ, 4096),
    ),
    client(
        "4 connections, 16 writes of 256 KiB at once",
        "p99 3.5 ms",
        "`hostile::floods::busy_clients_leave_time_for_the_neighbour`",
        hostile.loading(nbd.WRITE, 256 << 10),
    ),
]

OPERATION = [
    operation(
        "stopped for 3 s in the middle of a call, deadline 1 s",
        "**harm**: the disk is dead",
        "`hostile::processor::a_process_that_was_stopped_loses_no_disk`, "
        "`a_process_that_was_stopped_while_a_component_waits_loses_no_disk`",
        hostile.paused,
        ["compute"],
        ("--deadline=1",),
    ),
    operation(
        "addresses limited (RLIMIT_AS), instances of 8 memories",
        "exit, or ENOSPC and a message about another limit",
        "`hostile::memory::an_instance_that_finds_no_addresses_refuses_writes_alone`, "
        "`an_instance_that_finds_no_addresses_leaves_the_others_to_serve`",
        hostile.striping,
        ["direct", "striped", SEVEN],
        ("--max-memory=700G",),
        "-v 68000000",
    ),
    operation(
        "64 file descriptors",
        "open clients are served, new ones wait",
        "`wire::crowds::accepting_goes_on_when_file_descriptors_run_out`, "
        "`life::flood::limit_on_descriptors_is_raised`",
    ),
    operation(
        "TERM and KILL under load, sockets left over",
        "good",
        "`wire::shutdown`, `life::end::stale_socket_is_replaced`",
    ),
    operation(
        "TERM with slow flushes queued; a second TERM",
        "**harm**: alive after 60 s, the second is ignored",
        "`life::stop`",
    ),
    operation(
        "stderr is a pipe that nobody reads",
        "**harm**: all tenants freeze, TERM is ignored",
        "`life::flood::stderr_that_nobody_reads_holds_nobody_up`",
    ),
    operation(
        "a log file at RLIMIT_FSIZE",
        "killed by SIGXFSZ",
        "`life::flood::log_file_that_must_not_grow_is_an_error_and_not_the_end`",
    ),
    operation(
        "the cache: other owners, flipped bits, bombs, modes",
        "**harm**: another user's machine code ran as root",
        "component::cache::tests",
    ),
]

ROWS = COMPONENTS + CLIENTS + OPERATION
