//! One list of tests for the promises of all storages, run over each of them; then tests of single
//! storages.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::storage::budget::{Budget, BudgetStorage};
use crate::storage::faults::{FaultStorage, Faults, Op};
use crate::storage::fs::FsStorage;
use crate::storage::mem::{MemStorage, Survive};
use crate::storage::{
    Entry, File, OpenMode, Storage, read_exact_at, read_file, read_up_to, replace_file, write_all_at,
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
        let entry = |name: &str, is_dir| Entry { name: name.to_owned(), is_dir, is_link: false };
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

/// The disk that has a capacity.
mod capacity {
    use super::*;

    fn disk(capacity: u64) -> (Disk, Arc<dyn Storage>) {
        let disk = Disk::new();
        disk.capacity(capacity);
        let storage = disk.storage();
        (disk, storage)
    }

    #[test]
    fn a_file_takes_whole_sectors_and_an_overwrite_takes_none() {
        let (disk, storage) = disk(1024);
        let a = create(&*storage, "a", &[1; 513]);
        assert_eq!(disk.used(), 1024);
        create(&*storage, "empty", b"");
        assert_eq!(a.write_at(&[2; 511], 513).unwrap(), 511, "its last sector has room");
        assert_eq!(a.write_at(&[3; 1024], 0).unwrap(), 1024);
        assert_eq!(kind(a.write_at(&[4], 1024)), ErrorKind::StorageFull);
        assert_eq!(a.write_at(&[], 1024).unwrap(), 0);
        assert_eq!((a.len().unwrap(), disk.used()), (1024, 1024));
    }

    #[test]
    fn a_write_that_fits_in_part_is_short_and_the_next_one_fails() {
        let (disk, storage) = disk(1000);
        let a = create(&*storage, "a", &[1; 100]);
        assert_eq!(a.write_at(&[2; 2000], 100).unwrap(), 412, "one sector, and no part of a second");
        assert_eq!(kind(a.write_at(&[2; 1588], 512)), ErrorKind::StorageFull);
        disk.capacity(1024);
        assert_eq!(a.write_at(&[2; 1588], 512).unwrap(), 512);
        disk.capacity(512);
        assert_eq!(disk.used(), 1024, "nothing is taken away");
        assert_eq!(a.write_at(&[3; 1024], 0).unwrap(), 1024);
        assert_eq!(kind(a.write_at(&[2], 1024)), ErrorKind::StorageFull);
        disk.capacity(None);
        assert_eq!(a.write_at(&[2; 5000], 1024).unwrap(), 5000);
    }

    #[test]
    fn a_hole_takes_its_room_and_a_write_after_the_room_fails() {
        let (disk, storage) = disk(2048);
        let a = create(&*storage, "a", b"");
        assert_eq!(kind(a.write_at(&[1], 2048)), ErrorKind::StorageFull);
        assert_eq!(a.write_at(&[1; 9], 2043).unwrap(), 5);
        assert_eq!((a.len().unwrap(), disk.used()), (2048, 2048));
    }

    #[test]
    fn removing_a_file_and_renaming_over_one_frees_what_it_took() {
        let (disk, storage) = disk(1536);
        let a = create(&*storage, "a", &[1; 1024]);
        let b = create(&*storage, "b", &[1; 512]);
        assert_eq!(kind(b.write_at(&[1], 512)), ErrorKind::StorageFull);
        storage.rename(path("b"), path("a")).unwrap();
        assert_eq!(disk.used(), 512);
        assert_eq!(b.write_at(&[1; 1024], 512).unwrap(), 1024);
        assert_eq!(a.len().unwrap(), 1024, "an open handle keeps what it sees");
        storage.remove_file(path("a")).unwrap();
        assert_eq!(disk.used(), 0);
        create(&*storage, "c", &[1; 1536]);
    }

    #[test]
    fn a_crash_and_a_copy_keep_the_capacity() {
        let (disk, storage) = disk(1024);
        let a = create(&*storage, "a", &[1; 1024]);
        a.sync_data().unwrap();
        storage.sync_dir(path("")).unwrap();
        let copy = disk.duplicate();
        disk.crash(Survive::Synced);
        for disk in [copy, disk] {
            assert_eq!(disk.used(), 1024);
            let a = disk.storage().open(path("a"), OpenMode::Write).unwrap();
            assert_eq!(kind(a.write_at(&[1], 1024)), ErrorKind::StorageFull);
            assert_eq!(disk.write_new("b", &[1]).unwrap_err().kind(), ErrorKind::StorageFull);
        }
    }

    #[test]
    fn a_replacement_that_does_not_fit_leaves_the_old_file() {
        let (disk, storage) = disk(1536);
        replace_file(&*storage, path("a"), &[1; 600]).unwrap();
        let failed = replace_file(&*storage, path("a"), &[2; 700]).unwrap_err();
        assert_eq!((failed.error.kind(), failed.replaced), (ErrorKind::StorageFull, false));
        assert_eq!(content(&*storage, "a").unwrap(), [1; 600]);
        assert_eq!(disk.files(), [(PathBuf::from("a"), 600)], "the part that was written is gone");
    }
}

mod disk {
    use super::*;

    #[test]
    fn two_storages_of_one_process_exclude_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let storage = || FsStorage::new(dir.path().to_path_buf());
        let guard = storage().lock(path("LOCK")).unwrap();
        assert_eq!(kind(storage().lock(path("LOCK"))), ErrorKind::WouldBlock);
        drop(guard);
        storage().lock(path("LOCK")).unwrap();
    }

    #[test]
    fn a_root_is_created_with_its_parents() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b/c");
        FsStorage::create_root(&root).unwrap();
        FsStorage::create_root(&root).unwrap();
        assert!(root.is_dir());
        create(&FsStorage::new(root.clone()), "file", b"");
        for file in [root.join("file"), root.join("file/below")] {
            assert_eq!(kind(FsStorage::create_root(&file)), ErrorKind::NotADirectory);
        }
    }

    #[test]
    fn paths_are_shown_in_full() {
        let storage = FsStorage::new(PathBuf::from("relative"));
        assert!(storage.display(path("a")).is_absolute());
        assert!(storage.display(path("")).ends_with("relative"));
        assert_eq!(MemStorage::new().display(path("a/b")), path("mem:/a/b"));
    }
}

mod memory {
    use super::*;

    /// A disk with one durable file "f" of "durable", and after them 2,000 unsynced bytes.
    fn half_synced() -> Disk {
        let disk = Disk::new();
        disk.write_new("f", b"durable").unwrap();
        let file = disk.storage().open(path("f"), OpenMode::Write).unwrap();
        write_all_at(&*file, &[7; 1_000], 7).unwrap();
        write_all_at(&*file, &[8; 1_000], 1_007).unwrap();
        disk
    }

    fn written() -> Vec<u8> {
        [&b"durable"[..], &[7; 1_000], &[8; 1_000]].concat()
    }

    #[test]
    fn a_killed_process_leaves_everything_and_a_power_loss_later_may_still_take_it() {
        let disk = half_synced();
        disk.crash(Survive::Everything);
        assert_eq!(disk.read("f").unwrap(), written());
        disk.crash(Survive::Synced);
        assert_eq!(disk.read("f").unwrap(), b"durable");
    }

    #[test]
    fn a_machine_that_was_started_again_is_told_from_a_process_that_was() {
        let disk = half_synced();
        let boot = |disk: &Disk| disk.storage().run_identity().0;
        let first = boot(&disk);
        assert_ne!(first, [0; 16]);
        disk.crash(Survive::Everything);
        assert_eq!((boot(&disk), boot(&disk.duplicate())), (first, first));
        disk.crash(Survive::Synced);
        assert_ne!(boot(&disk), first);
        assert_eq!(boot(&disk), boot(&disk.duplicate()));
        // The real one returns the same each time.
        let dir = tempfile::tempdir().unwrap();
        let real = || crate::storage::fs::FsStorage::new(dir.path().to_path_buf()).run_identity().0;
        assert_eq!(real(), real());
        #[cfg(target_os = "linux")]
        assert_ne!(real(), [0; 16]);
    }

    #[test]
    fn data_and_entry_are_synced_apart() {
        let disk = Disk::new();
        let storage = disk.storage();
        create(&*storage, "entry lost", b"data").sync_data().unwrap();
        let copy = disk.duplicate();
        storage.sync_dir(path("")).unwrap();
        create(&*storage, "data lost", b"data");
        storage.sync_dir(path("")).unwrap();
        disk.crash(Survive::Synced);
        copy.crash(Survive::Synced);
        assert_eq!(copy.files(), []);
        assert_eq!(disk.files(), [("data lost".into(), 0), ("entry lost".into(), 4)]);
    }

    #[test]
    fn chance_keeps_what_was_durable_and_reaches_every_fate() {
        let disk = half_synced();
        let (mut whole, mut lost, mut hole, mut noise, mut torn) = (0, 0, 0, 0, 0);
        for seed in 0..500 {
            let [one, two] = [(); 2].map(|()| {
                let copy = disk.duplicate();
                copy.crash(Survive::Random(seed));
                copy.read("f").unwrap()
            });
            assert_eq!(one, two, "a seed decides the same twice");
            assert!(one.starts_with(b"durable") && one.len() <= 2_007);
            let (first, second) =
                (one.get(7..1_007).unwrap_or(&one[7..]), one.get(1_007..).unwrap_or_default());
            whole += usize::from(one == written());
            lost += usize::from(one == b"durable");
            hole += usize::from(first == [0; 1_000] && second == [8; 1_000]);
            noise += usize::from(one[7..].iter().any(|byte| !matches!(byte, 0 | 7 | 8)));
            torn += usize::from(!second.is_empty() && second.len() < 1_000);
        }
        for (fate, count) in
            [("whole", whole), ("lost", lost), ("hole", hole), ("noise", noise), ("torn", torn)]
        {
            assert!(count > 5, "{fate}: {count} of 500");
        }
    }

    #[test]
    fn zeros_stand_where_the_length_came_before_the_data() {
        let disk = half_synced();
        let mut zeroed = 0;
        for seed in 0..100 {
            let copy = disk.duplicate();
            copy.crash(Survive::Zeroed(seed));
            let found = copy.read("f").unwrap();
            assert_eq!(found.len(), 2_007);
            assert!(found.starts_with(b"durable"));
            assert!(found.iter().zip(written()).all(|(found, written)| *found == written || *found == 0));
            zeroed += usize::from(found != written());
        }
        assert!(zeroed > 20);
    }

    #[test]
    fn overwritten_durable_bytes_are_old_or_new() {
        let disk = Disk::new();
        disk.write_new("f", &[1; 3_000]).unwrap();
        let file = disk.storage().open(path("f"), OpenMode::Write).unwrap();
        write_all_at(&*file, &[2; 3_000], 0).unwrap();
        for seed in 0..200 {
            for survive in [Survive::Random(seed), Survive::Zeroed(seed)] {
                let copy = disk.duplicate();
                copy.crash(survive);
                let found = copy.read("f").unwrap();
                assert!(
                    found.len() == 3_000 && found.iter().all(|byte| matches!(byte, 1 | 2)),
                    "{survive:?}"
                );
            }
        }
    }

    #[test]
    fn a_rename_is_old_or_new_and_after_the_directory_sync_new() {
        let disk = Disk::new();
        disk.write_new("f", b"old").unwrap();
        let storage = disk.storage();
        create(&*storage, "f.tmp", b"new").sync_data().unwrap();
        storage.rename(path("f.tmp"), path("f")).unwrap();
        let mut seen = [0; 2];
        for seed in 0..200 {
            let copy = disk.duplicate();
            copy.crash(Survive::Random(seed));
            match copy.read("f").unwrap().as_slice() {
                b"old" => seen[0] += 1,
                b"new" => {
                    seen[1] += 1;
                    assert_eq!(copy.files().len(), 1, "both halves of the rename");
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(seen[0] > 10 && seen[1] > 10, "{seen:?}");
        storage.sync_dir(path("")).unwrap();
        disk.crash(Survive::Synced);
        assert_eq!(disk.files(), [("f".into(), 3)]);
        assert_eq!(disk.read("f").unwrap(), b"new");
    }

    #[test]
    fn a_move_between_directories_needs_both_synced() {
        let disk = Disk::new();
        disk.write_new("a/d/f", b"1").unwrap();
        disk.write_new("b/g", b"2").unwrap();
        let storage = disk.storage();
        storage.rename(path("a/d"), path("b/d")).unwrap();
        storage.sync_dir(path("b")).unwrap();
        let copy = disk.duplicate();
        copy.crash(Survive::Synced);
        assert_eq!(copy.files(), [("a/d/f".into(), 1), ("b/g".into(), 1)]);
        storage.sync_dir(path("a")).unwrap();
        disk.crash(Survive::Synced);
        assert_eq!(disk.files(), [("b/d/f".into(), 1), ("b/g".into(), 1)]);
    }

    #[test]
    fn changes_of_one_name_keep_their_order() {
        let disk = Disk::new();
        disk.write_new("a/f", b"1").unwrap();
        disk.write_new("b/g", b"2").unwrap();
        let storage = disk.storage();
        storage.rename(path("a/f"), path("b/f")).unwrap();
        storage.rename(path("b/f"), path("a/h")).unwrap();
        for seed in 0..200 {
            let copy = disk.duplicate();
            copy.crash(Survive::Random(seed));
            assert_eq!(copy.files().len(), 2, "one file, one place: {:?}", copy.files());
        }
        // A durable entry under the old name: the move away from it came first, so it is durable
        // though "b" was not synced.
        create(&*storage, "a/f", b"");
        storage.sync_dir(path("a")).unwrap();
        disk.crash(Survive::Synced);
        assert_eq!(disk.files(), [("a/f".into(), 0), ("b/f".into(), 1), ("b/g".into(), 1)]);
    }

    #[test]
    fn a_replaced_file_is_old_or_new_at_every_operation() {
        let ops = {
            let disk = Disk::new();
            disk.write_new("f", b"old").unwrap();
            replace_file(&*disk.storage(), path("f"), b"newer").unwrap();
            disk.ops()
        };
        for op in 1..=ops + 1 {
            for seed in 0..20 {
                let disk = Disk::new();
                disk.write_new("f", b"old").unwrap();
                disk.crash_at(op);
                let done = replace_file(&*disk.storage(), path("f"), b"newer");
                assert_eq!(done.is_ok(), op > ops);
                disk.crash(Survive::Random(seed));
                let found = disk.read("f").unwrap();
                assert!(found == b"newer" || (done.is_err() && found == b"old"), "{op}, {seed}: {found:?}");
            }
        }
    }

    #[test]
    fn a_failed_sync_leaves_bytes_that_no_later_sync_writes() {
        let disk = Disk::new();
        disk.write_new("f", b"").unwrap();
        let file = disk.storage().open(path("f"), OpenMode::Write).unwrap();
        write_all_at(&*file, b"lost", 0).unwrap();
        disk.fail(Op::Sync, 1, ErrorKind::Other);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        let copy = disk.duplicate();
        copy.crash(Survive::Synced);
        assert_eq!((copy.read("f").unwrap(), disk.read("f").unwrap()), (b"".to_vec(), b"lost".to_vec()));
        write_all_at(&*file, b"lost", 0).unwrap();
        file.sync_data().unwrap();
        disk.crash(Survive::Synced);
        assert_eq!(disk.read("f").unwrap(), b"lost", "written again");
    }

    #[test]
    fn a_crash_makes_handles_stale_frees_locks_and_keeps_maps() {
        let disk = half_synced();
        let storage = disk.storage();
        let file = storage.open(path("f"), OpenMode::Write).unwrap();
        let (map, old_lock) = (file.map(7).unwrap(), storage.lock(path("LOCK")).unwrap());
        disk.crash(Survive::Synced);
        assert!(file.read_at(&mut [0], 0).is_err() && file.write_at(b"x", 9).is_err());
        assert!(file.sync_data().is_err() && file.len().is_err() && file.map(1).is_err());
        assert!(storage.list(path("")).is_err() && storage.lock(path("LOCK")).is_err());
        assert_eq!(&*map, b"durable");
        let storage = disk.storage();
        let new_lock = storage.lock(path("LOCK")).unwrap();
        drop(old_lock);
        assert_eq!(kind(storage.lock(path("LOCK"))), ErrorKind::WouldBlock, "the old guard freed nothing");
        drop(new_lock);
        assert!(storage.lock(path("LOCK")).is_ok());

        // The same without crash images and without a layer of faults.
        let memory = MemStorage::new();
        let file = create(&memory, "f", b"1");
        let restarted = memory.crash(Survive::Synced);
        assert!(file.len().is_err() && memory.list(path("")).is_err());
        assert_eq!(content(&restarted, "f").unwrap(), b"1");
    }

    #[test]
    fn maps_share() {
        let memory = MemStorage::new();
        let file = create(&memory, "f", b"abcdef");
        let (one, two) = (file.map(3).unwrap(), file.map(6).unwrap());
        write_all_at(&*file, b"ghi", 6).unwrap();
        let three = file.map(6).unwrap();
        assert!(one.as_ptr() == two.as_ptr() && two.as_ptr() == three.as_ptr());
    }

    #[test]
    fn an_outsiders_hand_reaches_both_images() {
        let disk = half_synced();
        disk.truncate("f", 10).unwrap();
        disk.overwrite("f", 9, b"xy").unwrap();
        disk.flip_bit("f", 0).unwrap();
        for bad in [disk.overwrite("f", 12, b"z"), disk.flip_bit("f", 88)] {
            assert_eq!(kind(bad), ErrorKind::InvalidInput);
        }
        disk.write_new("d/e/g", b"g").unwrap();
        disk.rename("d/e", "h").unwrap();
        disk.crash(Survive::Synced);
        assert_eq!(disk.read("f").unwrap(), b"eurable\x07\x07xy");
        assert_eq!(disk.files(), [("f".into(), 11), ("h/g".into(), 1)]);
        disk.remove("h").unwrap();
        disk.remove("f").unwrap();
        disk.crash(Survive::Synced);
        assert_eq!(disk.files(), []);
        assert_eq!(kind(disk.remove("f")), ErrorKind::NotFound);
    }

    #[test]
    fn every_subset_of_what_is_pending_may_survive() {
        let disk = Disk::new();
        disk.write_new("a", b"....").unwrap();
        let storage = disk.storage();
        let file = storage.open(path("a"), OpenMode::Write).unwrap();
        for at in 0..3 {
            file.write_at(b"x", at).unwrap();
        }
        assert_eq!(disk.pending(), 3);
        let found = |survive| {
            let disk = disk.duplicate();
            assert_eq!(disk.pending(), 3 + 3, "a copy has it all");
            disk.crash(survive);
            assert_eq!(disk.pending(), 0);
            let names: Vec<_> =
                disk.files().into_iter().map(|(path, _)| path.display().to_string()).collect();
            (names.join(" "), String::from_utf8(disk.read("a").unwrap()).unwrap())
        };
        // Three operations on directories: bits 0 to 2, of one name the first two.
        create(&*storage, "b", b"");
        storage.rename(path("b"), path("c")).unwrap();
        create(&*storage, "d", b"");
        assert_eq!(found(Survive::Subset(0)), ("a".into(), "....".into()));
        assert_eq!(found(Survive::Subset(u64::MAX)), ("a c d".into(), "xxx.".into()));
        assert_eq!(found(Survive::Subset(0b00_1001)), ("a b".into(), "x...".into()));
        assert_eq!(
            found(Survive::Subset(0b10_0110)),
            ("a d".into(), "..x.".into()),
            "b was not there to rename"
        );
        // {}, b, b>c and each with d, times eight ways for the writes.
        let losses = disk.power_losses(5);
        let subsets: std::collections::BTreeSet<_> = losses
            .iter()
            .filter(|loss| matches!(loss, Survive::Subset(_)))
            .map(|loss| found(*loss))
            .collect();
        assert_eq!((subsets.len(), losses.len()), (3 * 2 * 8, 3 * 2 * 8 + 2));
        // A file without a name: its writes are of no interest.
        storage.sync_dir(path("")).unwrap();
        storage.remove_file(path("a")).unwrap();
        assert_eq!((disk.pending(), disk.power_losses(5).len()), (1 + 3, 8 + 1 + 2));
        storage.sync_dir(path("")).unwrap();
        assert_eq!((disk.pending(), disk.power_losses(5)), (0, vec![Survive::Synced]));
        // Too many for each.
        let file = storage.open(path("c"), OpenMode::Write).unwrap();
        for at in 0..70 {
            file.write_at(b"x", at).unwrap();
        }
        assert_eq!(disk.power_losses(5).len(), 8 + 63);
        let length = |survive| {
            let disk = disk.duplicate();
            disk.crash(survive);
            disk.read("c").unwrap().iter().filter(|byte| **byte == b'x').count()
        };
        assert_eq!((length(Survive::Subset(u64::MAX)), length(Survive::Subset(1 << 63 | 1))), (70, 8));
    }

    #[test]
    fn appends_cost_their_length() {
        let memory = MemStorage::new();
        let file = create(&memory, "f", b"");
        for round in 0..200_000_u64 {
            file.write_at(&[1; 100], round * 100).unwrap();
        }
        assert_eq!(file.len().unwrap(), 20_000_000);
        assert!(file.write_at(b"x", u64::MAX).is_err(), "no memory is that long");
        assert_eq!(kind(file.write_at(b"x", 1 << 60)), ErrorKind::StorageFull);
    }
}

mod faults {
    use super::*;

    #[test]
    fn the_nth_of_a_kind_fails_once_or_from_then_on() {
        let disk = Disk::new();
        let file = create(&*disk.storage(), "f", b"");
        disk.fail(Op::Write, 2, ErrorKind::StorageFull);
        let kinds = |n| (0..n).map(|_| file.write_at(b"x", 0).err().map(|e| e.kind())).collect::<Vec<_>>();
        assert_eq!(kinds(3), [None, Some(ErrorKind::StorageFull), None]);
        disk.fail_always(Op::Any, 2, ErrorKind::Other);
        assert_eq!(kinds(3), [None, Some(ErrorKind::Other), Some(ErrorKind::Other)]);
        assert_eq!(kind(file.len()), ErrorKind::Other);
        disk.clear_faults();
        assert_eq!(kinds(1), [None]);
        assert_eq!((disk.ops_of(Op::Write), disk.ops_of(Op::Len), disk.ops_of(Op::OpenFile)), (7, 1, 1));
        assert_eq!((disk.ops(), disk.ops_of(Op::Any)), (9, 9));
    }

    #[test]
    fn writes_and_reads_are_short_and_torn() {
        let disk = Disk::new();
        let file = create(&*disk.storage(), "f", b"");
        disk.short(Op::Write, 1);
        assert_eq!(file.write_at(b"abcd", 0).unwrap(), 2);
        disk.tear(1);
        assert!(file.write_at(b"efgh", 2).is_err());
        assert_eq!(disk.read("f").unwrap(), b"abef");
        disk.short(Op::Any, 1);
        file.len().unwrap();
        assert_eq!(file.read_at(&mut [0; 4], 0).unwrap(), 2);
        disk.short(Op::Read, 1);
        assert_eq!(file.read_at(&mut [0; 1], 0).unwrap(), 1, "at least one");
        disk.fail(Op::Read, 1, ErrorKind::Interrupted);
        let mut all = [0; 4];
        read_exact_at(&*file, &mut all, 0).unwrap();
        assert_eq!(&all, b"abef");
    }

    #[test]
    fn a_gate_holds_one_operation_and_no_other() {
        let disk = Disk::new();
        let storage = disk.storage();
        let file = create(&*storage, "f", b"1");
        let gate = disk.hold(Op::Sync, 1);
        assert!(!gate.is_reached());
        thread::scope(|scope| {
            let held = scope.spawn(|| file.sync_data());
            gate.wait_until_reached();
            assert_eq!(file.len().unwrap(), 1, "others go on");
            file.sync_data().unwrap();
            assert!(!held.is_finished());
            gate.release();
            held.join().unwrap().unwrap();
        });

        let gate = disk.hold(Op::Write, 1);
        thread::scope(|scope| {
            let held = scope.spawn(|| file.write_at(b"2", 0));
            gate.wait_until_reached();
            disk.crash(Survive::Everything);
            drop(gate);
            assert!(held.join().unwrap().is_err(), "its process died meanwhile");
        });
        assert_eq!(disk.read("f").unwrap(), b"1");
    }

    #[test]
    fn a_gate_holds_an_operation_that_was_executed() {
        let disk = Disk::new();
        let storage = disk.storage();
        let file = create(&*storage, "f", b"1");
        for is_crash in [false, true] {
            let gate = disk.hold_after(Op::Write, 1);
            thread::scope(|scope| {
                let held = scope.spawn(|| file.write_at(b"2", 0));
                gate.wait_until_reached();
                assert_eq!(disk.read("f").unwrap(), b"2", "everybody else sees it");
                assert!(!held.is_finished());
                if is_crash {
                    disk.crash(Survive::Everything);
                }
                gate.release();
                assert_eq!(held.join().unwrap().is_ok(), !is_crash);
            });
        }
        assert_eq!(disk.read("f").unwrap(), b"2");
        let gate = disk.hold_after(Op::Lock, 1);
        gate.release();
        disk.fail(Op::Lock, 1, ErrorKind::Other);
        assert!(disk.storage().lock(path("LOCK")).is_err() && gate.is_reached(), "also if it fails");
    }

    #[test]
    fn a_dead_process_loses_no_writes_by_a_sync_that_it_cannot_do() {
        let disk = Disk::new();
        disk.write_new("f", b"").unwrap();
        let file = disk.storage().open(path("f"), OpenMode::Write).unwrap();
        write_all_at(&*file, b"1", 0).unwrap();
        disk.crash_at(1);
        assert!(file.sync_data().is_err());
        disk.crash(Survive::Everything);
        disk.storage().open(path("f"), OpenMode::Write).unwrap().sync_data().unwrap();
        disk.crash(Survive::Synced);
        assert_eq!(disk.read("f").unwrap(), b"1");
    }

    #[test]
    fn a_held_operation_dies_with_its_process() {
        let disk = Disk::new();
        let file = create(&*disk.storage(), "f", b"1");
        let gate = disk.hold(Op::Write, 1);
        disk.crash_at(2);
        thread::scope(|scope| {
            let held = scope.spawn(|| file.write_at(b"2", 0));
            gate.wait_until_reached();
            assert!(file.len().is_err());
            gate.release();
            assert!(held.join().unwrap().is_err());
        });
        assert_eq!(disk.read("f").unwrap(), b"1");
    }

    #[test]
    fn a_process_dies_at_its_nth_operation() {
        let disk = Disk::new();
        let storage = disk.storage();
        let file = create(&*storage, "f", b"1");
        disk.crash_at(2);
        file.write_at(b"2", 0).unwrap();
        assert!(file.write_at(b"3", 0).is_err() && file.len().is_err() && storage.list(path("")).is_err());
        assert!(disk.storage().list(path("")).is_err(), "dead until the crash is over");
        assert_eq!(disk.ops(), 3);
        disk.crash_at(1);
        disk.crash(Survive::Everything);
        assert!(file.len().is_err());
        assert_eq!(content(&*disk.storage(), "f").unwrap(), b"2");
    }
}
