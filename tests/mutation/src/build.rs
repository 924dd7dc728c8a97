//! The copy of the crate with the edits in it. An edit that does not compile is taken out, and the rest is tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::find::Edit;
use crate::sample::{Candidates, candidates, choose};
use crate::write::write;
use crate::{Places, Result};

/// Parse errors, types and borrows come one after the other, and each may hide others.
const ROUNDS: usize = 12;
/// An error this many lines away from an edit is not put down to it.
const NEAR: usize = 30;

/// Where edits are in the files of the copy, by path.
type Written = BTreeMap<String, (String, Vec<(u32, Range<usize>)>)>;

pub fn build(places: &Places, samples: &[(u64, usize)]) -> Result<()> {
    let all = candidates(places)?;
    let mut seeds: BTreeMap<u32, u64> = BTreeMap::new();
    for (seed, count) in samples {
        let taken = seeds.keys().copied().collect();
        seeds.extend(choose(&all, *seed, *count, &taken).into_iter().map(|id| (id, *seed)));
    }
    seeds.extend(again(places, &all).into_iter().map(|id| (id, 0)));
    let mut dropped: BTreeSet<u32> =
        places.rows("dropped.tsv").iter().filter_map(|row| row.first()?.parse().ok()).collect();
    let edited =
        all.iter().map(|file| PathBuf::from(&file.path)).chain([PathBuf::from("src/lib.rs")]).collect();
    copy_tree(places, &edited, Path::new(""))?;
    for round in 1..=ROUNDS {
        seeds.retain(|id, _| !dropped.contains(id));
        let written = put(places, &all, &seeds)?;
        let errors = check(&places.copy())?;
        println!("round {round}: {} edits, {} errors", seeds.len(), errors.len());
        if errors.is_empty() {
            save(places, &all, &seeds)?;
            return compile(places);
        }
        for (path, line, column) in errors {
            let Some((text, ranges)) = written.get(&path) else {
                return Err(format!("an error in {path}").into());
            };
            let guilty = at(text, ranges, line, column);
            if guilty.is_empty() {
                return Err(format!("{path}:{line}:{column}: an error far from any edit").into());
            }
            dropped.extend(guilty);
        }
        let list: String = dropped.iter().map(|id| format!("{id}\n")).collect();
        fs::write(places.work.join("dropped.tsv"), list)?;
    }
    Err("it still does not compile".into())
}

/// The edits that `again.tsv` names by their path, edit and line of text, as lines of an earlier `mutants.tsv`.
fn again(places: &Places, all: &[Candidates]) -> BTreeSet<u32> {
    let rows = places.rows("again.tsv");
    let mut found = BTreeSet::new();
    for file in all {
        for (id, edit) in (file.first..).zip(&file.edits) {
            let line = file.source[..edit.at.start].matches('\n').count();
            let text = file.source.lines().nth(line).unwrap_or_default().trim();
            let here = [file.path.as_str(), edit.change.as_str(), text];
            if rows.iter().any(|row| row.len() == 6 && [&row[2], &row[4], &row[5]] == here) {
                found.insert(id);
            }
        }
    }
    found
}

/// Writes the files of the copy that have edits, and the switch.
fn put(places: &Places, all: &[Candidates], seeds: &BTreeMap<u32, u64>) -> Result<Written> {
    let mut written = Written::new();
    for file in all {
        let edits: Vec<(u32, &Edit)> =
            (file.first..).zip(&file.edits).filter(|(id, _)| seeds.contains_key(id)).collect();
        let (text, ranges) = write(&file.source, &edits);
        replace(&places.copy().join(&file.path), text.as_bytes())?;
        written.insert(file.path.clone(), (text, ranges));
    }
    let root = fs::read_to_string(places.root.join("src/lib.rs"))?;
    let with_switch = root.replacen("\nmod ", "\nmod mutation;\nmod ", 1);
    replace(&places.copy().join("src/lib.rs"), with_switch.as_bytes())?;
    replace(&places.copy().join("src/mutation.rs"), include_str!("switch.rs.txt").as_bytes())?;
    Ok(written)
}

/// The innermost edit around a place, or else all that are nearest to it.
fn at(text: &str, ranges: &[(u32, Range<usize>)], line: usize, column: usize) -> Vec<u32> {
    let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let position = start + text[start..].chars().take(column - 1).map(char::len_utf8).sum::<usize>();
    let around = ranges.iter().filter(|(_, range)| range.contains(&position));
    if let Some((id, _)) = around.min_by_key(|(_, range)| range.len()) {
        return vec![*id];
    }
    let line_of = |position: usize| text[..position].matches('\n').count() + 1;
    let distance = |range: &Range<usize>| line_of(range.start).abs_diff(line);
    let nearest = ranges.iter().map(|(_, range)| distance(range)).min().filter(|lines| *lines <= NEAR);
    ranges.iter().filter(|(_, range)| Some(distance(range)) == nearest).map(|(id, _)| *id).collect()
}

fn cargo(copy: &Path) -> Command {
    let mut command = Command::new("cargo");
    command
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", copy.join("target"))
        .env("CARGO_PROFILE_DEV_DEBUG", "0");
    command.env("RUSTFLAGS", "-Awarnings");
    command
}

/// Path, line and column of each error.
fn check(copy: &Path) -> Result<Vec<(String, usize, usize)>> {
    let output = cargo(copy).args(["check", "--lib", "--message-format", "short"]).output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let place = |line: &str| {
        let mut parts = line.split(": error").next().filter(|head| head.len() < line.len())?.split(':');
        Some((parts.next()?.to_string(), parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    let errors: Vec<_> = text.lines().filter_map(place).collect();
    if errors.is_empty() && !output.status.success() {
        return Err(format!("cargo check: {text}").into());
    }
    Ok(errors)
}

/// Builds the tests, and notes where they are.
fn compile(places: &Places) -> Result<()> {
    let arguments = ["test", "--no-run", "--lib", "--test", "behaviour", "--message-format", "json"];
    let output = cargo(&places.copy()).args(arguments).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let programs: Vec<&str> =
        text.split("\"executable\":\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    println!("built {programs:?}");
    fs::write(places.work.join("programs.tsv"), programs.join("\n"))?;
    Ok(())
}

fn save(places: &Places, all: &[Candidates], seeds: &BTreeMap<u32, u64>) -> Result<()> {
    let mut list = String::new();
    for file in all {
        for (id, edit) in (file.first..).zip(&file.edits) {
            let Some(seed) = seeds.get(&id) else { continue };
            let line = file.source[..edit.at.start].matches('\n').count();
            let text = file.source.lines().nth(line).unwrap_or_default().trim();
            let change = edit.change.replace(['\t', '\n'], " ");
            list += &format!("{id}\t{seed}\t{}\t{}\t{change}\t{text}\n", file.path, line + 1);
        }
    }
    fs::write(places.work.join("mutants.tsv"), list)?;
    let size = all.last().map_or(0, |file| file.first as usize + file.edits.len());
    fs::write(places.work.join("size"), size.to_string())?;
    Ok(())
}

/// Copies the package without its build. What is equal stays, so that cargo builds only what changed; the sources with
/// edits are left to [`put`].
fn copy_tree(places: &Places, edited: &BTreeSet<PathBuf>, below: &Path) -> Result<()> {
    fs::create_dir_all(places.copy().join(below))?;
    for entry in fs::read_dir(places.root.join(below))? {
        let path = below.join(entry?.file_name());
        let from = places.root.join(&path);
        if ["target", ".git", "tests/mutation"].iter().any(|name| path == Path::new(name))
            || edited.contains(&path)
        {
            continue;
        }
        if from.is_dir() {
            copy_tree(places, edited, &path)?;
        } else {
            replace(&places.copy().join(&path), &fs::read(&from)?)?;
        }
    }
    Ok(())
}

fn replace(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).ok().as_deref() != Some(content) {
        fs::write(path, content)?;
    }
    Ok(())
}
