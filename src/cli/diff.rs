//! `diff`: what differs between two images.

use super::args::Diff;
use super::context::Context;
use super::units;
use crate::error::Result;
use crate::image::compare;
use serde_json::json;

pub(super) fn run(context: &Context, args: &Diff) -> Result<u8> {
    let library = context.library()?;
    let (_, _, a) = context.image(&*library, &args.a)?;
    let (_, _, b) = context.image(&*library, &args.b)?;
    let mut extents = Vec::new();
    context.runtime().block_on(compare(&a, &b, &mut |range| extents.push(range)))?;
    let sum: u64 = extents.iter().map(|range| range.end - range.start).sum();
    context.print(
        || {
            let all = extents
                .iter()
                .map(|range| json!({ "offset": range.start, "length": range.end - range.start }));
            json!({ "extents": all.collect::<Vec<_>>() })
        },
        || {
            let line = |range: &std::ops::Range<u64>| {
                format!("{:>16} {:>16}\n", range.start, range.end - range.start)
            };
            let lines: String = extents.iter().map(line).collect();
            match extents.len() {
                0 => "they are equal\n".to_owned(),
                count => format!(
                    "{:>16} {:>16}\n{lines}{count} ranges, {}\n",
                    "OFFSET",
                    "LENGTH",
                    units::size(sum)
                ),
            }
        },
    )?;
    Ok(0)
}
