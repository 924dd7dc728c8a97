//! Planned faults.

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
