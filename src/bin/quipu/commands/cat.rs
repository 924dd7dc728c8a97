//! `quipu cat`: prints records, with the letters of `kcat -C`.

use std::path::PathBuf;
use std::time::Duration;

use quipu::{ConsumedRecord, OffsetReset, Position, Records};

use super::partitions;
use crate::escape::{delimiter, unescaped};
use crate::failure::{Failure, Result};
use crate::lines::RecordLine;
use crate::open::{self, ReadingPartition};
use crate::output::Output;
use crate::place::Place;

#[derive(clap::Args)]
#[command(after_help = FORMAT_HELP)]
pub(crate) struct Args {
    /// The directory of the broker
    dir: PathBuf,
    /// The topic
    topic: String,
    /// Only these partitions: `-p 0 -p 2`
    #[arg(short, long = "partition", value_name = "N")]
    partition: Vec<u32>,
    /// Where to begin in each partition: beginning, end, an offset, -N for the last N offsets, or
    /// s@TIME for the first record that is not older (milliseconds since 1970, or ISO 8601)
    #[arg(short, long, value_name = "PLACE", default_value = "beginning", allow_hyphen_values = true)]
    offset: Place,
    /// Stop at the end of the partitions: the default
    #[arg(short = 'e', long)]
    exit: bool,
    /// At the end wait for more records
    #[arg(short = 'F', long, conflicts_with = "exit")]
    follow: bool,
    /// Stop after so many records
    #[arg(short, long, value_name = "N")]
    count: Option<u64>,
    /// Print each record in this format
    #[arg(short, long, value_name = "FORMAT", conflicts_with = "key_delimiter")]
    format: Option<String>,
    /// Print the key and this delimiter before each value
    #[arg(short = 'K', long, value_name = "DELIMITER")]
    key_delimiter: Option<String>,
    /// Only records with this key
    #[arg(long)]
    key: Option<String>,
    /// Print where each record is, and how large, in place of its value
    #[arg(long)]
    no_values: bool,
}

const FORMAT_HELP: &str = "Formats: %t topic, %p partition, %o offset, %T timestamp in milliseconds, %k key, \
                           %K its length, %s value, %S its length (-1: null), %h headers, %% a percent sign, \
                           and the escapes \\n \\r \\t \\0 \\\\ \\x1f. The default is '%s\\n'.";

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    let printer = Printer::new(args)?;
    open::reading(&args.dir, out, |broker, out| {
        let topic = broker.topic(&args.topic)?;
        let partitions = partitions(&topic, &args.partition)?;
        let from = partitions.iter().map(|of| begin(args.offset, of, out)).collect::<Result<Vec<_>>>()?;
        let mut left = args.count.unwrap_or(u64::MAX);
        // The log may start later than a moment ago: such a move is reported with the records.
        let mut reader = broker.reader_at(&from)?.offset_reset(OffsetReset::Nearest);
        if args.follow {
            while left > 0 {
                printer.print(&reader.poll(Duration::from_secs(1))?, &mut left, out)?;
                out.finish()?;
            }
            return Ok(());
        }
        for records in reader.to_end() {
            printer.print(&records?, &mut left, out)?;
            if left == 0 {
                break;
            }
        }
        Ok(())
    })
}

/// Where to begin in a partition. An offset that the log does not have is moved to the nearer end,
/// and that is reported.
fn begin(place: Place, partition: &ReadingPartition, out: &Output) -> Result<Position> {
    let (mut position, bounds) = (place.position(partition)?, partition.bounds()?);
    let asked_for = position.offset;
    position.offset = asked_for.clamp(bounds.log_start, bounds.visible_end);
    if position.offset != asked_for {
        out.warn(&format!(
            "{} has no offset {asked_for}: reading begins at {}",
            position.topic_partition(),
            position.offset
        ));
    }
    Ok(position)
}

/// The parts of a record that are printed.
struct Printer {
    parts: Vec<Part>,
    key: Option<Vec<u8>>,
    has_values: bool,
}

/// A piece of a format.
enum Part {
    Bytes(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    KeyLength,
    Value,
    ValueLength,
    Headers,
}

impl Printer {
    fn new(args: &Args) -> Result<Self> {
        let parts = match (&args.format, &args.key_delimiter) {
            (Some(format), _) => parse(format)?,
            (None, _) if args.no_values => parse("%t/%p@%o\t%T\t%k\t%S\n")?,
            (None, None) => vec![Part::Value, Part::Bytes(b"\n".to_vec())],
            (None, Some(text)) => {
                vec![Part::Key, Part::Bytes(delimiter(text)), Part::Value, Part::Bytes(b"\n".to_vec())]
            }
        };
        let key = args.key.as_ref().map(|key| key.clone().into_bytes());
        Ok(Printer { parts, key, has_values: !args.no_values })
    }

    /// Prints records, and those that were skipped as a warning, until `left` is used up.
    fn print(&self, records: &Records, left: &mut u64, out: &mut Output) -> Result<()> {
        for skipped in records.skipped() {
            out.warn(&skipped.to_string());
        }
        for record in records {
            if *left == 0 {
                return Ok(());
            }
            if self.key.as_deref().is_some_and(|key| record.key() != Some(key)) {
                continue;
            }
            self.print_one(&record, out)?;
            *left -= 1;
        }
        Ok(())
    }

    fn print_one(&self, record: &ConsumedRecord<'_>, out: &mut Output) -> Result<()> {
        if out.is_json() {
            let line = RecordLine::of(record);
            return out.json(&if self.has_values { line } else { line.without_values(record) });
        }
        for part in &self.parts {
            let length =
                |bytes: Option<&[u8]>| bytes.map_or("-1".to_string(), |bytes| bytes.len().to_string());
            match part {
                Part::Bytes(bytes) => out.raw(bytes)?,
                Part::Topic => out.raw(record.topic().as_str().as_bytes())?,
                Part::Partition => out.raw(record.partition().to_string().as_bytes())?,
                Part::Offset => out.raw(record.offset().to_string().as_bytes())?,
                Part::Timestamp => out.raw(record.timestamp().to_string().as_bytes())?,
                Part::Key => out.value(record.key().unwrap_or_default())?,
                Part::KeyLength => out.raw(length(record.key()).as_bytes())?,
                Part::Value if self.has_values => out.value(record.value().unwrap_or_default())?,
                Part::Value => {}
                Part::ValueLength => out.raw(length(record.value()).as_bytes())?,
                Part::Headers => self.print_headers(record, out)?,
            }
        }
        Ok(())
    }

    /// As kcat: `name=value`, with commas between them.
    fn print_headers(&self, record: &ConsumedRecord<'_>, out: &mut Output) -> Result<()> {
        for (at, (name, value)) in record.headers().enumerate() {
            if at > 0 {
                out.raw(b",")?;
            }
            out.value(name.as_bytes())?;
            if let Some(value) = value.filter(|_| self.has_values) {
                out.raw(b"=")?;
                out.value(value)?;
            }
        }
        Ok(())
    }
}

fn parse(format: &str) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut pieces = format.split('%');
    parts.push(Part::Bytes(unescaped(pieces.next().unwrap_or_default())));
    while let Some(piece) = pieces.next() {
        if piece.is_empty()
            && let Some(text) = pieces.next()
        {
            // Between two percent signs is nothing, and the text after them is no letter.
            parts.push(Part::Bytes([b"%".as_slice(), &unescaped(text)].concat()));
            continue;
        }
        let mut letters = piece.chars();
        let part = match letters.next() {
            Some('t') => Part::Topic,
            Some('p') => Part::Partition,
            Some('o') => Part::Offset,
            Some('T') => Part::Timestamp,
            Some('k') => Part::Key,
            Some('K') => Part::KeyLength,
            Some('s') => Part::Value,
            Some('S') => Part::ValueLength,
            Some('h') => Part::Headers,
            letter => {
                let text =
                    format!("%{} is not known in a format: see `quipu cat --help`", letter.unwrap_or(' '));
                return Err(Failure::Usage(text));
            }
        };
        parts.extend([part, Part::Bytes(unescaped(letters.as_str()))]);
    }
    Ok(parts)
}
