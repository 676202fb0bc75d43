//! The harness proves itself on tools that are on every machine, so that a green sweep means something.

use crate::common::Sandbox;
use crate::common::tracer::{Act, Touch, need_tracer, trace};
use nix::libc;
use std::process::Command;

fn copy(sand: &Sandbox) -> Command {
    std::fs::write(sand.at("from"), vec![7; 300_000]).expect("write");
    let mut command = Command::new("dd");
    let _ = command.arg(format!("if={}", sand.at("from"))).arg(format!("of={}", sand.at("to")));
    let _ = command.args(["bs=100000", "conv=fsync"]).env("PATH", "/usr/bin:/bin");
    command
}

fn to_the_copy(touch: &Touch) -> bool {
    touch.path.ends_with("to")
}

#[test]
fn the_tracer_sees_every_touch_of_a_copy() {
    need_tracer!();
    let sand = Sandbox::new();
    let traced = trace(copy(&sand), &to_the_copy, 0, Act::Watch);
    let calls: Vec<&str> = traced.touches.iter().map(|touch| touch.call).collect();
    assert_eq!(calls, ["create", "write", "write", "write", "sync"], "{}", traced.output);
    assert_eq!(traced.output.code(), Some(0));
}

#[test]
fn a_kill_prevents_the_call_it_is_aimed_at() {
    need_tracer!();
    let sand = Sandbox::new();
    let traced = trace(copy(&sand), &to_the_copy, 3, Act::Kill);
    assert_eq!(traced.output.code(), None, "{}", traced.output);
    assert_eq!(std::fs::metadata(sand.at("to")).expect("a part of the copy").len(), 100_000);
}

#[test]
fn an_injected_error_is_what_the_program_sees() {
    need_tracer!();
    let sand = Sandbox::new();
    let traced = trace(copy(&sand), &to_the_copy, 5, Act::Fail(libc::EIO));
    assert_eq!(traced.output.code(), Some(1));
    assert!(traced.output.stderr.contains("Input/output error"), "{}", traced.output);
}

#[test]
fn a_test_can_act_while_the_program_stands_still() {
    need_tracer!();
    let sand = Sandbox::new();
    let from = sand.at("from");
    let mut cut = || {
        std::fs::File::options().write(true).open(&from).and_then(|file| file.set_len(150_000)).expect("cut")
    };
    let traced = trace(copy(&sand), &to_the_copy, 3, Act::Call(&mut cut));
    assert_eq!(traced.output.code(), Some(0));
    assert_eq!(
        std::fs::metadata(sand.at("to")).expect("a copy").len(),
        200_000,
        "the second block was read before the cut"
    );
}
