//! An open index: reading and writing single vertices on pages.

use super::beam::{Extent, Graph, Neighbours, Visit};
use super::codec::{Code, Codec};
use super::layout::{
    Blurred, HeapTid, Layout, Meta, NONE, Options, Slot, SlotMut, State, Storage, Vertex,
};
use super::links::Links;
use super::postings::NewPosting;
use crate::page::{BODY_LEN, Block, PageStore};
use crate::quantize::frame::Frame;
use crate::{Error, Metric};

/// The metapage's block.
pub const METAPAGE: u32 = 0;

/// Numbers of a frame that a page holds.
const NUMBERS_OF_PAGE: usize = BODY_LEN / size_of::<f32>();

/// An index on the pages of a store.
pub struct Index<'s, S, C> {
    pub(super) store: &'s S,
    pub(super) codec: C,
    pub(super) layout: Layout,
    pub(super) options: Options,
}

/// Writes the metapage of an empty index, which becomes block 0, and what the codec has
/// learned of the vectors.
pub fn create<S: PageStore>(store: &S, options: &Options, codec: &impl Codec) -> Result<(), Error> {
    let meta = Meta::new(options, &Layout::new(options, codec));
    let mut page = store.extend()?;
    store.commit(&mut [&mut page], &mut |bodies| meta.write(bodies[0]));
    drop(page);
    for part in codec.frame().chunks(NUMBERS_OF_PAGE) {
        let mut page = store.extend()?;
        store.commit(&mut [&mut page], &mut |bodies| {
            let bytes = bytemuck::cast_slice(part);
            bodies[0].0[..bytes.len()].copy_from_slice(bytes);
        });
    }
    Ok(())
}

/// What the codec of an index with these options has learned of the vectors.
pub fn read_frame<S: PageStore>(store: &S, options: &Options) -> Result<Frame, Error> {
    let dimension = options.dimension as usize;
    if options.storage != Storage::Fused {
        return Ok(Frame::unlearned(dimension));
    }
    let mut numbers = vec![0.0_f32; Frame::len_of(dimension)];
    for (part, block) in numbers.chunks_mut(NUMBERS_OF_PAGE).zip(METAPAGE + 1..) {
        let bytes = bytemuck::cast_slice_mut(part);
        bytes.copy_from_slice(&store.read(block)?.0[..bytes.len()]);
    }
    Frame::from_numbers(numbers)
        .ok_or_else(|| Error::corrupted(METAPAGE + 1, "what codes are relative to is no number"))
}

/// Reads the metapage of an index.
pub fn read_meta<S: PageStore>(store: &S) -> Result<Meta, Error> {
    Meta::parse(&*store.read(METAPAGE)?)
}

impl<'s, S: PageStore, C: Codec> Index<'s, S, C> {
    /// Opens the index with the given options (of its metapage), whose codes
    /// are `codec`'s.
    pub fn open(store: &'s S, meta: &Meta, codec: C) -> Result<Self, Error> {
        let options = meta.options()?;
        let layout = Layout::new(&options, &codec);
        meta.check_layout(&layout)?;
        Ok(Index {
            store,
            codec,
            layout,
            options,
        })
    }

    /// The metapage as it is now.
    pub fn meta(&self) -> Result<Meta, Error> {
        read_meta(self.store)
    }

    /// The options the index was created with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The index's codec.
    pub fn codec(&self) -> &C {
        &self.codec
    }

    /// Whether visits tell how far neighbours are by the codes of the links.
    pub(super) fn is_fused(&self) -> bool {
        self.layout.links_len() > 0
    }

    /// How far a search for the nearest `ef` goes. Over exact distances, that is how the
    /// paper ends a search; estimates tell of more vertices, of which some are nearer.
    pub fn search_extent(&self, ef: usize) -> Extent {
        search_extent(self.is_fused(), self.options.metric, ef)
    }

    /// Looks at the first page of a vertex's slot under a share lock.
    pub(super) fn with_slot<R>(
        &self,
        vertex: Vertex,
        look: impl FnOnce(Slot<'_>) -> R,
    ) -> Result<R, Error> {
        let (block, at) = self.layout.locate(vertex)?;
        let page = self.store.read(block)?;
        Ok(look(Slot::parse(&self.layout, block, &page, at)?))
    }

    /// Looks at the whole slot of a vertex of `level`; `None` if it holds none.
    ///
    /// The first page stays locked while the other pages of a large slot are
    /// read, so the vertex cannot be replaced half-way.
    pub(super) fn with_vertex<R>(
        &self,
        vertex: Vertex,
        level: u8,
        look: impl FnOnce(Slot<'_>) -> R,
    ) -> Result<Option<R>, Error> {
        let (block, at) = self.layout.locate(vertex)?;
        let page = self.store.read(block)?;
        let slot = Slot::parse(&self.layout, block, &page, at)?;
        if !slot.is_vertex(vertex) || slot.header.level != level {
            return Ok(None);
        }
        if self.layout.pages_per_slot == 1 {
            return Ok(Some(look(slot)));
        }
        let whole = self.gather(block, slot.bytes())?;
        Ok(Some(look(slot.with_all(whole.bytes()))))
    }

    /// The bytes of a slot that spans pages, of which the first one's are given.
    pub(super) fn gather(&self, block: Block, first: &[u8]) -> Result<Code, Error> {
        let mut whole = Code::zeroed(self.layout.slot_len);
        let bytes = whole.bytes_mut();
        bytes[..first.len()].copy_from_slice(first);
        for ((range, from), further) in self.layout.pieces(0).zip(block..).skip(1) {
            let len = range.len();
            bytes[range].copy_from_slice(&self.store.read(further)?.0[from..from + len]);
        }
        Ok(whole)
    }

    /// Changes a vertex's slot on its first page in one record, if `decide`
    /// says so after a look at it under the exclusive lock.
    pub(super) fn change_slot(
        &self,
        vertex: Vertex,
        decide: impl FnOnce(Slot<'_>) -> bool,
        edit: impl Fn(&mut SlotMut<'_>),
    ) -> Result<bool, Error> {
        let (block, at) = self.layout.locate(vertex)?;
        let mut page = self.store.lock(block)?;
        if !decide(Slot::parse(&self.layout, block, &page, at)?) {
            return Ok(false);
        }
        self.store.commit(&mut [&mut page], &mut |bodies| {
            edit(&mut SlotMut::new(&self.layout, bodies[0], at));
        });
        Ok(true)
    }

    /// Copies a vertex's code; false if the slot holds no vertex of `level`.
    pub(super) fn load_code(
        &self,
        vertex: Vertex,
        level: u8,
        code: &mut [u8],
    ) -> Result<bool, Error> {
        let copied = self.with_vertex(vertex, level, |slot| {
            code.copy_from_slice(slot.code(&self.layout));
        })?;
        Ok(copied.is_some())
    }

    /// Copies a vertex's code, if there is a vertex of `level`.
    pub(super) fn code_of(&self, vertex: Vertex, level: u8) -> Result<Option<Code>, Error> {
        let mut code = Code::zeroed(self.layout.code_len);
        let found = self.load_code(vertex, level, code.bytes_mut())?;
        Ok(found.then_some(code))
    }

    /// Writes a vertex into a slot of its own. The first vertex of an empty index
    /// becomes its entry point in the same record.
    /// Its code counts in the metapage as blurred or not, if that is known.
    pub(super) fn write_vertex(
        &self,
        vertex: &NewVertex<'_>,
        is_blurred: Option<bool>,
    ) -> Result<(Vertex, Blurred), Error> {
        let may_be_entry = vertex.level == 0;
        let image = |number| vertex.image(&self.layout, number);
        self.write_slot(may_be_entry, is_blurred, image)
    }

    /// Writes a posting into a slot of its own.
    pub(super) fn write_posting(&self, posting: &NewPosting<'_>) -> Result<Vertex, Error> {
        let written = self.write_slot(false, None, |_| posting.image(&self.layout))?;
        Ok(written.0)
    }

    /// Hands out a slot and writes its content, in one record; the further pages
    /// of a large slot are written before, while it still counts as free.
    fn write_slot(
        &self,
        may_be_entry: bool,
        is_blurred: Option<bool>,
        image: impl FnOnce(Vertex) -> Code,
    ) -> Result<(Vertex, Blurred), Error> {
        let mut meta_page = self.store.lock(METAPAGE)?;
        let mut meta = Meta::parse(&meta_page)?;
        if let Some(is_blurred) = is_blurred {
            meta.set_blurred(meta.blurred().and(is_blurred));
        }
        let number = if meta.free_head != NONE {
            meta.free_head
        } else {
            meta.vertex_count
        };
        let (block, at) = self
            .layout
            .locate(number)
            .ok()
            .filter(|(block, _)| *block < u32::MAX - self.layout.pages_per_slot)
            .ok_or(Error::Full {
                vertices: meta.vertex_count,
            })?;

        if meta.free_head == NONE {
            meta.vertex_count += 1;
            // All slots before this one are there: a damaged count must not
            // make the file grow without end.
            let blocks = self.store.block_count();
            if block > blocks {
                let reason = format!("{number} vertices do not fit into {blocks} blocks");
                return Err(Error::corrupted(METAPAGE, reason));
            }
            // After a crash the file may be longer than the metapage knows.
            while self.store.block_count() < block + self.layout.pages_per_slot {
                drop(self.store.extend()?);
            }
        }
        let mut first = self.store.lock(block)?;
        let slot = Slot::parse(&self.layout, block, &first, at)?;
        if slot.state != State::Free {
            let reason = format!("slot {number} is in use but counts as free");
            return Err(Error::corrupted(block, reason));
        }
        if meta.free_head != NONE {
            meta.free_head = slot.header.below;
            meta.free_count = meta.free_count.saturating_sub(1);
        }
        if meta.entry == NONE && may_be_entry {
            meta.entry = number;
            meta.entry_level = 0;
        }
        let image = image(number);
        let image = image.bytes();
        for ((range, from), further) in self.layout.pieces(at).zip(block..).skip(1) {
            let mut page = self.store.lock(further)?;
            self.store.commit(&mut [&mut page], &mut |bodies| {
                bodies[0].0[from..from + range.len()].copy_from_slice(&image[range.clone()]);
            });
        }
        self.store
            .commit(&mut [&mut meta_page, &mut first], &mut |bodies| {
                meta.write(bodies[0]);
                if let Some((range, from)) = self.layout.pieces(at).next() {
                    bodies[1].0[from..from + range.len()].copy_from_slice(&image[range]);
                }
            });
        Ok((number, meta.blurred()))
    }
}

impl<S: PageStore, C: Codec> Graph for Index<'_, S, C> {
    type Query = C::Query;

    fn is_exact(&self) -> bool {
        !self.is_fused()
    }

    fn extent(&self, ef: usize) -> Extent {
        Extent::of_width(if self.is_fused() { fused_width(ef) } else { ef })
    }

    fn visit(
        &self,
        vertex: Vertex,
        level: u8,
        query: &C::Query,
        mut tids: Option<&mut Vec<HeapTid>>,
        neighbours: &mut Neighbours<'_>,
    ) -> Result<Option<Visit>, Error> {
        let visit = self.with_vertex(vertex, level, |slot| {
            let code = slot.code(&self.layout);
            let measured = self.codec.measure(query, code);
            let key = measured.key;
            let live = slot.state == State::Live;
            let mut bound = f64::from(key);
            if let Some(tids) = &mut tids
                && live
            {
                tids.extend(slot.heap_tids());
                bound = self.codec.bound(query, code, key);
            }
            let links = slot.links(&self.layout);
            self.codec
                .estimates(query, code, measured, links, neighbours.estimates);
            neighbours.numbers.extend_from_slice(slot.places());
            Visit {
                live,
                key,
                bound,
                spread: self.codec.spread(query, code, measured),
                slack: self.codec.slack(query, code, key),
                below: slot.header.below,
            }
        })?;
        if let (Some(visit), Some(tids)) = (&visit, tids)
            && visit.live
            && visit.below != NONE
        {
            self.posting_tids(vertex, visit.below, tids)?;
        }
        if !self.is_fused() {
            // Links say nothing of their neighbours: go and see.
            let mut unseen = 0;
            for i in 0..neighbours.numbers.len() {
                let number = neighbours.numbers[i];
                if neighbours.seen.contains(number) {
                    continue;
                }
                let key = self.with_vertex(number, level, |slot| {
                    self.codec.key(query, slot.code(&self.layout))
                })?;
                if let Some(key) = key {
                    neighbours.numbers[unseen] = number;
                    neighbours.estimates.push(key);
                    unseen += 1;
                }
            }
            neighbours.numbers.truncate(unseen);
        }
        Ok(visit)
    }

    fn below(&self, vertex: Vertex, level: u8) -> Result<Vertex, Error> {
        self.with_slot(vertex, |slot| {
            if slot.is_vertex(vertex) && slot.header.level == level {
                slot.header.below
            } else {
                NONE
            }
        })
    }

    fn prefetch(&self, vertex: Vertex, _level: u8) {
        if let Ok((block, at)) = self.layout.locate(vertex) {
            self.store.prefetch(block, self.layout.slot_len, [at]);
        }
    }
}

/// Searches by estimates visit no fewer vertices.
const LEAST_FUSED: usize = 32;

/// See [`Index::search_extent`].
pub(super) fn search_extent(is_fused: bool, metric: Metric, ef: usize) -> Extent {
    if !is_fused {
        return Extent::of_width(ef);
    }
    // Inner products of long vectors are estimated worst, and push others out.
    let times = match metric {
        Metric::InnerProduct => 6,
        _ => 3,
    };
    // Estimates that are off lead a narrow search astray, and among the rows of a
    // cluster the first few visits see too little to notice.
    let ef = ef.max(LEAST_FUSED);
    Extent {
        ef,
        width: times * ef + 32,
    }
}

/// The width of a beam over estimates that finds what one of `ef` over exact
/// distances does. Estimates are off by some per cent, so a few vertices more
/// have to be seen.
pub(super) fn fused_width(ef: usize) -> usize {
    ef + ef / 4 + 8
}

/// A vertex to be written.
pub(super) struct NewVertex<'a> {
    pub level: u8,
    /// `NONE` on level 0.
    pub below: Vertex,
    /// `None` on level 0: the vertex itself.
    pub base: Option<Vertex>,
    pub heap_tids: &'a [HeapTid],
    pub links: &'a Links,
    pub code: &'a [u8],
}

impl NewVertex<'_> {
    /// The bytes of the vertex's slot.
    pub fn image(&self, layout: &Layout, number: Vertex) -> Code {
        let mut image = Code::zeroed(layout.slot_len);
        let bytes = image.bytes_mut();
        let mut slot = SlotMut::of_bytes(layout, bytes);
        slot.init(self.level, self.below, self.base.unwrap_or(number));
        slot.set_heap_tids(self.heap_tids);
        slot.set_places(&self.links.places);
        bytes[layout.links_at..layout.code_at].copy_from_slice(self.links.codes.bytes());
        bytes[layout.code_at..][..layout.code_len].copy_from_slice(self.code);
        image
    }
}
