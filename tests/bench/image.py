"""A real file system, copied into an empty disk and out again by the programs people use for it."""

import filecmp
import os
import shutil
import stat
import time

import servers
from figures import MORE, Measurement
from process import Failed, run

MIB = 1 << 20
SOURCES = ("/usr/share", "/usr/lib", "/usr/bin")

# The largest file to take: many small ones are what file systems hold.
LARGEST_FILE = 4 * MIB

CLIENTS = {
    "nbdcopy": (
        lambda image, uri: ["nbdcopy", image, uri],
        lambda uri, image: ["nbdcopy", uri, image],
    ),
    "qemu-img": (
        lambda image, uri: ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, uri],
        lambda uri, image: ["qemu-img", "convert", "-f", "raw", "-O", "raw", uri, image],
    ),
}


def make(path, size, scratch):
    """Makes an image of an ext4 file system of files that this machine has, of `size` bytes."""
    files = os.path.join(scratch, "files")
    count = copy_files(files, size * 3 // 4)
    try:
        program = shutil.which("mke2fs") or "/usr/sbin/mke2fs"
        inodes = ["-N", count * 2 + 1000]
        run([program, "-q", "-t", "ext4", *inodes, "-d", files, path, f"{size // 1024}k"])
    finally:
        shutil.rmtree(files)


def copy_files(target, most):
    """Copies files, at most so many bytes; their number."""
    count = total = 0
    for source in SOURCES:
        for directory, directories, names in os.walk(source):
            directories.sort()
            for name in sorted(names):
                path = os.path.join(directory, name)
                status = os.lstat(path)
                if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= LARGEST_FILE:
                    continue
                # A file takes whole blocks of the file system.
                total += -(-status.st_size // 4096) * 4096
                if total > most:
                    return count
                copy = target + path
                os.makedirs(os.path.dirname(copy), exist_ok=True)
                shutil.copyfile(path, copy)
                count += 1
    raise Failed(f"there are not {most} bytes of files in {', '.join(SOURCES)}")


def measure(found, place, settings, report):
    """Copies in and out, on all servers in turns, each time with a server that has just started."""
    names = [f"image/{client}-{way}" for client in CLIENTS for way in ("in", "out")]
    if not any(settings.chooses(name) for name in names):
        return []
    measurements = {name: Measurement(name, "MiB/s", MORE) for name in names}
    size = settings.image_size
    image = place.new("img", in_memory=place.memory_directory is not None)
    with report.failures("image"):
        make(image, size, place.directory)
        for client in CLIENTS:
            # In and out are one: what comes out must be what went in.
            if not any(settings.chooses(f"image/{client}-{way}") for way in ("in", "out")):
                continue
            for turn in range(settings.rounds):
                for server in settings.in_turn([each for each in found if each.stores], turn):
                    with report.failures(f"image by {client} on {server.name}"):
                        seconds = there_and_back(client, server, image, size, place, settings)
                        for way, spent in zip(("in", "out"), seconds):
                            name = f"image/{client}-{way}"
                            measurements[name].add(server.name, size / MIB / spent)
    chosen = [each for each in measurements.values() if settings.chooses(each.name)]
    for each in chosen:
        report.progress(each)
    return chosen


def there_and_back(client, server, image, size, place, settings):
    """The seconds that it takes to copy the image into an empty disk, and out of it."""
    into, out_of = CLIENTS[client]
    back = image + ".back"
    try:
        with servers.started(server, place, "unix", size, settings.pin_servers) as running:
            times = [time.perf_counter()]
            for command in (into(image, running.uri), out_of(running.uri, back)):
                run(command)
                times.append(time.perf_counter())
        if not filecmp.cmp(image, back, shallow=False):
            raise Failed("what came back is not what was copied there")
    finally:
        if os.path.exists(back):
            os.unlink(back)
    return times[1] - times[0], times[2] - times[1]
