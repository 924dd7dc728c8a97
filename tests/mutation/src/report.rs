//! The results, as tables in Markdown.

use std::collections::BTreeMap;

use crate::run::results;
use crate::sample::{self, MODULES};
use crate::{Mutant, Places, Result};

/// How many edits can be made, by module.
pub fn candidates(places: &Places) -> Result<()> {
    let all = sample::candidates(places)?;
    for module in MODULES {
        let files = all.iter().filter(|file| file.module() == module);
        println!("{module}: {}", files.map(|file| file.edits.len()).sum::<usize>());
    }
    Ok(())
}

/// A table for each sample, and the edits that no test noticed. Those in `equivalent.tsv` (number, reason) change
/// nothing that a program can see.
pub fn report(places: &Places) -> Result<()> {
    let (mutants, results) = (places.mutants()?, results(places));
    let equivalent: BTreeMap<u32, String> = places
        .rows("equivalent.tsv")
        .into_iter()
        .filter_map(|row| Some((row.first()?.parse().ok()?, row.get(1)?.clone())))
        .collect();
    let result = |mutant: &Mutant| results.get(&mutant.id).map_or("not run", |row| row[1].as_str());
    let mut seeds: Vec<u64> = mutants.iter().map(|mutant| mutant.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    for seed in seeds {
        println!(
            "\nSeed {seed}\n\n| module | edits | killed | equivalent | survived | killed of those not equivalent |"
        );
        println!("|---|---:|---:|---:|---:|---:|");
        let of_seed: Vec<&Mutant> = mutants.iter().filter(|mutant| mutant.seed == seed).collect();
        for module in MODULES.iter().copied().chain(["all"]) {
            let ours = of_seed.iter().filter(|mutant| module == "all" || mutant.module() == module);
            let ours: Vec<&&Mutant> = ours.filter(|mutant| result(mutant) != "not run").collect();
            let killed = ours.iter().filter(|mutant| result(mutant) == "killed").count();
            let same =
                ours.iter().filter(|m| result(m) != "killed" && equivalent.contains_key(&m.id)).count();
            let (count, left) = (ours.len(), ours.len() - killed - same);
            let share = 100 * killed / (killed + left).max(1);
            println!("| {module} | {count} | {killed} | {same} | {left} | {share}% |");
        }
        println!();
        for mutant in of_seed.iter().filter(|mutant| result(mutant) != "killed") {
            let Mutant { id, path, line, change, text, .. } = mutant;
            let reason = equivalent.get(id).map_or(String::new(), |reason| format!("; equivalent: {reason}"));
            println!("- {id} {path}:{line} {change}: `{text}`: {}{reason}", result(mutant));
        }
    }
    Ok(())
}
