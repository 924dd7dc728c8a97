//! The calls that a new user writes and that do not compile: the text of the compiler must say what to write instead.
//!
//! They are one small program, which is compiled with the compiler and the library of this test run. Those that compile are in
//! `tests/behaviour/natural_calls.rs`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A call, and parts of its error.
const CALLS: [(&str, &[&str]); 24] = [
    ("Record::new(7)", &["`{integer}` is not bytes or text", "`n.to_string()` for text"]),
    ("Record::new(text).key(7_u64)", &["`u64` is not bytes or text", "`n.to_be_bytes()` for bytes"]),
    (
        "Record::new(text).header(text, Instant::now())",
        &["`Instant` is not bytes or text", "serialize it first"],
    ),
    ("producer.send(3, Record::new(text))", &["is not a destination of records", "write `&topic`"]),
    ("producer.send((text, 0), Record::new(text))", &["is not a destination", "`topic.partition(number)?`"]),
    ("transaction.send(broker, Record::new(text))", &["Broker` is not a destination of records"]),
    ("consumer.commit(3)", &["`{integer}` does not name processed records", "write `commit(&records)`"]),
    (
        "consumer.commit(records.iter())",
        &["does not name processed records", "`records.iter().collect::<Offsets>()`"],
    ),
    ("handle.commit(records.last())", &["does not name processed records", "write `commit(&record)`"]),
    ("Offsets::new().add(&position)", &["Position` does not name processed records"]),
    ("broker.consumer(text).subscribe(7)", &["is not a name, and not a list of names", "a `Vec<String>`"]),
    (
        "broker.consumer(text).subscribe(text.split(','))",
        &["not a list of names", "`names.collect::<Vec<_>>()`"],
    ),
    ("broker.reader(topic, Start::End)", &["not a list of names", "write `topic.name()`"]),
    (
        "broker.consumer(text).project(text, 7)",
        &["`{integer}` is not a projection", "implement `Projection` for a type of your own"],
    ),
    // Types that do not match: the text is the compiler's own.
    ("consumer.poll(200)", &["expected `Duration`, found integer"]),
    (
        "{ let mut seen = 0; broker.consumer(text).project(text, move |_: &ConsumedRecord<'_>, _: &mut Transaction| -> Result<()> { seen += 1; Ok(()) }) }",
        &["expected a closure that implements the `Fn` trait, but this closure only implements `FnMut`"],
    ),
    ("consumer.commit()", &["this method takes 1 argument but 0 arguments were supplied"]),
    ("producer.send(text, text)", &["Record<'_>`, found `&str`"]),
    ("stream.append(0, Record::new(text))", &["`ExpectedVersion: From<{integer}>` is not satisfied"]),
    ("TopicConfig::new().retention(Duration::ZERO)", &["Retention`, found `Duration`"]),
    ("position.partition as i32", &["non-primitive cast: `PartitionId` as `i32`"]),
    ("broker.consumer(text).subscribe(topic)", &["is not a name", "write `topic.name()`"]),
    (
        "broker.group(text).unwrap().reset(text, 0)",
        &["`From<{integer}>` is not implemented for `quipu::Start`", "`From<Offset>` is implemented"],
    ),
    ("topic.partition(-1_i32)", &["the trait bound `PartitionId: From<i32>` is not satisfied"]),
];

const BEFORE: &str = "\
#![allow(unused)]
use std::time::{Duration, Instant};
use quipu::*;
struct Having<'a> {
    broker: &'a Broker, topic: &'a Topic, producer: &'a Producer, stream: &'a Stream, text: &'a str,
    transaction: &'a mut Transaction, consumer: &'a mut Consumer, handle: &'a ConsumerHandle, records: &'a Records,
    position: Position,
}
";

const PARTS: &str = "broker, topic, producer, stream, text, transaction, consumer, handle, records, position";

#[test]
fn the_text_for_a_refused_call_says_what_to_write() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("calls.rs");
    let mut program = BEFORE.to_string();
    let first = program.lines().count() + 1;
    for (at, (call, _)) in CALLS.iter().enumerate() {
        writeln!(program, "fn call_{at}(Having {{ {PARTS} }}: Having<'_>) {{ let _ = {call}; }}").unwrap();
    }
    std::fs::write(&file, program).unwrap();
    let text = compile(&file);
    let errors: Vec<&str> = text.split("\nerror").collect();
    for (at, (call, expected)) in CALLS.iter().enumerate() {
        let place = format!("calls.rs:{}:", first + at);
        let own: String = errors.iter().filter(|error| error.contains(&place)).copied().collect();
        assert!(!own.is_empty(), "`{call}` compiles, or the program was not compiled:\n{text}");
        for part in *expected {
            assert!(own.contains(part), "the error of `{call}` does not say {part:?}:\n{own}");
        }
    }
}

/// Returns the errors of a program that uses the library.
fn compile(file: &Path) -> String {
    // The compiler beside the `cargo` that runs this test has built the library.
    let compiler = std::env::var_os("CARGO").map_or_else(
        || PathBuf::from("rustc"),
        |cargo| Path::new(&cargo).with_file_name(if cfg!(windows) { "rustc.exe" } else { "rustc" }),
    );
    let libraries = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let library = newest_library(&libraries);
    let compiled = Command::new(compiler)
        .args(["--edition", "2024", "--crate-type", "lib", "--emit", "metadata", "--color", "never"])
        .arg("--extern")
        .arg(format!("quipu={}", library.display()))
        .arg("-L")
        .arg(format!("dependency={}", libraries.display()))
        .arg("--out-dir")
        .args([file.parent().unwrap(), file])
        .output()
        .unwrap();
    assert!(!compiled.status.success(), "all calls compile");
    format!("\n{}", String::from_utf8_lossy(&compiled.stderr))
}

fn newest_library(dir: &Path) -> PathBuf {
    let libraries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("libquipu-") && name.ends_with(".rlib")
    });
    libraries.max_by_key(|path| path.metadata().unwrap().modified().unwrap()).unwrap()
}
