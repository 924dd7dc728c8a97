//! The names of files and directories, and the file that a name stands for. No other file makes or
//! parses names.
//!
//! Every name has one spelling. A name that is parsed and does not come out the same is foreign.

use std::path::PathBuf;

use crate::types::{Offset, PartitionId, TopicId, TopicName};

/// Locked while a broker has the directory open.
pub(crate) const LOCK: &str = "LOCK";
/// The topic that groups' offsets are committed to. Kafka's name.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Whether no user may have a topic of this name: names that differ only in case are the same to
/// some file systems.
pub(crate) fn is_own_topic(name: &str) -> bool {
    name.eq_ignore_ascii_case(OFFSETS_TOPIC)
}

/// The list of topics.
pub(crate) const CATALOG: &str = "catalog";
/// The previous list of topics, from before the file was last replaced. Opening never reads it.
pub(crate) const CATALOG_OLD: &str = "catalog.old";
/// How far segments were checked and synced: see [`checkpoint`](super::checkpoint).
pub(crate) const CHECKPOINT: &str = "checkpoint";
/// Reserved for atomic commits over several partitions.
pub(crate) const JOURNAL: &str = "journal";
/// Space that is released to free more space on a full disk.
pub(crate) const RESERVE: &str = "reserve";
/// States that the directory is a backup, and whether it is finished.
pub(crate) const BACKUP: &str = "backup";
pub(crate) const OWNER: &str = "owner";
/// The directory of the topics' directories.
pub(crate) const TOPICS: &str = "topics";
/// The directory of topics that are being deleted.
pub(crate) const TRASH: &str = "trash";
/// The list of a partition's segments, in the partition's directory.
pub(crate) const MANIFEST: &str = "manifest";
/// The last batches of idempotent producers, in the partition's directory.
pub(crate) const PRODUCERS: &str = "producers";

/// The name of a segment.
pub(crate) fn segment_file(base: Offset, generation: u32) -> String {
    format!("{:020}-{generation}.log", base.get())
}

/// The name of a segment's index.
pub(crate) fn index_file(base: Offset, generation: u32) -> String {
    format!("{:020}-{generation}.index", base.get())
}

/// The name of a segment's key index.
pub(crate) fn key_index_file(base: Offset, generation: u32) -> String {
    format!("{:020}-{generation}.keys", base.get())
}

/// The name under which bytes are kept that a crash left in a segment after its valid end, at
/// `position`.
pub(crate) fn torn_file(base: Offset, generation: u32, position: u64) -> String {
    format!("{:020}-{generation}.{position}.torn", base.get())
}

/// The name under which bytes are kept that were damaged in a segment, from `position` on, and
/// whose loss was accepted.
pub(crate) fn lost_file(base: Offset, generation: u32, position: u64) -> String {
    format!("{:020}-{generation}.{position}.lost", base.get())
}

/// The name under which a file is written before it is renamed to `name`.
pub(crate) fn temporary_file(name: &str) -> String {
    format!("{name}{TEMPORARY}")
}

/// The meaning of a name in a partition's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PartitionFile {
    /// The list of segments.
    Manifest,
    /// The last batches of idempotent producers.
    Producers,
    /// A segment.
    Segment {
        /// Its base offset.
        base: Offset,
        /// Its generation.
        generation: u32,
    },
    /// The index of a segment.
    Index {
        /// The segment's base offset.
        base: Offset,
        /// The segment's generation.
        generation: u32,
    },
    /// The key index of a segment.
    Keys {
        /// The segment's base offset.
        base: Offset,
        /// The segment's generation.
        generation: u32,
    },
    /// Bytes that a crash left after the end of a segment.
    Torn {
        /// The segment's base offset.
        base: Offset,
        /// The segment's generation.
        generation: u32,
        /// Where in the segment the bytes lay.
        position: u64,
    },
    /// Bytes that were damaged in a segment and whose loss was accepted.
    Lost {
        /// The segment's base offset.
        base: Offset,
        /// The segment's generation.
        generation: u32,
        /// Where in the segment the bytes lay.
        position: u64,
    },
    /// A file that was not finished, of any kind above. It may be deleted.
    Temporary,
    /// A foreign file. It must not be touched.
    Foreign,
}

/// Returns the meaning of this name in a partition's directory.
pub(crate) fn parse_partition_file(name: &str) -> PartitionFile {
    match name.strip_suffix(TEMPORARY) {
        Some(finished) if parse_finished(finished).is_some() => PartitionFile::Temporary,
        Some(_) => PartitionFile::Foreign,
        None => parse_finished(name).unwrap_or(PartitionFile::Foreign),
    }
}

/// A topic's directory, from the broker's.
pub(crate) fn topic_dir(name: &TopicName, id: &TopicId) -> PathBuf {
    PathBuf::from(TOPICS).join(encode_topic(name, id))
}

/// A partition's directory, from the broker's.
pub(crate) fn partition_dir(name: &TopicName, id: &TopicId, partition: PartitionId) -> PathBuf {
    topic_dir(name, id).join(partition.to_string())
}

/// The name of a topic's directory. No two topics have the same, also where a file system ignores
/// case, and every name is one that Windows allows.
pub(crate) fn encode_topic(name: &TopicName, id: &TopicId) -> String {
    let encoded = encode_name(name.as_str());
    if encoded.len() <= TOPIC_DIR_MAX { encoded } else { format!("{BY_ID}{id}") }
}

/// The name of the directory of any topic of this name; `None` if it depends on the identity.
pub(crate) fn named_dir(name: &TopicName) -> Option<String> {
    Some(encode_name(name.as_str())).filter(|encoded| encoded.len() <= TOPIC_DIR_MAX)
}

/// The topic that a directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TopicDir {
    /// The topic of this name.
    Named(TopicName),
    /// The topic of this identity, whose name is too long.
    Identified(TopicId),
}

/// Returns the topic whose directory has this name. `None` if no topic's directory has it.
pub(crate) fn parse_topic(dir: &str) -> Option<TopicDir> {
    if let Some(id) = dir.strip_prefix(BY_ID) {
        return parse_trash(id).map(TopicDir::Identified);
    }
    let name = dir.strip_prefix(MARK).unwrap_or(dir);
    let name = name.strip_suffix(MARK).unwrap_or(name);
    let mut decoded = String::with_capacity(name.len());
    let mut characters = name.chars();
    while let Some(character) = characters.next() {
        match character {
            UPPER => decoded.push(characters.next()?.to_ascii_uppercase()),
            character => decoded.push(character),
        }
    }
    let name = TopicName::new(&decoded).ok()?;
    let is_spelling = dir.len() <= TOPIC_DIR_MAX && encode_name(name.as_str()) == dir;
    is_spelling.then_some(TopicDir::Named(name))
}

fn encode_name(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len() + 4);
    let stem = name.split('.').next().unwrap_or_default();
    if DEVICES.iter().any(|device| stem.eq_ignore_ascii_case(device)) {
        encoded.push_str(MARK);
    }
    for character in name.chars() {
        if character.is_ascii_uppercase() {
            encoded.push(UPPER);
        }
        encoded.push(character.to_ascii_lowercase());
    }
    if name.ends_with('.') {
        encoded.push_str(MARK);
    }
    encoded
}

/// Returns the partition of this name in a topic's directory.
pub(crate) fn parse_partition_dir(name: &str) -> Option<PartitionId> {
    let partition = PartitionId::new(name.parse().ok()?);
    (partition.to_string() == name).then_some(partition)
}

/// Whether this is the name of a file or a directory that a broker makes in its directory.
pub(crate) fn is_root_entry(name: &str) -> bool {
    let permanent = [LOCK, CATALOG, CATALOG_OLD, CHECKPOINT, JOURNAL, BACKUP, TOPICS, TRASH];
    permanent.contains(&name)
        || name == RESERVE
        || name == OWNER
        || permanent.iter().any(|known| temporary_file(known) == name)
}

/// Whether a name in a broker's directory, or below it, is one that an operating system, a file
/// server or a file manager makes by itself.
pub(crate) fn is_of_system(name: &str) -> bool {
    const NAMES: [&str; 16] = [
        "lost+found",
        ".snapshot",
        ".snapshots",
        ".zfs",
        ".DS_Store",
        ".Spotlight-V100",
        ".fseventsd",
        ".Trashes",
        ".TemporaryItems",
        ".VolumeIcon.icns",
        "@eaDir",
        "#snapshot",
        "$RECYCLE.BIN",
        "System Volume Information",
        "desktop.ini",
        "Thumbs.db",
    ];
    // A file that was removed on a network file system while a process had it open.
    const PREFIXES: [&str; 3] = [".nfs", ".fuse_hidden", ".Trash-"];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The path to which a topic's directory is moved to be deleted, from the broker's directory.
pub(crate) fn trash_dir(id: &TopicId) -> PathBuf {
    PathBuf::from(TRASH).join(id.to_string())
}

/// The topic of this name in the trash.
pub(crate) fn parse_trash(name: &str) -> Option<TopicId> {
    let id = TopicId(u128::from_str_radix(name, 16).ok()?.to_be_bytes());
    (id.to_string() == name).then_some(id)
}

fn parse_finished(name: &str) -> Option<PartitionFile> {
    if name == MANIFEST {
        return Some(PartitionFile::Manifest);
    }
    if name == PRODUCERS {
        return Some(PartitionFile::Producers);
    }
    let (base, rest) = name.split_once('-')?;
    let (generation, rest) = rest.split_once('.')?;
    let (base, generation) = (Offset::new(base.parse().ok()?), generation.parse().ok()?);
    let (file, spelling) = match rest {
        "log" => (PartitionFile::Segment { base, generation }, segment_file(base, generation)),
        "index" => (PartitionFile::Index { base, generation }, index_file(base, generation)),
        "keys" => (PartitionFile::Keys { base, generation }, key_index_file(base, generation)),
        _ => {
            let (position, kind) = rest.split_once('.')?;
            let position = position.parse().ok()?;
            match kind {
                "torn" => (
                    PartitionFile::Torn { base, generation, position },
                    torn_file(base, generation, position),
                ),
                "lost" => (
                    PartitionFile::Lost { base, generation, position },
                    lost_file(base, generation, position),
                ),
                _ => return None,
            }
        }
    };
    (spelling == name).then_some(file)
}

const TEMPORARY: &str = ".tmp";
/// Before the lower-case form of an upper-case letter, in the name of a topic's directory. No
/// topic's name has it.
const UPPER: char = '%';
/// Before and after a name that Windows does not allow.
const MARK: &str = "%-";
/// Before a topic's identity.
const BY_ID: &str = "%%";
/// The longest name of a topic's directory, in bytes.
const TOPIC_DIR_MAX: usize = 200;
/// Windows opens a device under these names, whatever follows after a dot.
const DEVICES: [&str; 24] = [
    "con", "prn", "aux", "nul", "com0", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8",
    "com9", "lpt0", "lpt1", "lpt2", "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_pinned() {
        let base = Offset::new(42);
        assert_eq!(segment_file(base, 0), "00000000000000000042-0.log");
        assert_eq!(index_file(base, 7), "00000000000000000042-7.index");
        assert_eq!(key_index_file(base, 7), "00000000000000000042-7.keys");
        assert_eq!(torn_file(base, 0, 4_096), "00000000000000000042-0.4096.torn");
        assert_eq!(lost_file(base, 3, 232), "00000000000000000042-3.232.lost");
        assert_eq!(temporary_file(MANIFEST), "manifest.tmp");
        let id = TopicId([0x0a; 16]);
        let name = TopicName::new("orders").unwrap();
        assert_eq!(topic_dir(&name, &id), PathBuf::from("topics/orders"));
        assert_eq!(partition_dir(&name, &id, PartitionId::new(3)), PathBuf::from("topics/orders/3"));
        assert_eq!(trash_dir(&id), PathBuf::from("trash/0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"));
    }

    #[test]
    fn directories_of_topics_are_pinned() {
        let id = TopicId([0x0a; 16]);
        let by_id = format!("%%{}", "0a".repeat(16));
        for (name, dir) in [
            ("orders", "orders"),
            ("Orders", "%orders"),
            ("ORDERS-2_x.y", "%o%r%d%e%r%s-2_x.y"),
            ("con", "%-con"),
            ("CON", "%-%c%o%n"),
            ("nul.log.2", "%-nul.log.2"),
            ("Lpt9.", "%-%lpt9.%-"),
            ("com", "com"),
            ("com10", "com10"),
            ("x.con", "x.con"),
            ("...", "...%-"),
            (".a", ".a"),
            ("a.", "a.%-"),
            ("-", "-"),
        ] {
            let name = TopicName::new(name).unwrap();
            assert_eq!(encode_topic(&name, &id), dir);
            assert_eq!(parse_topic(dir), Some(TopicDir::Named(name)));
        }
        for (name, is_long) in [("x".repeat(200), false), ("x".repeat(201), true), ("X".repeat(101), true)] {
            let dir = encode_topic(&TopicName::new(&name).unwrap(), &id);
            assert_eq!(dir == by_id, is_long, "{name}");
        }
        assert_eq!(parse_topic(&by_id), Some(TopicDir::Identified(id)));
    }

    #[test]
    fn other_spellings_of_a_topics_directory_are_foreign() {
        let long = "x".repeat(201);
        for dir in [
            "",
            ".",
            "..",
            "Orders",
            "%",
            "%%",
            "%-",
            "%-orders",
            "orders%-",
            "%O",
            "%1",
            "%.",
            "con",
            "nul.x",
            "a.",
            "%-con%-",
            "%%0A0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a",
            "%%0a",
            "%-%-con",
            "a b",
            "a%",
            "\u{e4}",
            &long,
        ] {
            assert_eq!(parse_topic(dir), None, "{dir}");
        }
    }

    /// Different topics have different directories, also where case is ignored, and the topic can
    /// be found by the directory.
    #[test]
    fn any_two_topics_have_two_directories() {
        let mut random = super::super::damage::Random(7);
        let letters = b"aAbBzZ09._-cCoOnNuUlLpPtTmMrRxX1";
        let mut seen = std::collections::BTreeMap::new();
        for round in 0..20_000u32 {
            let len = match round % 10 {
                0 => 1 + random.next() as usize % 249,
                n => 1 + random.next() as usize % (n as usize + 1),
            };
            let name: String = random
                .bytes(len)
                .iter()
                .map(|byte| char::from(letters[usize::from(*byte) % letters.len()]))
                .collect();
            let Ok(name) = TopicName::new(&name) else { continue };
            let id = TopicId(u128::from(round).to_le_bytes());
            let dir = encode_topic(&name, &id);
            assert!(dir.len() <= 200 && dir == dir.to_lowercase() && !dir.ends_with('.'), "{dir}");
            let stem = dir.split('.').next().unwrap();
            assert!(!DEVICES.contains(&stem), "{dir}");
            match parse_topic(&dir) {
                Some(TopicDir::Named(parsed)) => assert_eq!(parsed, name),
                Some(TopicDir::Identified(parsed)) => assert_eq!(parsed, id),
                None => panic!("{name} became {dir}"),
            }
            if let Some(other) = seen.insert(dir, name.clone()) {
                assert_eq!(other, name);
            }
        }
        assert!(seen.len() > 5_000, "{}", seen.len());
    }

    #[test]
    fn every_name_is_recognised() {
        for (base, generation, position) in [(0, 0, 0), (42, 7, 96), (u64::MAX, u32::MAX, u64::MAX)] {
            let base = Offset::new(base);
            for (name, file) in [
                (MANIFEST.to_string(), PartitionFile::Manifest),
                (PRODUCERS.to_string(), PartitionFile::Producers),
                (segment_file(base, generation), PartitionFile::Segment { base, generation }),
                (index_file(base, generation), PartitionFile::Index { base, generation }),
                (key_index_file(base, generation), PartitionFile::Keys { base, generation }),
                (torn_file(base, generation, position), PartitionFile::Torn { base, generation, position }),
            ] {
                assert_eq!(parse_partition_file(&name), file);
                assert_eq!(parse_partition_file(&temporary_file(&name)), PartitionFile::Temporary);
            }
        }
        for id in [[0; 16], [0xff; 16], *b"0123456789abcdef"].map(TopicId) {
            assert_eq!(parse_trash(&id.to_string()), Some(id));
        }
        for partition in [0, 10, u32::MAX].map(PartitionId::new) {
            assert_eq!(parse_partition_dir(&partition.to_string()), Some(partition));
        }
    }

    #[test]
    fn other_spellings_are_foreign() {
        for name in [
            "",
            ".tmp",
            "notes.tmp",
            "manifest.tmp.tmp",
            "Manifest",
            "Producers",
            "42-0.log",
            "00000000000000000042-00.log",
            "+0000000000000000042-0.log",
            "00000000000000000042-+0.log",
            "00000000000000000042-0.LOG",
            "00000000000000000042-0.log ",
            "00000000000000000042.log",
            "99999999999999999999-0.log",
            "000000000000000000042-0.log",
            "00000000000000000042-4294967296.log",
            "00000000000000000042-0.007.torn",
            "00000000000000000042-0.torn",
            "00000000000000000042-0.1.2.torn",
            "00000000000000000042--1.log",
        ] {
            assert_eq!(parse_partition_file(name), PartitionFile::Foreign, "{name}");
        }
        for name in ["", "00", "+1", "-1", "1 ", "4294967296"] {
            assert_eq!(parse_partition_dir(name), None, "{name}");
        }
        for name in ["", "0a", "0A0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a", "+a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"] {
            assert_eq!(parse_trash(name), None, "{name}");
        }
    }
}
