//! The names of files: as written, and as a machine finds them after a power loss.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Component, Path};

use crate::storage::DirEntry;
use crate::storage::mem::content::{Content, Fates, in_sectors};
use crate::storage::mem::survive::Survive;
use crate::sync::{Arc, Rank, RwLock};

/// A file, independent of its names.
pub(super) struct Inode {
    id: u64,
    pub(super) content: RwLock<Content>,
}

/// The file or directory of a name.
#[derive(Clone)]
pub(super) enum Node {
    File(Arc<Inode>),
    Dir(DirId),
}

/// A directory, independent of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct DirId(u64);

/// A name in a directory.
pub(super) type Key = (DirId, String);

type Names = BTreeMap<String, Node>;

/// All directories.
pub(super) struct Tree {
    dirs: BTreeMap<DirId, Dir>,
    /// Changes that are not durable yet, oldest first. Empty without crash images.
    changes: Vec<Change>,
    /// The holder of each locked inode: a number for each holder.
    locks: HashMap<u64, u64>,
    next_id: u64,
    crash_images: bool,
}

#[derive(Clone, Default)]
struct Dir {
    written: Names,
    /// Empty without crash images.
    durable: Names,
}

/// One operation on directories: all its effects together, or none.
#[derive(Clone)]
struct Change {
    effects: Vec<Effect>,
}

/// The new target of one name: `None` if it is removed.
#[derive(Clone)]
struct Effect {
    key: Key,
    node: Option<Node>,
    /// Whether the directory was synced since.
    synced: bool,
}

impl Tree {
    /// An empty root directory.
    pub(super) fn new(crash_images: bool) -> Self {
        Tree {
            dirs: BTreeMap::from([(ROOT, Dir::default())]),
            changes: Vec::new(),
            locks: HashMap::new(),
            next_id: 1,
            crash_images,
        }
    }

    /// The directory at `path`.
    pub(super) fn dir(&self, path: &Path) -> io::Result<DirId> {
        let mut dir = ROOT;
        for part in path.components() {
            dir = match self.node(&(dir, name_of(part)?)) {
                Some(Node::Dir(inner)) => inner,
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => return Err(io::ErrorKind::NotFound.into()),
            };
        }
        Ok(dir)
    }

    /// The directory and the name that `path` ends in; [`Tree::node`] returns whether there is such
    /// an entry.
    pub(super) fn key(&self, path: &Path) -> io::Result<Key> {
        let last = path.components().next_back().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.dir(path.parent().unwrap_or(Path::new("")))?, name_of(last)?))
    }

    /// What a name leads to.
    pub(super) fn node(&self, (dir, name): &Key) -> Option<Node> {
        self.dirs.get(dir)?.written.get(name).cloned()
    }

    /// The entries of a directory.
    pub(super) fn list(&self, dir: DirId) -> Vec<DirEntry> {
        let entry = |(name, node): (&String, &Node)| DirEntry {
            name: name.clone(),
            is_dir: matches!(node, Node::Dir(_)),
            is_link: false,
        };
        self.dirs.get(&dir).map(|dir| dir.written.iter().map(entry).collect()).unwrap_or_default()
    }

    /// Creates a directory under a free name.
    pub(super) fn create_dir(&mut self, key: Key) {
        let id = DirId(self.new_id());
        self.dirs.insert(id, Dir::default());
        self.change([(key, Some(Node::Dir(id)))]);
    }

    /// Creates an empty file under a free name.
    pub(super) fn create_file(&mut self, key: Key) -> Arc<Inode> {
        let content = RwLock::new(Rank::MemoryContent, Content::new(self.crash_images));
        let inode = Arc::new(Inode { id: self.new_id(), content });
        self.change([(key, Some(Node::File(Arc::clone(&inode))))]);
        inode
    }

    /// Removes a name. A directory under it is empty.
    pub(super) fn unlink(&mut self, key: Key) {
        if let (false, Some(Node::Dir(id))) = (self.crash_images, self.node(&key)) {
            self.dirs.remove(&id);
        }
        self.change([(key, None)]);
    }

    /// Moves a node from one name to another, which loses its old target.
    pub(super) fn rename(&mut self, from: Key, to: Key, node: Node) {
        self.change([(from, None), (to, Some(node))]);
    }

    fn change<const N: usize>(&mut self, effects: [(Key, Option<Node>); N]) {
        let effects: Vec<_> =
            effects.into_iter().map(|(key, node)| Effect { key, node, synced: false }).collect();
        for effect in &effects {
            if let Some(dir) = self.dirs.get_mut(&effect.key.0) {
                effect.apply(&mut dir.written);
            }
        }
        if self.crash_images {
            self.changes.push(Change { effects });
        }
    }

    /// Makes a directory's changes durable. One that concerns two directories needs both to be
    /// synced. Changes of one name keep their order: those before a durable one are durable.
    pub(super) fn sync(&mut self, dir: DirId) {
        let mut durable_names: HashSet<Key> = HashSet::new();
        let mut durable = Vec::new();
        let mut waiting = Vec::new();
        for mut change in self.changes.drain(..).rev() {
            for effect in change.effects.iter_mut().filter(|effect| effect.key.0 == dir) {
                effect.synced = true;
            }
            let is_synced = change.effects.iter().all(|effect| effect.synced);
            if is_synced || change.effects.iter().any(|effect| durable_names.contains(&effect.key)) {
                durable_names.extend(change.effects.iter().map(|effect| effect.key.clone()));
                durable.push(change);
            } else {
                waiting.push(change);
            }
        }
        for effect in durable.iter().rev().flat_map(|change| &change.effects) {
            if let Some(dir) = self.dirs.get_mut(&effect.key.0) {
                effect.apply(&mut dir.durable);
            }
        }
        waiting.reverse();
        self.changes = waiting;
    }

    /// Takes the lock of a file for `holder`. Returns whether that was possible.
    pub(super) fn lock(&mut self, inode: &Inode) -> Option<LockKey> {
        let holder = self.new_id();
        match self.locks.entry(inode.id) {
            std::collections::hash_map::Entry::Occupied(_) => None,
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(holder);
                Some(LockKey { inode: inode.id, holder })
            }
        }
    }

    /// Frees a lock, unless a crash has freed it and another holder has taken it since.
    pub(super) fn unlock(&mut self, key: LockKey) {
        if self.locks.get(&key.inode) == Some(&key.holder) {
            self.locks.remove(&key.inode);
        }
    }

    /// All files below a directory with their paths, in the order of their paths.
    pub(super) fn files(&self, path: &Path, dir: DirId, visit: &mut impl FnMut(&Path, &Arc<Inode>)) {
        for (name, node) in self.dirs.get(&dir).into_iter().flat_map(|dir| &dir.written) {
            let path = path.join(name);
            match node {
                Node::File(inode) => visit(&path, inode),
                Node::Dir(inner) => self.files(&path, *inner, visit),
            }
        }
    }

    /// Hashes every name below the root with the bytes that were written to it.
    pub(super) fn hash_into(&self, hasher: &mut impl Hasher) {
        self.hash_directory(ROOT, hasher);
    }

    fn hash_directory(&self, dir: DirId, hasher: &mut impl Hasher) {
        let names = self.dirs.get(&dir).map(|dir| &dir.written);
        names.map_or(0, BTreeMap::len).hash(hasher);
        for (name, node) in names.into_iter().flatten() {
            name.hash(hasher);
            match node {
                Node::File(inode) => (0u8, inode.content.read().fingerprint()).hash(hasher),
                Node::Dir(inner) => {
                    1u8.hash(hasher);
                    self.hash_directory(*inner, hasher);
                }
            }
        }
    }

    /// The space of all files that have a name, in whole sectors.
    pub(super) fn used(&self) -> u64 {
        let mut used = 0;
        self.files(Path::new(""), ROOT, &mut |_, inode| {
            used += in_sectors(inode.content.read().bytes().len() as u64);
        });
        used
    }

    /// The process has died, the machine has not: everything written is there, and pending
    /// operations are still pending.
    pub(super) fn after_kill(&mut self) {
        self.locks.clear();
        self.files(Path::new(""), ROOT, &mut |_, inode| inode.content.write().after_kill());
    }

    /// The tree that a machine finds after losing its power. Changes of one name survive in their
    /// order: one that is lost takes the later ones of its names with it.
    pub(super) fn after_power_loss(&self, survive: Survive) -> Tree {
        if let Survive::Subset(mask) = survive {
            return self.after_losing_all_but(mask);
        }
        let fates = &mut Fates::new(survive);
        let found = self.found(|_| fates.keeps_entry());
        self.rebuilt(&found, &mut |_, content| content.after_power_loss(fates))
    }

    /// As [`after_power_loss`](Tree::after_power_loss), with the pending operations whose bits are
    /// set.
    fn after_losing_all_but(&self, mask: u64) -> Tree {
        let pending = self.pending();
        let found = self.found(|change| pending.changes.binary_search(&change).is_ok_and(|n| has(mask, n)));
        let mut first = pending.changes.len();
        let first_of: HashMap<u64, usize> = pending
            .writes
            .iter()
            .map(|(id, count)| {
                first += count;
                (*id, first - count)
            })
            .collect();
        self.rebuilt(&found, &mut |id, content| {
            let first = first_of.get(&id).copied().unwrap_or_default();
            content.with_writes(|n| has(mask, first + n))
        })
    }

    /// The names after a power loss that keeps the changes for which `keeps` returns true, by their
    /// number.
    fn found(&self, mut keeps: impl FnMut(usize) -> bool) -> BTreeMap<DirId, Names> {
        let mut found: BTreeMap<DirId, Names> =
            self.dirs.iter().map(|(id, dir)| (*id, dir.durable.clone())).collect();
        let mut lost: HashSet<&Key> = HashSet::new();
        for (number, change) in self.changes.iter().enumerate() {
            let kept = keeps(number) && !change.touches(&lost);
            for effect in &change.effects {
                match found.get_mut(&effect.key.0) {
                    Some(names) if kept => effect.apply(names),
                    _ => drop(lost.insert(&effect.key)),
                }
            }
        }
        found
    }

    /// The operations that a power loss may take: directory operations, and writes of files that
    /// have a name or may get one back.
    pub(super) fn pending(&self) -> PendingOps {
        let mut dirs = HashSet::from([ROOT]);
        let mut inodes = BTreeMap::new();
        let mut to_visit = vec![ROOT];
        while let Some(id) = to_visit.pop() {
            let of_dir = self.dirs.get(&id).into_iter().flat_map(|dir| [&dir.written, &dir.durable]);
            let effects = self.changes.iter().flat_map(|change| &change.effects);
            let of_changes =
                effects.filter(|effect| effect.key.0 == id).filter_map(|effect| effect.node.as_ref());
            for node in of_dir.flat_map(BTreeMap::values).chain(of_changes) {
                match node {
                    Node::Dir(inner) if dirs.insert(*inner) => to_visit.push(*inner),
                    Node::Dir(_) => {}
                    Node::File(inode) => drop(inodes.insert(inode.id, Arc::clone(inode))),
                }
            }
        }
        let is_reachable = |change: &Change| change.effects.iter().any(|effect| dirs.contains(&effect.key.0));
        let changes = self.changes.iter().enumerate().filter(|(_, change)| is_reachable(change));
        let writes = inodes.iter().map(|(id, inode)| (*id, inode.content.read().pending()));
        PendingOps {
            changes: changes.map(|(number, _)| number).collect(),
            writes: writes.filter(|(_, count)| *count > 0).collect(),
        }
    }

    /// The masks of all power losses that differ: none keeps a directory operation after a lost one
    /// of the same name, nor a write of a file that has lost its names. `None` if there are more
    /// than `most`.
    pub(super) fn subsets(&self, most: usize) -> Option<Vec<u64>> {
        let pending = self.pending();
        if pending.len() > 63 {
            return None;
        }
        let mut of_changes: Vec<(u64, HashSet<&Key>)> = vec![(0, HashSet::new())];
        for (n, change) in
            pending.changes.iter().enumerate().filter_map(|(n, at)| Some((n, self.changes.get(*at)?)))
        {
            let mut more = Vec::new();
            for (mask, lost) in &mut of_changes {
                if !change.touches(lost) {
                    more.push((*mask | 1 << n, lost.clone()));
                }
                lost.extend(change.effects.iter().map(|effect| &effect.key));
            }
            of_changes.extend(more);
            if of_changes.len() > most {
                return None;
            }
        }
        let mut subsets = Vec::new();
        for (mask, _) in of_changes {
            let found = self.found(|at| pending.changes.binary_search(&at).is_ok_and(|n| has(mask, n)));
            let named = files_of(&found);
            let (mut of_writes, mut n) = (vec![mask], pending.changes.len());
            for (id, count) in &pending.writes {
                for _ in 0..*count {
                    if named.contains(id) {
                        of_writes.extend(of_writes.clone().iter().map(|mask| mask | 1 << n));
                    }
                    n += 1;
                    if subsets.len() + of_writes.len() > most {
                        return None;
                    }
                }
            }
            subsets.append(&mut of_writes);
        }
        (subsets.len() <= most).then_some(subsets)
    }

    fn rebuilt(
        &self,
        found: &BTreeMap<DirId, Names>,
        content: &mut impl FnMut(u64, &Content) -> Content,
    ) -> Tree {
        let mut copy = Copier { inodes: HashMap::new(), content };
        let mut dirs = BTreeMap::from([(ROOT, Dir::default())]);
        let mut to_visit = vec![ROOT];
        while let Some(id) = to_visit.pop() {
            let names = found.get(&id).map(|names| copy.names(names)).unwrap_or_default();
            to_visit.extend(names.values().filter_map(|node| match node {
                Node::Dir(inner) => Some(*inner),
                Node::File(_) => None,
            }));
            dirs.insert(id, Dir { durable: names.clone(), written: names });
        }
        Tree { dirs, changes: Vec::new(), locks: HashMap::new(), ..*self }
    }

    /// An independent copy: both images and the pending operations.
    pub(super) fn duplicate(&self) -> Tree {
        let mut content = |_: u64, content: &Content| content.duplicate();
        let mut copy = Copier { inodes: HashMap::new(), content: &mut content };
        let dirs = self
            .dirs
            .iter()
            .map(|(id, dir)| {
                (*id, Dir { written: copy.names(&dir.written), durable: copy.names(&dir.durable) })
            })
            .collect();
        let mut changes = self.changes.clone();
        for effect in changes.iter_mut().flat_map(|change| &mut change.effects) {
            effect.node = effect.node.as_ref().map(|node| copy.node(node));
        }
        Tree { dirs, changes, locks: HashMap::new(), ..*self }
    }

    fn new_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id = id.saturating_add(1);
        id
    }
}

/// The pending operations, in the order in which [`Survive::Subset`] numbers them.
pub(super) struct PendingOps {
    /// Which of the tree's changes, oldest first.
    changes: Vec<usize>,
    /// By the files' ids, how many writes each has, oldest first.
    writes: Vec<(u64, usize)>,
}

impl PendingOps {
    pub(super) fn len(&self) -> usize {
        self.changes.len() + self.writes.iter().map(|(_, count)| count).sum::<usize>()
    }
}

/// Whether the n-th operation is kept; those after the 64th share its bit.
fn has(mask: u64, n: usize) -> bool {
    mask >> n.min(63) & 1 == 1
}

/// The files that these names lead to from the root.
fn files_of(found: &BTreeMap<DirId, Names>) -> HashSet<u64> {
    let (mut files, mut to_visit) = (HashSet::new(), vec![ROOT]);
    while let Some(id) = to_visit.pop() {
        for node in found.get(&id).into_iter().flat_map(BTreeMap::values) {
            match node {
                Node::Dir(inner) => to_visit.push(*inner),
                Node::File(inode) => drop(files.insert(inode.id)),
            }
        }
    }
    files
}

impl Change {
    /// Whether it is about one of these names.
    fn touches(&self, names: &HashSet<&Key>) -> bool {
        self.effects.iter().any(|effect| names.contains(&effect.key))
    }
}

impl Effect {
    fn apply(&self, names: &mut Names) {
        match &self.node {
            Some(node) => names.insert(self.key.1.clone(), node.clone()),
            None => names.remove(&self.key.1),
        };
    }
}

/// Identifies the lock to free.
#[derive(Clone, Copy)]
pub(super) struct LockKey {
    inode: u64,
    holder: u64,
}

/// Copies nodes; a file with several names is copied once.
struct Copier<'a, F> {
    inodes: HashMap<u64, Arc<Inode>>,
    content: &'a mut F,
}

impl<F: FnMut(u64, &Content) -> Content> Copier<'_, F> {
    fn names(&mut self, names: &Names) -> Names {
        names.iter().map(|(name, node)| (name.clone(), self.node(node))).collect()
    }

    fn node(&mut self, node: &Node) -> Node {
        let Node::File(inode) = node else { return node.clone() };
        let copy = self.inodes.entry(inode.id).or_insert_with(|| {
            let content = (self.content)(inode.id, &inode.content.read());
            Arc::new(Inode { id: inode.id, content: RwLock::new(Rank::MemoryContent, content) })
        });
        Node::File(Arc::clone(copy))
    }
}

fn name_of(part: Component<'_>) -> io::Result<String> {
    match part {
        Component::Normal(name) => Ok(name.to_str().ok_or(io::ErrorKind::InvalidInput)?.to_owned()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "the path leads out of the storage")),
    }
}

/// The root directory.
pub(super) const ROOT: DirId = DirId(0);
