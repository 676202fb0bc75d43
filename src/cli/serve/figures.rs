//! What a running server answers on its control socket: what clients did with each export, and what that cost.

use super::offers::More;
use super::{Line, Serving};
use crate::cli::figures::{Figure, escape, of_engine, rooms};
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::exports::capture::CaptureExport;
use crate::exports::live::LiveExport;
use crate::exports::watch::{METRICS, Traffic};
use crate::image::Engine;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Where the figures come from.
pub(super) struct Figures {
    since: jiff::Timestamp,
    places: Vec<Value>,
    /// Kind, name and counters of each; those of all backups together come last, under no name.
    exports: Vec<(&'static str, String, Arc<Traffic>)>,
    engine: Option<Arc<Engine>>,
    /// What each overlay is called, the backup that it lies on, and where it can be read.
    overlays: Vec<(String, Value)>,
    captures: Vec<(String, Arc<CaptureExport>)>,
    lives: Vec<(String, Arc<LiveExport>)>,
}

impl Figures {
    pub(super) fn new(serving: &Serving, lines: &[Line]) -> Figures {
        let of = |one: &super::Offered| (one.kind, one.name.as_str().to_owned(), Arc::clone(&one.traffic));
        let backups = serving.backups.iter().map(|all| ("backups", String::new(), Arc::clone(all.traffic())));
        let overlays = serving.offered.iter().filter_map(|one| {
            let More::Overlay(overlay) = &one.more else { return None };
            let name = one.name.as_str();
            let places =
                lines.iter().filter(|line| matches!(&line.what, super::What::Export(of) if of == name));
            let places: Vec<&str> = places.map(|line| line.place.as_str()).collect();
            Some((name.to_owned(), json!({ "base": overlay.base(), "uris": places })))
        });
        let (mut captures, mut lives) = (Vec::new(), Vec::new());
        for one in &serving.offered {
            match &one.more {
                More::Capture(capture) => captures.push((one.name.to_string(), Arc::clone(capture))),
                More::Live(live) => lives.push((one.name.to_string(), Arc::clone(live))),
                More::Target(_) | More::Overlay(_) => {}
            }
        }
        Figures {
            overlays: overlays.collect(),
            captures,
            lives,
            since: clock::now(),
            places: lines.iter().map(Line::json).collect(),
            exports: serving.offered.iter().map(of).chain(backups).collect(),
            engine: serving.engine.clone(),
        }
    }

    /// Answers one request.
    pub(super) fn answer(&self, request: &str) -> Result<String> {
        match request {
            "stats json" => Ok(format!("{}\n", self.json())),
            "stats prometheus" => Ok(self.prometheus()),
            other if other.starts_with("overlay ") => {
                let name = &other["overlay ".len()..];
                let found = self.overlays.iter().find(|(known, _)| known == name);
                let missing = || Error::new(Kind::Missing, format!("no overlay {name:?} is served here"));
                found.map(|(_, facts)| format!("{facts}\n")).ok_or_else(missing)
            }
            other if other.starts_with("capture ") => {
                Ok(format!("{}\n", self.capture(&other["capture ".len()..])?.facts()))
            }
            other if other.starts_with("commit ") => {
                let begun = self.capture(&other["commit ".len()..])?.commit()?;
                Ok(format!("{}\n", json!({ "begun": begun })))
            }
            other => Err(Error::new(Kind::Usage, format!("a server does not know the request {other:?}"))),
        }
    }

    fn capture(&self, name: &str) -> Result<&CaptureExport> {
        let found = self.captures.iter().find(|(known, _)| known == name);
        let missing = || Error::new(Kind::Missing, format!("no capture {name:?} is served here"));
        found.map(|(_, capture)| &**capture).ok_or_else(missing)
    }

    /// What only a capture or a live restore has to tell.
    fn more(&self, name: &str) -> Option<(&'static str, Value)> {
        let capture = self.captures.iter().find(|(known, _)| known == name);
        let live = self.lives.iter().find(|(known, _)| known == name);
        capture
            .map(|(_, capture)| ("capture", capture.facts()))
            .or_else(|| live.map(|(_, live)| ("live", live.facts())))
    }

    fn json(&self) -> Value {
        let export = |(kind, name, traffic): &(&str, String, Arc<Traffic>)| {
            let figures =
                traffic.values().into_iter().map(|(metric, value)| (metric.name.to_owned(), json!(value)));
            let mut all: Map<String, Value> = figures.collect();
            let _new = all.insert("kind".into(), json!(kind));
            if *kind != "backups" {
                let _new = all.insert("name".into(), json!(name));
            }
            if let Some((key, facts)) = self.more(name).filter(|_| *kind != "backups") {
                let _new = all.insert(key.into(), facts);
            }
            Value::Object(all)
        };
        let mut all = json!({
            "serving": self.places,
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "repository": self.engine.as_ref().map(|engine| engine.home()),
            "since": self.since,
            "exports": self.exports.iter().map(export).collect::<Vec<_>>(),
        });
        if let (Some(all), Some(engine)) = (all.as_object_mut(), &self.engine) {
            all.extend(rooms(of_engine(engine)));
        }
        all
    }

    fn prometheus(&self) -> String {
        let mut out = String::new();
        for (number, metric) in METRICS.iter().enumerate() {
            let value = |(kind, name, traffic): &(&str, String, Arc<Traffic>)| {
                let labels = format!("kind=\"{kind}\",export=\"{}\"", escape(name));
                (labels, traffic.values()[number].1)
            };
            let values: Vec<(String, u64)> = self.exports.iter().map(value).collect();
            let (name, unit, gauge, about) = (metric.name, metric.unit, metric.gauge, metric.about);
            Figure { room: "export", name, unit, gauge, about, value: 0 }.prometheus(&mut out, &values);
        }
        for figure in self.engine.iter().flat_map(|engine| of_engine(engine)) {
            figure.prometheus(&mut out, &[(format!("process=\"{}\"", std::process::id()), figure.value)]);
        }
        out
    }
}
