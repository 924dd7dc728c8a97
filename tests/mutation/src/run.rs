//! Which tests reach which edit, and which of them notice it?

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Places, Result};

/// A test that takes longer is left out.
const LONGEST: Duration = Duration::from_secs(25);
/// Tests run in one process until this much of their usual time is together.
const TOGETHER: Duration = Duration::from_millis(1500);
const MOST_TOGETHER: usize = 40;
/// A hang is noticed after this time, or after so many times the usual time.
const PATIENCE: Duration = Duration::from_secs(15);
const TIMES: u32 = 10;
/// Tests that have hung run once more, with so many times the patience: the machine may be busy.
const SECOND_PATIENCE: u32 = 4;
/// An edit can turn a loop into one that allocates without end.
const MEMORY_KIB: u64 = 12 << 20;

/// A test as it runs without an edit, a line of `coverage.tsv`.
#[derive(Clone)]
struct Test {
    program: String,
    name: String,
    usual: Duration,
    passes: bool,
    reaches: BTreeSet<u32>,
}

enum Outcome {
    Passed,
    Failed(String),
    Hung(String),
}

/// Which edits and tests a run is about.
pub struct Options {
    seed: Option<u64>,
    ids: BTreeSet<u32>,
    survivors: bool,
    tests: Option<String>,
    cap: Duration,
}

impl Options {
    pub fn read(words: &[String]) -> Result<Self> {
        let mut options = Self {
            seed: None,
            ids: BTreeSet::new(),
            survivors: false,
            tests: None,
            cap: Duration::from_secs(60),
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if word == "--survivors" {
                options.survivors = true;
                continue;
            }
            let value = words.next().ok_or("a value is missing")?;
            match word.as_str() {
                "--seed" => options.seed = Some(value.parse()?),
                "--ids" => {
                    options.ids = value.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?;
                }
                "--tests" => options.tests = Some(value.clone()),
                "--cap" => options.cap = Duration::from_secs(value.parse()?),
                _ => return Err(format!("no such option: {word}").into()),
            }
        }
        Ok(options)
    }
}

/// Runs each test alone, without an edit, and writes down which edits it reaches. Tests that are known are left out,
/// and those whose name contains one of `without`.
pub fn record(places: &Places, without: &[String]) -> Result<()> {
    let size: u64 = fs::read_to_string(places.work.join("size"))?.trim().parse()?;
    let known: BTreeSet<(String, String)> =
        tests(places)?.into_iter().map(|test| (program_name(&test.program), test.name)).collect();
    let mut list = OpenOptions::new().create(true).append(true).open(places.work.join("coverage.tsv"))?;
    for program in programs(places) {
        let output = Command::new(&program).args(["--list", "--format", "terse"]).output()?;
        let text = String::from_utf8(output.stdout)?;
        for name in text.lines().filter_map(|line| line.strip_suffix(": test")) {
            let key = (program_name(&program), name.to_string());
            if known.contains(&key) || without.iter().any(|text| name.contains(text.as_str())) {
                continue;
            }
            let (usual, passes, reached) = record_one(places, &program, name, size)?;
            if !passes {
                println!("does not pass without an edit: {name}");
            }
            let reached: Vec<String> = reached.iter().map(u32::to_string).collect();
            writeln!(list, "{}\t{name}\t{}\t{passes}\t{}", key.0, usual.as_millis(), reached.join(","))?;
        }
    }
    Ok(())
}

/// The time of a test, whether it passes, and the edits that it reaches.
fn record_one(places: &Places, program: &str, name: &str, size: u64) -> Result<(Duration, bool, Vec<u32>)> {
    let table = places.work.join("reached");
    File::create(&table)?.set_len(size + 1)?;
    let start = Instant::now();
    let environment = [("QUIPU_REACHED", table.to_string_lossy().into_owned())];
    let outcome = run_tests(places, program, &[name], LONGEST * 2, &environment)?;
    let usual = start.elapsed();
    let reached = (0..).zip(fs::read(&table)?).filter(|(_, byte)| *byte != 0).map(|(id, _)| id).collect();
    Ok((usual, matches!(outcome, Outcome::Passed), reached))
}

/// Tries edits, and adds a line for each to `results.tsv`.
pub fn run(places: &Places, options: &Options) -> Result<()> {
    let mut tests = tests(places)?;
    tests.retain(|test| test.passes && test.usual <= LONGEST);
    tests.retain(|test| options.tests.as_ref().is_none_or(|text| test.name.contains(text)));
    tests.sort_by_key(|test| test.usual);
    let done = results(places);
    let mut list = OpenOptions::new().create(true).append(true).open(places.work.join("results.tsv"))?;
    let mut mutants = places.mutants()?;
    // In a random order, so that a run that is stopped early is a sample too.
    mutants.sort_by_key(|mutant| mutant.id.wrapping_mul(2_654_435_769));
    for mutant in mutants {
        let is_due = match done.get(&mutant.id) {
            _ if !options.ids.is_empty() => options.ids.contains(&mutant.id),
            Some(row) => options.survivors && row[1] != "killed",
            None => !options.survivors,
        };
        if !is_due || options.seed.is_some_and(|seed| seed != mutant.seed) {
            continue;
        }
        let (result, by) = try_one(places, mutant.id, &tests, options.cap)?;
        println!("{} {}:{} {}: {result} {by}", mutant.id, mutant.path, mutant.line, mutant.change);
        writeln!(list, "{}\t{result}\t{by}", mutant.id)?;
    }
    Ok(())
}

fn try_one(places: &Places, id: u32, tests: &[Test], cap: Duration) -> Result<(&'static str, String)> {
    let reaching: Vec<&Test> = tests.iter().filter(|test| test.reaches.contains(&id)).collect();
    if reaching.is_empty() {
        return Ok(("unreached", String::new()));
    }
    let environment = [("QUIPU_MUTANT", id.to_string())];
    let (mut spent, mut ran) = (Duration::ZERO, 0);
    while ran < reaching.len() {
        if spent > cap {
            return Ok(("capped", format!("{ran} of {} tests", reaching.len())));
        }
        let group = together(&reaching[ran..]);
        let usual: Duration = group.iter().map(|test| test.usual).sum();
        let names: Vec<&str> = group.iter().map(|test| test.name.as_str()).collect();
        let patience = PATIENCE.max(usual * TIMES);
        let mut outcome = run_tests(places, &group[0].program, &names, patience, &environment)?;
        if matches!(outcome, Outcome::Hung(_)) {
            let patience = patience * SECOND_PATIENCE;
            outcome = run_tests(places, &group[0].program, &names, patience, &environment)?;
        }
        match outcome {
            Outcome::Failed(by) => return Ok(("killed", by)),
            Outcome::Hung(by) => return Ok(("killed", format!("{by} (hangs)"))),
            Outcome::Passed => {}
        }
        ran += group.len();
        spent += usual;
    }
    Ok(("survived", format!("{ran} tests")))
}

/// The first tests that can run in one process.
fn together<'a>(tests: &[&'a Test]) -> Vec<&'a Test> {
    let mut usual = Duration::ZERO;
    let fits = |test: &&&Test| {
        let is_first = usual.is_zero();
        usual += test.usual.max(Duration::from_millis(1));
        is_first || (usual <= TOGETHER && test.program == tests[0].program)
    };
    tests.iter().take_while(fits).take(MOST_TOGETHER).copied().collect()
}

fn run_tests(
    places: &Places,
    program: &str,
    names: &[&str],
    patience: Duration,
    environment: &[(&str, String)],
) -> Result<Outcome> {
    let (temporary, shown) = (places.work.join("tmp"), places.work.join("output"));
    fs::create_dir_all(&temporary)?;
    let output = File::create(&shown)?;
    let mut child = Command::new("sh")
        .args(["-c", &format!("ulimit -v {MEMORY_KIB} -c 0; exec \"$0\" \"$@\""), program])
        .args(names)
        .args(["--exact", "--test-threads", "1", "-Z", "unstable-options", "--fail-fast"])
        .current_dir(places.copy())
        .env("CARGO_MANIFEST_DIR", places.copy())
        .env("RUSTC_BOOTSTRAP", "1")
        .env("QUIPU_CHECK_USER_CODE", "1")
        .env("PROPTEST_FAILURE_PERSISTENCE", "off")
        .env("TMPDIR", &temporary)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()?;
    let passed = wait(&mut child, patience)?;
    // Tests that were killed leave their directories.
    fs::remove_dir_all(&temporary)?;
    if passed == Some(true) {
        return Ok(Outcome::Passed);
    }
    let text = String::from_utf8_lossy(&fs::read(&shown)?).into_owned();
    let last = text
        .lines()
        .rev()
        .filter_map(|line| line.strip_prefix("test "))
        .find(|line| !line.starts_with("result"));
    let by = last.and_then(|line| line.split_whitespace().next()).unwrap_or("?").to_string();
    Ok(if passed.is_none() { Outcome::Hung(by) } else { Outcome::Failed(by) })
}

/// Whether the process ended well. None if it had to be killed.
fn wait(child: &mut Child, patience: Duration) -> Result<Option<bool>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if start.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(3));
    }
}

/// The newest line of each edit in `results.tsv`: number, result, and by which test.
pub fn results(places: &Places) -> BTreeMap<u32, Vec<String>> {
    let rows = places.rows("results.tsv").into_iter().filter(|row| row.len() == 3);
    rows.filter_map(|row| Some((row[0].parse().ok()?, row))).collect()
}

fn programs(places: &Places) -> Vec<String> {
    places.rows("programs.tsv").into_iter().filter_map(|row| row.into_iter().next()).collect()
}

/// The name of a test program without the hash of its build.
fn program_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.rsplit_once('-').map_or(file, |(name, _)| name).to_string()
}

fn tests(places: &Places) -> Result<Vec<Test>> {
    let programs: BTreeMap<String, String> =
        programs(places).into_iter().map(|path| (program_name(&path), path)).collect();
    let read = |row: Vec<String>| -> Result<Test> {
        let [program, name, usual, passes, reaches] =
            <[String; 5]>::try_from(row).map_err(|_| "coverage.tsv")?;
        let reaches = reaches.split(',').filter_map(|id| id.parse().ok()).collect();
        let program = programs.get(&program).cloned().unwrap_or(program);
        let usual = Duration::from_millis(usual.parse()?);
        Ok(Test { program, name, usual, passes: passes == "true", reaches })
    };
    places.rows("coverage.tsv").into_iter().map(read).collect()
}
