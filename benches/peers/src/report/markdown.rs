//! The tables in Markdown: one line a row, then all contenders of each row.

use std::fmt::Write;

use super::Filled;
use super::numbers::{short, spread};
use crate::args::Args;
use crate::contenders::{self, FLOOR, QUIPU};
use crate::plan::Unit;

pub fn table(args: &Args, filled: &[Filled<'_>], failed: &[String]) -> String {
    let mut text = String::new();
    head(args, &mut text);
    summary(filled, &mut text);
    for filled in filled.iter().filter(|filled| !filled.cells.is_empty()) {
        details(filled, &mut text);
    }
    text.push_str("\n## Contenders\n\n");
    for card in contenders::cards().iter().filter(|card| args.wants_contender(card.name)) {
        let _ = writeln!(text, "- **{}**: {}.", card.name, card.about);
    }
    if !failed.is_empty() {
        text.push_str("\n## Failed\n\n");
        for line in failed {
            let _ = writeln!(text, "- {line}");
        }
    }
    text
}

fn head(args: &Args, text: &mut String) {
    let _ = writeln!(text, "# Quipu beside its peers\n");
    let _ = writeln!(
        text,
        "{}. Medians of {} [least-greatest]; each run a process of its own, contenders in turns, every log opened \
         again and compared with what was appended.",
        machine(args),
        args.repeat,
    );
    if args.quick {
        text.push_str("\nSmall sizes (`--quick`): these figures mean nothing.\n");
    }
}

/// Cores, kernel and file system.
pub fn machine(args: &Args) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!(
        "{cores} cores ({}), kernel {}, {}",
        model.map_or("unknown", |(_, model)| model),
        kernel.trim(),
        file_system(&args.dir).unwrap_or_else(|| "an unknown file system".to_owned()),
    )
}

/// The type of the file system that holds a directory: that of the longest mount point above it.
fn file_system(dir: &std::path::Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        Some((words.next()?, words.next()?))
    });
    let above = mounts.filter(|(point, _)| dir.starts_with(point));
    above.max_by_key(|(point, _)| point.len()).map(|(_, kind)| kind.to_owned())
}

fn summary(filled: &[Filled<'_>], text: &mut String) {
    text.push_str(
        "\nThe last two columns: the share of that speed that Quipu reaches (of a time: theirs / ours), pair by \
         pair. Less than the best peer is bold. The last rows compare ways to use Quipu.\n\n\
         | row | workload | floor | best peer | quipu | of the floor | of the best peer |\n\
         |---|---|---:|---:|---:|---:|---:|\n",
    );
    for filled in filled {
        let unit = filled.row.unit;
        let ours = filled.of(filled.row.ours);
        let floor = filled.of(filled.row.base);
        let peer = filled.best_peer();
        let share = |of: Option<&[f64]>| match (ours, of) {
            (Some(ours), Some(of)) => Some(filled.share(ours, of)),
            _ => None,
        };
        let cell = |samples: Option<&[f64]>| samples.map_or_else(|| "-".to_owned(), |s| spread(s, unit));
        let of_peer = share(peer.map(|peer| filled.samples(peer)));
        let _ = writeln!(
            text,
            "| {} | {}, {} | {} | {} | {} | {} | {} |",
            filled.row.key,
            filled.row.title,
            unit.name(),
            named(filled.row.base, FLOOR, cell(floor)),
            peer.map_or_else(
                || "-".to_owned(),
                |peer| format!("{} {}", peer.contender, spread(filled.samples(peer), unit))
            ),
            named(filled.row.ours, QUIPU, cell(ours)),
            share(floor).map_or_else(|| "-".to_owned(), |share| format!("{share:.2}")),
            match of_peer {
                None => "-".to_owned(),
                Some(share) if share < 1.0 => format!("**{share:.2}**"),
                Some(share) => format!("{share:.2}"),
            },
        );
    }
}

fn details(filled: &Filled<'_>, text: &mut String) {
    let unit = filled.row.unit;
    let _ = writeln!(text, "\n## {}: {}\n", filled.row.key, filled.row.title);
    let _ = write!(text, "| contender | {} | of {} |", unit.name(), filled.row.base);
    filled.row.more.iter().for_each(|(name, ..)| {
        let _ = write!(text, " {name} |");
    });
    let _ = writeln!(text, "\n|---|---:|---:|{}", "---:|".repeat(filled.row.more.len()));
    let floor = filled.of(filled.row.base);
    for cell in &filled.cells {
        let samples = filled.samples(cell);
        let name = if cell.contender == QUIPU { "**quipu**" } else { cell.contender };
        let share =
            floor.map_or_else(|| "-".to_owned(), |floor| format!("{:.2}", filled.share(samples, floor)));
        let _ = write!(text, "| {name} | {} | {share} |", spread(samples, unit));
        for (_, value, unit) in filled.row.more {
            let more = cell.values.get(*value).map_or_else(|| "-".to_owned(), |s| middle(s, *unit));
            let _ = write!(text, " {more} |");
        }
        text.push('\n');
    }
}

/// The figure, with a name where it isn't that of the column.
fn named(name: &str, column: &str, figure: String) -> String {
    if name == column || figure == "-" { figure } else { format!("{name} {figure}") }
}

fn middle(samples: &[f64], unit: Unit) -> String {
    short(super::numbers::median(samples), unit)
}
