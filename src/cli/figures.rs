//! Figures that a running mount or server tells of itself, described once for JSON and for Prometheus.

use crate::image::Engine;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// One figure, described.
pub(super) struct Figure {
    pub(super) room: &'static str,
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) gauge: bool,
    pub(super) about: &'static str,
    pub(super) value: u64,
}

impl Figure {
    /// As text for Prometheus: the figure with these labels and values.
    pub(super) fn prometheus(&self, out: &mut String, values: &[(String, u64)]) {
        let Figure { room, name, unit, gauge, about, .. } = self;
        let (kind, end) = if *gauge { ("gauge", "") } else { ("counter", "_total") };
        let full = format!("afterimage_{room}_{name}{end}");
        let _fits = write!(out, "# HELP {full} {about} ({unit})\n# TYPE {full} {kind}\n");
        for (labels, value) in values {
            let _fits = match labels.is_empty() {
                true => writeln!(out, "{full} {value}"),
                false => writeln!(out, "{full}{{{labels}}} {value}"),
            };
        }
    }
}

/// What the engine that reads images tells.
pub(super) fn of_engine(engine: &Engine) -> Vec<Figure> {
    let of_image = engine.watch().values().into_iter().map(|(metric, value)| Figure {
        room: "image",
        name: metric.name,
        unit: metric.unit,
        gauge: metric.gauge,
        about: metric.about,
        value,
    });
    of_cache(engine).into_iter().chain(of_image).collect()
}

fn of_cache(engine: &Engine) -> [Figure; 7] {
    let counts = engine.chunk_counts();
    let of = |name, unit, gauge, about, value| Figure { room: "cache", name, unit, gauge, about, value };
    let kept = engine.disk_bytes().unwrap_or(0);
    [
        of("hits", "chunks", false, "Chunks that were in memory when they were asked for.", counts.hits),
        of("misses", "chunks", false, "Chunks that were not.", counts.misses),
        of("evictions", "chunks", false, "Chunks that made room for others.", counts.evictions),
        of("entries", "chunks", true, "Chunks in memory.", counts.entries as u64),
        of("bytes", "bytes", true, "Bytes that they take.", counts.bytes as u64),
        of("budget", "bytes", true, "Bytes that they may take.", engine.chunk_budget() as u64),
        of("disk_bytes", "bytes", true, "Bytes of sealed chunks in the cache on disk.", kept),
    ]
}

/// Figures as JSON: an object for each room.
pub(super) fn rooms(figures: impl IntoIterator<Item = Figure>) -> Map<String, Value> {
    let mut rooms: Map<String, Value> = Map::new();
    for figure in figures {
        let room = rooms.entry(figure.room).or_insert_with(|| json!({}));
        room[figure.name] = json!(figure.value);
    }
    rooms
}

/// As a label's value.
pub(super) fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
