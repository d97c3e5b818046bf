"""What the time of an answer tells a tenant of names and tenants that are not its own.

Each question is asked of something that is nowhere and of something that another tenant has, in turns and in
random order. The answers are the same; their times should be, too.
"""

import http.client
import json
import os
import random
import socket
import statistics
import struct
import time

import machine
import nbd
import process
import report
import servers
import settings as options
from figures import number, rank_test

# How many disks the other tenant has.
DISKS = 200

# How many options a connection sends.
ANSWERS = 20

# Requests with tokens of a tenant in a second: fewer than the API lets through.
PACE = 150

CONFIGURATION = """
[tenants.mine]
listen = ["unix:{mine}"]
tokens.all = {{ role = "tenant", digest = "{digest}" }}
tokens.nbd = {{ role = "connect", digest = "{connect}" }}
[tenants.mine.disks.own]
parameters = ["size=1M"]

[tenants.other]
quotas.disks = 1000
"""

ABSENT, FOREIGN = "absent", "of the other tenant"


class Shared(servers.Memnbd):
    """A server of two tenants."""

    def __init__(self, program, configuration, control):
        super().__init__("memnbd", program)
        self.configuration, self.control = configuration, control

    def command(self, listen, size, file):
        control = f"--control=unix:{self.control}"
        return [self.program, "-f", "-U", listen, control, f"--config={self.configuration}", "1M"]


class Haggling(nbd.Connection):
    """A connection that asks for exports and never begins to use one."""

    def _haggle(self, export, block_status):
        self._receive(18)
        self.socket.sendall(struct.pack(">I", 3))

    def ask(self, option, name):
        """The time in us until the answer, which is a refusal."""
        name = name.encode()
        data = struct.pack(">I", len(name)) + name + b"\0\0"
        request = nbd.OPTIONS + struct.pack(">II", option, len(data)) + data
        start = time.perf_counter_ns()
        self.socket.sendall(request)
        _, _, kind, length = struct.unpack(">QIII", self._receive(20))
        took = (time.perf_counter_ns() - start) / 1000
        self._receive(length)
        if kind != 0x80000006:
            raise nbd.Error(f"{name!r}: reply {kind:#x} instead of that there is none")
        return took


class Haggler:
    """Asks for exports over one connection after the other: a server answers only so often on each."""

    def __init__(self, address):
        self.address, self.connection, self.left = address, None, 0

    def ask(self, option, name):
        if self.left == 0:
            if self.connection:
                self.connection.close()
            self.connection, self.left = Haggling(self.address), ANSWERS
            # The first answer takes longer.
            self.connection.ask(option, "x" * len(name))
        self.left -= 1
        return self.connection.ask(option, name)


class Api(http.client.HTTPConnection):
    """A client of the control API over its Unix domain socket."""

    def __init__(self, path):
        super().__init__("memnbd")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self.path)

    def ask(self, path, token, status):
        """The time in us until the answer has come."""
        if self.sock is None:
            self.connect()
        start = time.perf_counter_ns()
        self.request("GET", path, headers={"authorization": f"Bearer {token}"})
        answer = self.getresponse()
        answer.read()
        took = (time.perf_counter_ns() - start) / 1000
        if answer.status != status:
            raise nbd.Error(f"{path}: status {answer.status} instead of {status}")
        return took


def secret(client):
    return json.loads(process.run([client, "token", "--json"]))


def questions(place, control, tokens, names):
    """What is asked, and how: a function of the kind of answer and a number. Names are of the same length."""
    mine, shared = Haggler(place["mine"]), Haggler(place["shared"])
    api, stranger = Api(control), Api(control)
    token, connect = tokens["all"]["secret"], tokens["nbd"]["secret"]
    # As long as a secret, and none.
    wrong = [connect[:8] + f"{index:0{len(connect) - 8}}" for index in range(DISKS)]

    def tenant(kind):
        return "other" if kind == FOREIGN else "nobod"

    def paced(ask):
        time.sleep(1 / PACE)
        return ask()

    def with_token(path):
        return paced(lambda: api.ask(path, token, 404))

    return {
        "NBD_OPT_GO, own socket": lambda kind, at: mine.ask(7, names[kind][at]),
        "NBD_OPT_INFO, own socket": lambda kind, at: mine.ask(6, names[kind][at]),
        "NBD_OPT_GO, TOKEN/DISK": lambda kind, at: shared.ask(7, f"{connect}/{names[kind][at]}"),
        "NBD_OPT_GO, wrong TOKEN/DISK": lambda kind, at: shared.ask(7, f"{wrong[at]}/{names[kind][at]}"),
        "API, a disk of its own tenant": lambda kind, at: with_token(f"/v1/tenants/mine/disks/{names[kind][at]}"),
        "API, disks of a tenant": lambda kind, at: with_token(f"/v1/tenants/{tenant(kind)}/disks"),
        "API, a disk of a tenant": lambda kind, at: with_token(
            f"/v1/tenants/{tenant(kind)}/disks/{names[FOREIGN][at]}"
        ),
        "API, wrong token, a tenant": lambda kind, at: stranger.ask(
            f"/v1/tenants/{tenant(kind)}/disks", wrong[at], 401
        ),
    }


def main(arguments, place):
    teller = report.begin()
    program = place.install(arguments.binary)
    client = os.path.join(os.path.dirname(arguments.binary), "memnbd")
    tokens = {"all": secret(client), "nbd": secret(client)}
    control, configuration, mine = place.new("control"), place.new("toml"), place.new("mine")
    digests = {"digest": tokens["all"]["digest"], "connect": tokens["nbd"]["digest"]}
    # Of the same form, so that nothing but their being there differs.
    numbers = random.sample(range(10**6), 2 * DISKS)
    names = {ABSENT: numbers[:DISKS], FOREIGN: numbers[DISKS:]}
    names = {kind: [f"disk-{each:06}" for each in of] for kind, of in names.items()}
    disks = [f'[tenants.other.disks.{name}]\nparameters = ["size=1M"]\n' for name in names[FOREIGN]]
    with open(configuration, "w", encoding="ascii") as file:
        file.write(CONFIGURATION.format(mine=mine, **digests) + "".join(disks))
    server = Shared(program, configuration, control)
    with servers.started(server, place, "unix", 1 << 20, None) as running:
        about = machine.describe() | {"memnbd": server.version()}
        where = {"mine": mine, "shared": running.address}
        asked = questions(where, control, tokens, names)
        chosen = {name: ask for name, ask in asked.items() if options.chooses(arguments.only, name)}
        found = {name: measure(ask, arguments.samples) for name, ask in chosen.items()}
    directory = arguments.output or options.ROOT / "target/bench"
    directory.mkdir(parents=True, exist_ok=True)
    text = markdown(about, found, arguments.samples, teller.notes)
    (directory / "lookups.md").write_text(text)
    print(f"\n{text}\nwritten to {directory}/lookups.md")


def measure(ask, samples):
    """The times of both kinds, in us."""
    found = {ABSENT: [], FOREIGN: []}
    for _ in range(100):
        for kind in found:
            ask(kind, random.randrange(DISKS))
    for _ in range(samples):
        for kind in random.sample(list(found), 2):
            found[kind].append(ask(kind, random.randrange(DISKS)))
    return found


def markdown(about, found, samples, notes):
    lines = [f"- {key}: {text}" for key, text in about.items()]
    lines += [f"- **{note}**" for note in notes]
    rows = []
    for name, times in found.items():
        row = [name]
        for kind in (ABSENT, FOREIGN):
            quartiles = [number(each) for each in statistics.quantiles(times[kind], n=4)]
            row.append("{1} ({0} to {2})".format(*quartiles))
        foreign_is_slower, z = rank_test(times[ABSENT], times[FOREIGN])
        rows.append([*row, f"{foreign_is_slower:.3f}", f"{z:+.1f}"])
    heads = ["question", f"{ABSENT}, us", f"{FOREIGN}, us", "P(foreign takes longer)", "z"]
    parts = [
        "# Look-ups",
        "\n".join(lines),
        f"The time until an answer, of {samples} questions of each kind in turns: medians and quartiles. "
        "The answers are the same. The rank test of Mann and Whitney tells how probably a question about "
        "what another tenant has takes longer than one about what is nowhere: 0.5 if the times are alike. "
        "Of times that are, z is beyond 3 in one measurement of 370.",
        report.table(heads, rows),
    ]
    return "\n\n".join(parts) + "\n"
