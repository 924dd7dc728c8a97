//! The binary `quipu` (feature `cli`), run as a shell runs it: output, exit codes, and files that
//! stay unchanged.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use quipu::{Broker, BrokerConfig, ManualClock, Record, Retention, Start, Timestamp, TopicConfig};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A directory, and the binary beside it.
struct Shell {
    at: TempDir,
}

/// The end of one run.
struct Done {
    out: String,
    errors: String,
    code: i32,
}

impl Shell {
    fn new() -> Self {
        Shell { at: TempDir::new().unwrap() }
    }

    /// With a topic `orders` of two partitions: `k1` and `k3` in the first, `k2` in the second, at
    /// times 1000, 2000 and 3000.
    fn with_orders() -> Self {
        let shell = Shell::new();
        let broker = Broker::open(shell.dir()).unwrap();
        let orders = broker.create_topic("orders", TopicConfig::new().partitions(2)).unwrap();
        for (partition, key, time) in [(0, "k1", 1000), (1, "k2", 2000), (0, "k3", 3000)] {
            let record = Record::new(format!("value of {key}"))
                .key(key)
                .header("source", "test")
                .timestamp(Timestamp::from_millis(time));
            broker.producer().send(&orders.partition(partition).unwrap(), record).unwrap().wait().unwrap();
        }
        broker.close().unwrap();
        shell
    }

    fn dir(&self) -> PathBuf {
        self.at.path().join("data")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quipu"));
        // `DIR` among the arguments is the directory.
        let dir = self.dir();
        command.args(arguments.iter().map(|argument| match *argument {
            "DIR" => dir.as_os_str(),
            other => other.as_ref(),
        }));
        command.env_remove("NO_COLOR").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Done {
        Done::of(self.command(arguments).output().unwrap())
    }

    /// With something to read on standard input.
    fn feed(&self, arguments: &[&str], input: &[u8]) -> Done {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        Done::of(child.wait_with_output().unwrap())
    }

    /// Runs it, expects that it succeeds and is silent on standard error, and returns its output.
    fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).ok()
    }

    /// As [`ok`](Shell::ok), as JSON, line by line.
    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let out = self.ok(&[arguments, &["--json"]].concat());
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Done {
    fn of(output: Output) -> Self {
        Done {
            out: String::from_utf8(output.stdout).unwrap(),
            errors: String::from_utf8(output.stderr).unwrap(),
            code: output.status.code().unwrap(),
        }
    }

    fn ok(self) -> String {
        assert_eq!((self.errors.as_str(), self.code), ("", 0), "{}", self.out);
        self.out
    }

    /// It failed with this code and a text on standard error, and printed nothing else.
    fn failed(&self, code: i32, text: &str) {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{}", self.errors);
        assert!(self.errors.contains(text), "{}", self.errors);
    }
}

/// The words of each line.
fn cells(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

/// Every file of a directory with its bytes.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                files.insert(path.clone(), std::fs::read(path).unwrap());
            }
        }
    }
    files
}

/// Changes a byte of the only segment of a partition, in the body of its first batch.
fn damage(dir: &Path, partition: &str) -> PathBuf {
    let partition = dir.join("topics").join(partition);
    let files = std::fs::read_dir(partition).unwrap().map(|entry| entry.unwrap().path());
    let segment = files.into_iter().find(|path| path.extension().is_some_and(|e| e == "log")).unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[128 + 104 + 3] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    segment
}

#[test]
fn topics_are_listed_with_their_sizes() {
    let shell = Shell::with_orders();
    let text = shell.ok(&["topics", "DIR"]);
    let lines = cells(&text);
    assert_eq!(lines[0], ["TOPIC", "PARTITIONS", "OFFSETS", "SIZE", "CLEANUP"]);
    assert_eq!((lines[1][..3].to_vec(), lines[1][5]), (vec!["orders", "2", "3"], "delete"));
    assert_eq!(lines.len(), 2);
    let listed = shell.json(&["topics", "DIR"]);
    assert_eq!((&listed[0]["topic"], &listed[0]["offsets"]), (&json!("orders"), &json!(3)));
}

#[test]
fn info_has_offsets_times_and_settings_and_counts_on_demand() {
    let shell = Shell::with_orders();
    let text = shell.ok(&["info", "DIR", "--segments", "--count"]);
    let lines = cells(&text);
    assert_eq!(lines[0][..3], ["orders:", "partitions", "2,"]);
    assert_eq!(lines[1][..3], ["PARTITION", "LOG-START-OFFSET", "LOG-END-OFFSET"]);
    assert_eq!(lines[2][..5], ["0", "0", "2", "2", "1"]);
    assert_eq!(lines[2][8..11], ["1970-01-01T00:00:01.000Z", "1970-01-01T00:00:03.000Z", "2"]);
    assert_eq!(lines[5], ["PARTITION", "BASE-OFFSET", "SIZE", "STATE", "FILE"]);
    let of = &shell.json(&["info", "DIR", "orders", "--count"])[0];
    assert_eq!(of["partitions"][1]["counted"]["records"], json!(1));
    // "k2", "value of k2", "source" and "test".
    assert_eq!(of["partitions"][1]["counted"]["payload_bytes"], json!(2 + 11 + 6 + 4));
    assert_eq!(of["config"]["segment_bytes"], json!(TopicConfig::new().get_segment_bytes()));
}

#[test]
fn groups_have_the_columns_of_kafka() {
    let shell = Shell::with_orders();
    let broker = Broker::open(shell.dir()).unwrap();
    let mut consumer = broker.consumer("billing").max_records(1).subscribe("orders").unwrap();
    let records = consumer.poll(Duration::from_secs(10)).unwrap();
    let first = records.iter().next().unwrap().partition();
    consumer.commit(&records).unwrap();
    consumer.close().unwrap();
    broker.close().unwrap();

    let text = shell.ok(&["groups", "DIR"]);
    let lines = cells(&text);
    assert_eq!(lines[0], ["GROUP", "TOPIC", "PARTITION", "CURRENT-OFFSET", "LOG-END-OFFSET", "LAG"]);
    let of =
        |partition: &str| lines.iter().find(|line| line[0] == "billing" && line[2] == partition).unwrap();
    let (end, lag) = if first == 0 { ("2", "1") } else { ("1", "0") };
    assert_eq!(of(&first.to_string())[3..], ["1", end, lag]);
    let listed = shell.json(&["groups", "DIR", "billing"]);
    assert!(listed.iter().any(|of| of["current_offset"] == json!(1)));
    shell.run(&["groups", "DIR", "shipping"]).failed(1, "there is no group \"shipping\"");
}

#[test]
fn cat_prints_values_formats_and_json() {
    let shell = Shell::with_orders();
    let mut values: Vec<String> = shell.ok(&["cat", "DIR", "orders"]).lines().map(String::from).collect();
    values.sort();
    assert_eq!(values, ["value of k1", "value of k2", "value of k3"]);
    assert_eq!(shell.ok(&["cat", "DIR", "orders", "-p", "1", "-K:"]), "k2:value of k2\n");
    let format = "100%% %t/%p@%o %T %k %K %S [%h]\\n";
    assert_eq!(
        shell.ok(&["cat", "DIR", "orders", "-p", "0", "-f", format]),
        "100% orders/0@0 1000 k1 2 11 [source=test]\n100% orders/0@1 3000 k3 2 11 [source=test]\n"
    );
    let lines = shell.json(&["cat", "DIR", "orders", "--key", "k3"]);
    let expected = json!({
        "topic": "orders", "partition": 0, "offset": 1, "timestamp": 3000,
        "key": "k3", "value": "value of k3", "headers": [["source", "test"]],
    });
    assert_eq!(lines, [expected]);
    let no_values = shell.json(&["cat", "DIR", "orders", "-p", "1", "--no-values"]);
    assert_eq!((&no_values[0]["value"], &no_values[0]["value_bytes"]), (&json!(null), &json!(11)));
    assert_eq!(shell.ok(&["cat", "DIR", "orders", "-p1", "--no-values"]), "orders/1@0\t2000\tk2\t11\n");
}

#[test]
fn cat_begins_at_every_kind_of_place() {
    let shell = Shell::with_orders();
    let offsets = |place: &str| shell.ok(&["cat", "DIR", "orders", "-p", "0", "-f", "%o ", "-o", place]);
    assert_eq!(offsets("beginning"), "0 1 ");
    assert_eq!(offsets("end"), "");
    assert_eq!(offsets("1"), "1 ");
    assert_eq!(offsets("-1"), "1 ");
    assert_eq!(offsets("-100"), "0 1 ");
    assert_eq!(offsets("s@1001"), "1 ");
    assert_eq!(offsets("s@1970-01-01T00:00:01Z"), "0 1 ");
    assert_eq!(offsets("s@9000"), "");
    assert_eq!(shell.ok(&["cat", "DIR", "orders", "-p", "0", "-c", "1", "-e"]), "value of k1\n");
    let beyond = shell.run(&["cat", "DIR", "orders", "-p", "0", "-o", "7"]);
    assert_eq!((beyond.code, beyond.out.as_str()), (0, ""));
    assert!(beyond.errors.contains("orders/0 has no offset 7: reading begins at 2"), "{}", beyond.errors);
}

#[test]
fn lines_become_records_with_keys_and_headers() {
    let shell = Shell::new();
    shell.ok(&["create", "DIR", "events", "-P", "2"]);
    let input = b"k1=v=1\nno key\nk2=\nlast without a newline";
    let produce = ["produce", "DIR", "events", "-K=", "-H", "h=1", "-H", "null", "-Z", "-p", "1"];
    assert_eq!(shell.feed(&produce, input).ok(), "");
    let lines = shell.json(&["cat", "DIR", "events", "-p", "1"]);
    let all: Vec<_> = lines.iter().map(|line| (&line["key"], &line["value"])).collect();
    let (k1, k2) = (json!("k1"), json!("k2"));
    let (v, no_key, last, null) =
        (json!("v=1"), json!("no key"), json!("last without a newline"), json!(null));
    assert_eq!(all, [(&k1, &v), (&null, &no_key), (&k2, &null), (&null, &last)]);
    assert_eq!(lines[0]["headers"], json!([["h", "1"], ["null", null]]));
    let counted = shell.feed(&["produce", "DIR", "events", "--json"], b"a\nb\n").ok();
    assert_eq!(serde_json::from_str::<Value>(&counted).unwrap(), json!({ "topic": "events", "records": 2 }));
}

#[test]
fn a_line_that_is_refused_keeps_those_before_it() {
    let shell = Shell::new();
    shell.ok(&["create", "DIR", "small", "-s", "max_record_bytes=100", "-s", "segment_bytes=1MiB"]);
    let input = format!("first\n{}\nthird\n", "x".repeat(200));
    shell
        .feed(&["produce", "DIR", "small"], input.as_bytes())
        .failed(1, "larger than the limit of 100 bytes");
    assert_eq!(shell.ok(&["cat", "DIR", "small"]), "first\n");
}

#[test]
fn settings_are_given_by_both_names_and_altered() {
    let shell = Shell::new();
    let of = |shell: &Shell| shell.json(&["info", "DIR", "table"])[0]["config"].clone();
    shell.ok(&["create", "DIR", "table", "-s", "cleanup.policy=compact", "-s", "segment_bytes=1MiB"]);
    assert_eq!((&of(&shell)["cleanup"], &of(&shell)["segment_bytes"]), (&json!("compact"), &json!(1 << 20)));
    shell.ok(&["alter", "DIR", "table", "--set", "retention.ms=7d", "--set", "durability=sync", "-P", "3"]);
    assert_eq!(of(&shell)["retention"]["age_ms"], json!(604_800_000));
    assert_eq!((&of(&shell)["durability"], &of(&shell)["partitions"]), (&json!("sync"), &json!(3)));
    assert_eq!(of(&shell)["cleanup"], json!("compact"), "settings that are not named stay");
    shell.run(&["alter", "DIR", "table", "-P", "1"]).failed(1, "partitions");
    shell.run(&["alter", "DIR", "table"]).failed(2, "nothing to change");
    shell.run(&["create", "DIR", "table"]).failed(1, "`quipu alter` changes its settings");
    shell.ok(&["create", "DIR", "table", "--if-not-exists"]);
    shell.run(&["create", "DIR", "other", "-s", "clean=yes"]).failed(2, "unknown field `clean`");
    assert_eq!(shell.json(&["topics", "DIR"]).len(), 1);
}

#[test]
fn a_topic_is_deleted_only_when_that_is_confirmed() {
    let shell = Shell::with_orders();
    shell.run(&["delete", "DIR", "orders"]).failed(2, "orders has 3 offsets, and nothing was deleted");
    assert_eq!(shell.json(&["topics", "DIR"]).len(), 1);
    shell.ok(&["delete", "DIR", "orders", "--yes"]);
    assert_eq!(shell.json(&["topics", "DIR"]).len(), 0);
}

#[test]
fn bytes_are_raw_in_a_pipe_and_escaped_for_a_terminal() {
    let shell = Shell::new();
    shell.ok(&["create", "DIR", "hostile"]);
    let hostile = "\u{1b}[2J\u{9b}31m\u{202e}text\n";
    shell.feed(&["produce", "DIR", "hostile"], hostile.as_bytes()).ok();
    assert_eq!(shell.ok(&["cat", "DIR", "hostile"]), hostile);
    let escaped = shell.ok(&["cat", "DIR", "hostile", "--escape", "always"]);
    assert_eq!(escaped, "\\u{1b}[2J\\u{9b}31m\\u{202e}text\n");
    let json = shell.ok(&["cat", "DIR", "hostile", "--escape", "always", "--json"]);
    assert!(json.trim_end().chars().all(|c| c.is_ascii() && !c.is_control()), "{json}");
    let line: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(line["value"], json!(hostile.trim_end()));
}

#[test]
fn bytes_that_are_no_text_are_base64_in_json() {
    let shell = Shell::new();
    shell.ok(&["create", "DIR", "bytes"]);
    shell.feed(&["produce", "DIR", "bytes", "-K:"], b"\xff\x00:\xfe\n").ok();
    let line = &shell.json(&["cat", "DIR", "bytes"])[0];
    assert_eq!((&line["key"], &line["value"]), (&json!({ "base64": "/wA=" }), &json!({ "base64": "/g==" })));
}

#[test]
fn looking_changes_no_file_and_makes_no_directory() {
    let shell = Shell::with_orders();
    let before = snapshot(&shell.dir());
    for command in
        [&["topics", "DIR"][..], &["info", "DIR", "--count"], &["groups", "DIR"], &["cat", "DIR", "orders"]]
    {
        shell.ok(command);
        assert_eq!(snapshot(&shell.dir()), before, "{command:?}");
    }
    let empty = Shell::new();
    for command in [&["topics", "DIR"][..], &["cat", "DIR", "orders"], &["produce", "DIR", "orders"]] {
        empty.run(command).failed(1, "is no directory; `quipu create` makes one");
        assert!(!empty.dir().exists(), "{command:?}");
    }
    std::fs::create_dir(empty.dir()).unwrap();
    empty.run(&["info", "DIR"]).failed(1, "is no directory of a broker");
    assert_eq!(snapshot(&empty.dir()).len(), 0);
}

#[test]
fn wrong_arguments_end_with_2_and_errors_with_1_and_advice() {
    let shell = Shell::with_orders();
    shell.run(&["cat", "DIR"]).failed(2, "<TOPIC>");
    shell.run(&["sing", "DIR"]).failed(2, "unrecognized subcommand 'sing'");
    shell.run(&["cat", "DIR", "orders", "-o", "middle"]).failed(2, "\"middle\" is none of beginning, end");
    shell.run(&["cat", "DIR", "orders", "-f", "%x"]).failed(2, "%x is not known in a format");
    shell.run(&["cat", "DIR", "order"]).failed(1, "there is no topic \"order\"");
    shell.run(&["cat", "DIR", "order"]).failed(1, "`quipu topics DIR` lists the topics");
    shell.run(&["cat", "DIR", "orders", "-p", "7"]).failed(1, "no partition 7");
    let help = shell.ok(&["--help"]);
    assert!(help.contains("Exit codes: 0 done"), "{help}");
}

#[test]
fn a_directory_that_is_open_elsewhere_ends_with_11() {
    let shell = Shell::with_orders();
    let broker = Broker::open(shell.dir()).unwrap();
    shell.feed(&["produce", "DIR", "orders"], b"").failed(11, "is already open");
    broker.close().unwrap();
    shell.feed(&["produce", "DIR", "orders"], b"").ok();
}

#[test]
fn commands_that_look_work_beside_the_owner() {
    let shell = Shell::with_orders();
    let broker = Broker::open(shell.dir()).unwrap();
    broker.producer().send("orders", Record::new("while it runs").key("k4")).unwrap().wait().unwrap();
    broker.group("billing").unwrap().reset("orders", Start::End).unwrap();
    assert_eq!(shell.json(&["topics", "DIR"])[0]["offsets"], json!(4));
    assert_eq!(shell.json(&["cat", "DIR", "orders", "--key", "k4"])[0]["value"], json!("while it runs"));
    assert_eq!(shell.ok(&["export", "DIR"]).lines().count(), 1 + 4);
    let ends: u64 =
        shell.json(&["groups", "DIR"]).iter().map(|of| of["current_offset"].as_u64().unwrap()).sum();
    assert_eq!(ends, 4);
    let owner = format!("process {}", std::process::id());
    shell.feed(&["produce", "DIR", "orders"], b"x\n").failed(11, &owner);
    shell.run(&["verify", "DIR"]).failed(11, "is already open");
    broker.close().unwrap();
}

#[test]
fn cat_follows_a_running_owner() {
    let shell = Shell::with_orders();
    let broker = Broker::open(shell.dir()).unwrap();
    let send = |value: &str| {
        broker.producer().send("orders", Record::new(value.to_string())).unwrap().wait().unwrap();
    };
    send("before");
    let mut child = shell.command(&["cat", "DIR", "orders", "-o", "end", "-F", "-c", "2"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The child begins at the end that it finds: sent again until it has begun.
    let (first, got) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            first.send(lines.next().unwrap().unwrap()).unwrap();
            first.send(lines.next().unwrap().unwrap()).unwrap();
        });
        let line = loop {
            send("live");
            if let Ok(line) = got.recv_timeout(Duration::from_millis(20)) {
                break line;
            }
        };
        assert_eq!(line, "live");
        send("live");
        assert_eq!(got.recv_timeout(Duration::from_secs(60)).unwrap(), "live");
    });
    assert_eq!(child.wait().unwrap().code(), Some(0));
    broker.close().unwrap();
}

#[test]
fn damage_ends_with_10_and_is_named() {
    let shell = Shell::with_orders();
    let file = damage(&shell.dir(), "orders/0");
    let cat = shell.run(&["cat", "DIR", "orders", "-p", "0"]);
    cat.failed(10, file.file_name().unwrap().to_str().unwrap());
    assert!(cat.errors.contains("`quipu verify DIR`"), "{}", cat.errors);
    let info = shell.run(&["info", "DIR", "--count"]);
    assert_eq!(info.code, 10, "{}", info.errors);
    let lines = cells(&info.out);
    assert!(lines[2].contains(&"corrupt") || lines[2].len() > 13, "{}", info.out);
    assert_eq!(lines[3][..3], ["1", "0", "1"], "the other partition is described: {}", info.out);
    assert_eq!(shell.ok(&["cat", "DIR", "orders", "-p", "1"]), "value of k2\n");
}

#[test]
fn a_reader_of_the_output_that_leaves_ends_it_quietly() {
    let shell = Shell::new();
    shell.ok(&["create", "DIR", "many"]);
    let lines: String = (0..50_000).map(|n| format!("line {n}\n")).collect();
    shell.feed(&["produce", "DIR", "many"], lines.as_bytes()).ok();
    let mut child = shell.command(&["cat", "DIR", "many"]).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let done = child.wait_with_output().unwrap();
    assert_eq!(first, "line 0\n");
    assert_eq!((done.status.code(), String::from_utf8(done.stderr).unwrap().as_str()), (Some(0), ""));
}

#[test]
fn verify_names_damage_and_changes_nothing() {
    let shell = Shell::with_orders();
    let whole = shell.ok(&["verify", "DIR"]);
    assert!(whole.starts_with("whole: 2 partitions, 3 batches, 3 records, "), "{whole}");
    let file = damage(&shell.dir(), "orders/0");
    let before = snapshot(&shell.dir());
    let found = shell.run(&["verify", "DIR"]);
    assert_eq!((found.code, found.errors.as_str()), (10, ""));
    let named = format!("damage {} at byte 128", file.display());
    assert!(found.out.contains(&named) && found.out.contains("orders/0 offsets 0 to 1"), "{}", found.out);
    assert!(found.out.lines().last().unwrap().starts_with("DAMAGED: 2 partitions"), "{}", found.out);
    let json: Value = serde_json::from_str(&shell.run(&["verify", "DIR", "--json"]).out).unwrap();
    let finding = &json["findings"][0];
    assert_eq!((&json["whole"], &finding["position"]), (&json!(false), &json!(128)));
    assert_eq!(finding["offsets"], json!([0, 1]));
    assert_eq!(snapshot(&shell.dir()), before);
    shell.run(&["verify", "DIR/none"]).failed(1, "is no directory");
}

/// The golden directories of the repository, copied.
fn golden() -> Vec<(String, Shell)> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v2");
    let names = std::fs::read_dir(&from).unwrap().map(|entry| entry.unwrap());
    let mut all = Vec::new();
    for entry in names.filter(|entry| entry.path().is_dir()) {
        let shell = Shell::new();
        for (path, bytes) in snapshot(&entry.path()) {
            let to = shell.dir().join(path.strip_prefix(entry.path()).unwrap());
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::write(to, bytes).unwrap();
        }
        all.push((entry.file_name().into_string().unwrap(), shell));
    }
    assert!(all.len() > 20, "the golden directories are elsewhere");
    all
}

#[test]
fn verify_prints_every_finding_of_the_library_for_each_golden_directory() {
    for (name, shell) in golden() {
        let done = shell.run(&["verify", "DIR", "--json"]);
        let report = match Broker::verify(shell.dir(), |_| ControlFlow::Continue(())) {
            Ok(report) => report,
            Err(error) => {
                done.failed(1, &error.to_string());
                continue;
            }
        };
        let printed: Value = serde_json::from_str(&done.out).unwrap();
        let findings = printed["findings"].as_array().unwrap();
        let expected: Vec<_> = report
            .findings
            .iter()
            .map(|finding| (json!(finding.file.display().to_string()), json!(finding.position)))
            .collect();
        let found: Vec<_> =
            findings.iter().map(|finding| (finding["file"].clone(), finding["position"].clone())).collect();
        assert_eq!(found, expected, "{name}");
        assert_eq!(done.code, if report.is_whole() { 0 } else { 10 }, "{name}");
    }
}

#[test]
fn salvage_copies_the_rest_and_names_the_loss() {
    let shell = Shell::with_orders();
    damage(&shell.dir(), "orders/0");
    let to = shell.at.path().join("copy");
    let done = shell.run(&["salvage", "DIR", to.to_str().unwrap()]);
    assert_eq!((done.code, done.errors.as_str()), (10, ""));
    assert!(done.out.starts_with("lost orders/0 offsets 0 to 1: "), "{}", done.out);
    assert!(done.out.ends_with("copied: 1 topics, 2 batches, 2 records\n"), "{}", done.out);
    let copy = to.to_str().unwrap();
    let mut values: Vec<_> = shell.run(&["cat", copy, "orders"]).out.lines().map(String::from).collect();
    values.sort();
    assert_eq!(values, ["value of k2", "value of k3"]);
    assert_eq!(shell.run(&["verify", copy]).code, 0);
    shell.run(&["salvage", "DIR", copy]).failed(1, "nothing was touched");
}

#[test]
fn streams_are_listed_and_one_is_printed_with_its_versions() {
    let shell = Shell::new();
    shell.ok(&["create", "DIR", "accounts", "--streams"]);
    shell.feed(&["produce", "DIR", "accounts", "-K:"], b"a-1:opened\na-2:opened\na-1:paid\n").ok();
    let listed = shell.ok(&["streams", "DIR", "accounts"]);
    let lines = cells(&listed);
    assert_eq!(
        (lines[0][..3].to_vec(), lines[1][..3].to_vec()),
        (vec!["a-1", "2", "accounts/0@2"], vec!["a-2", "1", "accounts/0@1"])
    );
    let events = shell.ok(&["streams", "DIR", "accounts", "a-1"]);
    let lines = cells(&events);
    assert_eq!((lines[0][..2].to_vec(), lines[0][4]), (vec!["1", "accounts/0@0"], "opened"));
    assert_eq!((lines[1][..2].to_vec(), lines[1][4]), (vec!["2", "accounts/0@2"], "paid"));
    let json = shell.json(&["streams", "DIR", "accounts", "a-1"]);
    assert_eq!((&json[1]["version"], &json[1]["value"]), (&json!(2), &json!("paid")));
    shell.run(&["streams", "DIR", "accounts", "a-9"]).failed(1, "has no stream \"a-9\"");
    shell.ok(&["create", "DIR", "plain"]);
    shell.run(&["streams", "DIR", "plain"]).failed(2, "keeps no streams");
}

#[test]
fn compaction_and_retention_run_on_demand_and_report() {
    let shell = Shell::new();
    shell.ok(&["create", "DIR", "table", "-s", "cleanup=compact", "-s", "segment_bytes=1MiB"]);
    let value = "v".repeat(60_000);
    let lines: String = (0..60).map(|n| format!("k{}:{value}{n}\n", n % 3)).collect();
    shell.feed(&["produce", "DIR", "table", "-K:"], lines.as_bytes()).ok();
    let compacted = shell.ok(&["compact", "DIR", "table"]);
    assert!(compacted.starts_with("table/0: records "), "{compacted}");
    let left = shell.ok(&["cat", "DIR", "table", "-f", "%k\\n"]).lines().count();
    assert!(left < 60, "{left} records");
    assert_eq!(shell.ok(&["compact", "DIR", "table"]), "table/0: nothing to compact in sealed segments\n");
    shell.run(&["compact", "DIR", "table", "-p", "7"]).failed(1, "no partition 7");

    // Under a manual clock nothing is deleted in the background.
    let clock = ManualClock::starting_at(Timestamp::now());
    let broker = BrokerConfig::new().clock(clock).open(shell.dir()).unwrap();
    let config = TopicConfig::new().segment_bytes(1 << 20);
    broker.create_topic("old", config.clone()).unwrap();
    let records = (0..60).map(|_| Record::new(value.as_str()));
    broker.producer().send_all("old", records).unwrap().wait().unwrap();
    broker.alter_topic("old", config.retention(Retention::for_bytes(1 << 20))).unwrap();
    broker.close().unwrap();
    let retained = shell.ok(&["retain", "DIR"]);
    let info = &shell.json(&["info", "DIR", "old"])[0]["partitions"][0];
    let start = info["log_start"].as_u64().unwrap();
    assert!(
        start > 0 && retained.contains(&format!("old/0: starts at {start}, deleted ")),
        "{retained} {start}"
    );
}

#[test]
fn an_export_is_imported_as_it_was() {
    let shell = Shell::with_orders();
    shell.feed(&["produce", "DIR", "orders", "-p1", "-K:", "-Z", "-H", "null"], b"\xff\x00:\xfe\nk9:\n").ok();
    let exported = shell.ok(&["export", "DIR"]);
    let first: Value = serde_json::from_str(exported.lines().next().unwrap()).unwrap();
    assert_eq!((&first["topic"], &first["config"]["partitions"]), (&json!("orders"), &json!(2)));
    assert_eq!(exported.lines().count(), 1 + 5);
    for keep in [&[][..], &["--keep-offsets"]] {
        let copy = Shell::new();
        copy.feed(&[&["import", "DIR"], keep].concat(), exported.as_bytes()).ok();
        for partition in ["0", "1"] {
            let cat = ["cat", "DIR", "orders", "-p", partition, "--json"];
            assert_eq!(copy.ok(&cat), shell.ok(&cat), "{keep:?}");
        }
        let config = |shell: &Shell| shell.json(&["info", "DIR", "orders"])[0]["config"].clone();
        assert_eq!(config(&copy), config(&shell));
    }
}

#[test]
fn an_import_keeps_offsets_or_says_why_it_cannot() {
    let shell = Shell::new();
    shell.ok(&["create", "DIR", "t"]);
    let line = |offset: u64| json!({ "topic": "t", "partition": 0, "offset": offset, "value": format!("v{offset}") });
    let lines =
        |offsets: &[u64]| offsets.iter().map(|offset| format!("{}\n", line(*offset))).collect::<String>();
    let import = ["import", "DIR", "--keep-offsets"];
    shell.feed(&import, lines(&[1_000, 1_001]).as_bytes()).ok();
    let gap = shell.feed(&import, lines(&[1_002, 1_004]).as_bytes());
    gap.failed(1, "line 2: t/0 continues at offset 1003, and the line has 1004");
    assert_eq!(shell.ok(&["cat", "DIR", "t", "-f", "%o=%s "]), "1000=v1000 1001=v1001 1002=v1002 ");
    shell.feed(&import, lines(&[5]).as_bytes()).failed(1, "t/0 continues at offset 1003");
    let cases = [
        ("{}", "missing field `topic`"),
        ("nonsense", "line 1: no record"),
        ("{\"topic\":\"t\",\"offsets\":1}", "unknown field `offsets`"),
        ("{\"topic\":\"none\",\"value\":\"v\"}", "there is no topic \"none\""),
        ("{\"topic\":\"t\",\"value\":{\"base64\":\"%\"}}", "is not base64"),
    ];
    for (line, text) in cases {
        shell.feed(&["import", "DIR"], line.as_bytes()).failed(1, text);
    }
    shell.feed(&["import", "DIR", "--topic", "t"], b"{\"topic\":\"none\",\"value\":\"v\"}\n\n").ok();
    assert_eq!(shell.ok(&["cat", "DIR", "t", "-o", "-1"]), "v\n");
}

#[test]
fn completions_and_manual_pages_are_made() {
    let shell = Shell::new();
    assert!(shell.ok(&["completions", "bash"]).contains("verify"));
    let page = shell.ok(&["man"]);
    assert!(page.contains(".TH quipu 1") && page.contains("Exit codes"), "{page}");
    let to = shell.at.path().join("man");
    std::fs::create_dir(&to).unwrap();
    shell.ok(&["man", to.to_str().unwrap()]);
    assert!(to.join("quipu.1").is_file() && to.join("quipu-cat.1").is_file());
}

#[test]
fn a_group_is_set_to_another_place_and_only_shown_in_a_dry_run() {
    let shell = Shell::with_orders();
    let offsets = |shell: &Shell| {
        let lines = shell.json(&["groups", "DIR"]);
        lines.iter().map(|of| of["current_offset"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let reset =
        |more: &[&str]| shell.ok(&[&["groups", "DIR", "billing", "--reset", "-t", "orders"], more].concat());
    let dry = reset(&["--to", "end", "--dry-run"]);
    let lines = cells(&dry);
    assert_eq!(lines[0], ["GROUP", "TOPIC", "PARTITION", "CURRENT-OFFSET", "NEW-OFFSET"]);
    assert_eq!(lines[1..], [["billing", "orders", "0", "-", "2"], ["billing", "orders", "1", "-", "1"]]);
    assert!(offsets(&shell).is_empty());
    assert_eq!(reset(&["--to", "end"]), dry);
    assert_eq!(offsets(&shell), [2, 1]);
    reset(&["--shift-by", "-1", "-p", "0"]);
    assert_eq!(offsets(&shell), [1, 1]);
    reset(&["--to", "s@1000"]);
    assert_eq!(offsets(&shell), [0, 0]);
    reset(&["--to", "99"]);
    assert_eq!(offsets(&shell), [2, 1]);
    shell.run(&["groups", "DIR", "--reset", "--to", "end", "-t", "orders"]).failed(2, "GROUP");
    shell.run(&["groups", "DIR", "a", "--reset", "-t", "orders"]).failed(2, "--to");
    shell.run(&["groups", "DIR", "a", "b", "--reset", "-t", "orders", "--to", "end"]).failed(2, "one group");
}

#[test]
fn dump_names_the_structures_of_each_file() {
    let shell = Shell::with_orders();
    let segment = segment_of(&shell.dir(), "orders/0");
    let text = shell.ok(&["dump", segment.to_str().unwrap(), "--records"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[1].starts_with("           0  segment header: magic QUIPUSEG, version 2, "), "{text}");
    assert!(lines[2].starts_with("         128  batch: magic QBAT, body_len "), "{text}");
    assert!(
        lines[2].contains("base_offset 0, last_offset_delta 0, count 1, base_timestamp 1000")
            && lines[2].contains(" fits"),
        "{text}"
    );
    assert!(
        lines[3].contains("record: length ")
            && lines[3].contains("key \"k1\"")
            && lines[3].contains("value \"value of k1\""),
        "{text}"
    );
    let hidden = shell.ok(&["dump", segment.to_str().unwrap(), "--records", "--no-values"]);
    assert!(!hidden.contains("value of k1") && hidden.contains("value (11 bytes)"), "{hidden}");
    let json = shell.json(&["dump", segment.to_str().unwrap()]);
    assert_eq!((&json[1]["structure"], &json[1]["fields"]["count"]), (&json!("batch"), &json!(1)));
    let of = |name: &str| shell.ok(&["dump", shell.dir().join(name).to_str().unwrap()]);
    assert!(of("catalog").contains("kind 2, topic, ") && of("catalog").contains("name orders"));
    assert!(
        of("checkpoint").contains("checkpoint: magic QUIPUCHK, version 2")
            && of("checkpoint").contains("clean 1")
    );
    assert!(
        of("topics/orders/0/manifest")
            .contains("segment: base offset 0, generation 0, log epoch 0, state active")
    );
}

/// The only segment of a partition.
fn segment_of(dir: &Path, partition: &str) -> PathBuf {
    let files = snapshot(&dir.join("topics").join(partition));
    files.into_keys().find(|path| path.extension().is_some_and(|e| e == "log")).unwrap()
}

#[test]
fn dump_names_every_byte_of_every_golden_directory_and_sees_damage() {
    for (name, shell) in golden() {
        for (path, bytes) in snapshot(&shell.dir()) {
            let done = shell.run(&["dump", path.to_str().unwrap(), "--hex"]);
            assert!(done.code == 0 || done.code == 10, "{name} {}: {}", path.display(), done.errors);
            // A row of a field begins with a position in 16 columns; the bytes follow in 48.
            let rows = done
                .out
                .lines()
                .filter(|line| line.get(..16).is_some_and(|at| at.trim().parse::<u64>().is_ok()));
            let mut next = 0;
            for row in rows {
                let at: u64 = row[..16].trim().parse().unwrap();
                let hex: Vec<&str> = row[18..].get(..48).unwrap_or(&row[18..]).split_whitespace().collect();
                assert_eq!(at, next, "{name} {}: {row}", path.display());
                for (byte, shown) in bytes[at as usize..].iter().zip(&hex) {
                    assert_eq!(format!("{byte:02x}"), *shown, "{name} {}: {row}", path.display());
                }
                next += hex.len() as u64;
            }
            assert_eq!(next, bytes.len() as u64, "{name} {}", path.display());
        }
        // The dump shares no code with the library, so that each finds faults of the other. The
        // pieces of a key index are not checked.
        let done = shell.run(&["dump", "DIR", "--records"]);
        let is_damaged = name != "damaged-keys" && ["damaged", "torn"].iter().any(|of| name.starts_with(of));
        assert_eq!(done.code, if is_damaged { 10 } else { 0 }, "{name}: {}", done.out);
    }
    let shell = Shell::with_orders();
    damage(&shell.dir(), "orders/0");
    let done = shell.run(&["dump", "DIR"]);
    assert_eq!(done.code, 10);
    assert!(done.out.contains("DOES NOT FIT"), "{}", done.out);
}

#[test]
fn bench_measures_beside_the_raw_limit_and_leaves_nothing() {
    let shell = Shell::new();
    std::fs::create_dir(shell.dir()).unwrap();
    let lines = shell.json(&["bench", "DIR", "--seconds", "1"]);
    let names: Vec<_> = lines.iter().map(|line| line["measured"].as_str().unwrap()).collect();
    assert_eq!(names, ["append", "read", "durable, one at a time"]);
    for line in &lines {
        assert!(line["records_per_second"].as_f64().unwrap() > 0.0 && line["of_raw"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(std::fs::read_dir(shell.dir()).unwrap().count(), 0);
}

#[test]
fn a_report_has_the_figures_of_the_library_and_points_nowhere() {
    let shell = Shell::with_orders();
    let broker = Broker::open(shell.dir()).unwrap();
    let hostile = "<img src=x onerror='alert(1)'>\u{202e}";
    broker.group(hostile).unwrap().reset("orders", Start::Beginning).unwrap();
    broker.create_topic("empty", TopicConfig::new()).unwrap();
    let segment = broker.topic("orders").unwrap().partition(0).unwrap().segments()[0].bytes;
    broker.close().unwrap();
    let to = shell.at.path().join("report.html");
    assert_eq!(shell.ok(&["report", "DIR", "--html", to.to_str().unwrap()]), "");
    let page = std::fs::read_to_string(&to).unwrap();

    for elsewhere in [
        "http:",
        "https:",
        "src=\"",
        "href=",
        "url(",
        "@import",
        "<script",
        "<img",
        "<link",
        "onerror='",
        "\u{202e}",
    ] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    assert!(page.contains("&lt;img src=x onerror=&#39;alert(1)&#39;&gt;\\u{202e}"));
    let row =
        |cells: &[&str]| cells.iter().map(|cell| format!("<td>{cell}</td>")).collect::<Vec<_>>().join("");
    let page_without_lines = page.replace('\n', "");
    // Partition 0: offsets 0 to 2, one segment; and the group's offset, end and lag.
    assert!(page_without_lines.contains(&row(&["0", "0", "2", "1", &format!("{segment} B")])), "{page}");
    assert!(page_without_lines.contains(&row(&["0", "0", "2", "2"])), "{page}");
    assert!(page.contains("<div><b>3</b><span class=\"dim\">offsets</span></div>"));
    assert!(page.contains("<div><b>3</b><span class=\"dim\">lag of all groups</span></div>"));
    // The columns of the chart: all three records, one at each end of the time and one between.
    let counts: Vec<u64> = page
        .split("<title>from 1970-")
        .skip(1)
        .map(|title| title.split(": ").nth(1).unwrap().split('<').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!((counts.iter().take(60).sum::<u64>(), counts[0], counts[30]), (3, 1, 1));
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("@media print"));

    damage(&shell.dir(), "orders/0");
    let done = shell.run(&["report", "DIR", "--html", "-"]);
    assert_eq!(done.code, 10);
    assert!(done.out.contains("<p class=\"bad\">orders/0: "), "{}", done.out);
}

#[test]
fn backup_copies_all_of_it_and_then_what_is_new() {
    let shell = Shell::with_orders();
    let to = shell.at.path().join("copy");
    let to = to.to_str().unwrap();
    let done = shell.run(&["backup", "DIR", to]);
    assert_eq!((done.code, done.errors.as_str()), (0, ""));
    assert!(done.out.starts_with("backed up: ") && done.out.ends_with(", 0 there before\n"), "{}", done.out);
    assert_eq!(shell.run(&["cat", to, "orders"]).out, shell.run(&["cat", "DIR", "orders"]).out);
    assert_eq!(shell.run(&["verify", to]).code, 0);
    let again = shell.run(&["--json", "backup", "DIR", to]);
    assert_eq!(again.code, 0, "{}", again.errors);
    assert!(again.out.contains("\"ends\":[\"orders/0@"), "{}", again.out);
    let other = shell.at.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("mine"), "mine").unwrap();
    shell.run(&["backup", "DIR", other.to_str().unwrap()]).failed(1, "nothing was touched");
}
