//! Writing a graph from memory to the pages of an index.

use std::sync::atomic::Ordering;

use memory::vec::{collect, extend, filled, push, reserve, reserve_in_map, try_collect};
use memory::{OutOfMemory, check_short};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::{Builder, GRAPH, pack, present, unpack};
use crate::hnsw::codec::{Code, Codec};
use crate::hnsw::index::{Index, METAPAGE, NewVertex};
use crate::hnsw::layout::{Blurred, HeapTid, Layout, MAX_HEAP_TIDS, Meta, NONE, Place, Vertex};
use crate::hnsw::links::Links;
use crate::hnsw::neighbours::Link;
use crate::hnsw::postings::NewPosting;
use crate::page::{Body, PageStore};
use crate::team::{Team, try_run};
use crate::{Error, simd};

/// Bytes of slots that are made before they are written, if that is more than one part.
const CHUNK: usize = 4 << 20;

/// Slots that one thread makes at a time.
const PART: usize = 32;

impl<C: Codec> Builder<C> {
    /// Writes the graph, which must be complete, to the pages of an empty index.
    /// The team makes the slots, and this thread writes them. `blurred`: what is known of
    /// the codes.
    pub fn flush<S: PageStore>(
        &self,
        index: &Index<'_, S, C>,
        blurred: Blurred,
        team: &dyn Team,
    ) -> Result<(), Error> {
        self.check()?;
        let nodes = self.progress.lock().sealed;
        let order = self.connect(nodes, &|| index.store.pause())?;
        let mut numbers = Numbers::new(nodes)?;
        for &node in &order {
            numbers.add(node, self.level(node))?;
        }
        let mut rows: FxHashMap<u32, Vec<HeapTid>> = FxHashMap::default();
        for node in 0..nodes {
            let (batch, i) = self.batch(node);
            let element = self.duplicate_of(node);
            if element != NONE {
                reserve_in_map(&mut rows, 1, GRAPH)?;
                push(rows.entry(element).or_default(), batch.tids[i], GRAPH)?;
            }
        }
        let capacity = index.layout.posting_capacity();
        let mut with_postings: Vec<u32> = Vec::new();
        for (&node, further) in &mut rows {
            let (batch, i) = self.batch(node);
            reserve(further, 1, GRAPH)?;
            further.insert(0, batch.tids[i]);
            if further.len() > MAX_HEAP_TIDS {
                push(&mut with_postings, node, GRAPH)?;
            }
        }
        with_postings.sort_unstable();
        for &node in &with_postings {
            let further = rows[&node].len() - MAX_HEAP_TIDS;
            numbers.add_postings(node, further.div_ceil(capacity) as Vertex)?;
        }

        let mut writer = PageWriter::new(index);
        let elements = order.iter().copied();
        let uppers = elements
            .clone()
            .flat_map(|node| (1..=self.level(node)).map(move |level| (node, level)));
        let mut slots = elements.map(|node| (node, 0)).chain(uppers);
        let layout = &index.layout;
        let at_once = (CHUNK / layout.slot_len).max(PART);
        loop {
            let chunk: Vec<(u32, u8)> = collect(slots.by_ref().take(at_once), GRAPH)?;
            if chunk.is_empty() {
                break;
            }
            let parts: Vec<&[(u32, u8)]> = collect(chunk.chunks(PART), GRAPH)?;
            let images = parts.iter().map(|_| Mutex::default());
            let images: Vec<Mutex<Vec<Code>>> = collect(images, GRAPH)?;
            try_run(team, parts.len(), &|part| {
                // Slots are small: a thread looks before each.
                let image = |&(node, level)| {
                    check_short(GRAPH)?;
                    Ok::<Code, OutOfMemory>(self.image(layout, node, level, &rows, &numbers))
                };
                let made = try_collect(parts[part].iter().map(image), GRAPH)?;
                *images[part].lock() = made;
                Ok(())
            })?;
            for image in images.into_iter().flat_map(Mutex::into_inner) {
                writer.write(&image)?;
            }
        }
        for &node in &with_postings {
            let mut chunks = rows[&node][MAX_HEAP_TIDS..].chunks(capacity).peekable();
            while let Some(chunk) = chunks.next() {
                let posting = NewPosting {
                    base: numbers.vertex(node, 0),
                    next: if chunks.peek().is_some() {
                        writer.next + 1
                    } else {
                        NONE
                    },
                    heap_tids: chunk,
                };
                writer.write(&posting.image(layout))?;
            }
        }
        let vertex_count = writer.finish()?;

        let mut page = index.store.lock(METAPAGE)?;
        let mut meta = Meta::parse(&page)?;
        meta.vertex_count = vertex_count;
        meta.set_blurred(blurred);
        if let Some((node, level)) = *self.entry.read() {
            meta.entry = numbers.vertex(node, level);
            meta.entry_level = u32::from(level);
        }
        index
            .store
            .commit(&mut [&mut page], &mut |bodies| meta.write(bodies[0]));
        Ok(())
    }

    /// The slot of a node's vertex on a level.
    fn image(
        &self,
        layout: &Layout,
        node: u32,
        level: u8,
        rows: &FxHashMap<u32, Vec<HeapTid>>,
        numbers: &Numbers,
    ) -> Code {
        let (batch, i) = self.batch(node);
        let own = [batch.tids[i]];
        let heap_tids = match (level, rows.get(&node)) {
            (0, Some(rows)) => &rows[..rows.len().min(MAX_HEAP_TIDS)],
            (0, None) => &own,
            _ => &[],
        };
        let vertex = NewVertex {
            level,
            below: match level {
                0 => numbers.first_posting(node),
                _ => numbers.vertex(node, level - 1),
            },
            base: Some(numbers.vertex(node, 0)),
            heap_tids,
            links: &self.links(node, level, numbers),
            code: self.code(node),
        };
        vertex.image(layout, numbers.vertex(node, level))
    }

    /// The links of a node, as they are stored.
    fn links(&self, node: u32, level: u8, numbers: &Numbers) -> Links {
        let mut links = Links {
            places: Vec::new(),
            codes: Code::zeroed(self.codec.links_len(2 * usize::from(self.options.m))),
        };
        for link in present(self.list(node, level)) {
            let code = self.code(link.vertex);
            simd::prefetch(code.as_ptr(), code.len());
        }
        let mut codes = Vec::new();
        for (position, link) in present(self.list(node, level)).enumerate() {
            links.places.push(Place {
                number: numbers.vertex(link.vertex, level),
                diverse: link.diverse,
            });
            codes.push((position, self.code(link.vertex)));
        }
        if !links.codes.bytes().is_empty() {
            let stored = links.codes.bytes_mut();
            self.codec.encode_links(self.code(node), &codes, stored);
        }
        links
    }

    /// Makes sure that every element can be reached on level 0 from the entry
    /// point, and returns the elements in the order of a [`Walk`] from there.
    ///
    /// The heuristic may have turned a node down everywhere, most of all where
    /// many vectors are equal. Then it goes into the list of a neighbour that
    /// can be reached, in the place of the last link there, and takes that link
    /// over itself: whatever could be reached before still can.
    fn connect(&self, nodes: u32, pause: &dyn Fn()) -> Result<Vec<u32>, OutOfMemory> {
        let mut walk = Walk {
            reached: filled(false, nodes as usize, GRAPH)?,
            order: Vec::new(),
        };
        // No node is in it twice.
        reserve(&mut walk.order, nodes as usize, GRAPH)?;
        let Some((entry, _)) = *self.entry.read() else {
            return Ok(walk.order);
        };
        let is_element = |&node: &u32| self.duplicate_of(node) == NONE;
        self.reach(entry, &mut walk, pause)?;
        let mut progress = true;
        while progress {
            progress = false;
            for node in (0..nodes).filter(is_element) {
                if walk.has_reached(node) {
                    continue;
                }
                let list = self.list(node, 0);
                let host = present(list).find(|link| walk.has_reached(link.vertex));
                if let Some(host) = host {
                    self.attach(node, host);
                    self.reach(node, &mut walk, pause)?;
                    progress = true;
                }
            }
        }
        let lost = (0..nodes).filter(|node| is_element(node) && !walk.has_reached(*node));
        walk.order.extend(collect(lost, GRAPH)?);
        Ok(walk.order)
    }

    /// Goes on with the walk to all nodes that can be reached from one.
    fn reach(&self, from: u32, walk: &mut Walk, pause: &dyn Fn()) -> Result<(), OutOfMemory> {
        let mut stack = vec![from];
        let mut links: Vec<Link> = Vec::new();
        while let Some(node) = stack.pop() {
            if std::mem::replace(&mut walk.reached[node as usize], true) {
                continue;
            }
            walk.order.push(node);
            if walk.order.len().is_multiple_of(4096) {
                pause();
            }
            links.clear();
            links.extend(present(self.list(node, 0)).filter(|link| !walk.has_reached(link.vertex)));
            links.sort_unstable_by(|a, b| b.distance.total_cmp(&a.distance));
            extend(&mut stack, links.iter().map(|link| link.vertex), GRAPH)?;
        }
        Ok(())
    }

    /// Puts a node into the list of `host`, one of its neighbours.
    fn attach(&self, node: u32, host: Link) {
        let theirs = self.list(host.vertex, 0);
        let link = pack(Link {
            vertex: node,
            diverse: true,
            ..host
        });
        let full = present(theirs).count();
        if full < theirs.len() {
            theirs[full].store(link, Ordering::Release);
            return;
        }
        let last = theirs[full - 1].swap(link, Ordering::AcqRel);
        let list = self.list(node, 0);
        if present(list).all(|link| link.vertex != unpack(last).vertex) {
            // Its distance is not this node's, which matters to nobody now.
            let place = present(list).count().min(list.len() - 1);
            list[place].store(last, Ordering::Release);
        }
    }
}

/// A walk along the links of level 0, depth first and to the nearest neighbour
/// first. Vertices on the same page are near each other then, and a search finds
/// more of what it reads in the caches of the processor and of the server
/// (Coleman et al., "Graph Reordering for Cache-Efficient Near Neighbor Search",
/// arXiv:2104.03221).
struct Walk {
    reached: Vec<bool>,
    /// What was reached, in the order of the walk.
    order: Vec<u32>,
}

impl Walk {
    fn has_reached(&self, node: u32) -> bool {
        self.reached[node as usize]
    }
}

/// The vertex numbers of the nodes: level 0 in the order of the walk, then all
/// upper vertices, then all postings.
struct Numbers {
    level_0: Vec<Vertex>,
    elements: Vertex,
    /// Per node with upper levels, how many upper vertices come before its own.
    upper: FxHashMap<u32, Vertex>,
    uppers: Vertex,
    /// Per node with postings, how many postings come before its own.
    postings: FxHashMap<u32, Vertex>,
    posting_count: Vertex,
}

impl Numbers {
    fn new(nodes: u32) -> Result<Self, OutOfMemory> {
        Ok(Numbers {
            level_0: filled(NONE, nodes as usize, GRAPH)?,
            elements: 0,
            upper: FxHashMap::default(),
            uppers: 0,
            postings: FxHashMap::default(),
            posting_count: 0,
        })
    }

    fn add(&mut self, node: u32, level: u8) -> Result<(), OutOfMemory> {
        self.level_0[node as usize] = self.elements;
        self.elements += 1;
        if level > 0 {
            reserve_in_map(&mut self.upper, 1, GRAPH)?;
            self.upper.insert(node, self.uppers);
            self.uppers += Vertex::from(level);
        }
        Ok(())
    }

    fn add_postings(&mut self, node: u32, count: Vertex) -> Result<(), OutOfMemory> {
        reserve_in_map(&mut self.postings, 1, GRAPH)?;
        self.postings.insert(node, self.posting_count);
        self.posting_count += count;
        Ok(())
    }

    fn first_posting(&self, node: u32) -> Vertex {
        self.postings
            .get(&node)
            .map_or(NONE, |before| self.elements + self.uppers + before)
    }

    fn vertex(&self, node: u32, level: u8) -> Vertex {
        if level == 0 {
            return self.level_0[node as usize];
        }
        let before = self
            .upper
            .get(&node)
            .copied()
            .unwrap_or(NONE - self.elements);
        self.elements + before + Vertex::from(level - 1)
    }
}

/// Writes slots in the order of their numbers, page after page.
struct PageWriter<'w, 's, S, C> {
    index: &'w Index<'s, S, C>,
    /// The vertices of the page that is being filled.
    body: Box<Body>,
    next: Vertex,
}

impl<'w, 's, S: PageStore, C: Codec> PageWriter<'w, 's, S, C> {
    fn new(index: &'w Index<'s, S, C>) -> Self {
        PageWriter {
            index,
            body: Box::new(Body::ZERO),
            next: 0,
        }
    }

    fn write(&mut self, image: &Code) -> Result<(), Error> {
        let layout = &self.index.layout;
        let (_, at) = layout.locate(self.next).map_err(|_| Error::Full {
            vertices: self.next,
        })?;
        self.next += 1;
        let page_is_full = self.next.is_multiple_of(layout.slots_per_page);
        for (range, from) in layout.pieces(at) {
            self.body.0[from..from + range.len()].copy_from_slice(&image.bytes()[range]);
            if page_is_full {
                self.append()?;
            }
        }
        Ok(())
    }

    /// Writes the page and starts an empty one.
    fn append(&mut self) -> Result<(), Error> {
        self.index.store.pause();
        let mut page = self.index.store.extend()?;
        self.index
            .store
            .commit(&mut [&mut page], &mut |bodies| *bodies[0] = *self.body);
        *self.body = Body::ZERO;
        Ok(())
    }

    fn finish(mut self) -> Result<Vertex, Error> {
        if !self.next.is_multiple_of(self.index.layout.slots_per_page) {
            self.append()?;
        }
        Ok(self.next)
    }
}
