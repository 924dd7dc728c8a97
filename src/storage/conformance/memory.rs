//! The medium in memory, and what a power loss leaves of it.

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
        let (first, second) = (one.get(7..1_007).unwrap_or(&one[7..]), one.get(1_007..).unwrap_or_default());
        whole += usize::from(one == written());
        lost += usize::from(one == b"durable");
        hole += usize::from(first == [0; 1_000] && second == [8; 1_000]);
        noise += usize::from(one[7..].iter().any(|byte| !matches!(byte, 0 | 7 | 8)));
        torn += usize::from(!second.is_empty() && second.len() < 1_000);
    }
    for (fate, count) in [("whole", whole), ("lost", lost), ("hole", hole), ("noise", noise), ("torn", torn)]
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
            assert!(found.len() == 3_000 && found.iter().all(|byte| matches!(byte, 1 | 2)), "{survive:?}");
        }
    }
}

#[test]
fn a_write_over_durable_zeros_may_leave_noise_until_it_is_synced() {
    let disk = Disk::new();
    disk.write_new("f", &[0; 3_000]).unwrap();
    let file = disk.storage().open(path("f"), OpenMode::Write).unwrap();
    write_all_at(&*file, &[2; 1_500], 700).unwrap();
    let mut noise = 0;
    for seed in 0..200 {
        let copy = disk.duplicate();
        copy.crash(Survive::Random(seed));
        let found = copy.read("f").unwrap();
        assert!(found.len() == 3_000 && found[..700] == [0; 700] && found[2_200..] == [0; 800]);
        noise += usize::from(found.iter().any(|byte| !matches!(byte, 0 | 2)));
    }
    assert!(noise > 10, "{noise}");
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
        let names: Vec<_> = disk.files().into_iter().map(|(path, _)| path.display().to_string()).collect();
        (names.join(" "), String::from_utf8(disk.read("a").unwrap()).unwrap())
    };
    // Three operations on directories: bits 0 to 2, of one name the first two.
    create(&*storage, "b", b"");
    storage.rename(path("b"), path("c")).unwrap();
    create(&*storage, "d", b"");
    assert_eq!(found(Survive::Subset(0)), ("a".into(), "....".into()));
    assert_eq!(found(Survive::Subset(u64::MAX)), ("a c d".into(), "xxx.".into()));
    assert_eq!(found(Survive::Subset(0b00_1001)), ("a b".into(), "x...".into()));
    assert_eq!(found(Survive::Subset(0b10_0110)), ("a d".into(), "..x.".into()), "b was not there to rename");
    // {}, b, b>c and each with d, times eight ways for the writes.
    let losses = disk.power_losses(5);
    let subsets: std::collections::BTreeSet<_> =
        losses.iter().filter(|loss| matches!(loss, Survive::Subset(_))).map(|loss| found(*loss)).collect();
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
