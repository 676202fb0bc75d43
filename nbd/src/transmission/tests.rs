//! Every line of the table of answers, as rows.

use proptest::prelude::*;

use super::*;
use crate::export::{BlockSizes, Info};
use crate::wire::Name;

const SIZE: u64 = 1 << 20;

fn rules(framing: Framing, info: Info) -> Rules {
    let contexts = match framing {
        Framing::Simple => vec![],
        _ => vec![
            Selected { id: 1, index: 0, name: "base:allocation".into() },
            Selected { id: 3, index: 2, name: "x-test:c".into() },
        ],
    };
    Rules::new(&Agreed { name: Name::default(), framing, contexts, info })
}

fn full() -> Info {
    Info { trim: true, fast_zero: true, cache: true, ..Info::writable(SIZE) }
}

fn request(command: u16, flags: u16, offset: u64, length: u64) -> Request {
    Request { flags, command, cookie: 9, offset, length }
}

fn error(verdict: Verdict) -> Option<WireError> {
    if let Verdict::Refuse { refusal, .. } = verdict { Some(refusal.error) } else { None }
}

#[test]
fn n3_ranges_past_the_end_or_wrapping_are_refused() {
    let rules = rules(Framing::Structured, full());
    for (offset, length) in [
        (SIZE, 1),
        (SIZE - 1, 2),
        (0, SIZE + 1),
        (1 << 63, 1),
        (u64::MAX, 1),
        (u64::MAX, 0xffff_ffff),
        (1, SIZE),
    ] {
        for command in [cmd::READ, cmd::TRIM, cmd::CACHE, cmd::BLOCK_STATUS] {
            assert_eq!(error(rules.judge(&request(command, 0, offset, length))), Some(WireError::Inval));
        }
        for command in [cmd::WRITE, cmd::WRITE_ZEROES] {
            let verdict = rules.judge(&request(command, 0, offset, length));
            match verdict {
                Verdict::HangUp(_) => assert!(command == cmd::WRITE && length > 64 << 20),
                verdict => assert_eq!(error(verdict), Some(WireError::NoSpc), "{command} {offset} {length}"),
            }
        }
    }
}

#[test]
fn n3_commands_without_payload_have_no_limit() {
    let huge = Info { size: limits::EXPORT_SIZE_MAX, ..full() };
    let compact = rules(Framing::Structured, huge.clone());
    let extended = rules(Framing::Extended, huge);
    for command in [cmd::TRIM, cmd::WRITE_ZEROES, cmd::CACHE, cmd::BLOCK_STATUS] {
        assert!(matches!(compact.judge(&request(command, 0, 0, 0xffff_ffff)), Verdict::Do(_)));
        assert!(matches!(extended.judge(&request(command, 0, 0, limits::EXPORT_SIZE_MAX)), Verdict::Do(_)));
    }
}

#[test]
fn empty_requests_succeed() {
    for framing in [Framing::Simple, Framing::Structured, Framing::Extended] {
        let rules = rules(framing, full());
        for command in [cmd::READ, cmd::TRIM, cmd::WRITE_ZEROES, cmd::CACHE] {
            assert_eq!(rules.judge(&request(command, 0, SIZE, 0)), Verdict::Do(Command::Nothing));
        }
        let flags = if framing == Framing::Extended { cmd_flag::PAYLOAD_LEN } else { 0 };
        assert_eq!(rules.judge(&request(cmd::WRITE, flags, 0, 0)), Verdict::Do(Command::Nothing));
    }
}

#[test]
fn n11_read_only_exports_refuse_changes_after_their_payload() {
    let rules = rules(Framing::Structured, Info::read_only(SIZE));
    for command in [cmd::WRITE, cmd::TRIM, cmd::WRITE_ZEROES] {
        let Verdict::Refuse { drain, refusal } = rules.judge(&request(command, 0, 0, 4096)) else { panic!() };
        assert_eq!(refusal.error, WireError::Perm);
        assert_eq!(drain, if command == cmd::WRITE { 4096 } else { 0 });
    }
}

#[test]
fn n11_payloads_are_drained_up_to_64_mib_and_no_further() {
    let rules = rules(Framing::Simple, full());
    let write = |length| rules.judge(&request(cmd::WRITE, 0, 0, length));
    assert_eq!(error(write(32 << 20)), Some(WireError::NoSpc));
    assert!(matches!(write(64 << 20), Verdict::Refuse { drain: 0x400_0000, .. }));
    assert!(matches!(write((64 << 20) + 1), Verdict::HangUp(_)));
    let large = Info { size: 1 << 40, ..full() };
    let large = Rules { size: large.size, ..rules };
    assert_eq!(error(large.judge(&request(cmd::WRITE, 0, 0, (32 << 20) + 1))), Some(WireError::Inval));
    assert_eq!(error(large.judge(&request(cmd::READ, 0, 0, (32 << 20) + 1))), Some(WireError::Inval));
    assert!(matches!(large.judge(&request(cmd::READ, 0, 0, 32 << 20)), Verdict::Do(_)));
}

#[test]
fn flags_are_accepted_where_they_belong_and_were_offered() {
    use cmd_flag::*;
    let all = [FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN, 1 << 6, 1 << 15];
    let commands =
        [cmd::READ, cmd::WRITE, cmd::FLUSH, cmd::TRIM, cmd::CACHE, cmd::WRITE_ZEROES, cmd::BLOCK_STATUS];
    for framing in [Framing::Simple, Framing::Structured] {
        let rules = rules(framing, full());
        for command in commands {
            for flag in all {
                let fits = match flag {
                    FUA => true,
                    NO_HOLE | FAST_ZERO => command == cmd::WRITE_ZEROES,
                    DF => command == cmd::READ && framing == Framing::Structured,
                    REQ_ONE => command == cmd::BLOCK_STATUS,
                    _ => false,
                };
                let fits = fits && (command != cmd::BLOCK_STATUS || framing != Framing::Simple);
                let got = rules.judge(&request(command, flag, 0, 512));
                let expected = if fits { None } else { Some(WireError::Inval) };
                assert_eq!(error(got), expected, "{framing:?} command {command} flag {flag}");
            }
        }
    }
    let bare = rules(Framing::Structured, Info::writable(SIZE));
    assert_eq!(error(bare.judge(&request(cmd::WRITE_ZEROES, FAST_ZERO, 0, 512))), Some(WireError::Inval));
    assert_eq!(error(bare.judge(&request(cmd::TRIM, 0, 0, 512))), Some(WireError::Inval));
    assert_eq!(error(bare.judge(&request(cmd::CACHE, 0, 0, 512))), Some(WireError::Inval));
    let read_only = rules(Framing::Structured, Info::read_only(SIZE));
    assert_eq!(error(read_only.judge(&request(cmd::READ, FUA, 0, 512))), Some(WireError::Inval));
}

#[test]
fn unaligned_requests_are_refused() {
    let info = Info { block_sizes: BlockSizes { minimum: 512, preferred: 4096 }, ..full() };
    let rules = rules(Framing::Structured, info);
    for command in [cmd::READ, cmd::WRITE, cmd::TRIM, cmd::WRITE_ZEROES, cmd::CACHE, cmd::BLOCK_STATUS] {
        for (offset, length) in [(1, 512), (512, 1), (511, 513)] {
            assert_eq!(error(rules.judge(&request(command, 0, offset, length))), Some(WireError::Inval));
        }
        assert_eq!(error(rules.judge(&request(command, 0, 512, 1024))), None);
    }
}

#[test]
fn extended_payload_rules_hold() {
    let rules = rules(Framing::Extended, full());
    let with = |command, length| rules.judge(&request(command, cmd_flag::PAYLOAD_LEN, 0, length));
    assert_eq!(with(cmd::WRITE, 512), Verdict::Do(Command::Write { offset: 0, len: 512, fua: false }));
    let qemu_like = rules.judge(&request(cmd::WRITE, 0, 0, 512));
    assert_eq!(qemu_like, Verdict::Do(Command::Write { offset: 0, len: 512, fua: false }));
    for command in [cmd::READ, cmd::FLUSH, cmd::TRIM, cmd::WRITE_ZEROES, cmd::CACHE, 99] {
        let Verdict::Refuse { drain, refusal } = with(command, 512) else { panic!("command {command}") };
        assert_eq!((drain, refusal.error), (512, WireError::Inval));
        assert!(matches!(with(command, (32 << 20) + 1), Verdict::HangUp(_)));
    }
    assert_eq!(with(cmd::BLOCK_STATUS, 16), Verdict::Do(Command::StatusByPayload { len: 16 }));
    assert!(matches!(with(cmd::BLOCK_STATUS, 1 << 20), Verdict::Refuse { drain: 0x10_0000, .. }));
    assert!(matches!(with(cmd::BLOCK_STATUS, 1 << 40), Verdict::HangUp(_)));
}

#[test]
fn status_payloads_name_selected_contexts_once() {
    let rules = rules(Framing::Extended, full());
    let asked = request(cmd::BLOCK_STATUS, cmd_flag::PAYLOAD_LEN, 4096, 0);
    let judge = |effect, ids: &[u32]| {
        let mut payload = Vec::new();
        StatusPayload { effect, ids: ids.to_vec() }.encode(&mut payload);
        rules.judge_status(&asked, &payload)
    };
    let Ok(Command::Status { offset, len, contexts, .. }) = judge(8192, &[3]) else { panic!() };
    assert_eq!((offset, len, contexts[0].index), (4096, 8192, 2));
    for (effect, ids) in [(8192, &[2][..]), (8192, &[1, 1]), (SIZE, &[1]), (u64::MAX, &[1])] {
        assert_eq!(judge(effect, ids).map_err(|refusal| refusal.error), Err(WireError::Inval));
    }
    assert_eq!(judge(0, &[1]), Ok(Command::Nothing));
    assert_eq!(judge(8192, &[]), Ok(Command::Nothing));
    assert!(rules.judge_status(&asked, &[0; 9]).is_err());
}

#[test]
fn block_status_needs_a_context_and_structured_replies() {
    let mut bare = rules(Framing::Structured, full());
    bare.contexts = Arc::default();
    assert_eq!(error(bare.judge(&request(cmd::BLOCK_STATUS, 0, 0, 512))), Some(WireError::Inval));
    let simple = rules(Framing::Simple, full());
    assert_eq!(error(simple.judge(&request(cmd::BLOCK_STATUS, 0, 0, 512))), Some(WireError::Inval));
}

proptest! {
    #[test]
    fn n3_whatever_is_done_lies_within_the_export(
        framing in prop::sample::select(vec![Framing::Simple, Framing::Structured, Framing::Extended]),
        command in 0u16..10, flags in 0u16..128, offset: u64, length: u64, near: bool, minimum in 0u32..13,
    ) {
        let info = Info { block_sizes: BlockSizes { minimum: 1 << minimum, preferred: 4096 }, ..full() };
        let rules = rules(framing, info);
        let (offset, length) = if near { (offset % (2 * SIZE), length % (2 * SIZE)) } else { (offset, length) };
        let length = if framing == Framing::Extended { length } else { length & 0xffff_ffff };
        let range = match rules.judge(&request(command, flags, offset, length)) {
            Verdict::Do(Command::Read { offset, len, .. } | Command::Write { offset, len, .. }) => (offset, u64::from(len)),
            Verdict::Do(Command::Trim { offset, len, .. } | Command::Zero { offset, len, .. }) => (offset, len),
            Verdict::Do(Command::Cache { offset, len } | Command::Status { offset, len, .. }) => (offset, len),
            Verdict::Refuse { drain, .. } => {
                prop_assert!(drain <= limits::PAYLOAD_DRAIN_MAX);
                return Ok(());
            }
            _ => return Ok(()),
        };
        prop_assert!(range.1 > 0);
        prop_assert!(range.0.checked_add(range.1).unwrap() <= SIZE);
        prop_assert!(range.0 % (1 << minimum) == 0 && range.1 % (1 << minimum) == 0);
    }
}
