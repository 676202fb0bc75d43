//! What the repository's store promises and keeps to: the suite that our own stores pass, run on the user's.
//!
//! All happens under a name of its own, which is emptied at the end as far as the credentials allow; no object of the repository is touched.

use super::{Finding, State};
use crate::cli::context::Context;
use crate::clock;
use crate::error::{Context as _, Kind, Result};
use crate::seal::random;
use crate::store::conformance::{Verdict, conformance};
use crate::store::{Name, Store};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// A store's clock that is further from ours than this is said: services refuse what is signed at another time.
const SKEW_MAX: Duration = Duration::from_secs(60);
/// So many gets are timed.
const GETS: usize = 9;

pub(super) fn probe(context: &Context) -> Result<Vec<Finding>> {
    let store = context.store()?.store;
    let mut tail = [0; 8];
    random(&mut tail)?;
    let folder = format!("doctor-{}", crate::format::ids::to_hex(&tail));
    let probed = context.runtime().block_on(async {
        let mut findings = vec![Finding::well("store", store.place())];
        findings.extend(timed(&*store, &folder).await?);
        findings
            .extend(conformance(&*store, &folder).await.into_iter().map(|verdict| judged(verdict, &folder)));
        Ok(findings)
    });
    if let Some(directory) = context.directory()? {
        remove_empty(&directory.join(&folder));
    }
    probed
}

/// Objects leave their folders behind where a store is a directory. What is not empty stays.
fn remove_empty(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    if let Err(error) = std::fs::remove_dir(folder) {
        tracing::debug!("remove {}: {error}", folder.display());
    }
}

/// Latency and clock, by one small object.
async fn timed(store: &dyn Store, folder: &str) -> Result<Vec<Finding>> {
    let name = Name::parse(&format!("{folder}/timed/a"))?;
    let began = Instant::now();
    let what = || format!("probe {}", store.place());
    store.put(&name, vec![7; 4096].into()).await.context(what)?;
    let put = began.elapsed();
    let mut gets = Vec::with_capacity(GETS);
    for _ in 0..GETS {
        let began = Instant::now();
        drop(store.get(&name, 0..4096).await.context(what)?);
        gets.push(began.elapsed());
    }
    gets.sort_unstable();
    let stat = store.stat(&name).await.context(what)?;
    let said = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    let latency = format!(
        "a get of 4 KiB takes {} (the slowest of {GETS}: {}), a put {}",
        said(gets[GETS / 2]),
        said(gets[GETS - 1]),
        said(put)
    );
    Ok(vec![Finding::well("latency", latency), skew(stat.published)])
}

fn skew(published: SystemTime) -> Finding {
    let now = SystemTime::from(clock::now());
    let apart = now.duration_since(published).unwrap_or_else(|ahead| ahead.duration());
    let found = format!("the store's is {:.0} s from ours", apart.as_secs_f64());
    match apart <= SKEW_MAX {
        true => Finding::well("clock", found),
        false => Finding::lacking("clock", found, "set this machine's clock: timedatectl set-ntp true"),
    }
}

fn judged(verdict: Verdict, folder: &str) -> Finding {
    let Err(error) = verdict.outcome else { return Finding::well("promise", verdict.promise) };
    let found = format!("{}: {error}", verdict.promise);
    match verdict.carried {
        Some(carried) => Finding::lacking("promise", found, carried),
        // Credentials that may not delete are good ones for a writer.
        None if error.kind() == Kind::Denied => {
            Finding::lacking("promise", found, &format!("small objects may be left under {folder}/"))
        }
        None => Finding {
            what: "promise",
            state: State::Wrong,
            found,
            advice: Some("this store does not keep what a repository needs".to_owned()),
        },
    }
}
