//! A layer in front of a medium that keeps every change in memory: the medium is only read.
//!
//! Useful for: running an opening, with its repairs, on a directory that must not be changed, and
//! reading the result. Not useful for: durability; a sync does nothing.
//!
//! A file that is changed keeps the changed pages, so an opening that writes the bytes of a file
//! again, as they are, keeps nothing. A directory cannot be renamed here: the caller removes it
//! where it is, as on a file system that cannot rename it. A file that was opened before the
//! changes were [dropped](Overlay::drop_changes) keeps its own.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use crate::storage::{DirEntry, File, Map, OpenMode, ProcessLimits, Storage, read_up_to};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, Rank};

/// A medium, and the changes of it that are kept in memory.
pub(crate) struct Overlay {
    medium: Arc<dyn Storage>,
    /// Changes are kept. Otherwise every change is refused, and the medium is read as it is.
    keeps: AtomicBool,
    nodes: Mutex<HashMap<PathBuf, Node>>,
}

/// What a path leads to, if not to the medium's file or directory of that name.
#[derive(Clone)]
enum Node {
    File(Arc<Patched>),
    Dir,
    Gone,
}

/// A file with changes.
struct Patched {
    /// The medium's file that is changed; `None` if it is a new one.
    below: Option<PathBuf>,
    content: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
    len: u64,
    /// The pages that differ from the medium's, by number.
    changed: BTreeMap<u64, Box<[u8]>>,
}

const PAGE: usize = 4096;

impl Overlay {
    /// A layer that keeps no changes yet: it refuses them.
    pub(crate) fn new(medium: Arc<dyn Storage>) -> Self {
        let nodes = Mutex::new(Rank::OverlayNodes, HashMap::new());
        Overlay { medium, keeps: AtomicBool::new(false), nodes }
    }

    /// Keeps changes from now on, and none of those before.
    pub(crate) fn keep_changes(&self) {
        self.nodes.lock().clear();
        self.keeps.store(true, Ordering::Release);
    }

    /// Drops all changes, and refuses others from now on.
    pub(crate) fn drop_changes(&self) {
        self.keeps.store(false, Ordering::Release);
        self.nodes.lock().clear();
    }

    fn check(&self) -> io::Result<()> {
        match self.keeps.load(Ordering::Acquire) {
            true => Ok(()),
            false => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    fn node(&self, path: &Path) -> Option<Node> {
        self.nodes.lock().get(path).cloned()
    }

    fn put(&self, path: &Path, node: Node) {
        self.nodes.lock().insert(path.to_path_buf(), node);
    }

    /// Whether there is a file or a directory of this name.
    fn exists(&self, path: &Path) -> bool {
        match self.node(path) {
            Some(Node::Gone) => false,
            Some(_) => true,
            None => self.medium.is_link(path).is_ok(),
        }
    }

    fn create(&self, path: &Path) -> Arc<dyn File> {
        let new =
            Arc::new(Patched { below: None, content: Mutex::new(Rank::OverlayContent, Pages::default()) });
        self.put(path, Node::File(new.clone()));
        Arc::new(OverlayFile { below: None, patched: new })
    }

    /// Opens a file that is there. The first opening notes its length: it grows by changes here
    /// only.
    fn open_there(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let patched = match self.node(path) {
            Some(Node::File(patched)) => patched,
            Some(Node::Dir) => return Err(io::ErrorKind::IsADirectory.into()),
            Some(Node::Gone) => return Err(io::ErrorKind::NotFound.into()),
            None => {
                let len = self.medium.open(path, OpenMode::Read)?.len()?;
                let content = Mutex::new(Rank::OverlayContent, Pages { len, changed: BTreeMap::new() });
                let patched = Arc::new(Patched { below: Some(path.to_path_buf()), content });
                let mut nodes = self.nodes.lock();
                let node = nodes.entry(path.to_path_buf()).or_insert(Node::File(patched));
                match node {
                    Node::File(patched) => patched.clone(),
                    _ => return Err(io::ErrorKind::NotFound.into()),
                }
            }
        };
        let below = match &patched.below {
            Some(path) => Some(self.medium.open(path, OpenMode::Read)?),
            None => None,
        };
        Ok(Arc::new(OverlayFile { below, patched }))
    }
}

impl Storage for Overlay {
    fn display(&self, path: &Path) -> PathBuf {
        self.medium.display(path)
    }

    /// Locks nothing: no other opener uses this layer.
    fn lock(&self, _: &Path) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        if !self.exists(path) {
            self.put(path, Node::Dir);
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let node = self.node(dir);
        let below = match node {
            Some(Node::Gone) => return Err(io::ErrorKind::NotFound.into()),
            Some(Node::Dir) => Vec::new(),
            _ => self.medium.list(dir)?,
        };
        let nodes = self.nodes.lock();
        let mut entries = below;
        entries.retain(|entry| !nodes.contains_key(&dir.join(&entry.name)));
        for (path, node) in nodes.iter().filter(|(path, _)| path.parent() == Some(dir)) {
            let is_dir = match node {
                Node::File(_) => false,
                Node::Dir => true,
                Node::Gone => continue,
            };
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            entries.push(DirEntry { name, is_dir, is_link: false });
        }
        Ok(entries)
    }

    fn is_link(&self, path: &Path) -> io::Result<bool> {
        match self.node(path) {
            Some(Node::Gone) => Err(io::ErrorKind::NotFound.into()),
            Some(_) => Ok(false),
            None => self.medium.is_link(path),
        }
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if !self.keeps.load(Ordering::Acquire) {
            return match mode {
                OpenMode::Read => self.medium.open(path, mode),
                _ => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            };
        }
        match mode {
            OpenMode::Read | OpenMode::Write => self.open_there(path),
            OpenMode::CreateNew if self.exists(path) => Err(io::ErrorKind::AlreadyExists.into()),
            OpenMode::CreateNew | OpenMode::Truncate => Ok(self.create(path)),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check()?;
        if self.list(from).is_ok() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // Its content and its length are noted by an opening.
        self.open_there(from)?;
        let mut nodes = self.nodes.lock();
        let node = nodes.insert(from.to_path_buf(), Node::Gone).unwrap_or(Node::Gone);
        nodes.insert(to.to_path_buf(), node);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        if !self.exists(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.put(path, Node::Gone);
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        match self.list(path)?.is_empty() {
            true => self.put(path, Node::Gone),
            false => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
        }
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn can_be_full(&self) -> bool {
        false
    }

    fn run_identity(&self) -> ([u8; 16], u32) {
        self.medium.run_identity()
    }

    fn process_limits(&self) -> ProcessLimits {
        self.medium.process_limits()
    }
}

/// An open file: the medium's, if there is one, and its changes.
struct OverlayFile {
    below: Option<Arc<dyn File>>,
    patched: Arc<Patched>,
}

impl OverlayFile {
    /// Reads the medium's bytes; zeros where it has none.
    fn read_below(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let read = match &self.below {
            Some(below) => read_up_to(&**below, buffer, position)?,
            None => 0,
        };
        buffer.get_mut(read..).unwrap_or_default().fill(0);
        Ok(())
    }
}

/// The number of the page of a position, the place in it, and the bytes that are left of it.
fn page_of(position: u64) -> (u64, usize, usize) {
    let place = (position % PAGE as u64) as usize;
    (position / PAGE as u64, place, PAGE - place)
}

impl File for OverlayFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let content = self.patched.content.lock();
        let left = content.len.saturating_sub(position);
        let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let mut done = 0;
        if content.changed.is_empty() {
            drop(content);
            let part = buffer.get_mut(..wanted).unwrap_or_default();
            return self.read_below(part, position).map(|()| wanted);
        }
        while done < wanted {
            let (page, place, room) = page_of(position + done as u64);
            let n = room.min(wanted - done);
            let part = buffer.get_mut(done..done + n).unwrap_or_default();
            match content.changed.get(&page).and_then(|page| page.get(place..place + n)) {
                Some(bytes) => part.copy_from_slice(bytes),
                None => self.read_below(part, position + done as u64)?,
            }
            done += n;
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        let mut content = self.patched.content.lock();
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let at = position + done as u64;
            let (number, place, room) = page_of(at);
            let part = rest.get(..room.min(rest.len())).unwrap_or(rest);
            let end = at + part.len() as u64;
            let mut page = match content.changed.remove(&number) {
                Some(page) => page,
                None => {
                    let mut page = vec![0; PAGE].into_boxed_slice();
                    let start = number * PAGE as u64;
                    let there = content.len.saturating_sub(start).min(PAGE as u64) as usize;
                    self.read_below(page.get_mut(..there).unwrap_or_default(), start)?;
                    if end <= content.len && page.get(place..place + part.len()) == Some(part) {
                        // They are written as they are.
                        done += part.len();
                        continue;
                    }
                    page
                }
            };
            if let Some(to) = page.get_mut(place..place + part.len()) {
                to.copy_from_slice(part);
            }
            content.changed.insert(number, page);
            content.len = content.len.max(end);
            done += part.len();
        }
        Ok(bytes.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.patched.content.lock().len)
    }

    /// The medium's map of a file without changes. A file with changes has none.
    fn map(&self, len: u64) -> io::Result<Map> {
        let is_unchanged = self.patched.content.lock().changed.is_empty();
        match &self.below {
            Some(below) if is_unchanged => below.map(len),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::mem::MemStorage;
    use crate::storage::{read_file, write_all_at};

    fn medium() -> Arc<MemStorage> {
        let medium = MemStorage::new();
        medium.write_new(Path::new("dir/file"), &[7; 10_000]).unwrap();
        Arc::new(medium)
    }

    fn read(storage: &Overlay, path: &str) -> io::Result<Vec<u8>> {
        read_file(storage, Path::new(path), u64::MAX)
    }

    #[test]
    fn changes_are_seen_here_and_not_on_the_medium() {
        let medium = medium();
        let storage = Overlay::new(medium.clone());
        storage.keep_changes();
        let file = storage.open(Path::new("dir/file"), OpenMode::Write).unwrap();
        write_all_at(&*file, &[1; 5_000], 4_000).unwrap();
        write_all_at(&*file, &[2; 10], 12_000).unwrap();
        let mut expected = vec![7; 10_000];
        expected[4_000..9_000].fill(1);
        expected.resize(12_000, 0);
        expected.extend([2; 10]);
        assert_eq!(read(&storage, "dir/file").unwrap(), expected);
        storage.rename(Path::new("dir/file"), Path::new("dir/other")).unwrap();
        assert_eq!(read(&storage, "dir/other").unwrap(), expected);
        assert_eq!(read(&storage, "dir/file").unwrap_err().kind(), io::ErrorKind::NotFound);
        let names: Vec<_> = storage.list(Path::new("dir")).unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(names, ["other"]);
        storage.remove_file(Path::new("dir/other")).unwrap();
        storage.remove_dir(Path::new("dir")).unwrap();
        assert!(storage.list(Path::new("dir")).is_err());
        storage.create_dir(Path::new("dir")).unwrap();
        assert_eq!(storage.list(Path::new("dir")).unwrap(), []);
        assert_eq!(medium.read(Path::new("dir/file")).unwrap(), [7; 10_000]);
        assert_eq!(medium.files().len(), 1);
    }

    #[test]
    fn bytes_that_are_written_as_they_are_take_no_memory_and_leave_the_map() {
        let storage = Overlay::new(medium());
        storage.keep_changes();
        let file = storage.open(Path::new("dir/file"), OpenMode::Write).unwrap();
        write_all_at(&*file, &[7; 9_000], 500).unwrap();
        assert_eq!(file.map(10_000).unwrap().as_slice(), [7; 10_000]);
        write_all_at(&*file, &[8], 500).unwrap();
        assert!(file.map(10_000).is_err());
    }

    #[test]
    fn without_changes_to_keep_every_change_is_refused() {
        let storage = Overlay::new(medium());
        for mode in [OpenMode::Write, OpenMode::CreateNew, OpenMode::Truncate] {
            let refused = storage.open(Path::new("dir/file"), mode).err().unwrap();
            assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        }
        assert!(storage.remove_file(Path::new("dir/file")).is_err());
        assert!(storage.create_dir(Path::new("new")).is_err());
        storage.keep_changes();
        storage.remove_file(Path::new("dir/file")).unwrap();
        storage.drop_changes();
        assert_eq!(read(&storage, "dir/file").unwrap(), [7; 10_000]);
    }
}
