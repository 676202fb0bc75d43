#!/usr/bin/python3
"""A stranger that restores backups from a container of Cinder's, written from what is known of the format and from none of our code.

    restore_cinder.py DIR list                    one JSON line for each backup, parents first
    restore_cinder.py DIR restore ID FILE         as Cinder does it: the full backup, then each increment, over what FILE holds
    restore_cinder.py DIR audit                   everything that Cinder relies on, and every digest, of every backup

It is stricter than Cinder: digests are held to, and names that do not belong there are an error.
"""

import hashlib
import json
import os
import sys
import zlib

import zstandard

METADATA, HASHES = "_metadata", "_sha256file"
DECODERS = {
    "none": lambda body: body,
    "zlib": zlib.decompress,
    # Refuses a frame that does not say how long its content is, as Cinder's module does.
    "zstd": lambda body: zstandard.ZstdDecompressor().decompress(body),
}


def fail(words):
    print(words, file=sys.stderr)
    sys.exit(1)


class Backup:
    def __init__(self, folder, name):
        self.folder, self.prefix = folder, name.removesuffix(METADATA)
        with open(os.path.join(folder, name)) as file:
            self.metadata = json.load(file)
        with open(os.path.join(folder, self.prefix + HASHES)) as file:
            self.hashes = json.load(file)
        self.id, self.parent = self.metadata["backup_id"], self.metadata["parent_id"]

    def objects(self):
        for entry in self.metadata["objects"]:
            ((name, facts),) = entry.items()
            with open(os.path.join(self.folder, name), "rb") as file:
                data = DECODERS[facts["compression"]](file.read())
            if len(data) != facts["length"] or hashlib.md5(data).hexdigest() != facts["md5"]:
                fail(f"{name}: not what its index says")
            yield facts["offset"], data

    def judge_names(self):
        """Cinder lists by prefix, and refuses to restore where anything else is there."""
        there = {name for name in os.listdir(self.folder) if name.startswith(self.prefix)}
        listed = {name for entry in self.metadata["objects"] for name in entry}
        if there != listed | {self.prefix + METADATA, self.prefix + HASHES}:
            fail(f"{self.prefix}: holds {sorted(there ^ listed)}")
        if set(os.listdir(self.folder)) != there:
            fail(f"{self.folder}: holds {sorted(set(os.listdir(self.folder)) - there)}")
        for key in ["version", "backup_id", "volume_id", "backup_name", "backup_description", "created_at"]:
            if self.metadata[key] != self.hashes[key]:
                fail(f"{self.prefix}: its two documents differ in {key}")
        if self.metadata["version"] != "1.0.0" or self.hashes["chunk_size"] != 32768:
            fail(f"{self.prefix}: not as Cinder has it")
        if self.metadata["volume_meta"] is not None and json.loads(self.metadata["volume_meta"])["version"] not in (1, 2):
            fail(f"{self.prefix}: volume_meta of another version")

    def judge_digests(self, image):
        block = self.hashes["chunk_size"]
        found = [hashlib.sha256(image[at : at + block]).hexdigest() for at in range(0, len(image), block)]
        if found != self.hashes["sha256s"]:
            fail(f"{self.prefix}: digests of blocks that it does not hold")


def backups(root):
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            if name.endswith(METADATA):
                backup = Backup(folder, name)
                found[backup.id] = backup
    return found


def chain(found, backup):
    layers = [backup]
    while layers[-1].parent:
        if layers[-1].parent not in found:
            fail(f"{layers[-1].id}: its parent {layers[-1].parent} is not there")
        layers.append(found[layers[-1].parent])
    return layers[::-1]


def restore(found, backup, onto):
    image = bytearray(onto)
    for layer in chain(found, backup):
        for offset, data in layer.objects():
            if len(image) < offset:
                image.extend(bytes(offset - len(image)))
            image[offset : offset + len(data)] = data
    return bytes(image)


def main():
    root, verb, *rest = sys.argv[1:]
    found = backups(root)
    if verb == "list":
        for backup in sorted(found.values(), key=lambda backup: len(chain(found, backup))):
            facts = {key: backup.metadata[key] for key in ["backup_id", "parent_id", "volume_id", "backup_name", "created_at"]}
            kinds = sorted({facts["compression"] for entry in backup.metadata["objects"] for facts in entry.values()})
            print(json.dumps({**facts, "objects": len(backup.metadata["objects"]), "compressions": kinds}))
    elif verb == "restore":
        with open(rest[1], "rb") as file:
            onto = file.read()
        image = restore(found, found[rest[0]], onto)
        with open(rest[1], "wb") as file:
            file.write(image)
    else:
        for backup in found.values():
            backup.judge_names()
            backup.judge_digests(restore(found, backup, b""))
        print(len(found))


if __name__ == "__main__":
    main()
