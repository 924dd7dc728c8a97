//! The command line.

use std::path::PathBuf;

use crate::{contenders, plan, scaling};

const USAGE: &str = "\
cargo run --release --manifest-path benches/peers/Cargo.toml -- [compare|scaling|soak] [OPTIONS]

  compare            Quipu, its peers and the floor (the default): peers.md, peers.json, peers.svg
  scaling            how Quipu's costs grow: scaling.md, scaling.json, scaling.svg
  soak               appends for 10 minutes, with compaction and retention: soak.md, soak.json, soak.svg

  --workloads A,B    only rows or laws whose names contain A or B
  --contenders A,B   only these, by name; without it, all
  --repeat N         repetitions (5; scaling: 3)
  --minutes N        compare: starts no further job after N minutes; soak: its length
  --quick            one repetition, small sizes
  --dir DIRECTORY    where the logs are written: the disk that is measured (below target)
  --out DIRECTORY    where the results are written (below target)
  --list             the names of the rows or laws";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Compare,
    Scaling,
    Soak,
}

pub struct Args {
    pub command: Command,
    pub workloads: Vec<String>,
    pub contenders: Vec<String>,
    pub repeat: usize,
    pub minutes: Option<u64>,
    pub quick: bool,
    pub dir: PathBuf,
    pub out: PathBuf,
    pub list: bool,
}

impl Args {
    pub fn parse(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut words = words.peekable();
        let command = match words.peek().map(String::as_str) {
            Some("compare") => Some(Command::Compare),
            Some("scaling") => Some(Command::Scaling),
            Some("soak") => Some(Command::Soak),
            _ => None,
        };
        if command.is_some() {
            words.next();
        }
        let mut args = Args::of(command.unwrap_or(Command::Compare));
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value\n\n{USAGE}"));
            match word.as_str() {
                "--workloads" => args.workloads = names(&value()?),
                "--contenders" => args.contenders = names(&value()?),
                "--repeat" => args.repeat = value()?.parse().map_err(|e| format!("--repeat: {e}"))?,
                "--minutes" => {
                    args.minutes = Some(value()?.parse().map_err(|e| format!("--minutes: {e}"))?);
                }
                "--quick" => args.quick = true,
                "--dir" => args.dir = PathBuf::from(value()?),
                "--out" => args.out = PathBuf::from(value()?),
                "--list" => args.list = true,
                _ => return Err(format!("{word} is not an option\n\n{USAGE}")),
            }
        }
        if args.repeat == 0 {
            let whole = if args.command == Command::Scaling { 3 } else { 5 };
            args.repeat = if args.quick { 1 } else { whole };
        }
        args.check()?;
        Ok(args)
    }

    fn of(command: Command) -> Self {
        let target = target();
        Args {
            command,
            workloads: Vec::new(),
            contenders: Vec::new(),
            repeat: 0,
            minutes: None,
            quick: false,
            dir: target.clone(),
            out: target,
            list: false,
        }
    }

    /// Whether all names are known.
    fn check(&self) -> Result<(), String> {
        let known: Vec<_> = contenders::cards().iter().map(|card| card.name).collect();
        if let Some(name) = self.contenders.iter().find(|name| !known.contains(&name.as_str())) {
            return Err(format!("there is no contender {name:?}, but {}", known.join(", ")));
        }
        let known = self.known();
        if !known.is_empty() && !known.iter().any(|(name, _)| self.wants(name)) {
            return Err(format!("no name contains {}; try --list", self.workloads.join(" or ")));
        }
        Ok(())
    }

    /// The names of the rows or laws, each with its title.
    pub fn known(&self) -> Vec<(String, String)> {
        match self.command {
            Command::Compare => plan::rows().into_iter().map(|row| (row.key, row.title)).collect(),
            Command::Scaling => {
                let law =
                    |law: scaling::Law| (law.key.to_owned(), format!("{}, against {}", law.title, law.x));
                scaling::laws().into_iter().map(law).collect()
            }
            Command::Soak => Vec::new(),
        }
    }

    /// Whether the row or law of this name is wanted.
    pub fn wants(&self, name: &str) -> bool {
        self.workloads.is_empty() || self.workloads.iter().any(|part| name.contains(part.as_str()))
    }

    pub fn wants_contender(&self, name: &str) -> bool {
        self.contenders.is_empty() || self.contenders.iter().any(|wanted| wanted == name)
    }
}

fn names(list: &str) -> Vec<String> {
    list.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

/// `peers` in the target directory, beside the directory of this program.
fn target() -> PathBuf {
    let program = std::env::current_exe().ok();
    let beside = program.as_deref().and_then(|path| path.parent()?.parent());
    beside.map_or_else(|| PathBuf::from("target"), PathBuf::from).join("peers")
}
