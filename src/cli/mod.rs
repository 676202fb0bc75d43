//! The command: words in, one of the rooms called, words or JSON out. One file a verb.
//!
//! Nothing but the result goes to standard output; logs and progress go to standard error. An error's kind decides the exit code.

mod adopt;
mod args;
mod attach;
mod background;
mod backup;
mod capture;
mod cat;
mod check;
mod context;
mod control;
mod detach;
mod diff;
mod doctor;
mod export;
mod figures;
mod find;
mod init;
mod key;
mod list;
mod locations;
mod mount;
mod overlay;
mod password;
mod record;
mod restore;
mod serve;
mod show;
mod stats;
mod sync;
mod umount;
mod units;
mod words;

use crate::error::{Error, Kind, Result};
use args::{Cli, Verb};
use clap::{CommandFactory, Parser};
use context::Context;
use std::io::Write;
use std::process::ExitCode;

/// Runs the command of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            let _unheard = error.print();
            return ExitCode::from(code);
        }
    };
    let json = cli.global.json;
    let done = run(cli);
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) if is_closed_pipe(&error) => ExitCode::from(1),
        Err(error) => {
            report(&error, json);
            ExitCode::from(error.kind().exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<u8> {
    let context = Context::new(cli.global)?;
    match cli.verb {
        Verb::Init(args) => init::run(&context, &args),
        Verb::Key(args) => key::run(&context, &args),
        Verb::Backup(args) => backup::run(&context, args),
        Verb::List(args) => list::run(&context, &args),
        Verb::Show(args) => show::run(&context, &args),
        Verb::Cat(args) => cat::run(&context, &args),
        Verb::Restore(args) => restore::run(&context, &args),
        Verb::Serve(args) => serve::run(&context, &args),
        Verb::Overlay(args) => overlay::run(&context, args),
        Verb::Capture(args) => capture::run(&context, &args),
        Verb::Export(args) => export::run(&context, &args),
        Verb::Record(args) => record::run(&context, &args),
        Verb::Diff(args) => diff::run(&context, &args),
        Verb::Find(args) => find::run(&context, &args),
        Verb::History(args) => find::history(&context, &args),
        Verb::Check(args) => check::run(&context, &args),
        Verb::Mount(args) => mount::run(&context, &args),
        Verb::Umount(args) => umount::run(&context, &args),
        Verb::Attach(args) => attach::run(&context, &args),
        Verb::Detach(args) => detach::run(&context, &args),
        Verb::Sync(args) => sync::run(&context, &args),
        Verb::Stats(args) => stats::run(&context, &args),
        Verb::Doctor(args) => doctor::run(&context, &args),
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "afterimage", &mut std::io::stdout());
            Ok(0)
        }
        Verb::Man { directory } => manuals(&directory),
    }
}

fn manuals(directory: &std::path::Path) -> Result<u8> {
    clap_mangen::generate_to(Cli::command(), directory)
        .map_err(|error| Error::io(format!("write man pages to {}", directory.display()), error))?;
    Ok(0)
}

/// Somebody who reads only the beginning of what we print is no reason for words.
fn is_closed_pipe(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

fn report(error: &Error, json: bool) {
    let mut stderr = std::io::stderr().lock();
    let kind = format!("{:?}", error.kind()).to_lowercase();
    let _unheard = match json {
        true => writeln!(
            stderr,
            "{}",
            serde_json::json!({ "error": { "kind": kind, "message": error.to_string() } })
        ),
        false if error.kind() == Kind::Interrupted => writeln!(stderr, "afterimage: {error}"),
        false => writeln!(stderr, "afterimage: error: {error}"),
    };
}
