//! `quipu export`: topics and records as lines of JSON.

use std::path::PathBuf;

use quipu::Start;

use crate::failure::Result;
use crate::lines::{RecordLine, TopicLine};
use crate::open;
use crate::output::Output;
use crate::progress::Progress;
use crate::settings;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory of the broker
    dir: PathBuf,
    /// The topics; all if none is given
    topics: Vec<String>,
    /// Leave out the lines with the settings of topics
    #[arg(long)]
    records_only: bool,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    open::reading(&args.dir, out, |broker, out| {
        let topics = match args.topics.as_slice() {
            [] => broker.topics(),
            names => names.iter().map(|name| broker.topic(name)).collect::<quipu::Result<_>>()?,
        };
        if !args.records_only {
            for topic in &topics {
                out.json(&TopicLine {
                    topic: topic.name().to_string(),
                    created_at: Some(topic.created_at().as_millis()),
                    config: settings::form(&topic.config())?,
                })?;
            }
        }
        let progress = Progress::records("exporting");
        for topic in &topics {
            for records in broker.reader(topic.name(), Start::Beginning)?.to_end() {
                let records = records?;
                for skipped in records.skipped() {
                    out.warn(&skipped.to_string());
                }
                for record in &records {
                    out.json(&RecordLine::of(&record))?;
                }
                progress.add(records.len() as u64);
            }
        }
        Ok(())
    })
}
