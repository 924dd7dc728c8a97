//! `quipu backup`: a directory as of one moment, in another one.

use std::ops::ControlFlow;
use std::path::PathBuf;

use serde_json::json;

use crate::failure::Result;
use crate::open;
use crate::output::Output;
use crate::progress::Progress;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory of a broker that no process has open
    dir: PathBuf,
    /// A directory for the backup: missing, empty, or with an older backup of the same broker
    to: PathBuf,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    let report = open::writing(&args.dir, out, |broker, _| {
        let progress = Progress::bytes("backing up");
        Ok(broker.backup(&args.to, |at| {
            progress.at(at.done, at.total);
            ControlFlow::Continue(())
        })?)
    })?;
    let (partitions, linked, copied, kept) =
        (report.partitions, report.bytes_linked, report.bytes_copied, report.bytes_kept);
    if out.is_json() {
        return out.json(&json!({
            "partitions": partitions,
            "bytes_linked": linked,
            "bytes_copied": copied,
            "bytes_kept": kept,
            "ends": report.ends.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }));
    }
    out.line(&format!(
        "backed up: {partitions} partitions; {linked} bytes shared, {copied} copied, {kept} there before"
    ))
}
