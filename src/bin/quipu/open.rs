//! How the commands open a directory. The only place that knows.

use std::path::Path;

use quipu::stats::OpenReport;
use quipu::{
    Broker, BrokerConfig, GroupDescription, GroupId, ReadOnlyBroker, ReadOnlyPartition, ReadOnlyTopic,
};

use crate::failure::{Failure, Result, is_damage};
use crate::output::Output;

/// A directory that is open for reading, and its topics and partitions.
pub(crate) type Reading = ReadOnlyBroker;
pub(crate) type ReadingTopic = ReadOnlyTopic;
pub(crate) type ReadingPartition = ReadOnlyPartition;

/// A group of a directory that is open for reading.
pub(crate) fn group(broker: &Reading, name: &GroupId) -> quipu::Result<GroupDescription> {
    broker.group(name.as_str())
}

/// Opens a directory to look into it, also beside the process that has it open. Nothing is changed.
pub(crate) fn reading<T>(
    dir: &Path,
    out: &mut Output,
    work: impl FnOnce(&Reading, &mut Output) -> Result<T>,
) -> Result<T> {
    is_there(dir)?;
    let broker = Broker::open_read_only(dir)?;
    report(&broker.open_report(), out);
    let done = work(&broker, out);
    broker.close();
    done
}

/// Opens a directory as its owner, to change it.
pub(crate) fn writing<T>(
    dir: &Path,
    out: &mut Output,
    work: impl FnOnce(&Broker, &mut Output) -> Result<T>,
) -> Result<T> {
    is_there(dir)?;
    creating(dir, out, work)
}

/// As [`writing`], and makes the directory if it is missing.
pub(crate) fn creating<T>(
    dir: &Path,
    out: &mut Output,
    work: impl FnOnce(&Broker, &mut Output) -> Result<T>,
) -> Result<T> {
    run(BrokerConfig::new(), dir, out, work)
}

/// As [`writing`], with settings of the caller's.
pub(crate) fn writing_with<T>(
    config: BrokerConfig,
    dir: &Path,
    out: &mut Output,
    work: impl FnOnce(&Broker, &mut Output) -> Result<T>,
) -> Result<T> {
    is_there(dir)?;
    run(config, dir, out, work)
}

/// The settings of a broker, for [`writing_with`].
pub(crate) fn config() -> BrokerConfig {
    BrokerConfig::new()
}

/// A library makes a directory that is missing. A command does not, because its name may be a slip.
pub(crate) fn is_there(dir: &Path) -> Result<()> {
    let files = ["catalog", "catalog.old", "checkpoint", "journal", "topics"];
    if files.iter().any(|file| dir.join(file).exists()) {
        return Ok(());
    }
    let text =
        if dir.is_dir() { "is no directory of a broker: it has no catalog" } else { "is no directory" };
    Err(Failure::Other(format!("{} {text}; `quipu create` makes one", dir.display())))
}

fn run<T>(
    config: BrokerConfig,
    dir: &Path,
    out: &mut Output,
    work: impl FnOnce(&Broker, &mut Output) -> Result<T>,
) -> Result<T> {
    let broker = config.open(dir)?;
    report(broker.open_report(), out);
    let done = work(&broker, out);
    let closed = broker.close();
    let value = done?;
    closed?;
    Ok(value)
}

/// Prints what the opening found: nothing after a clean close.
fn report(found: &OpenReport, out: &mut Output) {
    for (partition, error) in &found.damaged {
        if is_damage(error) {
            out.damage_found();
        }
        out.warn(&format!("{partition} is damaged: {error}"));
    }
    for tail in &found.truncated_tails {
        out.warn(&format!(
            "{}/{}: a torn tail of {} bytes was truncated at offset {}: {}",
            tail.topic, tail.partition, tail.bytes, tail.from, tail.reason
        ));
    }
    for commit in &found.clamped {
        out.warn(&format!(
            "group {}: its offset {} of {}/{} is beyond the log, and was set back to {}",
            commit.group, commit.from, commit.topic, commit.partition, commit.to
        ));
    }
    for warning in &found.warnings {
        out.warn(warning);
    }
}
