//! The content of a directory as an opening finds it, as text: golden directories and the second
//! reader are compared by it.
//!
//! `unsupported <file>` or `damaged catalog`, alone, if the broker is not opened. Otherwise `clean
//! <mark>`; for each topic `topic <name> of <n> partitions`, for each of its partitions `partition
//! <i> from <log start> to <log end>` (or `partition <i> unusable`), `cut at <offset>` for a torn
//! tail, a line for each record, and `damage at <offset>` where something cannot be read; last, for
//! each committed offset, `group <name> <topic>/<partition> <offset> <metadata>`.

use std::fmt::Write;
use std::path::Path;

use quipu::testing::ManualClock;
use quipu::{Broker, BrokerConfig, Error, Partition, Start};

/// Opens the directory, which recovers and changes it, and returns its content.
pub fn dump(dir: &Path) -> String {
    let mut text = String::new();
    let broker = match BrokerConfig::new().clock(ManualClock::new()).seed(42).open(dir) {
        Ok(broker) => broker,
        Err(Error::UnsupportedFormat { path, .. }) => {
            let path = path.strip_prefix(dir).unwrap_or(&path).display().to_string();
            return format!("unsupported {path}\n");
        }
        Err(Error::Corrupt(corruption)) if corruption.file.ends_with("catalog") => {
            return "damaged catalog\n".to_string();
        }
        Err(error) => panic!("{}: {error}", dir.display()),
    };
    writeln!(text, "clean {}", broker.open_report().clean).unwrap();
    for topic in broker.topics() {
        writeln!(text, "topic {} of {} partitions", topic.name(), topic.partition_count()).unwrap();
        for partition in topic.partitions() {
            dump_partition(&broker, &partition, &mut text);
        }
    }
    for group in broker.groups().unwrap() {
        for at in broker.group(group.as_str()).unwrap().describe().unwrap().partitions {
            if let Some(committed) = at.committed {
                let (next, metadata) = (committed.offset, committed.metadata);
                writeln!(text, "group {group} {}/{} {next} {metadata:?}", at.topic, at.partition).unwrap();
            }
        }
    }
    text
}

fn dump_partition(broker: &Broker, partition: &Partition, text: &mut String) {
    let id = partition.id();
    let Ok(bounds) = partition.bounds() else {
        return writeln!(text, "partition {id} unusable").unwrap();
    };
    writeln!(text, "partition {id} from {} to {}", bounds.log_start, bounds.log_end).unwrap();
    let cuts = &broker.open_report().truncated_tails;
    for cut in cuts.iter().filter(|cut| cut.topic == *partition.topic() && cut.partition == id) {
        writeln!(text, "cut at {}", cut.from).unwrap();
    }
    let mut from = bounds.log_start;
    loop {
        match partition.read(Start::At(from), 1 << 20) {
            Ok(records) => {
                let Some(last) = records.last() else { return };
                from = last.offset().plus(1);
                for r in &records {
                    let show = |bytes: Option<&[u8]>| bytes.map(|b| String::from_utf8_lossy(b).into_owned());
                    let (offset, time) = (r.offset(), r.timestamp());
                    write!(text, "{offset} {time} {:?} {:?}", show(r.key()), show(r.value())).unwrap();
                    for (name, value) in r.headers() {
                        write!(text, " {name}={:?}", show(value)).unwrap();
                    }
                    writeln!(text).unwrap();
                }
            }
            Err(Error::Corrupt(corruption)) => {
                writeln!(text, "damage at {}", corruption.offset.unwrap_or(from)).unwrap();
                match corruption.resume {
                    Some(resume) => from = resume,
                    None => return,
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
}
