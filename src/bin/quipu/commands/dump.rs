//! `quipu dump`: the structures of files, as Kafka's `kafka-dump-log`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::dump::{
    BATCH_HEADER, Field, Header, SEGMENT_HEADER, Shown, Structure, batch_header, hex, is_of_this_version,
    rest, segment_header, structures,
};
use crate::escape;
use crate::failure::{Failure, Result};
use crate::lines::Bytes;
use crate::output::Output;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A file of a broker's directory, or a directory with such files. No lock is taken: in the
    /// directory of a running broker the newest structures may be half written
    path: PathBuf,
    /// Print the records of batches too
    #[arg(long)]
    records: bool,
    /// Print every byte with the name of its field
    #[arg(long)]
    hex: bool,
    /// Print no keys, values and headers of records
    #[arg(long)]
    no_values: bool,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    let mut files = Vec::new();
    collect(&args.path, &mut files)?;
    files.sort();
    for file in &files {
        dump(args, file, out).map_err(|failure| failure.at(file.display().to_string()))?;
    }
    Ok(())
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |e| Failure::Other(format!("cannot read {}: {e}", path.display()));
    if !path.is_dir() {
        // A link in a directory may lead anywhere. A path that the caller names is read.
        files.push(path.to_path_buf());
        return Ok(());
    }
    for entry in path.read_dir().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() || kind.is_file() {
            collect(&entry.path(), files)?;
        }
    }
    Ok(())
}

fn dump(args: &Args, path: &Path, out: &mut Output) -> Result<()> {
    let failed = |e| Failure::Other(format!("cannot be read: {e}"));
    if !out.is_json() {
        let name = path.display().to_string();
        let name = out.name(&name).into_owned();
        out.line(&format!("== {name}"))?;
    }
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut print = Print { args, path, out };
    let mut head = [0; SEGMENT_HEADER];
    let is_segment = length >= SEGMENT_HEADER as u64
        && file.read_exact(&mut head).is_ok()
        && head.starts_with(b"QUIPUSEG")
        && is_of_this_version(&head);
    if is_segment {
        let (structure, seed) = segment_header(&head);
        print.structure(&structure)?;
        return segment(&mut print, &mut file, length, &seed);
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).map_err(failed)?;
    for structure in structures(&bytes) {
        print.structure(&structure)?;
    }
    Ok(())
}

/// Batches up to the first bytes that are none. A segment is read batch by batch: it may be larger
/// than the memory.
fn segment(print: &mut Print<'_>, file: &mut File, length: u64, seed: &[u8]) -> Result<()> {
    let failed = |e| Failure::Other(format!("cannot be read: {e}"));
    let mut at = SEGMENT_HEADER as u64;
    while at < length {
        let mut head = vec![0; (length - at).min(BATCH_HEADER as u64) as usize];
        file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut head)).map_err(failed)?;
        let Some((structure, header)) = batch_header(&head, at, seed) else { break };
        let body_at = at + BATCH_HEADER as u64;
        let Some(header) = header.filter(|header| header.body as u64 <= length.saturating_sub(body_at))
        else {
            break;
        };
        let mut body = vec![0; header.body];
        file.read_exact(&mut body).map_err(failed)?;
        print.batch(&structure, &header, &body, body_at)?;
        at = body_at + header.body as u64;
    }
    if at < length {
        // Zeros are a kind of their own; of other bytes the beginning is enough.
        let mut bytes = vec![0; (length - at).min(1 << 20) as usize];
        file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut bytes)).map_err(failed)?;
        let mut structure = rest("bytes that are no batch", &bytes, 0);
        structure.at = at;
        if structure.name != "zeros" {
            print.out.damage_found();
        }
        print.structure(&structure)?;
    }
    Ok(())
}

struct Print<'a> {
    args: &'a Args,
    path: &'a Path,
    out: &'a mut Output,
}

impl Print<'_> {
    fn batch(&mut self, structure: &Structure, header: &Header, body: &[u8], at: u64) -> Result<()> {
        self.structure(structure)?;
        let of_body = header.body_of(body, at);
        if self.args.hex || !of_body.is_whole() {
            self.structure(&of_body)?;
        }
        if !self.args.records {
            return Ok(());
        }
        match header.records(body) {
            Ok(records) => records.iter().try_for_each(|record| self.structure(record)),
            Err(reason) => {
                self.out.damage_found();
                self.out.line(&format!("{at:>12}  records cannot be read: {reason}"))
            }
        }
    }

    fn structure(&mut self, structure: &Structure) -> Result<()> {
        if !structure.is_whole() {
            self.out.damage_found();
        }
        if self.out.is_json() {
            return self.as_json(structure);
        }
        let fields: Vec<String> = structure
            .fields
            .iter()
            .filter(|field| !matches!(field.value, Shown::Raw))
            .map(|field| format!("{} {}", field.name, self.shown(field)))
            .collect();
        let text = if self.args.hex { String::new() } else { fields.join(", ") };
        self.out.line(format!("{:>12}  {}: {text}", structure.at, structure.name).trim_end())?;
        let mut at = structure.at;
        for field in structure.fields.iter().filter(|_| self.args.hex) {
            self.rows(field, at)?;
            at += field.bytes.len() as u64;
        }
        Ok(())
    }

    /// A field as rows of 16 bytes, the first with its name and value.
    fn rows(&mut self, field: &Field, at: u64) -> Result<()> {
        let value = if matches!(field.value, Shown::Raw) { String::new() } else { self.shown(field) };
        let mut name = format!("{} {value}", field.name);
        let rows = field.bytes.chunks(16).map(<[u8]>::to_vec);
        let rows: Vec<Vec<u8>> = if field.bytes.is_empty() { vec![Vec::new()] } else { rows.collect() };
        for (number, row) in rows.iter().enumerate() {
            let bytes: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
            let line = format!("{:>16}  {:<48} {}", at + 16 * number as u64, bytes.join(" "), name);
            self.out.line(line.trim_end())?;
            name.clear();
        }
        Ok(())
    }

    fn shown(&self, field: &Field) -> String {
        match &field.value {
            Shown::Number(number) => number.to_string(),
            Shown::Signed(number) => number.to_string(),
            Shown::Text(text) => escape::text(text),
            Shown::Content(bytes) if !self.args.no_values => format!("\"{}\"", escape::bytes(bytes)),
            Shown::Content(_) => format!("({} bytes)", field.bytes.len()),
            Shown::Crc { found, computed } if found == computed => format!("{found:08x} fits"),
            Shown::Crc { found, computed } => format!("{found:08x} DOES NOT FIT, computed {computed:08x}"),
            Shown::Raw => hex(&field.bytes),
        }
    }

    fn as_json(&mut self, structure: &Structure) -> Result<()> {
        let mut fields = Map::new();
        for field in &structure.fields {
            let value = match &field.value {
                Shown::Number(number) => json!(number),
                Shown::Signed(number) => json!(number),
                Shown::Content(bytes) if !self.args.no_values => json!(Bytes::of(bytes)),
                Shown::Crc { found, computed } => json!({ "found": found, "computed": computed }),
                Shown::Raw if !self.args.hex => continue,
                _ => Value::from(self.shown(field)),
            };
            fields.insert(field.name.to_string(), value);
        }
        self.out.json(&json!({
            "file": self.path.display().to_string(),
            "position": structure.at,
            "structure": structure.name,
            "whole": structure.is_whole(),
            "fields": fields,
        }))
    }
}
