//! One list of tests for the promises of all storages, run over each of them; then tests of single
//! storages.

mod capacity;
mod disk;
mod faults;
mod memory;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::storage::budget::{Budget, BudgetStorage};
use crate::storage::faults::{FaultStorage, Faults, Op};
use crate::storage::fs::FsStorage;
use crate::storage::mem::{MemStorage, Survive};
use crate::storage::{
    DirEntry, File, OpenMode, Storage, read_exact_at, read_file, read_up_to, replace_file, write_all_at,
};
use crate::sync::{Arc, thread};
use crate::testing::Disk;

/// Runs a test on every storage.
fn on_each(test: fn(&dyn Storage)) {
    let dir = tempfile::tempdir().unwrap();
    let (calm, hostile) = (Faults::new(), Faults::new());
    hostile.be_hostile();
    let memory = || Arc::new(MemStorage::with_crash_images());
    let counted = BudgetStorage::new(memory(), &Budget::new(u64::MAX));
    let storages: [(&str, Arc<dyn Storage>); 7] = [
        ("disk", Arc::new(FsStorage::new(dir.path().to_path_buf()))),
        ("memory", Arc::new(MemStorage::new())),
        ("memory with crash images", memory()),
        ("faults planned: none", Arc::new(FaultStorage::new(memory(), &calm))),
        ("faults planned: one byte a call", Arc::new(FaultStorage::new(memory(), &hostile))),
        ("the test disk", Disk::new().storage()),
        ("counted", Arc::new(counted)),
    ];
    for (name, storage) in storages {
        eprintln!("on {name}");
        test(&*storage);
    }
}

fn path(path: &str) -> &Path {
    Path::new(path)
}

fn create(storage: &dyn Storage, name: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = storage.open(path(name), OpenMode::CreateNew).unwrap();
    write_all_at(&*file, bytes, 0).unwrap();
    file
}

fn content(storage: &dyn Storage, name: &str) -> io::Result<Vec<u8>> {
    read_file(storage, path(name), u64::MAX)
}

fn names(storage: &dyn Storage, dir: &str) -> Vec<String> {
    let mut entries = storage.list(path(dir)).unwrap();
    entries.sort();
    entries.into_iter().map(|entry| entry.name).collect()
}

fn kind<T>(result: io::Result<T>) -> ErrorKind {
    result.err().expect("it succeeded").kind()
}

#[test]
fn what_is_written_is_read() {
    on_each(|storage| {
        let file = create(storage, "a", b"hello");
        write_all_at(&*file, b"J", 0).unwrap();
        write_all_at(&*file, b"!", 7).unwrap();
        assert_eq!(file.len().unwrap(), 8);
        assert_eq!(content(storage, "a").unwrap(), b"Jello\0\0!", "a hole reads as zeros");
        let mut buffer = [9; 4];
        assert_eq!(read_up_to(&*file, &mut buffer, 6).unwrap(), 2);
        assert_eq!(buffer, [0, b'!', 9, 9]);
        assert_eq!(read_up_to(&*file, &mut buffer, 8).unwrap(), 0);
        assert_eq!(read_up_to(&*file, &mut buffer, 1 << 40).unwrap(), 0);
        assert_eq!(kind(read_exact_at(&*file, &mut buffer, 6)), ErrorKind::UnexpectedEof);
        write_all_at(&*file, b"", 100).unwrap();
        assert_eq!(file.len().unwrap(), 8, "nothing written, nothing grown");
        file.sync_data().unwrap();
        let other = storage.open(path("a"), OpenMode::Write).unwrap();
        write_all_at(&*other, b"xyz", 8).unwrap();
        read_exact_at(&*file, &mut buffer[..3], 8).unwrap();
        assert_eq!(&buffer[..3], b"xyz", "handles share the file");
        assert_eq!(kind(read_file(storage, path("a"), 10)), ErrorKind::InvalidData);
    });
}

#[test]
fn open_modes_do_what_they_say() {
    on_each(|storage| {
        for mode in [OpenMode::Read, OpenMode::Write] {
            assert_eq!(kind(storage.open(path("a"), mode)), ErrorKind::NotFound);
        }
        let old = create(storage, "a", b"old");
        assert_eq!(kind(storage.open(path("a"), OpenMode::CreateNew)), ErrorKind::AlreadyExists);
        let reader = storage.open(path("a"), OpenMode::Read).unwrap();
        assert!(write_all_at(&*reader, b"x", 0).is_err(), "opened for reading only");
        let new = storage.open(path("a"), OpenMode::Truncate).unwrap();
        assert_eq!((new.len().unwrap(), old.len().unwrap()), (0, 3), "a handle keeps its file");
        let map = old.map(3).unwrap();
        write_all_at(&*new, b"new", 0).unwrap();
        let newest = storage.open(path("a"), OpenMode::Truncate).unwrap();
        assert_eq!((map.as_slice(), newest.len().unwrap()), (&b"old"[..], 0), "and so does a map");
        storage.open(path("b"), OpenMode::Truncate).unwrap();
        storage.create_dir(path("d")).unwrap();
        assert_eq!(kind(storage.open(path("d"), OpenMode::Read)), ErrorKind::IsADirectory);
        for mode in [OpenMode::Write, OpenMode::CreateNew, OpenMode::Truncate] {
            assert!(storage.open(path("d"), mode).is_err());
        }
        for bad in ["../a", "/etc/hostname", "d/../a"] {
            assert_eq!(kind(storage.open(path(bad), OpenMode::Read)), ErrorKind::InvalidInput, "{bad}");
        }
        assert_eq!(kind(storage.open(path("x/a"), OpenMode::CreateNew)), ErrorKind::NotFound);
        assert_eq!(kind(storage.open(path("a/a"), OpenMode::CreateNew)), ErrorKind::NotADirectory);
    });
}

#[test]
fn directories_hold_what_was_put_in() {
    on_each(|storage| {
        assert!(names(storage, "").is_empty());
        storage.create_dir(path("d")).unwrap();
        storage.create_dir(path("d")).unwrap();
        storage.create_dir(path("d/e")).unwrap();
        create(storage, "d/f", b"1");
        let mut entries = storage.list(path("d")).unwrap();
        entries.sort();
        let entry = |name: &str, is_dir| DirEntry { name: name.to_owned(), is_dir, is_link: false };
        assert_eq!(entries, [entry("e", true), entry("f", false)]);
        assert_eq!(kind(storage.create_dir(path("d/f"))), ErrorKind::AlreadyExists);
        assert_eq!(kind(storage.create_dir(path("x/y"))), ErrorKind::NotFound);
        assert_eq!(kind(storage.list(path("x"))), ErrorKind::NotFound);
        assert_eq!(kind(storage.list(path("d/f"))), ErrorKind::NotADirectory);
        assert_eq!(kind(storage.remove_dir(path("d"))), ErrorKind::DirectoryNotEmpty);
        assert_eq!(kind(storage.remove_dir(path("d/f"))), ErrorKind::NotADirectory);
        assert!(storage.remove_file(path("d/e")).is_err());
        for dir in ["", "d", "d/e"] {
            storage.sync_dir(path(dir)).unwrap();
        }
        assert_eq!(kind(storage.sync_dir(path("x"))), ErrorKind::NotFound);
        assert_eq!(kind(storage.sync_dir(path("d/f"))), ErrorKind::NotADirectory);
        storage.remove_dir(path("d/e")).unwrap();
        storage.remove_file(path("d/f")).unwrap();
        assert_eq!(kind(storage.remove_file(path("d/f"))), ErrorKind::NotFound);
        storage.remove_dir(path("d")).unwrap();
        assert!(names(storage, "").is_empty());
    });
}

#[test]
fn renames_replace_files_and_move_directories() {
    on_each(|storage| {
        let (a, b) = (create(storage, "a", b"a"), create(storage, "b", b"b"));
        let map = b.map(1).unwrap();
        storage.rename(path("a"), path("b")).unwrap();
        assert_eq!(names(storage, ""), ["b"]);
        assert_eq!(content(storage, "b").unwrap(), b"a");
        write_all_at(&*a, b"A", 0).unwrap();
        assert_eq!(content(storage, "b").unwrap(), b"A", "the handle went along");
        assert_eq!(&*map, b"b", "what was replaced stays readable");
        storage.rename(path("b"), path("b")).unwrap();
        assert_eq!(kind(storage.rename(path("a"), path("c"))), ErrorKind::NotFound);

        storage.create_dir(path("d")).unwrap();
        storage.create_dir(path("e")).unwrap();
        create(storage, "d/f", b"f");
        storage.rename(path("d"), path("e/d")).unwrap();
        assert_eq!(content(storage, "e/d/f").unwrap(), b"f");
        assert!(storage.rename(path("b"), path("e")).is_err(), "a file over a directory");
        assert!(storage.rename(path("e/d"), path("b")).is_err(), "a directory over a file");
        assert!(storage.rename(path("e"), path("e/d/e")).is_err(), "a directory into itself");
        assert_eq!(names(storage, ""), ["b", "e"]);
    });
}

#[test]
fn maps_show_their_length_and_outlive_everything() {
    on_each(|storage| {
        let file = create(storage, "a", b"abcdef");
        assert_eq!(kind(file.map(7)), ErrorKind::InvalidInput);
        assert_eq!(kind(file.map(u64::MAX)), ErrorKind::InvalidInput);
        let (none, some) = (file.map(0).unwrap(), file.map(4).unwrap());
        assert_eq!((none.len(), none.as_slice()), (0, &b""[..]));
        assert_eq!((some.len(), &*some), (4, &b"abcd"[..]));

        assert!(write_all_at(&*file, b"X", 3).is_err(), "below the mapped length");
        // The same bytes below the mapped length, others after it.
        write_all_at(&*file, b"cdX", 2).unwrap();
        write_all_at(&*file, b"ghi", 6).unwrap();
        assert_eq!(&*file.map(9).unwrap(), b"abcdXfghi");
        storage.remove_file(path("a")).unwrap();
        drop(file);
        assert_eq!(&*some, b"abcd");
        let empty = create(storage, "b", b"");
        assert!(empty.map(0).unwrap().is_empty());
    });
}

#[test]
fn a_lock_is_held_once_and_ends_with_its_guard() {
    on_each(|storage| {
        create(storage, "LOCK", b"kept");
        let guard = storage.lock(path("LOCK")).unwrap();
        assert_eq!(kind(storage.lock(path("LOCK"))), ErrorKind::WouldBlock);
        drop(guard);
        drop(storage.lock(path("LOCK")).unwrap());
        drop(storage.lock(path("OTHER")).unwrap());
        assert_eq!(content(storage, "LOCK").unwrap(), b"kept");
        assert_eq!(content(storage, "OTHER").unwrap(), b"");
    });
}

#[test]
fn files_are_replaced_whole() {
    on_each(|storage| {
        storage.create_dir(path("d")).unwrap();
        for bytes in [&b"one"[..], b"", b"three"] {
            replace_file(storage, path("d/f"), bytes).unwrap();
            assert_eq!(content(storage, "d/f").unwrap(), bytes);
            assert_eq!(names(storage, "d"), ["f"]);
        }
    });
}

#[test]
fn threads_write_and_read_apart() {
    on_each(|storage| {
        let file = create(storage, "a", b"");
        thread::scope(|scope| {
            for id in 0..4_u8 {
                let file = &*file;
                scope.spawn(move || {
                    for round in 0..50 {
                        let position = (round * 4 + u64::from(id)) * 8;
                        write_all_at(file, &[id; 8], position).unwrap();
                        let mut back = [0; 8];
                        read_exact_at(file, &mut back, position).unwrap();
                        assert_eq!(back, [id; 8]);
                    }
                });
            }
        });
        assert_eq!(file.len().unwrap(), 50 * 4 * 8);
    });
}
