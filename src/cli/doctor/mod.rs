//! `doctor`: what this machine has, what is missing and how to get it; and with `--store`, what the repository's store keeps to.

mod machine;
mod store;

use super::args::Doctor as Args;
use super::context::Context;
use crate::error::{Kind, Result};
use serde_json::{Value, json};

/// One line of the answer.
pub(super) struct Finding {
    /// What it is about.
    pub(super) what: &'static str,
    /// Whether it is as it should be.
    pub(super) state: State,
    /// What was found.
    pub(super) found: String,
    /// What it is for, or how to get it, where it is not as it should be.
    pub(super) advice: Option<String>,
}

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// As it should be.
    Well,
    /// Something works less well, or not at all, without it.
    Lacking,
    /// Wrong: nothing may rely on it.
    Wrong,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Well => "ok",
            State::Lacking => "lacking",
            State::Wrong => "WRONG",
        }
    }
}

impl Finding {
    pub(super) fn well(what: &'static str, found: impl Into<String>) -> Finding {
        Finding { what, state: State::Well, found: found.into(), advice: None }
    }

    pub(super) fn lacking(what: &'static str, found: impl Into<String>, advice: &str) -> Finding {
        Finding { what, state: State::Lacking, found: found.into(), advice: Some(advice.to_owned()) }
    }

    fn json(&self) -> Value {
        json!({ "what": self.what, "state": self.state.word(), "found": self.found, "advice": self.advice })
    }

    fn text(&self) -> String {
        let line = format!("{:<8} {}: {}\n", self.state.word(), self.what, self.found);
        match &self.advice {
            Some(advice) => line + &format!("         {advice}\n"),
            None => line,
        }
    }
}

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    let machine = machine::look();
    let store = if args.store { store::probe(context)? } else { Vec::new() };
    let json = || {
        let all = |findings: &[Finding]| findings.iter().map(Finding::json).collect::<Vec<_>>();
        json!({ "machine": all(&machine), "store": if args.store { json!(all(&store)) } else { Value::Null } })
    };
    context.print(json, || machine.iter().chain(&store).map(Finding::text).collect())?;
    let is_wrong = store.iter().any(|finding| finding.state == State::Wrong);
    Ok(if is_wrong { Kind::Corrupt.exit_code() } else { 0 })
}
