//! The judge: may this target be written? A pure function of the facts and the wish; its test is the table of R1 to R3.
//!
//! Sizes: a file that is missing or empty takes the image's size. Anything else must be at least as large, and what it has behind the
//! image's end stays untouched, which is said: a larger disk is common, and what a file holds there was never named by the user.
//! Sectors: bytes are restored as they were; when the source's sectors had another size, what counts in sectors inside the image
//! (partition tables) will be misread, which is said too.
//!
//! `--force` lifts one refusal: that the target is what was backed up.

use super::facts::{Facts, Use, What};
use crate::error::{Error, Kind};
use std::path::Path;

/// What the user wants to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// The size of the image.
    pub size: u64,
    /// The sector size of the device that was backed up.
    pub sector: Option<u32>,
    /// Overwrite the source itself.
    pub force: bool,
}

/// How a target may be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The file has to be made first.
    pub create: bool,
    /// The file has nothing yet and takes the image's size.
    pub set_size: bool,
    /// So many bytes behind the image's end stay as they are.
    pub tail: u64,
    /// What the user should hear.
    pub notes: Vec<String>,
}

/// Why a target must not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is nothing that an image can be restored onto.
    #[error("it is {}", words(*.0))]
    NoTarget(What),
    /// It belongs to a mount of afterimage.
    #[error("it lies in a mount of afterimage, which shows backups and is read-only")]
    OwnMount,
    /// It belongs to the repository.
    #[error("it lies inside the repository")]
    InRepository,
    /// The repository lies on it.
    #[error("the repository lies on this device")]
    UnderRepository,
    /// Somebody uses it.
    #[error("it is in use: {}", all(.0))]
    InUse(Vec<Use>),
    /// Nobody can write to it.
    #[error("the device is read-only")]
    ReadOnly,
    /// It is what was backed up.
    #[error("it is the source of this backup")]
    Source,
    /// The image does not fit.
    #[error("it is too small: it has {has} bytes and the image {needs}")]
    TooSmall {
        /// What the target has.
        has: u64,
        /// What the image needs.
        needs: u64,
    },
}

impl Refusal {
    /// What the user can do.
    pub fn what_to_try(&self) -> &'static str {
        match self {
            Refusal::NoTarget(What::Directory) => "name a file in it, or a block device",
            Refusal::NoTarget(_) => "name a file or a block device; for a stream use: afterimage cat",
            Refusal::OwnMount | Refusal::InRepository | Refusal::UnderRepository => "name another target",
            Refusal::InUse(_) => "unmount or release it first, or name another target",
            Refusal::ReadOnly => "make it writable, for example with: blockdev --setrw",
            Refusal::Source => "--force overwrites it",
            Refusal::TooSmall { .. } => "enlarge it, or name a new file",
        }
    }

    /// The refusal as the error of this target.
    pub fn into_error(self, path: &Path) -> Error {
        let hint = self.what_to_try();
        Error::new(Kind::Refused, format!("restore onto {}: {self}", path.display())).hint(hint)
    }
}

/// Whether this may be written, and how.
pub fn judge(facts: &Facts, wish: &Wish) -> Result<Verdict, Refusal> {
    if !matches!(facts.what, What::Missing | What::Regular | What::Block) {
        return Err(Refusal::NoTarget(facts.what));
    }
    refuse_what_others_need(facts)?;
    if facts.read_only {
        return Err(Refusal::ReadOnly);
    }
    if facts.is_source && !wish.force {
        return Err(Refusal::Source);
    }
    let create = facts.what == What::Missing;
    let set_size = create || facts.what == What::Regular && facts.size == 0;
    if !set_size && facts.size < wish.size {
        return Err(Refusal::TooSmall { has: facts.size, needs: wish.size });
    }
    let tail = facts.size.saturating_sub(wish.size);
    Ok(Verdict { create, set_size, tail, notes: notes(facts, wish, tail) })
}

/// What no flag lifts.
fn refuse_what_others_need(facts: &Facts) -> Result<(), Refusal> {
    if facts.in_own_mount {
        return Err(Refusal::OwnMount);
    }
    if facts.in_repository {
        return Err(Refusal::InRepository);
    }
    if facts.under_repository {
        return Err(Refusal::UnderRepository);
    }
    if !facts.uses.is_empty() {
        return Err(Refusal::InUse(facts.uses.clone()));
    }
    Ok(())
}

fn notes(facts: &Facts, wish: &Wish, tail: u64) -> Vec<String> {
    let mut notes = Vec::new();
    if facts.is_source {
        notes.push("the source of this backup is overwritten".to_owned());
    }
    if tail > 0 {
        notes.push(format!("the target is larger than the image: its last {tail} bytes stay as they are"));
    }
    if let (Some(was), Some(is)) = (wish.sector, facts.sector)
        && was != is
    {
        let what = format!("the source had sectors of {was} bytes, the target has {is}");
        notes.push(format!("{what}: partition tables in the image count in the former"));
    }
    notes
}

fn words(what: What) -> &'static str {
    match what {
        What::Missing | What::Regular | What::Block => "a target",
        What::LinkToNothing => "a symbolic link to nothing",
        What::Directory => "a directory",
        What::Fifo => "a FIFO",
        What::Character => "a character device",
        What::Terminal => "a terminal",
        What::Socket => "a socket",
    }
}

fn all(uses: &[Use]) -> String {
    uses.iter().map(Use::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const SIZE: u64 = 1 << 30;

    fn file(size: u64) -> Facts {
        Facts { what: What::Regular, size, ..Facts::default() }
    }

    fn disk(size: u64) -> Facts {
        Facts { what: What::Block, size, sector: Some(512), ..Facts::default() }
    }

    fn used(uses: &[Use]) -> Facts {
        Facts { uses: uses.to_vec(), ..disk(SIZE) }
    }

    fn plain() -> Wish {
        Wish { size: SIZE, ..Wish::default() }
    }

    fn forced() -> Wish {
        Wish { force: true, ..plain() }
    }

    #[test]
    fn r1_r2_r3_what_is_refused_and_that_force_changes_nothing() {
        let mounted = Use::Mounted("sda1".into(), PathBuf::from("/boot"));
        let swap = Use::Swap(PathBuf::from("/dev/sda2"));
        let raid = Use::Part("sda".into(), "md0".into());
        let small = |has| Refusal::TooSmall { has, needs: SIZE };
        let other = |what| Facts { what, size: SIZE, ..Facts::default() };
        let table: Vec<(&str, Facts, Refusal)> = vec![
            ("R1 a device smaller by one byte", disk(SIZE - 1), small(SIZE - 1)),
            ("R1 a device without a medium", disk(0), small(0)),
            ("R1 a file smaller by one byte", file(SIZE - 1), small(SIZE - 1)),
            ("R1 a file of one byte", file(1), small(1)),
            ("R2 mounted", used(std::slice::from_ref(&mounted)), Refusal::InUse(vec![mounted.clone()])),
            ("R2 swap", used(std::slice::from_ref(&swap)), Refusal::InUse(vec![swap.clone()])),
            ("R2 a part of a RAID", used(std::slice::from_ref(&raid)), Refusal::InUse(vec![raid.clone()])),
            (
                "R2 behind a loop device",
                used(&[Use::Loop("loop3".into())]),
                Refusal::InUse(vec![Use::Loop("loop3".into())]),
            ),
            ("R2 locked by a machine", used(&[Use::Locked]), Refusal::InUse(vec![Use::Locked])),
            ("R2 held by who knows", used(&[Use::Held]), Refusal::InUse(vec![Use::Held])),
            (
                "R2 two uses at once",
                used(&[mounted.clone(), raid.clone()]),
                Refusal::InUse(vec![mounted, raid]),
            ),
            (
                "R2 in use and too small",
                Facts { size: 0, ..used(&[Use::Held]) },
                Refusal::InUse(vec![Use::Held]),
            ),
            ("R3 inside the repository", Facts { in_repository: true, ..file(SIZE) }, Refusal::InRepository),
            (
                "R3 a new file inside the repository",
                Facts { in_repository: true, ..Facts::default() },
                Refusal::InRepository,
            ),
            (
                "R3 under the repository",
                Facts { under_repository: true, ..disk(SIZE) },
                Refusal::UnderRepository,
            ),
            ("R3 our own mount", Facts { in_own_mount: true, ..file(SIZE) }, Refusal::OwnMount),
            ("R3 a terminal", other(What::Terminal), Refusal::NoTarget(What::Terminal)),
            ("R3 a directory", other(What::Directory), Refusal::NoTarget(What::Directory)),
            ("R3 a FIFO", other(What::Fifo), Refusal::NoTarget(What::Fifo)),
            ("R3 a character device", other(What::Character), Refusal::NoTarget(What::Character)),
            ("R3 a socket", other(What::Socket), Refusal::NoTarget(What::Socket)),
            ("R3 a dangling link", other(What::LinkToNothing), Refusal::NoTarget(What::LinkToNothing)),
            ("a device that nobody can write", Facts { read_only: true, ..disk(SIZE) }, Refusal::ReadOnly),
            (
                "R3 the source, forced, but inside the repository",
                Facts { is_source: true, in_repository: true, ..file(SIZE) },
                Refusal::InRepository,
            ),
            ("R1 the source, forced, but too small", Facts { is_source: true, ..file(5) }, small(5)),
        ];
        for (case, facts, refusal) in table {
            assert_eq!(judge(&facts, &forced()), Err(refusal.clone()), "{case}, forced");
            if !facts.is_source {
                assert_eq!(judge(&facts, &plain()), Err(refusal.clone()), "{case}");
            }
            let error = refusal.into_error(Path::new("/x"));
            assert_eq!(error.kind(), Kind::Refused, "{case}");
            assert!(
                error.to_string().starts_with("restore onto /x: ") && error.what_to_try().is_some(),
                "{error}"
            );
        }
    }

    #[test]
    fn r1_what_is_allowed_and_what_is_said() {
        let as_is = Verdict::default();
        let new = Verdict { create: true, set_size: true, ..Verdict::default() };
        let tail = |tail| Verdict {
            tail,
            notes: vec![format!(
                "the target is larger than the image: its last {tail} bytes stay as they are"
            )],
            ..Verdict::default()
        };
        let table = [
            ("R1 a device of the same size", disk(SIZE), as_is.clone()),
            ("R1 a device larger by one byte", disk(SIZE + 1), tail(1)),
            ("R1 a device larger by far", disk(u64::MAX), tail(u64::MAX - SIZE)),
            ("R1 a file of the same size", file(SIZE), as_is),
            ("R1 a larger file keeps its tail", file(SIZE + 512), tail(512)),
            ("an empty file takes the size", file(0), Verdict { set_size: true, ..Verdict::default() }),
            ("a missing file is made", Facts::default(), new),
        ];
        for (case, facts, verdict) in table {
            assert_eq!(judge(&facts, &plain()), Ok(verdict), "{case}");
        }
    }

    #[test]
    fn r1_sectors_of_another_size_are_said_and_do_not_refuse() {
        let four_k = Facts { sector: Some(4096), ..disk(SIZE) };
        let of_512 = Wish { sector: Some(512), ..plain() };
        let verdict = judge(&four_k, &of_512).unwrap();
        assert!(verdict.notes[0].contains("sectors of 512 bytes, the target has 4096"), "{verdict:?}");
        assert_eq!(judge(&disk(SIZE), &of_512).unwrap().notes, Vec::<String>::new());
        let odd = Wish { size: SIZE - 1, ..plain() };
        assert_eq!(
            judge(&four_k, &odd).unwrap().tail,
            1,
            "an image that ends inside a sector leaves the rest of it"
        );
    }

    #[test]
    fn r3_force_lifts_that_it_is_the_source_and_says_so() {
        let source = Facts { is_source: true, ..disk(SIZE) };
        assert_eq!(judge(&source, &plain()), Err(Refusal::Source));
        let verdict = judge(&source, &forced()).unwrap();
        assert_eq!(verdict.notes, ["the source of this backup is overwritten"]);
    }

    #[test]
    fn an_empty_image_fits_everywhere() {
        let empty = Wish::default();
        for (facts, tail) in [(disk(0), 0), (disk(512), 512), (file(0), 0), (Facts::default(), 0)] {
            assert_eq!(judge(&facts, &empty).unwrap().tail, tail);
        }
    }
}
