//! The space of a medium that is bounded.

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
