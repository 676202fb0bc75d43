//! `diff` of two images: the ranges that differ.

use crate::cli::context::Context;
use crate::cli::units;
use crate::error::Result;
use crate::image::{Image, compare};
use serde_json::json;

pub(super) fn run(context: &Context, a: &Image, b: &Image) -> Result<u8> {
    let mut extents = Vec::new();
    context.runtime().block_on(compare(a, b, &mut |range| extents.push(range)))?;
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
