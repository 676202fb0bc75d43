//! The words of the command, as the contract has them. Flags stand before or after the verb.

use super::units::parse_size;
use crate::repo::refs::parse_time;
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// Backups of disks that you can look at, boot from and copy out of, without restoring them first.
#[derive(Debug, Parser)]
#[command(
    name = "afterimage",
    version,
    max_term_width = 100,
    disable_help_subcommand = false,
    after_help = "\
Exit codes: 0 all of it was done · 1 it failed · 2 the words of the call are off · 3 damage was found · 4 refused · 130 interrupted

Examples:
  afterimage -r /srv/backups init
  afterimage -r /srv/backups backup /var/lib/libvirt/images/web01.img --name web01
  afterimage -r /srv/backups restore web01@latest~1 /dev/vg0/web01-new"
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// What every verb understands.
#[derive(Clone, Debug, Args)]
pub(super) struct Global {
    /// The repository: a directory, s3://BUCKET/PREFIX or swift://CONTAINER/PREFIX
    #[arg(short, long, env = "AFTERIMAGE_REPO", global = true, value_name = "REPO")]
    pub(super) repo: Option<String>,
    /// Print one JSON document; while long work runs, one object a line
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Say less
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
    /// Say more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// A file whose first line is the password (- : standard input)
    #[arg(long, env = "AFTERIMAGE_PASSWORD_FILE", global = true, value_name = "F", hide_env_values = true)]
    pub(super) password_file: Option<PathBuf>,
    /// How much memory may be used for buffers and caches
    #[arg(long, global = true, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    pub(super) memory: u64,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a repository
    Init(Init),
    /// Add, list or remove passwords
    Key(Key),
    /// Back up images, devices, NBD exports, a stream or directories
    Backup(Backup),
    /// List backups, oldest first
    List(List),
    /// Show a backup's record
    Show(Show),
    /// Write the bytes of a backup, or of a file in it, to standard output
    Cat(Cat),
    /// Restore an image onto a file, a device or an NBD export, a share into a directory
    Restore(Restore),
    /// Serve backups and targets to NBD clients
    Serve(Serve),
    /// Make a backup of what was written to an overlay
    Overlay(Overlay),
    /// Make a backup of what was written to a part of a capture
    Capture(Capture),
    /// A backup's record, to take to another repository; and back
    Record(Record),
    /// Write backups as a container that OpenStack Cinder imports and restores
    Export(Export),
    /// Show what differs between two backups
    Diff(Diff),
    /// Find files in all backups of shares
    Find(Find),
    /// Show the versions of a file in the backups of a share
    History(History),
    /// Check that backups can be read
    Check(Check),
    /// Show every backup as a read-only file
    Mount(Mount),
    /// End a mount, also a dead one
    Umount(Umount),
    /// Make a backup or an NBD export a block device of this machine
    Attach(Attach),
    /// End such a block device
    Detach(Detach),
    /// Copy backups to another repository
    Sync(Sync),
    /// Show what a running mount or server does
    Stats(Stats),
    /// Show what this machine has and lacks, and with --store what the repository's store keeps to
    Doctor(Doctor),
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write man pages
    #[command(hide = true)]
    Man {
        /// Where to
        directory: PathBuf,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without a password the key is kept beside the data: whoever can read the repository can read the backups.

Examples:
  afterimage -r /srv/backups init
  afterimage -r /srv/backups init --password-file /root/afterimage.pw --chunk-size 64K")]
pub(super) struct Init {
    /// At which offsets images are cut: 4K to 4M, a power of two
    #[arg(long, value_name = "SIZE", default_value = "128K", value_parser = parse_size)]
    pub(super) chunk_size: u64,
    /// Refuse sources that lie on the repository's own disk
    #[arg(long)]
    pub(super) separate: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Copies the backups that are missing there, of disks and of shares, oldest first, and of each only what is missing. A copy keeps its id; it is
sealed with the other repository's key and read back before it is listed. Interrupted, it is safe to run again.

Examples:
  afterimage -r /srv/backups sync s3://second-site/backups
  afterimage -r /srv/backups sync swift://second-site --name web01 --since 2026-11-01")]
pub(super) struct Sync {
    /// The repository to copy to; init makes one
    #[arg(value_name = "OTHER-REPO")]
    pub(super) other: String,
    /// Only backups of this name
    #[arg(long, value_name = "N")]
    pub(super) name: Option<String>,
    /// Only backups of this time and later
    #[arg(long, value_name = "T", value_parser = time)]
    pub(super) since: Option<jiff::Timestamp>,
    /// A file whose first line is the password of the other repository
    #[arg(long, env = "AFTERIMAGE_OTHER_PASSWORD_FILE", value_name = "F", hide_env_values = true)]
    pub(super) other_password_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  afterimage doctor
  afterimage -r s3://bucket/backups doctor --store")]
pub(super) struct Doctor {
    /// Probe what the repository's store promises: some small objects are written, read and removed again
    #[arg(long)]
    pub(super) store: bool,
}

#[derive(Debug, Args)]
pub(super) struct Key {
    #[command(subcommand)]
    pub(super) verb: KeyVerb,
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyVerb {
    /// Add a password; the repository is opened with another one, or with none
    #[command(
        after_help = "Example:\n  afterimage -r /srv/backups key add --new-password-file /root/second.pw"
    )]
    Add {
        /// A file whose first line is the new password; asked for on the terminal without it
        #[arg(long, value_name = "F")]
        new_password_file: Option<PathBuf>,
    },
    /// List the key slots
    List,
    /// Remove a key slot, where another one was seen to open: by the password that was given, or by one that is asked for
    Remove {
        /// The slot, or the beginning of its id
        id: String,
    },
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
An NBD server's export is read as nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH; with nbds, by TLS (tls-certificates=DIR holds
ca-cert.pem, and client-cert.pem with client-key.pem; tls-hostname=NAME). What the server says is zero is not read. With
bitmap=NAME only what is dirty in qemu's bitmap of that name is read; the rest is taken from the backup that --parent names, which has to be
the one that was made when the bitmap was begun.
With --each every source becomes a backup of its own. --metadata then holds one object for each, under the last name of its path: kept in its
record, and where they are in it, \"name\" says what it is a backup of and \"time\" (RFC 3339) when it was so. Without a name there it is --name, or else the
last name of the path. All of it is judged before the first is made.
Backups that Cinder wrote become ones of the repository, with their ids, times and metadata; of an increment only what changed is read. A volume's id
behind the # means all of its backups.

Examples:
  afterimage backup /dev/vg0/web01-snap --name web01 --tag site=ams
  afterimage backup boot=/dev/sda1 data=/dev/sdb --name db --metadata volume.json
  afterimage backup /srv/share --name share --exclude '*.tmp' --exclude-caches
  afterimage backup /dev/vg0/db-snap etc=/etc data=/srv/db --name db
  afterimage backup /var/lib/manila-backups/* --each --metadata backups.json
  qemu-img convert -O raw vm.qcow2 /dev/stdout | afterimage backup - --name vm
  afterimage backup cinder:/var/lib/cinder/backup#web01 --name web01 --chain
  afterimage backup 'nbd+unix:///vda?socket=/run/vm.sock' --name vm
  afterimage backup 'nbd+unix:///vda?socket=/run/vm.sock&bitmap=since-monday' --name vm --parent vm@latest")]
pub(super) struct Backup {
    /// What to back up: a file, a block device, a directory, an nbd:// URI, cinder:DIR#BACKUP, - for standard input; ITEM=SOURCE names the item
    #[arg(required = true, value_name = "SOURCE")]
    pub(super) sources: Vec<String>,
    /// What it is a backup of
    #[arg(long, required_unless_present = "each")]
    pub(super) name: Option<String>,
    /// Make a backup of its own of each source
    #[arg(long)]
    pub(super) each: bool,
    /// Of a backup of Cinder's: those that it adds to, too, the oldest first
    #[arg(long)]
    pub(super) chain: bool,
    /// The backup to compare with: the latest of this name unless given; none: nothing
    #[arg(long, value_name = "BACKUP|none")]
    pub(super) parent: Option<String>,
    /// A label
    #[arg(long = "tag", value_name = "K=V")]
    pub(super) tags: Vec<String>,
    /// A JSON object to keep in the record
    #[arg(long, value_name = "F.json")]
    pub(super) metadata: Option<PathBuf>,
    /// When the source was as it is (RFC 3339); now unless given
    #[arg(long, value_name = "T", value_parser = time)]
    pub(super) time: Option<jiff::Timestamp>,
    /// Compression: 1 is fast, 19 is small
    #[arg(long, value_name = "1..19", default_value_t = crate::seal::LEVEL_DEFAULT, value_parser = clap::value_parser!(i32).range(1..=19))]
    pub(super) level: i32,
    /// Compute the SHA-256 of whole images
    #[arg(long)]
    pub(super) digest: bool,
    #[command(flatten)]
    pub(super) directories: Directories,
}

/// How directories are read.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Directories {
    /// Leave out of directories what matches, as .gitignore has it: a name anywhere, or with a slash a path from the top;
    /// * ? [a-z] ** and a slash at the end for directories only; ! takes back
    #[arg(long, value_name = "PATTERN")]
    pub(super) exclude: Vec<String>,
    /// The same for each line of a file
    #[arg(long, value_name = "FILE")]
    pub(super) exclude_from: Vec<PathBuf>,
    /// Leave out what is in directories with a valid CACHEDIR.TAG
    #[arg(long)]
    pub(super) exclude_caches: bool,
    /// Go on into other file systems that are mounted in a directory
    #[arg(long)]
    pub(super) cross_filesystems: bool,
    /// List files that can't be read in the record, and exit with 1, instead of failing
    #[arg(long)]
    pub(super) keep_going: bool,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only backups of this name
    pub(super) name: Option<String>,
    /// Only backups with this label
    #[arg(long = "tag", value_name = "K=V")]
    pub(super) tags: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// Which backup: an id or 8 or more digits of one, NAME, NAME@latest~1, NAME@2026-11-20T10:32:00Z
    pub(super) backup: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  afterimage cat web01 | sha256sum
  afterimage cat web01@latest~3 --offset 1M --length 512 | xxd
  afterimage cat share@2026-11-20T10:32:00Z docs/plan.txt")]
pub(super) struct Cat {
    /// Which backup; /ITEM behind it where there are several
    pub(super) backup: String,
    /// Which file, where the backup is a directory's
    pub(super) path: Option<OsString>,
    /// From this byte on
    #[arg(long, value_name = "N", default_value = "0", value_parser = parse_size)]
    pub(super) offset: u64,
    /// So many bytes
    #[arg(long, value_name = "N", value_parser = parse_size)]
    pub(super) length: Option<u64>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The target is judged before a byte is written: one that is mounted, in use, too small, or part of the repository is refused.
What is interrupted goes on when it is run again; onto an NBD export it begins again.
A share comes back into a directory, empty or still to be made, with everything it had: owners, modes, times, links, holes, access lists,
attributes. --into adds to what is there, --differential writes only what differs, --delete removes what the backup has not.
What the target has no place for (links on vfat, names that differ in case only) refuses the restore, or with --lossy is left out and listed. What
takes privilege (devices, other owners) comes back for root; for others it is left out and listed, and the call ends with 1 unless --lossy.

Examples:
  afterimage restore web01 /dev/vg0/web01-new --verify
  afterimage restore web01@2026-11-18 /var/lib/libvirt/images/web01-tuesday.img
  afterimage restore web01 'nbd://storage02/web01-new' --verify
  afterimage restore home@latest~1 /srv/home-yesterday
  afterimage restore home /srv/home --only ann/thesis --differential")]
pub(super) struct Restore {
    /// Which backup; /ITEM behind it where there are several
    pub(super) backup: String,
    /// Of an image: a file, a block device, or the nbd:// URI of an export; of a share: a directory
    pub(super) target: PathBuf,
    /// Read the target first and write only what differs
    #[arg(long)]
    pub(super) differential: bool,
    /// Read everything back from the medium
    #[arg(long)]
    pub(super) verify: bool,
    /// Overwrite even what was backed up
    #[arg(long)]
    pub(super) force: bool,
    /// Of a share: only what lies at this path, and the directories that lead there; those that are there stay as they are
    #[arg(long, value_name = "PATH")]
    pub(super) only: Vec<OsString>,
    /// Of a share: into a directory that is not empty; nothing is removed
    #[arg(long)]
    pub(super) into: bool,
    /// Of a share: remove what the backup has not
    #[arg(long)]
    pub(super) delete: bool,
    /// Of a share: do without what the target cannot keep
    #[arg(long)]
    pub(super) lossy: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A pattern without a / is held against names, one with a / against whole paths below the directory that was backed up. * and ? stand for anything
but /, ** for anything, [a-z] for one byte, \\ takes the meaning from what follows. Versions come newest first, equal ones together.
Ends with 1 when nothing was found.

Examples:
  afterimage find '*.tex'
  afterimage find 'docs/**/thesis.*' --name home
  afterimage find '*.key' --json | jq -r '.[].path'")]
pub(super) struct Find {
    /// Which files
    pub(super) pattern: OsString,
    /// Only in backups of this name
    #[arg(long, value_name = "N")]
    pub(super) name: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Versions come newest first, equal ones together, each with the backups that have it.

Examples:
  afterimage history docs/thesis.tex --name home
  afterimage cat home@2026-11-18 docs/thesis.tex > thesis-tuesday.tex")]
pub(super) struct History {
    /// The path, from the directory that was backed up on
    pub(super) path: OsString,
    /// What it is a backup of
    #[arg(long, value_name = "N")]
    pub(super) name: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
With a repository (-r), every backup is an export, read-only, by any of its names: web01, web01@latest~1, web01@2026-11-18, an id; /ITEM behind
it where it holds several images. What changed since another backup of the same name is the context qemu:dirty-bitmap:since:BACKUP.
A target is judged before it is served, as a restore judges it: one that is mounted, in use or inside the repository is refused. What is written
to it and was there already is not written again. What a client wrote is on the medium when it has left. A comma in a path is written \\,
An overlay can be booted from and thrown away; kept in a file, what was flushed outlives any crash, and the same call goes on with it.
`afterimage overlay commit` makes a backup of it.
A capture is a backup that is written: what a client does not write stays as in the latest backup of NAME. Whole is what one client wrote or
zeroed to the last byte; anything less waits for `afterimage capture commit`. Its bytes lie in TMPDIR (else /var/tmp) until then.
A live restore can be used at once: what was not copied yet comes from the backup, what is written goes to the target. STATE says what is there
already: after any crash the same call goes on. When it is done the target stands alone, and the state can be removed once it is served no more.
Prints each export with the URI to paste, then `ready`; stops when it is asked to (SIGTERM, ^C), after what is under way is answered.

Examples:
  afterimage -r /srv/backups serve --listen unix:/run/backups.sock
  nbdinfo --list 'nbd+unix:///?socket=/run/backups.sock'
  nbdcopy 'nbd+unix:///web01@latest?socket=/run/backups.sock' /dev/vg0/web01-new
  nbdinfo --map=qemu:dirty-bitmap:since:web01@2026-11-18T10:00:00Z 'nbd+unix:///web01?socket=/run/backups.sock'
  afterimage serve --listen unix:/run/vm.sock --overlay try=web01@latest --overlay fix=web01@2026-11-18,keep=/srv/fix.overlay
  qemu-system-x86_64 -drive 'file=nbd+unix:///try?socket=/run/vm.sock,format=raw,if=virtio' ...
  afterimage serve --listen unix:/run/restore.sock --target web01=/dev/vg0/web01-new
  afterimage -r /srv/backups serve --listen unix:/run/in.sock --capture web01,size=20G
  qemu-img convert -n -O raw web01.qcow2 'nbd+unix:///web01?socket=/run/in.sock'
  afterimage -r /srv/backups serve --listen unix:/run/vm.sock --live web01=web01@latest,target=/dev/vg0/web01-new,state=/srv/web01.state
  afterimage serve --listen tcp:0.0.0.0:10809 --target new=/srv/new.img,size=20G,create,exclusive \\
      --tls require --tls-cert server.pem --tls-key server.key --tls-client-ca ca.pem --tls-allow web01.example")]
pub(super) struct Serve {
    /// Where clients come in: unix:PATH or tcp:HOST:PORT; systemd's sockets come on top
    #[arg(long, value_name = "WHERE")]
    pub(super) listen: Vec<String>,
    /// A file or block device that clients may write: NAME=PATH[,size=S,create][,exclusive]
    #[arg(long = "target", value_name = "NAME=PATH")]
    pub(super) targets: Vec<String>,
    /// A backup that clients may write to, with the writes beside it: in FILE, or gone at the end: NAME=BACKUP[,keep=FILE]
    #[arg(long = "overlay", value_name = "NAME=BACKUP")]
    pub(super) overlays: Vec<String>,
    /// A volume that becomes a backup of NAME when all of it was written: NAME[,size=S]
    #[arg(long = "capture", value_name = "NAME")]
    pub(super) captures: Vec<String>,
    /// A backup that is copied onto a file or device while clients use it: NAME=BACKUP,target=PATH,state=FILE
    #[arg(long = "live", value_name = "NAME=BACKUP")]
    pub(super) lives: Vec<String>,
    /// Mount the backups there as well
    #[arg(long, value_name = "MOUNTPOINT")]
    pub(super) mount: Option<PathBuf>,
    /// Whether clients come by TLS; without a certificate: off
    #[arg(long, value_name = "off|allow|require")]
    pub(super) tls: Option<TlsChoice>,
    /// Our certificate, then those that vouch for it (PEM)
    #[arg(long, value_name = "F")]
    pub(super) tls_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "F")]
    pub(super) tls_key: Option<PathBuf>,
    /// Clients need a certificate from this authority (PEM)
    #[arg(long, value_name = "F")]
    pub(super) tls_client_ca: Option<PathBuf>,
    /// Only clients with this name or sha256:FINGERPRINT
    #[arg(long, value_name = "NAME")]
    pub(super) tls_allow: Vec<String>,
    /// Let other machines connect without TLS
    #[arg(long)]
    pub(super) public: bool,
    /// Serve one client on standard input and output
    #[arg(long)]
    pub(super) single: bool,
    /// Where `afterimage stats` asks how it goes; in your runtime directory unless given
    #[arg(long, value_name = "PATH")]
    pub(super) control: Option<PathBuf>,
    /// Keep chunks that were fetched in this directory, sealed as they are in the repository: for repositories that are far away
    #[arg(long, value_name = "D", requires = "cache_size")]
    pub(super) cache_dir: Option<PathBuf>,
    /// How many bytes may lie there; a repository across a network has up to 4 GiB in your cache directory unless told otherwise (0: none)
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) cache_size: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct Overlay {
    #[command(subcommand)]
    pub(super) verb: OverlayVerb,
}

#[derive(Debug, Subcommand)]
pub(super) enum OverlayVerb {
    /// Back up an overlay; only what was written is read, the rest is the backup's that it lies on
    #[command(after_help = "\
Nobody should write to it meanwhile: what is backed up is what is read.

Examples:
  afterimage -r /srv/backups overlay commit fix --name web01
  afterimage -r /srv/backups overlay commit /srv/fix.overlay --name web01 --tag why=repaired")]
    Commit {
        /// The name under which it is served, or the file of one that is not served now
        #[arg(value_name = "NAME|FILE")]
        overlay: String,
        /// What the new backup is of
        #[arg(long)]
        name: String,
        /// A label
        #[arg(long = "tag", value_name = "K=V")]
        tags: Vec<String>,
        /// The control socket of the server, where it is not the usual one
        #[arg(long, value_name = "PATH")]
        control: Option<PathBuf>,
    },
    /// Remove the file of an overlay that is not served now, with all that was written to it; its backup may then be forgotten
    Remove {
        /// The file
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct Capture {
    #[command(subcommand)]
    pub(super) verb: CaptureVerb,
}

#[derive(Debug, Subcommand)]
pub(super) enum CaptureVerb {
    /// Back up a capture of which only a part was written; the rest is as in the backup before it, or zero
    #[command(after_help = "\
A capture that one client has written whole needs no such word. The client has to have left.

Examples:
  afterimage serve --listen unix:/run/in.sock --capture web01,size=20G &
  qemu-io -f raw -c 'write 1M 64k' 'nbd+unix:///web01?socket=/run/in.sock'
  afterimage capture commit web01")]
    Commit {
        /// The name under which it is served, which is that of its backups
        name: String,
        /// The control socket of the server, where it is not the usual one
        #[arg(long, value_name = "PATH")]
        control: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(super) struct Record {
    #[command(subcommand)]
    pub(super) verb: RecordVerb,
}

#[derive(Debug, Subcommand)]
pub(super) enum RecordVerb {
    /// Print a backup's record, for another repository to import
    Export(RecordExport),
    /// Import records: the backups are listed, mounted, served and restored here, and read from where they lie
    Import(RecordImport),
    /// Forget an imported record; the backup stays where it lies
    Remove {
        /// Which backup
        backup: String,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
The line tells which repository the backup is in and where that lies. The record in it is sealed: it takes the repository's key to open it, and no key
is in it. Of a container of Cinder's (-r cinder:DIR), each record is a backup_service and a backup_url, made from the container alone.

Examples:
  afterimage -r cinder:/var/lib/cinder/backup record export web01 --chain
  afterimage -r cinder:/var/lib/cinder/backup record export web01 --json | jq -r '[.backup_service, .backup_url] | @tsv' | xargs cinder backup-import
  afterimage -r /srv/backups record export web01 > web01.record
  afterimage -r /srv/backups record export web01 --chain | ssh site-b afterimage -r /srv/backups record import - --home /mnt/site-a")]
pub(super) struct RecordExport {
    /// Which backup
    pub(super) backup: String,
    /// For whom: native, another repository of afterimage; cinder, `cinder backup-import`
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<RecordFormat>,
    /// The backups before it, too: the oldest first
    #[arg(long)]
    pub(super) chain: bool,
    /// The driver that Cinder is to import with, where several could (by the beginning of its class)
    #[arg(long, value_name = "CLASS")]
    pub(super) service: Option<String>,
}

/// Who is to read a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum RecordFormat {
    /// Another repository of afterimage.
    Native,
    /// Cinder.
    Cinder,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The directory is what backup_posix_path names, or the root of the share of an NFS driver. A backup that is there already is left as it is, and one that
was interrupted begins again; nothing is listed by Cinder before all of it is there. `record export` prints what cinder backup-import takes.
Cinder 22 to 28 restores increments to new volumes wrongly where bytes became zeros: restore to a volume that exists, or leave out --chain.

Examples:
  afterimage -r /srv/backups export web01 --to cinder:/var/lib/cinder/backup
  afterimage -r /srv/backups export web01 db@latest~1 --to cinder:/mnt/share --chain --compression zstd
  afterimage -r cinder:/var/lib/cinder/backup record export c14cc3b1799c0ada --chain")]
pub(super) struct Export {
    /// Which backups; /ITEM behind one for only that image of it
    #[arg(required = true, value_name = "BACKUP")]
    pub(super) backups: Vec<String>,
    /// Where to
    #[arg(long, value_name = "cinder:DIR")]
    pub(super) to: String,
    /// The backups before each, too, and each as an increment to the one before it
    #[arg(long)]
    pub(super) chain: bool,
    /// How objects are compressed; what would not get smaller is not
    #[arg(long, value_name = "zlib|zstd|none", default_value = "zlib")]
    pub(super) compression: CinderCompression,
    /// How long an object may be: a multiple of 32 KiB; 50 MiB for what is to go to an object store
    #[arg(long, value_name = "SIZE", default_value_t = crate::foreign::cinder::write::OBJECT_SIZE, value_parser = parse_size)]
    pub(super) object_size: u64,
    /// Leave zeros out of full backups: smaller, and right only when it is restored onto new volumes
    #[arg(long)]
    pub(super) skip_zeros: bool,
}

/// How objects of Cinder's are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum CinderCompression {
    /// As Cinder does unless told.
    Zlib,
    /// Fast; Cinder from Victoria on.
    Zstd,
    /// Not at all.
    None,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The repository that a record comes from, its home, is opened once with its own password or key; from then on this repository's key is enough. Nothing
is written there, so nothing keeps a backup there that is removed there. With --copy the backups are stored here, and the home is not needed any more;
interrupted, the same call goes on.
Cinder's own records are read as well, in whatever its clients printed: with -r cinder:DIR they are looked up in that container, and with --home
cinder:DIR --copy their backups, and those that they add to, are stored here.

Examples:
  afterimage -r /srv/site-b record import web01.record
  afterimage -r /srv/site-b record import web01.record --home /mnt/site-a --home-password-file /root/site-a.pw
  afterimage -r /srv/site-b record import web01.record --copy
  cinder backup-export 8109c7d2-c780-5ebb-9603-c7fb002f03f1 | afterimage -r cinder:/var/lib/cinder/backup record import -")]
pub(super) struct RecordImport {
    /// A file of exported records; - : standard input
    #[arg(value_name = "FILE|-")]
    pub(super) file: PathBuf,
    /// Store the backups here, instead of reading them from where they lie
    #[arg(long)]
    pub(super) copy: bool,
    /// Where the repository that they come from lies, if it is not where the record says
    #[arg(long, value_name = "REPO")]
    pub(super) home: Option<String>,
    /// A file whose first line is the password of that repository
    #[arg(long, value_name = "F")]
    pub(super) home_password_file: Option<PathBuf>,
}

/// Whether clients come by TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum TlsChoice {
    /// Never.
    Off,
    /// If they want.
    Allow,
    /// Always.
    Require,
}

#[derive(Debug, Args)]
pub(super) struct Diff {
    /// One backup; /ITEM behind it where there are several
    pub(super) a: String,
    /// The other one
    pub(super) b: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit code 3 means that damage was found. What is damaged is named: object, backup, image and range; all else stays readable.

Examples:
  afterimage check
  afterimage check --read-data
  afterimage check --read-data=5% web01")]
pub(super) struct Check {
    /// Only these backups; all unless given
    pub(super) backups: Vec<String>,
    /// Read and open everything, or this part of it
    #[arg(long, value_name = "N%", num_args = 0..=1, require_equals = true, default_missing_value = "100%", value_parser = percent)]
    pub(super) read_data: Option<f64>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Returns when the mount is ready. Backups made meanwhile appear by themselves. Mounts are read-only; others than you get in only
with --allow-other: they read images, and of shares what modes let them. As an ordinary user it takes fusermount3 (Debian: apt install fuse3).

  MOUNTPOINT/volumes/NAME/TIME/disk.img      the volume
  MOUNTPOINT/volumes/NAME/TIME/backup.json   its record
  MOUNTPOINT/volumes/NAME/latest             the newest
  MOUNTPOINT/ids/ID                          each backup by its id

Examples:
  afterimage -r /srv/backups mount /mnt
  losetup -rP --find --show /mnt/volumes/web01/latest/disk.img
  qemu-img convert -O qcow2 -f raw /mnt/volumes/web01/latest/disk.img web01.qcow2")]
pub(super) struct Mount {
    /// An empty directory
    pub(super) mountpoint: PathBuf,
    /// Stay in the foreground, and tell systemd when it is ready
    #[arg(long)]
    pub(super) foreground: bool,
    /// Let other users read what is mounted
    #[arg(long)]
    pub(super) allow_other: bool,
    /// Keep chunks that were fetched in this directory, sealed as they are in the repository: for repositories that are far away
    #[arg(long, value_name = "D", requires = "cache_size")]
    pub(super) cache_dir: Option<PathBuf>,
    /// How many bytes may lie there; a repository across a network has up to 4 GiB in your cache directory unless told otherwise (0: none)
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) cache_size: Option<u64>,
    /// As root: copy images that are opened to plain files in that directory, which take three quarters of its size, and let the kernel read those
    /// by itself from the next opening on. They lie there in the clear, and what the kernel reads of them is not verified
    #[arg(long, requires = "cache_dir")]
    pub(super) passthrough: bool,
}

#[derive(Debug, Args)]
pub(super) struct Umount {
    /// Where it is mounted
    pub(super) mountpoint: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
It takes root and the kernel's module (modprobe nbd). Prints the device's name when it can be used. A backup, and an export by TLS, is served
to the kernel by this program, which stays in the background until the device is detached, or detaches it when it is told to end (SIGTERM). The
connections of any other export are the kernel's own from then on; should they all be lost, --reconnect gives it new ones. What is written to a
device is on the server after sync, or when it is detached. A device is no place for swap.

Examples:
  modprobe nbd
  afterimage -r /srv/backups attach web01@latest~1           prints /dev/nbd0
  mount -o ro /dev/nbd0p1 /mnt
  afterimage attach nbd://storage02/web01-new /dev/nbd5
  afterimage attach 'nbds://storage02/web01-new?tls-certificates=/etc/pki/nbd' --read-only
  afterimage attach nbd://storage02/web01-new /dev/nbd5 --reconnect
  afterimage detach /dev/nbd5")]
pub(super) struct Attach {
    /// A backup (/ITEM behind it where there are several), or the nbd:// URI of an export
    #[arg(value_name = "EXPORT-URI|BACKUP")]
    pub(super) what: String,
    /// Which device: /dev/nbd0, /dev/nbd1, ...; the first that is free unless given
    #[arg(value_name = "/dev/nbdN")]
    pub(super) device: Option<String>,
    /// Let nobody write to the device
    #[arg(long)]
    pub(super) read_only: bool,
    /// Stay in the foreground until the device is detached, and tell systemd when it is ready
    #[arg(long)]
    pub(super) foreground: bool,
    /// Give a device that has lost its connections to this export new ones
    #[arg(long, requires = "device", conflicts_with_all = ["foreground", "read_only"])]
    pub(super) reconnect: bool,
    /// How many connections, where the export promises that several are as good as one
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(super) connections: u8,
    /// The device's logical block: 512 to 4K; disks whose partition table counts in 4096 bytes want 4K. 512 unless the server wants more
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) block_size: Option<u64>,
    /// After so many seconds a request without an answer is lost, and with it its connection; 0: it waits for ever. 60 for a backup, else 600
    #[arg(long, value_name = "SECONDS")]
    pub(super) timeout: Option<u32>,
    /// How long requests wait for --reconnect when all connections are lost, before they fail
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(super) dead_time: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A device that is mounted or open is refused, with exit code 4. What was written to it is on the server when this returns.

Examples:
  umount /mnt
  afterimage detach /dev/nbd0
  afterimage detach /dev/nbd0 --force       its server is gone for good; who uses it gets errors")]
pub(super) struct Detach {
    /// Which one
    #[arg(value_name = "/dev/nbdN")]
    pub(super) device: String,
    /// Also when it is in use, was attached by others, or can't be flushed
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  afterimage stats /mnt
  afterimage stats /mnt --json | jq .cache
  afterimage stats --prometheus")]
pub(super) struct Stats {
    /// Which: a mountpoint or a control socket; all of yours unless given
    #[arg(value_name = "MOUNTPOINT|SOCKET")]
    pub(super) at: Option<PathBuf>,
    /// Print the text that Prometheus reads
    #[arg(long)]
    pub(super) prometheus: bool,
}

fn time(text: &str) -> Result<jiff::Timestamp, String> {
    parse_time(text).ok_or_else(|| "a time looks like 2026-11-20T10:32:00Z".to_owned())
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<f64>();
    let percent = number.ok().filter(|percent| (0.0..=100.0).contains(percent));
    percent.ok_or_else(|| "a part looks like 5%, and is no more than 100%".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_words_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_stand_before_or_after_the_verb() {
        for words in
            [["afterimage", "-r", "x", "list", "--json"], ["afterimage", "--json", "list", "-r", "x"]]
        {
            let cli = Cli::try_parse_from(words).unwrap();
            assert_eq!((cli.global.repo.as_deref(), cli.global.json), (Some("x"), true));
        }
    }
}
