"""What `scripts/cinder` tells: Cinder writes and afterimage reads; afterimage writes and Cinder restores and goes on.

    cinder_story.py AFTERIMAGE WORK JUDGE...

JUDGE is a command that runs `cinder_driver.py` with some release of Cinder. Every step is compared byte by byte with the image that it should give;
the first that differs ends the story with exit code 1.
"""

import itertools
import json
import os
import random
import shlex
import subprocess
import sys
import uuid

BLOCK = 32768
MIB = 1 << 20
COMPRESSIONS = ["zlib", "bz2", "zstd", "none"]
OBJECT_SIZES = [32 * BLOCK, 61 * BLOCK]
# Larger than several objects, no multiple of anything.
SIZE = 5 * MIB + 12345


class Judge:
    """One process of Cinder's, asked one thing after the other."""

    def __init__(self, command, root, records):
        words = [*command, root, records, "batch"]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *words):
        self.process.stdin.write(shlex.join(str(word) for word in words) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            fail("the judge has gone")
        told = json.loads(answer) if answer[:1] in "{[" else answer.strip()
        if isinstance(told, dict) and "error" in told:
            fail(f"Cinder: {shlex.join(map(str, words))}: {told['error']}")
        return told

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def fail(words):
    print(f"cinder: {words}", file=sys.stderr)
    sys.exit(1)


class Afterimage:
    def __init__(self, command, work):
        self.command = command
        self.env = dict(os.environ, XDG_CACHE_HOME=f"{work}/cache", XDG_STATE_HOME=f"{work}/state")

    def run(self, *words, **named):
        words = [self.command, *map(str, words)]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, env=self.env, timeout=600, **named)
        if done.returncode:
            fail(f"{shlex.join(words)}: exit code {done.returncode}\n{done.stdout.decode()[-2000:]}{done.stderr.decode()[-4000:]}")
        return done.stdout

    def json(self, *words):
        # Long work tells how far it is, one line each; the result comes last.
        return json.loads(self.run("--json", *words).splitlines()[-1])


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)
    return path


def read(path):
    with open(path, "rb") as file:
        return file.read()


def same(found, wanted, what):
    if found == wanted:
        return
    at = next((at for at, (a, b) in enumerate(zip(found, wanted)) if a != b), min(len(found), len(wanted)))
    fail(f"{what}: differs at byte {at} (lengths {len(found)} and {len(wanted)})")


def images():
    """A volume at four moments: written, changed, trimmed in places, and written again."""
    dice = random.Random(20260105)
    first = bytearray(SIZE)
    for start, length in [(0, MIB), (3 * MIB // 2, MIB // 2), (3 * MIB + 777, MIB), (SIZE - 5000, 5000)]:
        first[start : start + length] = dice.randbytes(length)
    first[2 * MIB : 3 * MIB] = (b"the same words again and again. " * (MIB // 32))[:MIB]
    second = bytearray(first)
    for start in [10, 40 * BLOCK, 41 * BLOCK - 3, SIZE - 7]:
        second[start : start + 5] = b"other"
    second = second[:SIZE]
    third = bytearray(second)
    # Whole blocks, parts of blocks, and more than one MiB that turn to zeros.
    for start, length in [(BLOCK, 3 * BLOCK), (3 * MIB - 100, MIB + MIB // 4), (SIZE - 5000, 5000)]:
        third[start : start + length] = bytes(min(length, SIZE - start))
    fourth = bytearray(third)
    fourth[3 * MIB : 3 * MIB + 9000] = dice.randbytes(9000)
    return [bytes(image) for image in (first, second, third, fourth)]


def ids(count):
    return [str(uuid.uuid4()) for _ in range(count)]


def cinder_writes(work, afterimage, command, states):
    """Every compression, two sizes of objects, two layouts: fulls and increments of Cinder's are images, and become backups of ours."""
    for number, (compression, object_size) in enumerate(itertools.product(COMPRESSIONS, OBJECT_SIZES)):
        layout = ["posix", "swift"][number % 2]
        base = f"{work}/theirs-{number}"
        root = f"{base}/root"
        os.makedirs(root)
        judge = Judge(command, root, f"{base}/records")
        volume, backups, parent = ids(1)[0], ids(len(states)), None
        for place, (backup, image) in enumerate(zip(backups, states)):
            path = write(f"{base}/image", image)
            chain = ["--parent", parent] if parent else []
            judge.ask("backup", path, "--id", backup, "--volume", volume, "--name", f"night-{place}", "--volume-name", "web01",
                      "--created", f"2026-01-0{place + 1}T05:00:00+00:00", "--compression", compression, "--object-size", object_size,
                      "--layout", layout, "--property", "purpose=test", "--image-property", "os=debian", *chain)
            parent = backup
        judge.end()
        what = f"Cinder's {layout}, {compression}, objects of {object_size}"
        for backup, image in zip(backups, states):
            same(afterimage.run("-r", f"cinder:{root}", "cat", backup), image, f"{what}: {backup}")
        afterimage.run("-r", f"cinder:{root}", "check", "--read-data")
        native = f"{base}/native"
        afterimage.run("-r", native, "init")
        afterimage.run("-r", native, "backup", f"cinder:{root}#{volume}", "--name", "web01")
        listed = afterimage.json("-r", native, "list")
        if [record["time"] for record in listed] != [f"2026-01-0{place + 1}T05:00:00Z" for place in range(len(states))]:
            fail(f"{what}: imported as {[record['time'] for record in listed]}")
        for record, image in zip(listed, states):
            same(afterimage.run("-r", native, "cat", record["id"]), image, f"{what}, imported: {record['id']}")
        afterimage.run("-r", native, "check", "--read-data")
        print(f"  {what}: {len(states)} backups read and imported")


def afterimage_writes(work, afterimage, command, states, restores_new_wrongly):
    """What we export is imported, restored onto used and new volumes, and a base for Cinder's next increment."""
    native = f"{work}/native"
    afterimage.run("-r", native, "init", "--chunk-size", "64K")
    for place, image in enumerate(states[:3]):
        path = write(f"{work}/image", image)
        afterimage.run("-r", native, "backup", path, "--name", "web01", "--time", f"2026-01-0{place + 1}T05:00:00Z")
    # There is no bz2 of ours.
    for number, (compression, object_size) in enumerate(itertools.product(["zlib", "zstd", "none"], OBJECT_SIZES)):
        base = f"{work}/ours-{number}"
        root = f"{base}/root"
        os.makedirs(root)
        afterimage.run("-r", native, "export", "web01", "--to", f"cinder:{root}", "--chain", "--compression", compression,
                       "--object-size", object_size)
        told = afterimage.run("-r", f"cinder:{root}", "list", "--json")
        backups = [record["id"] for record in json.loads(told)]
        if len(backups) != 3:
            fail(f"{len(backups)} backups were exported")
        records = afterimage.run("-r", f"cinder:{root}", "record", "export", backups[-1], "--format", "cinder", "--chain")
        judge = Judge(command, root, f"{base}/records")
        imported = judge.ask("import", write(f"{base}/records.txt", records))
        what = f"ours, {compression}, objects of {object_size}"
        for place, (backup, image) in enumerate(zip(imported, states)):
            same(afterimage.run("-r", f"cinder:{root}", "cat", backup), image, f"{what}, read by us: {backup}")
            out = write(f"{base}/used", b"\xa5" * SIZE)
            judge.ask("restore", backup, out)
            same(read(out), image, f"{what}, onto a used volume: {backup}")
            if place == 0 or not restores_new_wrongly:
                out = write(f"{base}/new", bytes(SIZE))
                judge.ask("restore", backup, out, "--new")
                same(read(out), image, f"{what}, onto a new volume: {backup}")
        volume = afterimage.json("-r", f"cinder:{root}", "show", backups[-1])["metadata"]["volume_id"]
        stacked = ids(1)[0]
        path = write(f"{base}/image", states[3])
        judge.ask("backup", path, "--id", stacked, "--volume", volume, "--parent", imported[-1], "--name", "stacked",
                  "--created", "2026-02-01T05:00:00+00:00", "--compression", compression, "--object-size", object_size)
        out = write(f"{base}/used", b"\xa5" * SIZE)
        judge.ask("restore", stacked, out)
        same(read(out), states[3], f"{what}, with Cinder's next increment")
        same(afterimage.run("-r", f"cinder:{root}", "cat", stacked), states[3], f"{what}, Cinder's next increment read by us")
        judge.end()
        print(f"  {what}: imported, restored, and stacked on")


def main():
    command, work, *judge = sys.argv[1:]
    afterimage = Afterimage(command, work)
    version = subprocess.run([*judge, work, f"{work}/none", "version"], capture_output=True, text=True, check=True).stdout.strip()
    release = tuple(int(part) for part in version.split(".")[:2])
    print(f"Cinder {version}")
    states = images()
    cinder_writes(work, afterimage, judge, states)
    afterimage_writes(work, afterimage, judge, states, (22, 0) <= release < (29, 0))


if __name__ == "__main__":
    main()
