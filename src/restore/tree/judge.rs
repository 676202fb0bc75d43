//! The judge: may this tree be restored into that directory? A pure function of facts, needs and wish; its test is their table.
//!
//! What a *target* cannot keep (no links on vfat, names that meet where case does not count, a file longer than files may be there) refuses the
//! restore, unless `--lossy` agrees to the list of it. What this *user* may not do (give files away, make devices) does not refuse it:
//! his own files come back all the same, and the list says what did not. `--force` lifts one refusal: that the target is the source.

use super::aspect::Aspects;
use super::facts::Facts;
use super::losses::Losses;
use super::marker::Marker;
use crate::error::{Error, Kind};
use crate::restore::target::facts::What;
use std::path::Path;

/// What a tree needs of this very target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Files, directories and links that are to be made.
    pub files: u64,
    /// Bytes that take room, in whole units of the target.
    pub bytes: u64,
    /// What its files have that cannot be kept there.
    pub losses: Losses,
    /// Names that lead to a directory where the tree has none, or the other way round: how many, and the first of them.
    pub in_the_way: (u64, Vec<u8>),
}

/// What the user wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Write into a directory that is not empty: with `--into`, `--differential` or `--delete`.
    pub into: bool,
    /// Remove what the tree has not.
    pub delete: bool,
    /// Overwrite the source itself.
    pub force: bool,
    /// Do without what the target cannot keep.
    pub lossy: bool,
    /// Which restore it is.
    pub marker: Option<Marker>,
}

/// How it may be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The directory has to be made first.
    pub create: bool,
    /// There may be something already; what is right there is left alone.
    pub onto: bool,
    /// It goes on where an earlier run stopped.
    pub resumes: bool,
    /// There was nothing when it was begun: all that is there now is of its own making.
    pub fresh: bool,
    /// What is done without.
    pub without: Aspects,
    /// What the user should hear.
    pub notes: Vec<String>,
}

/// Why it must not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A tree needs a directory.
    #[error("it is no directory")]
    NoDirectory(What),
    /// It shows backups.
    #[error("it lies in a mount of afterimage, which shows backups and is read-only")]
    OwnMount,
    /// It belongs to the repository.
    #[error("it lies inside the repository")]
    InRepository,
    /// The repository belongs to it.
    #[error("the repository lies inside of it")]
    HoldsRepository,
    /// It is what was backed up.
    #[error("it is the source of this backup, or lies in it, or holds it")]
    Source,
    /// Nobody can write there.
    #[error("it is read-only")]
    ReadOnly,
    /// This user may not.
    #[error("you may not write to it")]
    Denied,
    /// Something is there.
    #[error("it is not empty")]
    NotEmpty,
    /// Another restore was begun there.
    #[error("a restore of {}/{} into it was begun and not ended", .0.backup, .0.item)]
    Begun(Box<Marker>),
    /// Things of another kind stand where it has to write.
    #[error("{count} names in it lead to a directory where the backup has none, or the other way round, as {}", .first.escape_ascii())]
    InTheWay {
        /// How many.
        count: u64,
        /// The first of them.
        first: Vec<u8>,
    },
    /// It would not fit.
    #[error("it is too small: the backup needs {needs} bytes or more and {whose} {has}")]
    TooSmall {
        /// What is left.
        has: u64,
        /// What is needed.
        needs: u64,
        /// Who has it.
        whose: &'static str,
    },
    /// It would not fit.
    #[error("it has no room for so many files: the backup needs {needs} or more and {whose} {has}")]
    TooFewFiles {
        /// What is left.
        has: u64,
        /// What is needed.
        needs: u64,
        /// Who has it.
        whose: &'static str,
    },
    /// Its file system is of another kind.
    #[error("{system} cannot keep {}", .losses.summary())]
    CannotKeep {
        /// The file system.
        system: &'static str,
        /// What would be lost.
        losses: Losses,
    },
}

impl Refusal {
    /// What the user can do.
    pub fn what_to_try(&self) -> &'static str {
        match self {
            Refusal::NoDirectory(_) => "a share is restored into a directory: name an empty or a new one",
            Refusal::OwnMount | Refusal::InRepository | Refusal::HoldsRepository => "name another directory",
            Refusal::Source => "name another directory; --force overwrites it",
            Refusal::ReadOnly => "name another directory, or mount it for writing",
            Refusal::Denied => "name a directory of yours, or run this as its owner or root",
            Refusal::NotEmpty => {
                "name an empty directory; --into adds to what is there, --differential writes what differs, --delete makes it equal"
            }
            Refusal::Begun(_) => {
                "restore that backup again to end it, or make this one of it: --differential --delete"
            }
            Refusal::InTheWay { .. } => "--delete removes what is in the way",
            Refusal::TooSmall { .. } | Refusal::TooFewFiles { .. } => {
                "enlarge it, restore a part with --only, or name another one"
            }
            Refusal::CannotKeep { .. } => "--lossy restores what it can keep, and lists the rest",
        }
    }

    /// The refusal as the error of this target.
    pub fn into_error(self, path: &Path) -> Error {
        let hint = self.what_to_try();
        Error::new(Kind::Refused, format!("restore into {}: {self}", path.display())).hint(hint)
    }
}

/// Whether this may be written, and how.
pub fn judge(facts: &Facts, needs: &Needs, wish: &Wish) -> Result<Verdict, Refusal> {
    refuse_the_place(facts, wish)?;
    let resumes = facts.begun.is_some() && facts.begun == wish.marker;
    match &facts.begun {
        Some(begun) if !resumes && !wish.into => return Err(Refusal::Begun(Box::new(begun.clone()))),
        _ if facts.is_empty || resumes || wish.into => {}
        _ => return Err(Refusal::NotEmpty),
    }
    let (count, first) = &needs.in_the_way;
    if *count > 0 && !wish.delete {
        return Err(Refusal::InTheWay { count: *count, first: first.clone() });
    }
    refuse_what_does_not_fit(facts, needs)?;
    let by_target = needs.losses.only(facts.lacks());
    if !by_target.is_empty() && !wish.lossy {
        return Err(Refusal::CannotKeep { system: facts.system.name, losses: by_target });
    }
    let mut notes = Vec::new();
    if facts.is_source {
        notes.push("the source of this backup is overwritten".to_owned());
    }
    Ok(Verdict {
        create: facts.what == What::Missing,
        onto: !facts.is_bare,
        resumes,
        fresh: facts.is_empty || resumes && facts.begun_empty,
        without: facts.lacks().and(facts.user.may_not),
        notes,
    })
}

impl Facts {
    /// What the target itself has no place for, whoever writes.
    pub fn lacks(&self) -> Aspects {
        self.system.lacks.and(Aspects::of(&[super::aspect::Aspect::Entry]))
    }
}

fn refuse_the_place(facts: &Facts, wish: &Wish) -> Result<(), Refusal> {
    if !matches!(facts.what, What::Missing | What::Directory) {
        return Err(Refusal::NoDirectory(facts.what));
    }
    if facts.in_own_mount {
        return Err(Refusal::OwnMount);
    }
    if facts.in_repository {
        return Err(Refusal::InRepository);
    }
    if facts.holds_repository {
        return Err(Refusal::HoldsRepository);
    }
    if facts.is_source && !wish.force {
        return Err(Refusal::Source);
    }
    if facts.read_only {
        return Err(Refusal::ReadOnly);
    }
    if facts.denied {
        return Err(Refusal::Denied);
    }
    Ok(())
}

fn refuse_what_does_not_fit(facts: &Facts, needs: &Needs) -> Result<(), Refusal> {
    let whose = if facts.by_quota { "your quota leaves" } else { "there are free" };
    if needs.bytes > facts.bytes_free {
        return Err(Refusal::TooSmall { has: facts.bytes_free, needs: needs.bytes, whose });
    }
    match facts.files_free {
        Some(has) if needs.files > has => Err(Refusal::TooFewFiles { has, needs: needs.files, whose }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::aspect::{Aspect, FileSystem};
    use super::super::facts::User;
    use super::*;
    use std::path::PathBuf;

    fn place() -> Facts {
        Facts {
            path: PathBuf::from("/x"),
            what: What::Directory,
            system: FileSystem::of_magic(0xEF53),
            name_len_max: 255,
            block: 4096,
            bytes_free: 1 << 30,
            files_free: Some(1000),
            by_quota: false,
            read_only: false,
            denied: false,
            is_empty: true,
            is_bare: true,
            begun: None,
            begun_empty: false,
            is_source: false,
            in_repository: false,
            holds_repository: false,
            in_own_mount: false,
            user: User::default(),
        }
    }

    fn marker(backup: &str) -> Marker {
        Marker { backup: backup.into(), item: "tree".into(), only: None }
    }

    fn plain() -> Wish {
        Wish { marker: Some(marker("this")), ..Wish::default() }
    }

    fn all_of_it() -> Wish {
        Wish { into: true, delete: true, force: true, lossy: true, ..plain() }
    }

    fn lost(aspects: &[Aspect]) -> Losses {
        let mut losses = Losses::default();
        losses.add(Aspects::of(aspects), b"some/file", None, 1);
        losses
    }

    #[test]
    fn r3_r11_places_that_no_flag_makes_fit() {
        let table = [
            ("a file", Facts { what: What::Regular, ..place() }, Refusal::NoDirectory(What::Regular)),
            ("a device", Facts { what: What::Block, ..place() }, Refusal::NoDirectory(What::Block)),
            (
                "a dangling link",
                Facts { what: What::LinkToNothing, ..place() },
                Refusal::NoDirectory(What::LinkToNothing),
            ),
            ("our own mount", Facts { in_own_mount: true, ..place() }, Refusal::OwnMount),
            ("inside the repository", Facts { in_repository: true, ..place() }, Refusal::InRepository),
            ("above the repository", Facts { holds_repository: true, ..place() }, Refusal::HoldsRepository),
            ("read-only", Facts { read_only: true, ..place() }, Refusal::ReadOnly),
            ("somebody else's", Facts { denied: true, ..place() }, Refusal::Denied),
            (
                "the source, read-only",
                Facts { is_source: true, read_only: true, ..place() },
                Refusal::ReadOnly,
            ),
        ];
        for (case, facts, refusal) in table {
            assert_eq!(judge(&facts, &Needs::default(), &all_of_it()), Err(refusal.clone()), "{case}");
            let error = refusal.into_error(Path::new("/x"));
            assert_eq!(error.kind(), Kind::Refused, "{case}");
            assert!(error.to_string().starts_with("restore into /x: ") && error.what_to_try().is_some());
        }
    }

    #[test]
    fn r3_the_source_takes_force_and_nothing_else() {
        let source = Facts { is_source: true, ..place() };
        let but_force = Wish { force: false, ..all_of_it() };
        assert_eq!(judge(&source, &Needs::default(), &but_force), Err(Refusal::Source));
        let forced = Wish { force: true, ..plain() };
        let verdict = judge(&source, &Needs::default(), &forced).unwrap();
        assert_eq!(verdict.notes, ["the source of this backup is overwritten"]);
    }

    #[test]
    fn r8_a_directory_with_something_in_it_is_for_those_who_say_so_or_who_began_it() {
        let full = Facts { is_empty: false, is_bare: false, ..place() };
        let begun = |backup: &str| Facts { begun: Some(marker(backup)), ..full.clone() };
        let none = Needs::default();
        assert_eq!(judge(&full, &none, &plain()), Err(Refusal::NotEmpty));
        assert_eq!(judge(&begun("other"), &none, &plain()), Err(Refusal::Begun(Box::new(marker("other")))));
        let resumed = judge(&begun("this"), &none, &plain()).unwrap();
        assert!(resumed.resumes && resumed.onto && !resumed.create && !resumed.fresh);
        let ours = Facts { begun_empty: true, ..begun("this") };
        assert!(judge(&ours, &none, &plain()).unwrap().fresh, "all of it is of our making");
        let others = Facts { begun_empty: true, ..begun("other") };
        assert!(!judge(&others, &none, &Wish { into: true, ..plain() }).unwrap().fresh);
        for facts in [full.clone(), begun("other")] {
            let onto = judge(&facts, &none, &Wish { into: true, ..plain() }).unwrap();
            assert!(onto.onto && !onto.resumes && !onto.fresh);
        }
        let formatted = judge(&Facts { is_bare: false, ..place() }, &none, &plain()).unwrap();
        assert!(formatted.onto && formatted.fresh, "there is a lost+found, which is nobody's");
        let new = judge(&Facts { what: What::Missing, ..place() }, &none, &plain()).unwrap();
        assert!(new.create && !new.onto && new.fresh);
    }

    #[test]
    fn r1_what_does_not_fit_is_refused_by_bytes_and_by_files() {
        let needs = |bytes, files| Needs { bytes, files, ..Needs::default() };
        assert!(judge(&place(), &needs(1 << 30, 1000), &plain()).is_ok());
        let too_large = judge(&place(), &needs((1 << 30) + 1, 1), &all_of_it()).unwrap_err();
        assert!(matches!(too_large, Refusal::TooSmall { .. }), "{too_large}");
        let too_many = judge(&place(), &needs(1, 1001), &all_of_it()).unwrap_err();
        assert!(matches!(too_many, Refusal::TooFewFiles { .. }), "{too_many}");
        let uncounted = Facts { files_free: None, ..place() };
        assert!(judge(&uncounted, &needs(1, u64::MAX), &plain()).is_ok());
        let by_quota = Facts { by_quota: true, bytes_free: 5, ..place() };
        let words = judge(&by_quota, &needs(6, 1), &plain()).unwrap_err().to_string();
        assert_eq!(words, "it is too small: the backup needs 6 bytes or more and your quota leaves 5");
    }

    #[test]
    fn r12_what_a_target_cannot_keep_refuses_and_what_a_user_may_not_do_does_not() {
        let fat = Facts { system: FileSystem::of_magic(0x4d44), ..place() };
        for aspect in Aspect::ALL {
            let needs = Needs { losses: lost(&[aspect]), ..Needs::default() };
            let refused = judge(&fat, &needs, &plain()).unwrap_err();
            assert!(matches!(&refused, Refusal::CannotKeep { system: "vfat", .. }), "{aspect:?}: {refused}");
            assert!(refused.to_string().contains("some/file"), "{refused}");
            assert!(judge(&fat, &needs, &Wish { lossy: true, ..plain() }).unwrap().without.has(aspect));
            assert!(judge(&fat, &Needs::default(), &plain()).is_ok(), "nobody needs it");
        }
        let may_not = Aspects::of(&[Aspect::Owners, Aspect::Devices]);
        let mere_user = Facts { user: User { may_not, ..User::default() }, ..place() };
        let needs = Needs { losses: lost(&[Aspect::Owners, Aspect::Devices]), ..Needs::default() };
        let verdict = judge(&mere_user, &needs, &plain()).unwrap();
        assert!(verdict.without.has(Aspect::Owners) && !verdict.without.has(Aspect::Acls));
    }

    #[test]
    fn r11_what_is_in_the_way_is_removed_only_by_those_who_said_delete() {
        let needs = Needs { in_the_way: (2, b"a/b".to_vec()), ..Needs::default() };
        let full = Facts { is_empty: false, is_bare: false, ..place() };
        let refused = judge(&full, &needs, &Wish { into: true, ..plain() }).unwrap_err();
        assert_eq!(refused, Refusal::InTheWay { count: 2, first: b"a/b".to_vec() });
        assert!(judge(&full, &needs, &all_of_it()).is_ok());
    }
}
