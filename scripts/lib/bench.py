"""What every bench needs: one way to take a time, to control the page cache, to make a disk, and to print medians."""
import contextlib
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import time

MIB = 1 << 20
RUNS = int(os.environ.get("BENCH_RUNS", "5"))
WORK = pathlib.Path(os.environ.get("BENCH_WORK", "."))
IMAGES = pathlib.Path(os.environ.get("BENCH_IMAGES", "."))
TOOLS = pathlib.Path(os.environ.get("BENCH_TOOLS", "."))
AFTERIMAGE = os.environ.get("AFTERIMAGE", "afterimage")


def skipped(reason):
    print(f"SKIPPED {reason}", flush=True)


class Measure:
    """How long a command took, and the most memory it held."""

    def __init__(self, seconds, peak_kib):
        self.seconds = seconds
        self.peak_kib = peak_kib


def run(command, env=None, cwd=None, into=None, sync=None, accept=(0,)):
    """Runs a command, whose stdout goes nowhere or `into` a file; the sync of a directory's file system is part of its time.

    The peak is the kernel's, of that process and no other.
    """
    log = WORK / "stderr"
    with open(log, "wb") as words, open(into or os.devnull, "wb") as out, open(os.devnull, "rb") as nothing:
        began = time.monotonic()
        child = subprocess.Popen(command, env=dict(os.environ, **(env or {})), cwd=cwd, stdin=nothing, stdout=out, stderr=words)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if sync is not None:
            subprocess.run(["sync", "-f", str(sync)], check=True)
        seconds = time.monotonic() - began
    if child.returncode not in accept:
        sys.stderr.write(log.read_text(errors="replace")[-2000:])
        raise RuntimeError(f"{command} ended with {child.returncode}")
    return Measure(seconds, usage.ru_maxrss)


def settle():
    """Nothing is left to be written, so that nobody pays for what was before."""
    os.sync()


def drop_cache():
    """Everything has to come from the disk. Wants root; without it, says once that figures are warm."""
    settle()
    try:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        if not getattr(drop_cache, "said", False):
            drop_cache.said = True
            skipped("dropping the page cache wants root: what is called cold is warm here")


def warm(path):
    """A file is in the page cache."""
    with open(path, "rb", buffering=0) as file:
        while file.read(8 * MIB):
            pass


def tree_bytes(path):
    return sum(entry.stat().st_size for entry in pathlib.Path(path).rglob("*") if entry.is_file())


def allocated(path):
    return os.stat(path).st_blocks * 512


def disk():
    """Two versions of a partitioned disk of 4 GiB, about 1.2 GiB of it in use: files of this machine's own /usr. In the
    second, 1 % of the 4 KiB blocks in use have changed, in runs as a running system writes them. Built once."""
    first, second = IMAGES / "disk-v1.img", IMAGES / "disk-v2.img"
    if not first.exists():
        build_disk(first)
    if not second.exists():
        change_disk(first, second)
    return first, second


def build_disk(out):
    print("bench: building a disk of 4 GiB from /usr (once)", flush=True)
    tree, part = WORK / "tree", WORK / "part"
    goal, taken = 1150 * MIB, 0
    for top in ("bin", "sbin", "share", "include", "lib"):
        for folder, folders, names in os.walk(f"/usr/{top}"):
            folders.sort()
            for name in sorted(names):
                path = pathlib.Path(folder) / name
                if taken < goal and path.is_file() and not path.is_symlink() and path.stat().st_size < 64 * MIB:
                    copy = tree / path.relative_to("/")
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    with contextlib.suppress(OSError):
                        shutil.copy2(path, copy)
                        taken += path.stat().st_size
    env = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
    building = WORK / "disk"
    for path, size in ((part, 4094 * MIB), (building, 4096 * MIB)):
        with open(path, "wb") as file:
            file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-d", tree, part], check=True, env=env)
    subprocess.run(["sfdisk", "-q", building], input=b"start=1MiB, size=4094MiB, type=83\n", check=True, env=env)
    subprocess.run(["dd", f"if={part}", f"of={building}", "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"], check=True)
    shutil.rmtree(tree)
    part.unlink()
    building.rename(out)


def data_ranges(path):
    """Where a sparse file has data."""
    found, at, size = [], 0, os.stat(path).st_size
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while at < size:
            try:
                begin = os.lseek(descriptor, at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(descriptor, begin, os.SEEK_HOLE)
            found.append((begin, at))
    finally:
        os.close(descriptor)
    return found


def change_disk(first, out):
    building = WORK / "changed"
    subprocess.run(["cp", "--sparse=always", first, building], check=True)
    dice = random.Random(1)
    blocks = [block for begin, end in data_ranges(first) for block in range(-(-begin // 4096), end // 4096)]
    left = len(blocks) // 100
    with open(building, "r+b") as file:
        while left > 0:
            start, length = dice.randrange(len(blocks)), min(left, dice.choice((1, 2, 4, 8, 16, 32, 64)))
            for block in blocks[start:start + length]:
                file.seek(block * 4096)
                half = dice.randbytes(2048)
                file.write(half + half.hex().encode()[:2048])
                left -= 1
    building.rename(out)


def stored_bytes(path, size):
    """How many bytes lie in aligned chunks of that size that are not all zero: what a backup has to compress and seal."""
    zero, stored, seen = bytes(size), 0, -1
    with open(path, "rb") as file:
        for begin, end in data_ranges(path):
            for chunk in range(max(begin // size, seen + 1), -(-end // size)):
                seen = chunk
                file.seek(chunk * size)
                data = file.read(size)
                stored += len(data) if data != zero[:len(data)] else 0
    return stored


def changed_chunks(first, second, size):
    """How many bytes lie in aligned chunks of that size that differ."""
    changed = 0
    ranges = data_ranges(second)
    with open(first, "rb") as one, open(second, "rb") as two:
        seen = set()
        for begin, end in ranges:
            for chunk in range(begin // size, -(-end // size)):
                if chunk in seen:
                    continue
                seen.add(chunk)
                one.seek(chunk * size)
                two.seek(chunk * size)
                changed += size if one.read(size) != two.read(size) else 0
    return changed


class Rows:
    """Measures by (row, contestant); prints medians, spread, and who is how many times as fast."""

    def __init__(self):
        self.rows = {}

    def add(self, row, who, value):
        self.rows.setdefault(row, {}).setdefault(who, []).append(value)

    def median(self, row, who):
        values = self.rows.get(row, {}).get(who)
        return statistics.median(values) if values else None

    def contestants(self, row):
        return list(self.rows.get(row, {}))

    def table(self, row, unit, derived=None, note=""):
        print(f"\n{row}{' (' + note + ')' if note else ''}, median of {max(len(v) for v in self.rows[row].values())}")
        for who, values in sorted(self.rows[row].items(), key=lambda item: statistics.median(item[1])):
            middle = statistics.median(values)
            more = f"  {derived(middle)}" if derived else ""
            print(f"  {who:<18} {middle:10.3f} {unit}  [{min(values):.3f} .. {max(values):.3f}]{more}")
        sys.stdout.flush()

    def ratio(self, row, goal, against, times, slower_is_more=True):
        """Says how many times faster `afterimage` is than the best of `against`, and whether that is the goal."""
        ours = self.median(row, "afterimage")
        others = {who: self.median(row, who) for who in against if self.median(row, who)}
        if not ours or not others:
            return
        best = min(others, key=others.get) if slower_is_more else max(others, key=others.get)
        factor = others[best] / ours if slower_is_more else ours / others[best]
        verdict = "kept" if factor >= times else "MISSED"
        print(f"  -> {factor:.2f} x {best}; goal {goal}: {verdict}", flush=True)
