//! Building a whole graph in memory, with threads, and writing it to pages.
//!
//! One thread adds rows ([`Builder::add`]); any number of threads link them
//! into the graph ([`Linker`]). The builder spawns none itself.
//!
//! Vectors are kept in *batches* that never change once they are sealed, so
//! they are read without locks. Links are atomic words, each with a neighbour
//! and its distance: a reader may see a list in the middle of a change, which
//! costs it a candidate at worst; a writer holds the vertex's lock.

mod flush;
mod trial;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memory::vec::{collect, push, try_collect};
use memory::{OutOfMemory, check_short, wait_for};
use parking_lot::{Condvar, Mutex, RwLock};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::beam::{Beam, BeamOptions, Extent, Found, Graph, Neighbours, Visit};
use super::codec::{Code, Codec};
use super::insert::{nearest_by_level, random_level};
use super::layout::{HeapTid, NONE, Options, Vertex};
use super::neighbours::{Heuristic, Link};
use crate::table::Table;
use crate::{Error, simd};

/// A row that waits for its batch to be sealed.
struct NewNode {
    tid: HeapTid,
    level: u8,
}

/// Nodes that were sealed together.
struct Batch {
    codes: Table<u64>,
    tids: Vec<HeapTid>,
    levels: Vec<u8>,
    /// Per node, `2 m` links of level 0.
    links: Table<AtomicU64>,
    /// Per node, `m` links for each level from 1 up.
    upper_links: Vec<Box<[AtomicU64]>>,
    /// Per node, the node with an equal code that its row went to, or `NONE`.
    duplicate_of: Vec<AtomicU32>,
    locks: Vec<Mutex<()>>,
}

/// An absent link.
const NO_LINK: u64 = u64::MAX;
/// Node numbers are below this, so that no link is [`NO_LINK`].
const MAX_NODES: usize = (1 << 31) - 1;

/// A link as kept in one atomic word: the distance's bits, whether the
/// neighbour is diverse, and its number.
fn pack(link: Link) -> u64 {
    u64::from(link.distance.to_bits()) << 32
        | u64::from(link.diverse) << 31
        | u64::from(link.vertex)
}

fn unpack(word: u64) -> Link {
    Link {
        distance: f32::from_bits((word >> 32) as u32),
        diverse: word >> 31 & 1 != 0,
        vertex: word as u32 & 0x7fff_ffff,
    }
}

fn empty_links(count: usize) -> impl Iterator<Item = AtomicU64> {
    (0..count).map(|_| AtomicU64::new(NO_LINK))
}

/// The links in a list, up to the first absent one.
fn present(list: &[AtomicU64]) -> impl Iterator<Item = Link> {
    list.iter()
        .map(|link| link.load(Ordering::Acquire))
        .take_while(|&link| link != NO_LINK)
        .map(unpack)
}

fn store_links(list: &[AtomicU64], links: &[Link]) {
    for (place, link) in list.iter().zip(links) {
        place.store(pack(*link), Ordering::Release);
    }
}

/// Bytes of a batch: several huge pages.
const BATCH_BYTES: usize = 16 << 20;
/// A graph that fills its memory has so many batches at least.
const BATCHES: usize = 32;

/// What memory is asked for.
const GRAPH: &str = "the graph of an index";

/// How far the workers are.
struct Progress {
    /// Nodes in sealed batches.
    sealed: u32,
    /// Nodes that a worker has taken on.
    claimed: u32,
    /// Nodes that are linked.
    linked: u32,
    /// No more rows will come, or the build was given up.
    closed: bool,
}

/// A graph that grows in memory.
pub struct Builder<C> {
    codec: C,
    options: Options,
    /// Words of a code.
    code_words: usize,
    /// Nodes of a batch: a power of two.
    batch_len: u32,
    batches: Box<[OnceLock<Batch>]>,
    pending: Mutex<Pending>,
    progress: Mutex<Progress>,
    changed: Condvar,
    /// Entry point and its level. Held for writing while a node above all
    /// others is linked.
    entry: RwLock<Option<(u32, u8)>>,
    /// The first node that there was no memory to link for is missing.
    failed: OnceLock<OutOfMemory>,
}

/// Rows that wait for their batch to be full.
struct Pending {
    /// Of the batch: codes and links. None where no row waits.
    memory: Option<(Table<u64>, Table<AtomicU64>)>,
    nodes: Vec<NewNode>,
    rng: SmallRng,
}

/// What became of a row given to [`Builder::add`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It is in the graph, or will be.
    Yes,
    /// There is no room for it: flush the graph and insert through pages.
    Full,
    /// The system has less memory than the builder may use.
    NoMemory(OutOfMemory),
}

impl<C: Codec> Builder<C> {
    /// A builder that uses at most about `budget` bytes. `seed` decides the
    /// levels of the elements.
    ///
    /// # Errors
    /// [`OutOfMemory`] where there is none even for the list of its parts.
    pub fn new(codec: C, options: Options, budget: usize, seed: u64) -> Result<Self, OutOfMemory> {
        let node_len = Self::node_len(&codec, &options);
        let batch_bytes = BATCH_BYTES.min(budget / BATCHES);
        let batch_len = 1 << (batch_bytes / node_len).max(1).ilog2();
        let capacity = (budget / node_len).min(MAX_NODES);
        let batches = capacity / batch_len;
        let batches = std::iter::repeat_with(OnceLock::new).take(batches);
        Ok(Builder {
            code_words: codec.code_len() / 8,
            codec,
            options,
            batch_len: batch_len as u32,
            batches: collect(batches, GRAPH)?.into(),
            pending: Mutex::new(Pending {
                memory: None,
                nodes: Vec::new(),
                rng: SmallRng::seed_from_u64(seed),
            }),
            progress: Mutex::new(Progress {
                sealed: 0,
                claimed: 0,
                linked: 0,
                closed: false,
            }),
            changed: Condvar::new(),
            entry: RwLock::new(None),
            failed: OnceLock::new(),
        })
    }

    /// Bytes that a node takes: its code, its links, on average one and a half
    /// words for upper levels, and what else a batch keeps of it.
    fn node_len(codec: &C, options: &Options) -> usize {
        let m = usize::from(options.m);
        let links = (2 * m + m.div_ceil(m - 1)) * size_of::<AtomicU64>();
        let rest = size_of::<HeapTid>() + size_of::<Box<[AtomicU64]>>() + size_of::<NewNode>() + 24;
        codec.code_len() + links + rest
    }

    /// Adds a row, from one thread only. `code` is its encoded vector.
    pub fn add(&self, code: &Code, tid: HeapTid) -> Added {
        let mut pending = self.pending.lock();
        let sealed = self.progress.lock().sealed;
        if (sealed / self.batch_len) as usize >= self.batches.len() {
            return Added::Full;
        }
        let place = pending.nodes.len();
        if place == 0 {
            match self.memory_of_batch() {
                Ok(memory) => pending.memory = Some(memory),
                Err(error) => return Added::NoMemory(error),
            }
        }
        let Some((codes, _)) = &mut pending.memory else {
            return Added::Full;
        };
        let words = self.code_words;
        codes[place * words..][..words].copy_from_slice(bytemuck::cast_slice(code.bytes()));
        let level = random_level(self.options.m, 1.0 - pending.rng.random::<f64>());
        if let Err(error) = push(&mut pending.nodes, NewNode { tid, level }, GRAPH) {
            return Added::NoMemory(error);
        }
        if pending.nodes.len() == self.batch_len as usize
            && let Err(error) = self.seal(&mut pending, sealed)
        {
            return Added::NoMemory(error);
        }
        Added::Yes
    }

    /// Memory for the codes and the links of a batch.
    fn memory_of_batch(&self) -> Result<(Table<u64>, Table<AtomicU64>), OutOfMemory> {
        let nodes = self.batch_len as usize;
        let links = Table::zeroed(nodes * 2 * usize::from(self.options.m), GRAPH)?;
        Ok((Table::zeroed(nodes * self.code_words, GRAPH)?, links))
    }

    /// Lets the rows that wait be linked, if there are any.
    fn seal(&self, pending: &mut Pending, sealed: u32) -> Result<(), OutOfMemory> {
        let Some((codes, links)) = pending.memory.take() else {
            return Ok(());
        };
        let nodes = std::mem::take(&mut pending.nodes);
        let m = usize::from(self.options.m);
        let of_nodes = &links[..nodes.len() * 2 * m];
        (of_nodes.iter()).for_each(|link| link.store(NO_LINK, Ordering::Relaxed));
        let upper_links = nodes.iter().map(|n| {
            let links = collect(empty_links(usize::from(n.level) * m), GRAPH)?;
            Ok::<Box<[AtomicU64]>, OutOfMemory>(links.into())
        });
        let batch = Batch {
            codes,
            tids: collect(nodes.iter().map(|n| n.tid), GRAPH)?,
            levels: collect(nodes.iter().map(|n| n.level), GRAPH)?,
            links,
            upper_links: try_collect(upper_links, GRAPH)?,
            duplicate_of: collect(nodes.iter().map(|_| AtomicU32::new(NONE)), GRAPH)?,
            locks: collect(nodes.iter().map(|_| Mutex::new(())), GRAPH)?,
        };
        let added = batch.tids.len() as u32;
        // One thread adds, so the place is free.
        let _ = self.batches[(sealed / self.batch_len) as usize].set(batch);
        self.progress.lock().sealed += added;
        self.changed.notify_all();
        Ok(())
    }

    /// What a thread needs to link nodes.
    pub fn linker(&self) -> Linker<'_, C> {
        Linker {
            builder: self,
            beam: Beam::new(0, BeamOptions::default()),
            links: Vec::new(),
        }
    }

    /// No more rows will come: seals those that wait. Workers end when all
    /// nodes are linked; use [`Linker::help`] with a backlog of 0 to take
    /// part in that. Where there is no memory for that, [`Builder::check`] tells.
    pub fn close(&self) {
        let mut pending = self.pending.lock();
        let sealed = self.progress.lock().sealed;
        if let Err(error) = self.seal(&mut pending, sealed) {
            self.fail(error);
        }
        self.progress.lock().closed = true;
        self.changed.notify_all();
    }

    /// Gives the build up: workers end soon, and the graph is of no more use.
    pub fn abandon(&self) {
        let mut progress = self.progress.lock();
        progress.closed = true;
        progress.claimed = progress.sealed;
        self.changed.notify_all();
    }

    /// Whether all nodes that should be linked are.
    ///
    /// # Errors
    /// [`OutOfMemory`] if one is not: the graph is of no use then.
    pub fn check(&self) -> Result<(), OutOfMemory> {
        self.failed.get().map_or(Ok(()), |&error| Err(error))
    }

    fn fail(&self, error: OutOfMemory) {
        // The first error is enough.
        let _ = self.failed.set(error);
    }

    /// Rows that are linked so far.
    pub fn linked(&self) -> u32 {
        self.progress.lock().linked
    }

    /// Whether all rows of sealed batches are linked: then, after
    /// [`Builder::close`], the graph is complete.
    pub fn is_complete(&self) -> bool {
        let progress = self.progress.lock();
        progress.linked == progress.sealed
    }

    fn batch(&self, node: u32) -> (&Batch, usize) {
        // A shift, where a division would cost as much as a distance.
        let batch = self.batches[(node >> self.batch_len.trailing_zeros()) as usize]
            .get()
            .expect("nodes are linked only after their batch was sealed");
        (batch, (node & (self.batch_len - 1)) as usize)
    }

    fn code(&self, node: u32) -> &[u8] {
        let (batch, i) = self.batch(node);
        let words = self.code_words;
        bytemuck::cast_slice(&batch.codes[i * words..][..words])
    }

    fn level(&self, node: u32) -> u8 {
        let (batch, i) = self.batch(node);
        batch.levels[i]
    }

    /// The places for links of a node on a level.
    fn list(&self, node: u32, level: u8) -> &[AtomicU64] {
        let (batch, i) = self.batch(node);
        let m = usize::from(self.options.m);
        if level == 0 {
            return &batch.links[i * 2 * m..(i + 1) * 2 * m];
        }
        let from = usize::from(level - 1) * m;
        batch.upper_links[i].get(from..from + m).unwrap_or(&[])
    }

    /// Of what was found near a node, at most `limit` diverse ones.
    fn choose(&self, found: &[Found], limit: usize) -> Vec<Link> {
        let distances: Vec<f32> = found.iter().map(|f| f.distance).collect();
        let heuristic = Heuristic::new(&self.options, limit);
        let (chosen, diverse) = heuristic.select(&distances, |i, j| {
            self.between(found[i].vertex, found[j].vertex)
        });
        let link = |(n, i): (usize, usize)| Link {
            distance: found[i].distance,
            diverse: n < diverse,
            vertex: found[i].vertex,
        };
        chosen.into_iter().enumerate().map(link).collect()
    }

    fn between(&self, a: u32, b: u32) -> f32 {
        self.codec.distance(self.code(a), self.code(b))
    }

    /// Links a node back to a new one. `links` is memory for its list.
    fn link_back(&self, node: u32, (new, distance): (u32, f32), level: u8, links: &mut Vec<Link>) {
        let (batch, i) = self.batch(node);
        let list = self.list(node, level);
        let _lock = wait_for(|time| batch.locks[i].try_lock_for(time));
        links.clear();
        links.extend(present(list));
        if links.iter().any(|link| link.vertex == new) {
            return;
        }
        let between = |_, neighbour| self.between(new, neighbour);
        let heuristic = Heuristic::new(&self.options, list.len());
        if heuristic.add(links, distance, new, between).is_some() {
            store_links(list, links);
        }
    }

    fn duplicate_of(&self, node: u32) -> u32 {
        let (batch, i) = self.batch(node);
        batch.duplicate_of[i].load(Ordering::Acquire)
    }

    /// Gives the node's row to a node with an equal code.
    fn join_duplicate(&self, node: u32, nearest: &[Found]) -> bool {
        let Some(first) = nearest.first() else {
            return false;
        };
        let code = self.code(node);
        let equal = nearest
            .iter()
            .take_while(|f| f.distance == first.distance)
            .find(|f| f.vertex != node && self.code(f.vertex) == code);
        let Some(equal) = equal else {
            return false;
        };
        let (batch, i) = self.batch(node);
        batch.duplicate_of[i].store(equal.vertex, Ordering::Release);
        true
    }
}

/// A thread's means of linking nodes into the graph.
pub struct Linker<'b, C> {
    builder: &'b Builder<C>,
    /// Memory for searches, used again for each node.
    beam: Beam,
    /// Memory for the list of a node that is linked back.
    links: Vec<Link>,
}

impl<C: Codec> Linker<'_, C> {
    /// Links nodes until [`Builder::close`] was called and none are left: the
    /// body of a worker thread.
    pub fn work(&mut self) {
        loop {
            let node = {
                let mut progress = self.builder.progress.lock();
                loop {
                    if progress.claimed < progress.sealed {
                        break;
                    }
                    if progress.closed {
                        return;
                    }
                    self.builder.changed.wait(&mut progress);
                }
                progress.claimed += 1;
                progress.claimed - 1
            };
            self.link(node);
        }
    }

    /// Links one node that no worker has taken on yet, if there are more than
    /// `backlog` of them; false if not.
    pub fn help(&mut self, backlog: u32) -> bool {
        let node = {
            let mut progress = self.builder.progress.lock();
            if progress.sealed - progress.claimed <= backlog {
                return false;
            }
            progress.claimed += 1;
            progress.claimed - 1
        };
        self.link(node);
        true
    }

    /// Links a node into the graph.
    fn link(&mut self, node: u32) {
        /// Counts the node even if linking it panics: nobody may wait for it.
        struct Count<'b>(&'b Mutex<Progress>);
        impl Drop for Count<'_> {
            fn drop(&mut self) {
                self.0.lock().linked += 1;
            }
        }
        let _count = Count(&self.builder.progress);
        // Each thread stops before its next node where there is no memory.
        match check_short(GRAPH) {
            Ok(()) => self.link_node(node),
            Err(error) => self.builder.fail(error),
        }
    }

    /// Algorithm 1 of Malkov and Yashunin.
    fn link_node(&mut self, node: u32) {
        let builder = self.builder;
        let level = builder.level(node);
        let entry = *wait_for(|time| builder.entry.try_read_for(time));
        match entry {
            Some((_, top)) if level <= top => self.link_below(node, level, entry),
            _ => {
                let mut entry = wait_for(|time| builder.entry.try_write_for(time));
                self.link_below(node, level, *entry);
                let is_duplicate = builder.duplicate_of(node) != NONE;
                if entry.is_none_or(|(_, top)| level > top) && !is_duplicate {
                    *entry = Some((node, level));
                }
            }
        }
    }

    fn link_below(&mut self, node: u32, level: u8, entry: Option<(u32, u8)>) {
        let Some((entry, top)) = entry else { return };
        let builder = self.builder;
        // Half as wide again as asked for: with all in memory, that is cheap for what it
        // brings to every later search.
        let ef = usize::from(builder.options.ef_construction) * 3 / 2;
        let code = builder.code(node);
        let found = nearest_by_level(builder, &mut self.beam, code, (entry, top), level, ef);
        let found = match found {
            Ok(found) => found,
            Err(Error::OutOfMemory(error)) => return builder.fail(error),
            // Memory holds no corrupted pages.
            Err(_) => return,
        };
        if builder.join_duplicate(node, &found[0]) {
            return;
        }
        let chosen: Vec<Vec<Link>> = (0_u8..)
            .zip(&found)
            .map(|(level, found)| builder.choose(found, builder.list(node, level).len()))
            .collect();
        // Own links on all levels first: once linked back to on one level, the
        // node can be reached on those below.
        for (level, chosen) in (0_u8..).zip(&chosen) {
            store_links(builder.list(node, level), chosen);
        }
        for (level, chosen) in (0_u8..).zip(&chosen) {
            for link in chosen {
                let new = (node, link.distance);
                builder.link_back(link.vertex, new, level, &mut self.links);
            }
        }
    }
}

/// So many codes are brought into the processor's cache at a time.
const AHEAD: usize = 3;

impl<C: Codec> Graph for Builder<C> {
    type Query = [u8];

    fn is_exact(&self) -> bool {
        true
    }

    fn extent(&self, ef: usize) -> Extent {
        Extent::of_width(ef)
    }

    fn visit(
        &self,
        vertex: Vertex,
        level: u8,
        query: &[u8],
        _tids: Option<&mut Vec<HeapTid>>,
        neighbours: &mut Neighbours<'_>,
    ) -> Result<Option<Visit>, Error> {
        let list = self.list(vertex, level);
        let numbers = &mut *neighbours.numbers;
        numbers.resize(list.len(), NONE);
        let mut unseen = 0;
        for link in present(list) {
            numbers[unseen] = link.vertex;
            unseen += usize::from(!neighbours.seen.contains(link.vertex));
        }
        numbers.truncate(unseen);
        // The codes of some neighbours are on their way while one is compared.
        let prefetch = |node: Option<&Vertex>| {
            if let Some(&node) = node {
                let code = self.code(node);
                simd::prefetch(code.as_ptr(), code.len());
            }
        };
        (0..AHEAD).for_each(|i| prefetch(neighbours.numbers.get(i)));
        for (i, &node) in neighbours.numbers.iter().enumerate() {
            prefetch(neighbours.numbers.get(i + AHEAD));
            let key = self.codec.distance(query, self.code(node));
            neighbours.estimates.push(key);
        }
        let key = self.codec.distance(query, self.code(vertex));
        Ok(Some(Visit {
            live: true,
            key,
            bound: f64::from(key),
            spread: 1.0,
            slack: 0.0,
            below: vertex,
        }))
    }

    fn below(&self, vertex: Vertex, _level: u8) -> Result<Vertex, Error> {
        Ok(vertex)
    }

    fn prefetch(&self, vertex: Vertex, level: u8) {
        let list = self.list(vertex, level);
        simd::prefetch(list.as_ptr().cast(), size_of_val(list));
    }
}
