//! What a running mount answers on its control socket: its figures, as JSON or as Prometheus text.

use crate::cli::figures::{Figure, escape, of_engine, rooms};
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::image::Engine;
use crate::image::whole::Whole;
use afterimage_mountd::watch::{BUCKETS, OpSnapshot, Watch};
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// Where the figures come from.
pub(super) struct Figures {
    mountpoint: PathBuf,
    since: jiff::Timestamp,
    mount: Arc<Watch>,
    engine: Arc<Engine>,
    whole: Option<Arc<Whole>>,
}

impl Figures {
    pub(super) fn new(
        mountpoint: PathBuf,
        mount: Arc<Watch>,
        engine: Arc<Engine>,
        whole: Option<Arc<Whole>>,
    ) -> Figures {
        Figures { mountpoint, since: clock::now(), mount, engine, whole }
    }

    /// Answers one request.
    pub(super) fn answer(&self, request: &str) -> Result<String> {
        match request {
            "stats json" => Ok(format!("{}\n", self.json())),
            "stats prometheus" => Ok(self.prometheus()),
            other => Err(Error::new(Kind::Usage, format!("a mount does not know the request {other:?}"))),
        }
    }

    fn figures(&self) -> Vec<Figure> {
        let of_mount = self.mount.snapshot().values.into_iter().map(|(metric, value)| Figure {
            room: "mount",
            name: metric.name,
            unit: metric.unit,
            gauge: metric.gauge,
            about: metric.about,
            value,
        });
        of_mount.chain(of_engine(&self.engine)).chain([self.of_whole()]).collect()
    }

    fn of_whole(&self) -> Figure {
        Figure {
            room: "cache",
            name: "whole_bytes",
            unit: "bytes",
            gauge: true,
            about: "Bytes of whole images in plain files beside it.",
            value: self.whole.as_ref().map_or(0, |whole| whole.bytes()),
        }
    }

    fn json(&self) -> Value {
        let ops = self.mount.snapshot().ops;
        let ops: Map<String, Value> = ops.iter().map(|op| (op.op.name().to_owned(), of_op(op))).collect();
        let mut all = json!({
            "mountpoint": self.mountpoint.display().to_string(),
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "repository": self.engine.home(),
            "since": self.since,
            "operations": ops,
        });
        if let Some(all) = all.as_object_mut() {
            all.extend(rooms(self.figures()));
        }
        all
    }

    fn prometheus(&self) -> String {
        let mountpoint = escape(&self.mountpoint.display().to_string());
        let mut out = String::new();
        for figure in self.figures() {
            figure.prometheus(&mut out, &[(format!("mountpoint=\"{mountpoint}\""), figure.value)]);
        }
        self.histograms(&mountpoint, &mut out);
        out
    }

    fn histograms(&self, mountpoint: &str, out: &mut String) {
        let full = "afterimage_mount_operation_seconds";
        let _fits = write!(
            out,
            "# HELP {full} How long operations took, from the request's arrival to its answer.\n# TYPE {full} histogram\n"
        );
        for op in self.mount.snapshot().ops {
            let labels = format!("mountpoint=\"{mountpoint}\",operation=\"{}\"", op.op.name());
            let mut below = 0;
            for (number, count) in op.buckets.iter().enumerate().take(BUCKETS - 1) {
                below += count;
                let limit = f64::from(1u32 << number) / 1e6;
                let _fits = writeln!(out, "{full}_bucket{{{labels},le=\"{limit}\"}} {below}");
            }
            let total: u64 = op.buckets.iter().sum();
            let seconds = op.time.as_secs_f64();
            let _fits = write!(
                out,
                "{full}_bucket{{{labels},le=\"+Inf\"}} {total}\n{full}_sum{{{labels}}} {seconds}\n{full}_count{{{labels}}} {total}\n"
            );
        }
        let full = "afterimage_mount_operation_errors_total";
        let _fits = write!(out, "# HELP {full} Operations answered with an error.\n# TYPE {full} counter\n");
        for op in self.mount.snapshot().ops {
            let name = op.op.name();
            let _fits =
                writeln!(out, "{full}{{mountpoint=\"{mountpoint}\",operation=\"{name}\"}} {}", op.errors);
        }
    }
}

fn of_op(op: &OpSnapshot) -> Value {
    let micros = |share| op.quantile(share).map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    json!({
        "count": op.count,
        "errors": op.errors,
        "seconds": op.time.as_secs_f64(),
        "p50_us": micros(0.5),
        "p99_us": micros(0.99),
        "histogram_us": op.buckets.iter().enumerate().filter(|(_, count)| **count > 0)
            .map(|(number, count)| json!({ "below": 1u64 << number, "count": count })).collect::<Vec<_>>(),
    })
}
