//! Do the tests notice faults? Hundreds of small edits are put into a copy of the crate, each under a switch, so that
//! one build serves them all. Then the tests that reach an edit run with it switched on. See README.md.

mod build;
mod find;
mod report;
mod run;
mod sample;
mod write;

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One edit, a line of `mutants.tsv`.
#[derive(Clone)]
pub struct Mutant {
    pub id: u32,
    pub seed: u64,
    pub path: String,
    pub line: usize,
    pub change: String,
    pub text: String,
}

impl Mutant {
    pub fn module(&self) -> &str {
        self.path.split('/').nth(1).unwrap_or_default()
    }
}

/// The directories that all commands use.
pub struct Places {
    /// The package that is tested.
    pub root: PathBuf,
    /// Everything of ours: the lists, and the copy in `copy`.
    pub work: PathBuf,
}

impl Places {
    pub fn copy(&self) -> PathBuf {
        self.work.join("copy")
    }

    /// The fields of each line of one of our lists. None where the list was not written yet.
    pub fn rows(&self, name: &str) -> Vec<Vec<String>> {
        let text = std::fs::read_to_string(self.work.join(name)).unwrap_or_default();
        text.lines().map(|line| line.split('\t').map(String::from).collect()).collect()
    }

    pub fn mutants(&self) -> Result<Vec<Mutant>> {
        let read = |row: Vec<String>| -> Result<Mutant> {
            let [id, seed, path, line, change, text] =
                <[String; 6]>::try_from(row).map_err(|_| "mutants.tsv")?;
            Ok(Mutant { id: id.parse()?, seed: seed.parse()?, path, line: line.parse()?, change, text })
        };
        self.rows("mutants.tsv").into_iter().map(read).collect()
    }
}

const USAGE: &str = "usage: quipu-mutation list
       quipu-mutation build SEED COUNT [SEED COUNT]...
       quipu-mutation record [TEXT]...
       quipu-mutation run [--seed SEED] [--ids ID,ID...] [--survivors] [--tests TEXT] [--cap SECONDS]
       quipu-mutation report";

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let work = env::var_os("QUIPU_MUTATION_DIR").map_or_else(|| root.join("target/mutation"), PathBuf::from);
    std::fs::create_dir_all(&work)?;
    let places = Places { root, work };
    let arguments: Vec<String> = env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    match arguments.first().map(String::as_str) {
        Some("list") => report::candidates(&places),
        Some("build") => {
            let numbers =
                rest.iter().map(|text| text.parse()).collect::<std::result::Result<Vec<u64>, _>>()?;
            let samples: Vec<(u64, usize)> =
                numbers.chunks_exact(2).map(|pair| (pair[0], pair[1] as usize)).collect();
            build::build(&places, &samples)
        }
        Some("record") => run::record(&places, rest),
        Some("run") => run::run(&places, &run::Options::read(rest)?),
        Some("report") => report::report(&places),
        _ => Err(USAGE.into()),
    }
}
