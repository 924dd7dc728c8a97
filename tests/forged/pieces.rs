//! The parts of a directory that have checksums of their own, as FORMAT.md has them, and how each is
//! computed. Shares no code with the crate.

use std::ops::Range;
use std::path::{Path, PathBuf};

use quipu::testing::Disk;

/// A part of a file.
pub struct Piece {
    pub path: PathBuf,
    pub what: &'static str,
    /// The bytes that may be changed.
    pub fields: Range<usize>,
    /// Where the checksums are: the inner ones first.
    sums: Vec<Sum>,
}

struct Sum {
    at: usize,
    /// Before the covered bytes.
    seed: Vec<u8>,
    covers: Range<usize>,
}

impl Piece {
    /// Makes the checksums fit.
    pub fn seal(&self, bytes: &mut [u8]) {
        for sum in &self.sums {
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&sum.seed);
            hasher.update(&bytes[sum.covers.clone()]);
            bytes[sum.at..sum.at + 4].copy_from_slice(&hasher.finalize().to_le_bytes());
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// All of a directory.
pub fn pieces(disk: &Disk) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (path, _) in disk.files() {
        let bytes = disk.read(&path).unwrap();
        let extension = path.extension().map(|extension| extension.to_string_lossy().into_owned());
        match extension.as_deref().unwrap_or(&path.file_name().unwrap().to_string_lossy()) {
            "manifest" | "checkpoint" | "producers" | "index" => pieces.push(whole(&path, bytes.len())),
            "log" => segment(&path, &bytes, &mut pieces),
            "keys" => pieces.push(head(&path, "header of a key index", 92)),
            "catalog" => {
                pieces.push(head(&path, "header of the catalog", 60));
                pieces.extend(records(&path, &bytes, (64, b"QCHG"), "a change"));
            }
            "journal" => {
                pieces.push(head(&path, "header of the journal", 28));
                pieces.extend(records(&path, &bytes, (32, b"QTXN"), "a record"));
            }
            _ => {}
        }
    }
    for what in ["manifest", "checkpoint", "producers", "index", "journal"] {
        assert!(pieces.iter().any(|piece| piece.path.to_string_lossy().contains(what)), "{what}");
    }
    pieces
}

fn whole(path: &Path, len: usize) -> Piece {
    head(path, "all of it", len - 4)
}

/// The first bytes of a file, with their checksum after them.
fn head(path: &Path, what: &'static str, len: usize) -> Piece {
    let sums = vec![Sum { at: len, seed: Vec::new(), covers: 0..len }];
    Piece { path: path.to_path_buf(), what, fields: 8..len, sums }
}

const SEGMENT_HEADER: usize = 128;
const BATCH_HEADER: usize = 104;

fn segment(path: &Path, bytes: &[u8], pieces: &mut Vec<Piece>) {
    pieces.push(head(path, "header of a segment", SEGMENT_HEADER - 4));
    let seed = [&bytes[80..96], &bytes[24..40], &bytes[20..24]].concat();
    let mut at = SEGMENT_HEADER;
    // The first batches and the last one of a segment.
    let mut batches = Vec::new();
    while bytes.get(at..at + 4) == Some(b"QBAT") {
        let end = at + BATCH_HEADER + u32_at(bytes, at + 4);
        batches.push((at, end));
        at = end;
    }
    let last = batches.len().saturating_sub(1);
    for (_, (at, end)) in
        batches.into_iter().enumerate().filter(|(number, _)| *number == 0 || *number == last)
    {
        let body = at + BATCH_HEADER..end;
        let header = || Sum { at: at + 100, seed: seed.clone(), covers: at..at + 100 };
        let inner = Sum { at: at + 96, seed: Vec::new(), covers: body.clone() };
        let (path, what) = (path.to_path_buf(), "header of a batch");
        pieces.push(Piece { path: path.clone(), what, fields: at + 4..at + 96, sums: vec![header()] });
        let sums = vec![inner, header()];
        pieces.push(Piece { path, what: "body of a batch", fields: body, sums });
    }
}

/// The records of a catalog or a journal, each with a checksum that is seeded with the number in the
/// file's header, its position and its length.
fn records(path: &Path, bytes: &[u8], (mut at, magic): (usize, &[u8; 4]), what: &'static str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    while bytes.get(at..at + 4) == Some(magic) {
        let len = u32_at(bytes, at + 4);
        let seed = [&bytes[20..28], &(at as u64).to_le_bytes()[..], &bytes[at + 4..at + 8]].concat();
        let content = at + 12..at + 12 + len;
        let sums = vec![Sum { at: at + 8, seed, covers: content.clone() }];
        pieces.push(Piece { path: path.to_path_buf(), what, fields: content.clone(), sums });
        at = content.end;
    }
    pieces
}
