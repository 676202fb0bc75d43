#!/usr/bin/python3
"""Reads a repository without any of its code: a second opinion on src/format/FORMAT.md, whose sections are cited as (n).

    read_repository.py REPO [--password-file F] list
    read_repository.py REPO [--password-file F] cat BACKUP ITEM     the image's bytes to stdout
    read_repository.py REPO [--password-file F] tree BACKUP ITEM    what is in a tree, one JSON object a line; bytes as hexadecimal digits
    read_repository.py REPO [--password-file F] audit               opens everything and recomputes every id

Needs Debian's python3-argon2, python3-cryptography, python3-xxhash and python3-zstandard.
"""
import argparse
import functools
import hashlib
import hmac
import json
import pathlib
import struct
import sys

import argon2.low_level
import xxhash
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

DATA, NODE, TABLE, TREE, RECORD, INDEX, CATALOG, DAMAGED = 1, 2, 3, 4, 16, 17, 18, 21
CHUNK_LEN_MAX = 4 << 20
ROW = struct.Struct("<32sBII")
HEADER = struct.Struct("<8sHHI16s16s")
TRAILER = struct.Struct("<QII8s16s")
OBJECT = struct.Struct("<8sHBB16s16sI")
NODE_HEAD = struct.Struct("<BBBBIQ")


class Bad(Exception):
    """Stored bytes are not what the format says."""


def must(holds, words):
    if not holds:
        raise Bad(words)


def mac(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def expand(prk, info):  # HKDF-Expand to 32 bytes is its first block (4)
    return mac(prk, info, b"\x01")


def xxh3(data):
    return xxhash.xxh3_128_intdigest(data).to_bytes(16, "little")


class Taker:
    """Reads fields off the front of a byte string."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, length):
        must(self.at + length <= len(self.data), "it ends too early")
        self.at += length
        return self.data[self.at - length : self.at]

    def fields(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))

    def at_end(self):
        return self.at == len(self.data)


class Repository:
    def __init__(self, path, password):
        self.path = pathlib.Path(path)
        config = json.loads((self.path / "afterimage.json").read_bytes())  # (2)
        must(config["format"] == "afterimage" and config["version"] == 1, "not a repository of version 1")
        self.id = bytes.fromhex(config["repository"])
        master = self.master_key(password)
        prk = mac(self.id, master)  # (4)
        self.data_key, self.node_key, self.tree_key = (expand(prk, b"id " + what) for what in (b"data", b"node", b"tree"))
        self.seals = mac(b"afterimage seals", expand(prk, b"seal"))
        separate = "true" if config["separate"] else "false"
        lines = ["afterimage", "1", config["repository"], str(config["chunk_size"]), separate, config["created"]]
        code = mac(expand(prk, b"config"), "".join(line + "\n" for line in lines).encode())
        must(hmac.compare_digest(code, bytes.fromhex(config["mac"])), "afterimage.json is not authentic")

    def master_key(self, password):  # (3)
        for path in sorted((self.path / "keys").iterdir()):
            slot = json.loads(path.read_bytes())
            must(slot["version"] == 1, "a slot of another version")
            if bytes.fromhex(slot["repository"]) != self.id:
                continue
            if slot["lock"] == "open":
                return bytes.fromhex(slot["key"])
            must(slot["kdf"] == "argon2id", "an unknown key derivation")
            must(slot["memory_kib"] <= 1 << 20 and slot["passes"] <= 64 and slot["lanes"] <= 16, "too costly")
            if password is None:
                continue
            key = argon2.low_level.hash_secret_raw(
                password,
                bytes.fromhex(slot["salt"]),
                time_cost=slot["passes"],
                memory_cost=slot["memory_kib"],
                parallelism=slot["lanes"],
                hash_len=32,
                type=argon2.low_level.Type.ID,
                version=0x13,
            )
            wrapped = bytes.fromhex(slot["wrapped"])
            bound = b"afterimage key slot" + self.id + bytes.fromhex(path.name)
            try:
                return AESGCM(key).decrypt(wrapped[:12], wrapped[12:], bound)
            except InvalidTag:
                continue
        raise Bad("no slot opens")

    @functools.lru_cache(maxsize=64)
    def key_of(self, info):
        return AESGCM(expand(self.seals, info))

    def open(self, info, kind, name, sealed, number=0, count=0):  # (5)
        must(33 <= len(sealed) <= CHUNK_LEN_MAX + 33, "sealed bytes of an impossible length")
        bound = self.id + bytes([kind]) + name.ljust(32, b"\0") + struct.pack("<II", number, count)
        try:
            inner = self.key_of(info).decrypt(sealed[:12], sealed[12:], bound)
        except InvalidTag:
            raise Bad("the tag does not hold") from None
        method, length = struct.unpack_from("<BI", inner)
        body = inner[5:]
        must(length <= CHUNK_LEN_MAX and method in (0, 1), "an impossible length or method")
        if method == 1:
            body = zstandard.ZstdDecompressor().decompress(body, max_output_size=max(length, 1))
        must(len(body) == length, "it holds another number of bytes than it says")
        return body

    def names(self, folder):
        folder = self.path / folder
        return sorted(path for path in folder.rglob("*") if not path.name.startswith(".")) if folder.is_dir() else []

    def parts(self, kind, path):  # (8)
        data, object_id = path.read_bytes(), bytes.fromhex(path.name)
        must(xxh3(data[:-16]) == data[-16:], "the checksum of an object is wrong")
        head = (b"AFTROBJ1", 1, kind, 0, self.id, object_id)
        must(OBJECT.unpack_from(data)[:6] == head, "the header of an object is wrong")
        count, at = OBJECT.unpack_from(data)[6], Taker(data[OBJECT.size : -16])
        info = b"o" + bytes([kind]) + object_id
        opened = [self.open(info, kind, object_id, at.take(at.fields("I")[0]), n, count) for n in range(count)]
        must(at.at_end(), "bytes follow the parts")
        return opened

    def records(self):  # (9)
        for path in self.names("backups"):
            (part,) = self.parts(RECORD, path)
            record = json.loads(part)
            must(record["version"] == 1 and record["id"] == path.name, "a record of another backup or version")
            must(bytes.fromhex(record["repository"]) == self.id, "a record of another repository")
            yield record

    def pack_path(self, pack):
        return self.path / "packs" / pack.hex()[:2] / pack.hex()

    def chunk(self, kind, chunk_id, place):  # (13): a place is a hint
        try:
            return self.chunk_at(kind, chunk_id, place)
        except (Bad, OSError):
            for other in self.copies(chunk_id):
                try:
                    return self.chunk_at(kind, chunk_id, other)
                except (Bad, OSError):
                    continue
            raise

    def chunk_at(self, kind, chunk_id, place):
        pack, offset, length = place
        with open(self.pack_path(pack), "rb") as file:
            file.seek(offset)
            return self.open(b"pack" + pack, kind, chunk_id, file.read(length))

    def copies(self, chunk_id):
        for path in self.names("index"):
            for pack, _, rows in index_parts(self.parts(INDEX, path)):
                yield from ((pack, row[2], row[3]) for row in rows if row[0] == chunk_id)

    def table(self, pack, whole):  # (6): rows as (id, kind, offset, sealed_len, plain_len)
        must(HEADER.unpack_from(whole) == (b"AFTRPACK", 1, 0, 0, self.id, pack), "the header of a pack is wrong")
        table_at, table_len, count, magic, checksum = TRAILER.unpack(whole[-TRAILER.size :])
        must(magic == b"AFTRPEND" and checksum == xxh3(whole[:-16]), "the end or checksum of a pack is wrong")
        must(table_at + table_len + TRAILER.size == len(whole), "a trailer disagrees with the length of its pack")
        table = self.open(b"pack" + pack, TABLE, pack, whole[table_at : table_at + table_len])
        must(len(table) == count * ROW.size, "a table has another number of rows")
        rows = list(with_offsets(ROW.iter_unpack(table)))
        must((rows[-1][2] + rows[-1][3] if rows else HEADER.size) == table_at, "chunks do not end where the table begins")
        return rows

    def node(self, chunk_id, plain):  # (7): shape, level, length, chunk size, entries as (length, id, place)
        at = Taker(plain)
        version, shape, level, zero, chunk_size, length = NODE_HEAD.unpack(at.take(NODE_HEAD.size))
        must(version == 1 and zero == 0 and shape in (0, 1) and level <= 6, "a node of an unknown kind")
        if shape == 0:
            step = chunk_size * 256**level
            bits = int.from_bytes(at.take(32), "little")
            count = -(-length // step)
            must(count <= 256 and bits >> count == 0, "a node has more slots than it covers")
            sizes = [min(step, length - n * step) for n in range(count)]
            entries = [(size, at.take(32) if bits >> n & 1 else None) for n, size in enumerate(sizes)]
        else:
            words = (at.fields("Q")[0] for _ in range(at.fields("H")[0]))
            entries = [(word & ~(1 << 63), None if word >> 63 else at.take(32)) for word in words]
            must(sum(size for size, _ in entries) == length, "the entries of a node do not add up")
        must(mac(self.node_key, plain[: at.at]) == chunk_id, "a node does not have its id")
        places = iter(places_of(at, sum(child is not None for _, child in entries)))
        return (shape, chunk_size, level, length), [(size, child, next(places) if child else None) for size, child in entries]

    def tree_node(self, chunk_id, plain):  # (13): sort, level, rows; ids in the rows become (id, place)
        at = Taker(plain)
        version, sort, level, zero = at.fields("BBBB")
        must(version == 1 and zero == 0 and level <= 7 and (sort == 0 or level == 0), "a tree node of an unknown kind")
        children = []

        def child():
            children.append([at.take(32), None])
            return children[-1]

        if sort in (0, 1) and level == 0:
            rows = entries_of(at, child)
            names = [row["name"] for row in rows]
            if sort == 1:
                must(names == [b""] and rows[0]["kind"] == 1, "the top is not one directory without a name")
            else:
                must(all(is_name(name) for name in names) and names == sorted(set(names)), "names that are none, or out of order")
        elif sort == 0:
            rows = [{"first": short(at), "rows": at.fields("Q")[0], "totals": at.fields("QQQ"), "child": child()}
                    for _ in range(count_of(at))]
            firsts = [row["first"] for row in rows]
            must(rows and all(is_name(name) for name in firsts) and firsts == sorted(set(firsts)), "nodes out of order")
        elif sort == 2:
            rows = set_of(at, child)
        else:
            must(sort == 3, "a tree node of an unknown sort")
            rows = [at.take(32)]
            for _ in range(count_of(at)):
                flags = at.fields("B")[0]
                rows.append((at.fields("QqI") if flags & 1 else None, child() if flags & 2 else None))
        must(mac(self.tree_key, plain[: at.at]) == chunk_id, "a tree node does not have its id")
        for one, place in zip(children, places_of(at, len(children))):
            one[1] = place
        return sort, level, rows

    def directory(self, content, path):
        """The entries below a directory, at any depth, each with its path; totals are held to what was said of them."""
        told = content["level"], content["rows"], content["totals"]
        sums, names = [0, 0, 0], []
        stack = [(content["child"], *told, None)]
        while stack:
            (child, place), level, rows, totals, first = stack.pop()
            sort, found, entries = self.tree_node(child, self.chunk(TREE, child, place))
            must(sort == 0 and found == level, "a node is not what the one above says")
            if level > 0:
                must(sum(row["rows"] for row in entries) == rows, "a node has another number of rows")
                stack.extend((row["child"], level - 1, row["rows"], row["totals"], row["first"]) for row in reversed(entries))
                continue
            must(len(entries) == rows and first in (None, entries[0]["name"]), "a node is not what the one above says")
            for entry in entries:
                here = path + [entry["name"]]
                names.append(entry["name"])
                below = entry["totals"] if entry["kind"] == 1 else (1, 0, entry.get("size", 0) if entry["kind"] == 2 else 0)
                sums = [one + more for one, more in zip(sums, below)]
                sums[1] += entry["kind"] == 1
                yield here, entry
                if entry["kind"] == 1 and entry["child"]:
                    yield from self.directory(entry, here)
        must(names == sorted(set(names)) and len(names) == told[1], "the names of a directory are out of order")
        must(tuple(sums) == tuple(told[2]), "the sums of a directory are wrong")

    def tree(self, root):
        place = (bytes.fromhex(root["place"]["pack"]), root["place"]["offset"], root["place"]["len"])
        top = bytes.fromhex(root["id"])
        sort, _, (entry,) = self.tree_node(top, self.chunk(TREE, top, place))
        must(sort == 1, "the root is no top")
        yield [], entry
        if entry["child"]:
            yield from self.directory(entry, [])

    def told(self, path, entry):
        """An entry as JSON, with a digest of its content."""
        out = {key: entry[key] for key in ("kind", "mode", "uid", "gid", "mtime", "nanos", "changed", "names", "major", "minor") if key in entry}
        out.update({key: entry[key].hex() for key in ("group", "target") if key in entry})
        out["path"] = b"/".join(path).hex()
        attributes = entry["attributes"]
        if isinstance(attributes, list) and attributes and isinstance(attributes[0], bytes):
            _, _, attributes = self.tree_node(attributes[0], self.chunk(TREE, *attributes))
        out["attributes"] = {name.hex(): (value if isinstance(value, bytes) else self.chunk(DATA, *value)).hex()
                             for name, value in attributes or []}
        if entry["kind"] == 2:
            digest, size = hashlib.sha256(), 0
            for piece in self.content(entry):
                digest.update(piece)
                size += len(piece)
            must(size == entry["size"], "a file has another size than its entry says")
            out.update(size=size, sha256=digest.hexdigest())
        return out

    def content(self, entry):
        if entry["how"] == 0:
            yield entry["bytes"]
        elif entry["how"] == 1:
            yield from (bytes(min(1 << 20, entry["size"] - at)) for at in range(0, entry["size"], 1 << 20))
        elif entry["how"] == 2:
            plain = self.chunk(DATA, *entry["child"])
            must(mac(self.data_key, plain) == entry["child"][0], "a chunk does not have its id")
            yield plain
        else:
            child, (pack, offset, length) = entry["child"]
            place = {"pack": pack.hex(), "offset": offset, "len": length}
            yield from self.walk({"id": child.hex(), "place": place, "level": entry["level"], "chunk_size": 0}, entry["size"])

    def walk(self, root, size):
        """The image's bytes in order: chunks, and zeros in pieces."""
        place = (bytes.fromhex(root["place"]["pack"]), root["place"]["offset"], root["place"]["len"])
        stack = [(root["level"], size, bytes.fromhex(root["id"]), place)]
        while stack:
            level, size, child, place = stack.pop()
            if child is None:
                yield from (bytes(min(1 << 20, size - at)) for at in range(0, size, 1 << 20))
            elif level < 0:
                plain = self.chunk(DATA, child, place)
                must(len(plain) == size, "a chunk has another length than its entry")
                must(mac(self.data_key, plain) == child, "a chunk does not have its id")
                yield plain
            else:
                is_cut = root["chunk_size"] == 0
                facts, entries = self.node(child, self.chunk(NODE, child, place))
                must(facts == (int(is_cut), root["chunk_size"], level, size), "a node is not what the one above says")
                stack.extend((level - 1, *entry) for entry in reversed(entries))

    def audit(self):
        there, named = {}, {}
        for path in self.names("packs"):
            if not path.is_file():
                continue
            pack, whole = bytes.fromhex(path.name), path.read_bytes()
            must(path == self.pack_path(pack), "a pack lies in the wrong folder")
            for row in self.table(pack, whole):
                chunk_id, kind, offset, sealed_len, plain_len = row
                plain = self.open(b"pack" + pack, kind, chunk_id, whole[offset : offset + sealed_len])
                must(len(plain) == plain_len, "a row has the wrong length")
                if kind == DATA:
                    must(mac(self.data_key, plain) == chunk_id, "a chunk does not have its id")
                elif kind == NODE:
                    self.node(chunk_id, plain)
                else:
                    self.tree_node(chunk_id, plain)
                there.setdefault((pack, len(whole)), set()).add(row)
        for path in self.names("index"):
            for pack, pack_len, rows in index_parts(self.parts(INDEX, path)):
                named.setdefault((pack, pack_len), set()).update(rows)
        must(named == there, "the indexes and the packs do not say the same")
        records = {record["id"]: record for record in self.records()}
        for path in self.names("damaged"):  # (11)
            for note in (note for part in self.parts(DAMAGED, path) for note in json.loads(part)):
                must(len(note["pack"]) == 32 and (note["chunk"] is None or len(note["chunk"]) == 64), "a strange note")
        listed = [entry for path in self.names("catalog") for entry in catalog_parts(self.parts(CATALOG, path))]
        must(all(records.get(backup, record) == record for backup, record in listed), "a catalogue and a record differ")
        chunks = sum(len(rows) for rows in there.values())
        return {"packs": len(there), "chunks": chunks, "backups": len(records), "catalogued": len(listed)}


def places_of(at, count):  # (7)
    packs = [at.take(16) for _ in range(at.fields("H")[0])]
    numbers = [at.fields("HII") for _ in range(count)]
    must(at.at_end(), "bytes follow a node")
    return [(packs[number], offset, sealed_len) for number, offset, sealed_len in numbers]


def is_name(name):  # (13)
    return 1 <= len(name) <= 255 and b"/" not in name and b"\0" not in name and name not in (b".", b"..")


def short(at):
    return at.take(at.fields("B")[0])


def count_of(at, limit=4096):
    (count,) = at.fields("H")
    must(count <= limit, "more rows than a node may have")
    return count


def set_of(at, child):
    pairs = []
    for _ in range(count_of(at, 16384)):
        name, how = short(at), at.fields("B")[0]
        if how == 0:
            value = at.take(at.fields("H")[0])
        else:
            at.fields("I")
            value = child()
        pairs.append((name, value))
    must(pairs and pairs == sorted(pairs, key=lambda pair: pair[0]), "attributes are out of order")
    return pairs


def entries_of(at, child):
    owners = [(*at.fields("II"), short(at), short(at)) for _ in range(count_of(at))]
    sets = [set_of(at, child) if at.fields("B")[0] == 0 else child() for _ in range(count_of(at))]
    rows = []
    for _ in range(count_of(at)):
        name = short(at)
        kind, flags, mode, owner, mtime, nanos = at.fields("BBHHqI")
        must(flags & ~7 == 0 and mode <= 0o7777 and nanos < 10**9, "an impossible entry")
        row = {"name": name, "kind": kind, "mode": mode, "mtime": mtime, "nanos": nanos, "changed": bool(flags & 4)}
        row["uid"], row["gid"], row["user"], row["groupname"] = owners[owner]
        row["attributes"] = sets[at.fields("H")[0]] if flags & 1 else None
        if flags & 2:
            row["group"], row["names"] = at.take(16), at.fields("I")[0]
        if kind == 1:
            row.update(level=0, rows=0, totals=(0, 0, 0), child=None)
            if at.fields("B")[0]:
                row["level"], row["rows"] = at.fields("BQ")
                row["totals"], row["child"] = at.fields("QQQ"), child()
        elif kind == 2:
            (row["how"],) = at.fields("B")
            if row["how"] == 0:
                row["bytes"] = at.take(at.fields("H")[0])
                row["size"] = len(row["bytes"])
            elif row["how"] == 1:
                (row["size"],) = at.fields("Q")
            elif row["how"] == 2:
                row["size"], row["child"] = at.fields("I")[0], child()
            else:
                must(row["how"] == 3, "an unknown kind of content")
                row["size"], row["data"], row["level"] = at.fields("QQB")
                row["child"] = child()
        elif kind == 3:
            row["target"] = at.take(at.fields("H")[0])
        elif kind in (6, 7):
            row["major"], row["minor"] = at.fields("II")
        else:
            must(kind in (4, 5), "an unknown kind of entry")
        rows.append(row)
    return rows


def with_offsets(rows):
    offset = HEADER.size
    for chunk_id, kind, sealed_len, plain_len in rows:
        must(kind in (DATA, NODE, TREE), "a row of an unknown kind")
        yield chunk_id, kind, offset, sealed_len, plain_len
        offset += sealed_len


def index_parts(parts):  # (8)
    first = Taker(parts[0])
    first.take(16 * first.fields("I")[0])
    must(first.at_end(), "bytes follow what an index takes the place of")
    for part in parts[1:]:
        at = Taker(part)
        while not at.at_end():
            pack, pack_len, count = at.fields("16sQI")
            yield pack, pack_len, with_offsets(ROW.iter_unpack(at.take(count * ROW.size)))


def catalog_parts(parts):  # (10)
    for part in parts[1:]:
        at = Taker(part)
        while not at.at_end():
            backup, length = at.fields("16sI")
            yield backup.hex(), json.loads(at.take(length))


def main():
    words = argparse.ArgumentParser()
    words.add_argument("repository")
    words.add_argument("--password-file")
    words.add_argument("verb", choices=["list", "cat", "tree", "audit"])
    words.add_argument("backup", nargs="?")
    words.add_argument("item", nargs="?")
    call = words.parse_args()
    password = None
    if call.password_file:
        password = pathlib.Path(call.password_file).read_bytes().split(b"\n")[0].rstrip(b"\r")
    repository = Repository(call.repository, password)
    if call.verb == "audit":
        print(json.dumps(repository.audit()))
    for record in repository.records() if call.verb != "audit" else []:
        if call.verb == "list":
            print(json.dumps(record))
        elif record["id"] == call.backup:
            (item,) = (item for item in record["items"] if item["name"] == call.item)
            if call.verb == "tree":
                must(item["kind"] == "tree", "it is an image")
                for path, entry in repository.tree(item["root"]):
                    print(json.dumps(repository.told(path, entry)))
                continue
            must(item["kind"] == "image", "it is a tree")
            for piece in repository.walk(item["root"], item["size"]):
                sys.stdout.buffer.write(piece)


if __name__ == "__main__":
    try:
        main()
    except Bad as bad:
        sys.exit(f"read_repository.py: {bad}")
