//! The real file system.

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
