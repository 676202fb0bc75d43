"""Runs Cinder's own backup driver on plain files: the judge of what we read of its backups and of what we write for it.

Cinder's chunked driver, its records and its compression are the installed ones, unchanged. Stood in for are the services around them: the
database (a folder of export records, as `cinder backup-export` gives them), the volume (a file), notifications, and for the layout of
object stores the store itself (a folder).

    cinder_driver.py ROOT RECORDS backup IMAGE --id ID --volume ID [--parent ID] [--compression C] [--object-size N] [--layout L] ...
    cinder_driver.py ROOT RECORDS import [FILE]      two-column tables or JSON of records, as the clients take and give them
    cinder_driver.py ROOT RECORDS restore ID FILE [--new] [--layout L]
    cinder_driver.py ROOT RECORDS version
    cinder_driver.py ROOT RECORDS batch              such calls, one a line, on standard input; one line of answer each

ROOT is what `backup_posix_path` names, or holds one folder for each container of an object store. A restore writes over what FILE holds,
unless --new says that the volume is new, as Cinder itself tells its drivers from release 23 on.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import inspect
import json
import os
import re
import shlex
import sys

from cinder import context, objects
from cinder.backup import chunkeddriver
from cinder.backup.drivers import posix
from cinder.volume import volume_utils
from oslo_config import cfg
from oslo_utils import timeutils

objects.register_all()
CONF = cfg.CONF
PROJECT = "d63d50c4-d1f1-56fa-864a-6c29d6f39cd9"
USER = "d7e6407b-14a7-5250-9c79-43fe3d044971"
GIB = 1 << 30
# What the manager wants to find in a record; the API wants the first two before that.
REQUIRED = ["id", "size", "display_name", "display_description", "container", "service_metadata", "object_count"]


class ObjectsDriver(chunkeddriver.ChunkedBackupDriver):
    """The chunked driver with the names that Swift's, S3's and Google's give, over folders."""

    def __init__(self, admin):
        super().__init__(admin, CONF.backup_file_size, CONF.backup_sha_block_size_bytes, "volumebackups", False)
        self.root = CONF.backup_posix_path

    def put_container(self, container):
        os.makedirs(os.path.join(self.root, container), exist_ok=True)

    def get_container_entries(self, container, prefix):
        top = os.path.join(self.root, container)
        names = (os.path.relpath(os.path.join(at, name), top) for at, _, files in os.walk(top) for name in files)
        return [name for name in names if name.startswith(prefix)]

    def get_object_writer(self, container, object_name, extra_metadata=None):
        path = os.path.join(self.root, container, object_name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return open(path, "wb")

    def get_object_reader(self, container, object_name, extra_metadata=None):
        return open(os.path.join(self.root, container, object_name), "rb")

    def delete_object(self, container, object_name):
        os.remove(os.path.join(self.root, container, object_name))

    def _generate_object_name_prefix(self, backup):
        stamp = timeutils.utcnow().strftime("%Y%m%d%H%M%S")
        return f"volume_{backup.volume_id}/{stamp}/az_{self.az}_backup_{backup.id}"

    def update_container_name(self, backup, container):
        return container

    def get_extra_metadata(self, backup, volume):
        return None


DRIVERS = {
    "posix": (posix.PosixBackupDriver, "cinder.backup.drivers.posix.PosixBackupDriver"),
    "swift": (ObjectsDriver, "cinder.backup.drivers.swift.SwiftBackupDriver"),
}


class Volumes:
    """The part of the database that the drivers ask for volumes."""

    def __init__(self, volume, size, name, metadata, image):
        self.row = {"id": volume, "size": size, "display_name": name, "project_id": PROJECT, "volume_type_id": None,
                    "encryption_key_id": None, "bootable": bool(image)}
        self.metadata, self.image, self.restored = metadata, image, {}

    def volume_get(self, _context, volume_id):
        return VolumeRow(self.row)

    def volume_metadata_get(self, _context, volume_id):
        return self.metadata

    def volume_glance_metadata_get(self, _context, volume_id):
        return [GlanceRow(key, value) for key, value in self.image.items()]

    def volume_update(self, _context, volume_id, values):
        self.restored.update(values)

    def volume_metadata_update(self, _context, volume_id, metadata, delete):
        self.restored["metadata"] = metadata

    def volume_glance_metadata_delete_by_volume(self, _context, volume_id):
        self.restored["image"] = {}

    def volume_glance_metadata_create(self, _context, volume_id, key, value):
        self.restored["image"][key] = value


class VolumeRow(dict):
    """A row, which the database gives back as pairs."""

    def __iter__(self):
        return iter(self.items())


class GlanceRow:
    def __init__(self, key, value):
        self.key, self.value = key, value


class Records:
    """The table of backups: one file for each record."""

    def __init__(self, folder):
        self.folder = folder
        os.makedirs(folder, exist_ok=True)

    def put(self, service, url):
        fields = objects.Backup.decode_record(url)
        missing = [key for key in REQUIRED if key not in fields]
        if missing:
            raise SystemExit(f"the record has no {', '.join(missing)}")
        if not any(name.startswith(service) for _, name in DRIVERS.values()):
            raise SystemExit(f"no backup service is called {service}")
        with open(os.path.join(self.folder, fields["id"]), "w") as file:
            json.dump({"backup_service": service, "backup_url": url}, file)
        return fields["id"]

    def get(self, admin, backup_id):
        """A backup as the database has it after an import, which takes over all but a few of the fields."""
        try:
            with open(os.path.join(self.folder, backup_id)) as file:
                record = json.load(file)
        except FileNotFoundError:
            raise SystemExit(f"BackupNotFound: {backup_id}")
        fields = objects.Backup.decode_record(record["backup_url"])
        known = {key: fields.get(key) for key in objects.Backup.fields if key != "parent"}
        known.update(status="available", project_id=PROJECT, user_id=USER, metadata=fields.get("metadata") or {})
        for key in ["created_at", "updated_at", "deleted_at", "data_timestamp"]:
            if known.get(key):
                known[key] = timeutils.parse_isotime(known[key])
        known["deleted"] = False
        return objects.Backup(admin, **known)


def stand_in(records):
    """Puts the folder of records where the drivers expect a database, and silence where they expect a message queue."""
    objects.Backup.get_by_id = classmethod(lambda cls, admin, id, *_args, **_named: records.get(admin, id))
    objects.Backup.refresh = lambda self: None
    objects.Backup.as_read_deleted = lambda self, *_args: contextlib.nullcontext()
    objects.Backup.save = lambda self: self.obj_reset_changes()
    volume_utils.notify_about_backup_usage = lambda *_args, **_named: None


def driver(admin, layout, volumes):
    made = DRIVERS[layout][0](admin)
    made.db = made.backup_meta_api.db = volumes
    return made


def backup(admin, records, args):
    created = datetime.datetime.fromisoformat(args.created)
    size = -(-os.path.getsize(args.image) // GIB) or 1
    made = objects.Backup(
        admin, id=args.id, user_id=USER, project_id=PROJECT, volume_id=args.volume, host="judge", availability_zone="nova",
        container=args.container, parent_id=args.parent, status="creating", fail_reason=None, size=size,
        display_name=args.name, display_description=args.description, service_metadata=None, service=DRIVERS[args.layout][1],
        object_count=0, temp_volume_id=None, temp_snapshot_id=None, num_dependent_backups=0, snapshot_id=None,
        data_timestamp=created, restore_volume_id=None, metadata={}, encryption_key_id=None, created_at=created,
        updated_at=created, deleted_at=None, deleted=False)
    volumes = Volumes(args.volume, size, args.volume_name, dict(args.property), dict(args.image_property))
    with open(args.image, "rb") as image:
        driver(admin, args.layout, volumes).backup(made, image)
    made.status = "available"
    url = made.encode_record(driver_info={})
    records.put(DRIVERS[args.layout][1], url)
    print(json.dumps({"backup_service": DRIVERS[args.layout][1], "backup_url": url}))


def restore(admin, records, args):
    wanted = records.get(admin, args.id)
    wanted.status = "restoring"
    volumes = Volumes(wanted.volume_id, wanted.size, "restore_backup_" + args.id, {}, {})
    made = driver(admin, args.layout, volumes)
    # From release 23 on the driver is told whether the volume is new.
    told = [args.new] if "volume_is_new" in inspect.signature(made.restore).parameters else []
    with open(args.file, "r+b" if os.path.exists(args.file) else "w+b") as volume:
        made.restore(wanted, wanted.volume_id, volume, *told)
    print(json.dumps(volumes.restored))


def records_in(text):
    """Records as clients give them: JSON (one, several, or the body of the API), or two columns of a table or of plain text."""
    try:
        found = json.loads(text)
    except ValueError:
        pairs = re.findall(r"^\W*(backup_service|backup_url)[\s|]+(\S+)", text, re.M)
        services, urls = ([value for key, value in pairs if key == wanted] for wanted in ("backup_service", "backup_url"))
        found = [{"backup_service": service, "backup_url": url} for service, url in zip(services, urls, strict=True)]
    found = found if isinstance(found, list) else [found]
    return [one.get("backup-record", one) for one in found]


def pair(text):
    key, _, value = text.partition("=")
    return key, value


def words():
    """The grammar of a call, behind ROOT and RECORDS."""
    grammar = argparse.ArgumentParser()
    verbs = grammar.add_subparsers(dest="verb", required=True)
    made = verbs.add_parser("backup")
    made.add_argument("image")
    for flag in ["--id", "--volume", "--name"]:
        made.add_argument(flag, required=True)
    for flag in ["--parent", "--description", "--container"]:
        made.add_argument(flag)
    made.add_argument("--created", default="2026-01-05T05:00:00+00:00")
    made.add_argument("--volume-name", default="vol")
    made.add_argument("--property", type=pair, action="append", default=[])
    made.add_argument("--image-property", type=pair, action="append", default=[])
    made.add_argument("--compression", default="zlib")
    made.add_argument("--object-size", type=int, default=61035 * 32768)
    back = verbs.add_parser("restore")
    back.add_argument("id")
    back.add_argument("file")
    back.add_argument("--new", action="store_true")
    for verb in [made, back]:
        verb.add_argument("--layout", choices=DRIVERS, default="posix")
    verbs.add_parser("import").add_argument("file", nargs="?")
    verbs.add_parser("version")
    verbs.add_parser("batch")
    return grammar


def configure(root):
    CONF([], project="cinder", default_config_files=[])
    # Drivers look for an engine when they are made; nothing is ever asked of this one.
    CONF.set_override("connection", "sqlite://", "database")
    CONF.set_override("backup_posix_path", root)
    CONF.set_override("backup_enable_progress_timer", False)


def call(admin, records, args):
    if args.verb == "version":
        print(importlib.metadata.version("cinder"))
    elif args.verb == "import":
        with open(args.file) if args.file else sys.stdin as text:
            found = records_in(text.read())
        print(json.dumps([records.put(one["backup_service"], one["backup_url"]) for one in found]))
    elif args.verb == "backup":
        CONF.set_override("backup_compression_algorithm", args.compression)
        CONF.set_override("backup_file_size", args.object_size)
        backup(admin, records, args)
    else:
        restore(admin, records, args)


def batch(admin, records):
    """One answer for each line, so that whoever asks can wait for it; what failed is an answer too."""
    for line in sys.stdin:
        try:
            call(admin, records, words().parse_args(shlex.split(line)))
        except (Exception, SystemExit) as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        sys.stdout.flush()


def main():
    root, folder, *rest = sys.argv[1:]
    args = words().parse_args(rest)
    configure(root)
    records, admin = Records(folder), context.get_admin_context()
    stand_in(records)
    if args.verb == "batch":
        batch(admin, records)
    else:
        call(admin, records, args)


if __name__ == "__main__":
    main()
