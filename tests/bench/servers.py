"""The servers that are compared: how each is started, found and stopped. All serve raw disks
that are in memory."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import process
from process import Failed

# How long a server may take until it listens, and until it has stopped, in seconds.
PATIENCE = 60


class Server:
    """A server that is installed. `stores` says whether it keeps what it is given."""

    stores = True

    def __init__(self, name, program, backend="memory", filters=()):
        self.name = name
        self.program = str(program)
        self.backend = backend
        self.stores &= backend == "memory" or backend.startswith("file")
        self.filters = filters

    def version(self):
        return process.run([self.program, "--version"]).splitlines()[0].rpartition("/")[2].strip()

    def prepare(self, place, size):
        """Makes the file that the server keeps the disk in, if it needs one."""

    def command(self, listen, size, file):
        raise NotImplementedError

    def input(self, listen):
        """What the standard input is, in a context."""
        return contextlib.nullcontext(subprocess.DEVNULL)


def sparse_file(place, size, in_memory):
    path = place.new("raw", in_memory)
    with open(path, "wb") as file:
        file.truncate(size)
    return path


class Nbdkit(Server):
    """Also memnbd, whose command line is the same. The backend `file` has a file in tmpfs, and
    `file-on-disk` one on disk."""

    def prepare(self, place, size):
        if self.backend.startswith("file"):
            return sparse_file(place, size, in_memory=self.backend == "file")
        return None

    def command(self, listen, size, file):
        where = ["-U", listen] if isinstance(listen, str) else ["-i", listen[0], "-p", listen[1]]
        disk = ["file", f"file={file}"] if file else [self.backend, f"size={size}"]
        if self.backend == "data":
            # Half of it is stored.
            disk.append("data=( (0x55 0xaa)*32768 @+65536 )*512")
        filters = [f"--filter={name}" for name in self.filters]
        return [self.program, "-f", *where, *filters, *disk]


class Memnbd(Nbdkit):
    pass


class QemuNbd(Server):
    """A sparse file in tmpfs is qemu-nbd's memory."""

    def prepare(self, place, size):
        return sparse_file(place, size, in_memory=True)

    def command(self, listen, size, file):
        where = ["-k", listen] if isinstance(listen, str) else ["-b", listen[0], "-p", listen[1]]
        image = ["-f", "raw", "--cache=writeback", "--aio=threads", "--discard=unmap"]
        return [self.program, "--persistent", "--shared=0", *where, *image, file]


class Null(Server):
    """Ours: moves bytes and stores nothing."""

    stores = False

    def version(self):
        return "moves bytes only"

    def command(self, listen, size, file):
        return [self.program, size, listen if isinstance(listen, str) else "-"]

    def input(self, listen):
        """For TCP a socket that listens. Those that are accepted send as it does: without measuring rates
        and keeping to them, as BBR does, or they would be no ceiling."""
        if isinstance(listen, str):
            return super().input(listen)
        listener = socket.create_server(listen)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        return listener


class Place:
    """Where sockets, logs and images go: a directory on disk and one in memory, gone at the end."""

    def __init__(self, directory, memory_directory):
        self.directory = Path(directory)
        self.memory_directory = memory_directory and Path(memory_directory)
        self.count = 0

    def new(self, kind, in_memory=False):
        self.count += 1
        directory = self.memory_directory if in_memory else self.directory
        if directory is None:
            raise Failed("there is no tmpfs at /dev/shm")
        return str(directory / f"{self.count}.{kind}")

    def install(self, program):
        """A copy of a program, which the kernel then has in large pages, as it does whatever was
        installed. A linker writes in pieces, and a start from what it left takes a tenth longer."""
        return shutil.copy(program, self.new("program"))


class Running:
    """A server that listens, at a path or at a tuple of host and port."""

    def __init__(self, server, child, address, file, log):
        self.server, self.child, self.log = server, child, log
        self.address, self.file = address, file

    @property
    def name(self):
        return self.server.name

    @property
    def uri(self):
        if isinstance(self.address, str):
            return f"nbd+unix:///?socket={self.address}"
        return f"nbd://{self.address[0]}:{self.address[1]}"

    def cpu(self):
        return process.cpu_seconds(self.child.pid)

    def resident(self):
        return process.resident(self.child.pid)

    def stored(self):
        """All memory that the server takes, for what it stores and for itself."""
        return self.resident() + (os.stat(self.file).st_blocks * 512 if self.file else 0)

    def wait_until_listening(self):
        end = time.monotonic() + PATIENCE
        while not connects(self.address):
            if self.child.poll() is not None:
                said = Path(self.log).read_text(errors="replace").strip().splitlines()
                raise Failed(f"{self.name} ended: {said[-1] if said else 'no message'}")
            if time.monotonic() > end:
                raise Failed(f"{self.name} did not listen in {PATIENCE} s")
            time.sleep(0.001)

    def stop(self):
        self.child.terminate()
        try:
            self.child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        for path in (self.address, self.file):
            if isinstance(path, str):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)


def connects(address):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as stream:
        try:
            stream.connect(address)
        except OSError:
            return False
        return True


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def new_address(place, transport):
    return place.new("sock") if transport == "unix" else ("127.0.0.1", free_port())


def spawn(server, place, transport, size, cpus=None, arguments=(), environment=None):
    """Starts a server and does not wait for it. The caller stops it."""
    file = server.prepare(place, size)
    address = new_address(place, transport)
    pin = ["taskset", "-c", cpus] if cpus else []
    command = [*pin, *server.command(address, size, file), *arguments]
    log = place.new("log")
    try:
        with open(log, "wb") as output, server.input(address) as stdin:
            child = subprocess.Popen(
                [str(word) for word in command],
                stdin=stdin,
                stdout=output,
                stderr=output,
                env=environment,
                # Ctrl-C is for us, who stop it in good order.
                start_new_session=True,
            )
    except OSError as error:
        raise Failed(f"{command[0]}: {error.strerror}") from error
    return Running(server, child, address, file, log)


@contextlib.contextmanager
def started(server, place, transport, size, cpus=None, arguments=()):
    """A server that listens, for as long as the block runs."""
    running = spawn(server, place, transport, size, cpus, arguments)
    try:
        running.wait_until_listening()
        yield running
    finally:
        running.stop()


def find(names, binary, null, place, also=(), backend="memory", filters=()):
    """The servers of these names that are there, and what to say of those that are not.

    `also` has pairs of a name and another build of memnbd-host. `backend` is what memnbd and nbdkit
    serve, and `filters` what they put before it, but for the other builds.
    """
    others = {name for name, _ in also}
    known = {"memnbd": (Memnbd, binary), "nbdkit": (Nbdkit, "nbdkit")}
    known |= {"qemu-nbd": (QemuNbd, "qemu-nbd"), "null": (Null, null)}
    known |= {name: (Memnbd, path) for name, path in also}
    found, missing = [], []
    for name in [*names, *(name for name, _ in also)]:
        kind, program = known[name]
        path = shutil.which(program)
        if path is None:
            missing.append(f"{name} is left out: there is no {program}")
        elif kind is QemuNbd and not Path("/dev/shm").is_dir():
            missing.append(f"{name} is left out: there is no tmpfs at /dev/shm for its disk")
        else:
            ours = kind in (Memnbd, Null)
            before = () if name in others else filters
            found.append(kind(name, place.install(path) if ours else path, backend, before))
    return found, missing
