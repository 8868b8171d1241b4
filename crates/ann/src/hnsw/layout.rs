//! The metapage and the vertex slot, byte by byte.
//!
//! Block 0 is the metapage. After it come pages with what the codec has learned of the
//! vectors ([`Layout::frame_pages`]), if it has learned anything. From there
//! on the index is one array of *slots* of a single size, which follows from the dimension and m. A slot that fits
//! shares its page with others; a larger one takes several consecutive pages.
//! So the number of a vertex is its address: see [`Layout::locate`].
//!
//! A slot holds one vertex at one level. An element of level l has l + 1
//! vertices, each of which knows the one below it. See `README.md` for the
//! table of offsets.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::codec::Codec;
pub use crate::HeapTid;
use crate::page::{self, BODY_LEN, Block, Body};
use crate::{Error, Metric};

/// The number of a vertex: its place in the array of slots.
pub type Vertex = u32;

/// No vertex.
pub const NONE: Vertex = u32::MAX;

/// The highest level an element can have. With m = 2, one element in 2^31
/// would get there.
pub const MAX_LEVEL: u8 = 31;

/// Rows with equal codes share a vertex, which has room for so many itself; the
/// others are in [`super::postings`].
pub const MAX_HEAP_TIDS: usize = 8;

/// `m` may be at most this.
pub const MAX_M: u16 = 100;

const MAGIC: u32 = 0x4857_5349; // "ISWH"
/// The page format that this code reads and writes of indexes with a storage.
fn format_version(storage: Option<Storage>) -> u32 {
    match storage {
        Some(Storage::Fused) => 5,
        _ => 4,
    }
}

/// What the vertices of an index hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    /// The whole vector: [`super::codec::Plain`], [`super::codec::Bits`].
    Plain,
    /// A short code, and codes of the neighbours: [`super::codec::Fused`].
    Fused,
    /// The largest components of a sparse vector: [`super::codec::Sparse`].
    Sparse,
}

impl Storage {
    fn tag(self) -> u32 {
        match self {
            Storage::Plain => 0,
            Storage::Fused => 1,
            Storage::Sparse => 2,
        }
    }

    fn from_tag(tag: u32) -> Option<Self> {
        [Storage::Plain, Storage::Fused, Storage::Sparse]
            .into_iter()
            .find(|storage| storage.tag() == tag)
    }
}

/// What the creator of an index chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Options {
    /// Components of a vector.
    pub dimension: u32,
    /// Neighbours of a vertex: at most `m` above level 0, `2 m` on it.
    pub m: u16,
    /// Size of the beam that looks for a new vertex's neighbours.
    pub ef_construction: u16,
    /// What is near.
    pub metric: Metric,
    /// What vertices hold.
    pub storage: Storage,
    /// Seed of the rotation of fused codes.
    pub seed: u64,
    /// Components that the code of a sparse vector has room for.
    pub components: u32,
}

impl Options {
    /// The metric whose keys those of the index's codes are. Fused codes compare
    /// normalized vectors by how far they are from each other.
    pub fn key_metric(&self) -> Metric {
        match (self.metric, self.storage) {
            (Metric::Cosine, Storage::Plain | Storage::Fused) => Metric::L2,
            _ => self.metric,
        }
    }

    /// The distance, as the metric's SQL operator gives it, that a key of the index's
    /// codes stands for.
    pub fn distance(&self, key: f32) -> f64 {
        match (self.metric, self.storage) {
            (Metric::Cosine, Storage::Plain | Storage::Fused) => f64::from(key) / 2.0,
            _ => self.metric.distance(key),
        }
    }
}

/// The metapage, as stored.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Meta {
    magic: u32,
    version: u32,
    dimension: u32,
    metric: u32,
    m: u16,
    ef_construction: u16,
    slot_len: u32,
    /// Vertex where searches start, on the top level; `NONE` in an empty index.
    pub entry: Vertex,
    /// Level of `entry`.
    pub entry_level: u32,
    /// Slots handed out so far, free ones included.
    pub vertex_count: u32,
    /// First slot of the chain of free slots.
    pub free_head: Vertex,
    /// Length of that chain.
    pub free_count: u32,
    storage: u32,
    seed: u64,
    /// Of sparse vectors, how many components a code has room for; of an index of fused
    /// codes, see [`Blurred`].
    extra: u32,
    /// See [`page::seal`].
    checksum: u32,
}

const _: () = assert!(size_of::<Meta>() == 64);

impl Meta {
    /// The metapage of an empty index.
    pub fn new(options: &Options, layout: &Layout) -> Self {
        Meta {
            magic: MAGIC,
            version: format_version(Some(options.storage)),
            dimension: options.dimension,
            metric: options.metric.tag(),
            m: options.m,
            ef_construction: options.ef_construction,
            slot_len: layout.slot_len as u32,
            entry: NONE,
            entry_level: 0,
            vertex_count: 0,
            free_head: NONE,
            free_count: 0,
            storage: options.storage.tag(),
            seed: options.seed,
            extra: options.components,
            checksum: 0,
        }
    }

    /// Reads a metapage and checks what can be checked without other pages.
    pub fn parse(body: &Body) -> Result<Self, Error> {
        let meta: Meta = *bytemuck::from_bytes(&body.0[..size_of::<Meta>()]);
        let wrong = |reason: String| Err(Error::corrupted(0, reason));
        if meta.magic != MAGIC {
            return wrong(format!("metapage has magic number {:#x}", meta.magic));
        }
        let supported = format_version(Storage::from_tag(meta.storage));
        if meta.version != supported {
            return Err(Error::Version {
                found: meta.version,
                supported,
            });
        }
        if !page::is_sealed(body) {
            return Err(Error::corrupted(0, "the metapage's checksum is wrong"));
        }
        if meta.m < 2 || meta.m > MAX_M {
            return wrong(format!("metapage has m = {}", meta.m));
        }
        // Codes of other vectors than sparse ones grow with the dimension.
        let is_sparse = Storage::from_tag(meta.storage) == Some(Storage::Sparse);
        let most = if is_sparse { i32::MAX as u32 } else { 1 << 20 };
        if meta.dimension == 0 || meta.dimension > most {
            return wrong(format!("metapage has dimension {}", meta.dimension));
        }
        if is_sparse && meta.extra > 1 << 20 {
            return wrong(format!("metapage has codes of {} components", meta.extra));
        }
        if meta.entry != NONE
            && (meta.entry >= meta.vertex_count || meta.entry_level > u32::from(MAX_LEVEL))
        {
            return wrong(format!(
                "entry point {} at level {} of {} vertices",
                meta.entry, meta.entry_level, meta.vertex_count
            ));
        }
        if meta.free_head != NONE && meta.free_head >= meta.vertex_count {
            return wrong(format!(
                "free slot {} of {} vertices",
                meta.free_head, meta.vertex_count
            ));
        }
        Ok(meta)
    }

    /// Writes the metapage.
    pub fn write(&self, body: &mut Body) {
        body.0[..size_of::<Meta>()].copy_from_slice(bytemuck::bytes_of(self));
        page::seal(body);
    }

    /// The options the index was created with.
    pub fn options(&self) -> Result<Options, Error> {
        let metric = Metric::from_tag(self.metric)
            .ok_or_else(|| Error::corrupted(0, format!("metapage has metric {}", self.metric)))?;
        let storage = Storage::from_tag(self.storage)
            .ok_or_else(|| Error::corrupted(0, format!("metapage has storage {}", self.storage)))?;
        Ok(Options {
            dimension: self.dimension,
            m: self.m,
            ef_construction: self.ef_construction,
            metric,
            storage,
            seed: self.seed,
            components: match storage {
                Storage::Sparse => self.extra,
                _ => 0,
            },
        })
    }

    /// How many of the vertices that came last have blurred codes, of an index of fused
    /// ones.
    pub fn blurred(&self) -> Blurred {
        let counts = match Storage::from_tag(self.storage) {
            Some(Storage::Fused) => self.extra,
            _ => 0,
        };
        Blurred {
            blurred: counts as u16,
            of: (counts >> 16) as u16,
        }
    }

    /// Replaces that.
    pub fn set_blurred(&mut self, counts: Blurred) {
        if Storage::from_tag(self.storage) == Some(Storage::Fused) {
            self.extra = u32::from(counts.of) << 16 | u32::from(counts.blurred);
        }
    }

    /// Checks that the slots on the pages have the size that `layout` expects.
    pub fn check_layout(&self, layout: &Layout) -> Result<(), Error> {
        if self.slot_len as usize != layout.slot_len {
            return Err(Error::corrupted(
                0,
                format!(
                    "metapage has slots of {} bytes instead of {}",
                    self.slot_len, layout.slot_len
                ),
            ));
        }
        Ok(())
    }
}

/// How many vertices have codes that are off by more than what tells neighbours apart.
/// Of a long row of vertices, those that came last count most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Blurred {
    /// So many.
    pub blurred: u16,
    /// Of so many.
    pub of: u16,
}

impl Blurred {
    /// With one vertex more.
    #[must_use]
    pub fn and(self, is_blurred: bool) -> Self {
        let halved = |count: u16, full: bool| if full { count / 2 } else { count };
        let full = self.of == u16::MAX;
        Blurred {
            blurred: halved(self.blurred, full) + u16::from(is_blurred),
            of: halved(self.of, full) + 1,
        }
    }

    /// Which part of them that is; 0 of none.
    pub fn share(self) -> f64 {
        f64::from(self.blurred) / f64::from(self.of.max(1))
    }
}

/// What a slot is in use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// In the chain of free slots (or never used: a page of zeros).
    Free,
    /// A vertex of the graph.
    Live,
    /// A vertex whose rows are gone; still a way through the graph until
    /// vacuum has unlinked it. Or a posting that vacuum has emptied.
    Dead,
    /// No vertex: further rows of an element, see [`super::postings`].
    Posting,
}

/// The fixed first bytes of a slot, as stored.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    state: u8,
    /// Level of this vertex.
    pub level: u8,
    heap_tids: u8,
    reserved: u8,
    /// Of a posting: rows.
    neighbours: u16,
    reserved_2: u16,
    /// The same element's vertex one level down; on level 0, the first of its
    /// postings; in a posting or a free slot, the next one.
    pub below: Vertex,
    /// The same element's vertex on level 0.
    pub base: Vertex,
}

const HEADER_LEN: usize = size_of::<Header>();
const TIDS_AT: usize = HEADER_LEN;
/// Eight bytes before the neighbours are reserved.
const NEIGHBOURS_AT: usize = TIDS_AT + MAX_HEAP_TIDS * 6 + 8;

const _: () = assert!(HEADER_LEN == 16);
const _: () = assert!(NEIGHBOURS_AT == 72);
// What belongs to the graph lies on the first page of a slot.
const _: () = assert!(links_at(MAX_M) < BODY_LEN);

/// Bytes of the bits that tell which neighbours are diverse.
const fn diverse_len(m: u16) -> usize {
    (2 * m as usize).div_ceil(64) * 8
}

/// Where the codes of the links start in a slot.
const fn links_at(m: u16) -> usize {
    NEIGHBOURS_AT + 2 * m as usize * size_of::<Vertex>() + diverse_len(m)
}

/// Bytes of a slot whose links and code take so many.
pub fn slot_len(m: u16, links_len: usize, code_len: usize) -> usize {
    (links_at(m) + links_len + code_len).next_multiple_of(8)
}

/// How many slots of a length a page holds, and how many pages one takes; one
/// of the two is 1.
pub fn per_page(slot_len: usize) -> (u32, u32) {
    (
        (BODY_LEN / slot_len).max(1) as u32,
        slot_len.div_ceil(BODY_LEN) as u32,
    )
}

/// A place for a neighbour in a vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The neighbour, or [`NONE`].
    pub number: Vertex,
    /// See [`super::neighbours::Link::diverse`].
    pub diverse: bool,
}

impl Place {
    /// A place that is not in use.
    pub const EMPTY: Place = Place {
        number: NONE,
        diverse: false,
    };
}

/// Sizes and places of an index, from its options and codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of a slot.
    pub slot_len: usize,
    /// Slots on a page; 1 when a slot takes several pages.
    pub slots_per_page: u32,
    /// Pages of a slot.
    pub pages_per_slot: u32,
    /// Pages between the metapage and the slots, which hold [`Codec::frame`].
    pub frame_pages: u32,
    /// Where the bits for diverse neighbours start in a slot.
    diverse_at: usize,
    /// Where the codes of the links start in a slot.
    pub links_at: usize,
    /// Where the code starts in a slot.
    pub code_at: usize,
    /// Bytes of a code.
    pub code_len: usize,
    m: usize,
}

impl Layout {
    /// The layout of an index with these options, whose codes are `codec`'s.
    pub fn new(options: &Options, codec: &impl Codec) -> Self {
        let m = usize::from(options.m);
        let diverse_at = NEIGHBOURS_AT + 2 * m * size_of::<Vertex>();
        let links_at = links_at(options.m);
        let links_len = codec.links_len(2 * m);
        let code_at = links_at + links_len;
        let code_len = codec.code_len();
        let slot_len = slot_len(options.m, links_len, code_len);
        let (slots_per_page, pages_per_slot) = per_page(slot_len);
        Layout {
            slot_len,
            slots_per_page,
            pages_per_slot,
            frame_pages: size_of_val(codec.frame()).div_ceil(BODY_LEN) as u32,
            diverse_at,
            links_at,
            code_at,
            code_len,
            m,
        }
    }

    /// The block of the first slot.
    pub fn first_block(&self) -> Block {
        1 + self.frame_pages
    }

    /// How many neighbours a vertex of this level can have.
    pub fn capacity(&self, level: u8) -> usize {
        if level == 0 { 2 * self.m } else { self.m }
    }

    /// How many rows fit into a posting.
    pub fn posting_capacity(&self) -> usize {
        (self.slot_len.min(BODY_LEN) - TIDS_AT) / 6
    }

    /// The (first) block of a vertex, and the byte where its slot starts.
    pub fn locate(&self, vertex: Vertex) -> Result<(Block, usize), Error> {
        let block = (vertex / self.slots_per_page)
            .checked_mul(self.pages_per_slot)
            .and_then(|b| b.checked_add(self.first_block() + self.pages_per_slot))
            .filter(|_| vertex != NONE)
            .ok_or_else(|| Error::corrupted(0, format!("vertex number {vertex}")))?
            - self.pages_per_slot;
        let slot = (vertex % self.slots_per_page) as usize;
        Ok((block, slot * self.slot_len))
    }

    /// The ranges of a slot's bytes that lie on each of its pages, with the
    /// byte of that page where the range starts. `at` is where the slot starts.
    pub fn pieces(&self, at: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
        let slot_len = self.slot_len;
        (0..self.pages_per_slot as usize).map(move |page| {
            let start = page * BODY_LEN;
            let end = (start + BODY_LEN - at).min(slot_len);
            (start..end, at)
        })
    }

    /// Bytes of what links hold beside their numbers.
    pub fn links_len(&self) -> usize {
        self.code_at - self.links_at
    }
}

/// A slot, or its first page, checked: counts are within their limits.
#[derive(Clone, Copy)]
pub struct Slot<'a> {
    bytes: &'a [u8],
    /// The fixed part.
    pub header: Header,
    /// What the slot is in use for.
    pub state: State,
}

impl<'a> Slot<'a> {
    /// Reads the slot at byte `at` of its first page.
    pub fn parse(layout: &Layout, block: Block, body: &'a Body, at: usize) -> Result<Self, Error> {
        let bytes = &body.0[at..(at + layout.slot_len).min(BODY_LEN)];
        let header: Header = *bytemuck::from_bytes(&bytes[..HEADER_LEN]);
        let wrong = |what: &str, value: usize| {
            let reason = format!("slot at byte {at} has {what} {value}");
            Err(Error::corrupted(block, reason))
        };
        let state = match header.state {
            0 => State::Free,
            1 => State::Live,
            2 => State::Dead,
            3 => State::Posting,
            other => return wrong("state", usize::from(other)),
        };
        if header.level > MAX_LEVEL {
            return wrong("level", usize::from(header.level));
        }
        if usize::from(header.heap_tids) > MAX_HEAP_TIDS {
            return wrong("heap TID count", usize::from(header.heap_tids));
        }
        let capacity = match state {
            State::Posting => layout.posting_capacity(),
            _ => layout.capacity(header.level),
        };
        if usize::from(header.neighbours) > capacity {
            return wrong("neighbour count", usize::from(header.neighbours));
        }
        Ok(Slot {
            bytes,
            header,
            state,
        })
    }

    /// The same slot with all of its bytes, those of the further pages too.
    pub fn with_all<'b>(&self, bytes: &'b [u8]) -> Slot<'b> {
        Slot {
            bytes,
            header: self.header,
            state: self.state,
        }
    }

    /// The bytes of the slot that were read.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether this slot, the one of the given number, holds a vertex of the
    /// graph: a dead posting is of another vertex than itself.
    pub fn is_vertex(&self, number: Vertex) -> bool {
        match self.state {
            State::Free | State::Posting => false,
            State::Live => true,
            State::Dead => self.header.level > 0 || self.header.base == number,
        }
    }

    /// The rows in this posting; none in a vertex.
    pub fn posting_tids(&self) -> impl ExactSizeIterator<Item = HeapTid> + use<'a> {
        let count = match self.state {
            State::Posting => usize::from(self.header.neighbours),
            _ => 0,
        };
        let (tids, _) = self.bytes[TIDS_AT..TIDS_AT + count * 6].as_chunks::<6>();
        tids.iter().map(HeapTid::from_bytes)
    }

    /// The rows of this vertex.
    pub fn heap_tids(&self) -> impl ExactSizeIterator<Item = HeapTid> + use<'a> {
        let count = usize::from(self.header.heap_tids);
        let (tids, _) = self.bytes[TIDS_AT..TIDS_AT + count * 6].as_chunks::<6>();
        tids.iter().map(HeapTid::from_bytes)
    }

    /// Whether the bytes for rows and neighbours that mean nothing now are
    /// zero, as they are written.
    pub fn is_tidy(&self, layout: &Layout) -> bool {
        let rows = TIDS_AT + usize::from(self.header.heap_tids) * 6;
        let neighbours = NEIGHBOURS_AT + usize::from(self.header.neighbours) * 4;
        let unused = match self.state {
            State::Posting => {
                let rows = TIDS_AT + usize::from(self.header.neighbours) * 6;
                [rows..self.bytes.len(), 0..0]
            }
            _ => [rows..NEIGHBOURS_AT, neighbours..layout.diverse_at],
        };
        let used = match self.state {
            State::Posting => 0,
            _ => usize::from(self.header.neighbours),
        };
        let bits = 8 * (layout.links_at - layout.diverse_at);
        let no_stray_bits = (used..bits).all(|i| !self.is_diverse(layout, i));
        self.header.reserved == 0
            && self.header.reserved_2 == 0
            && (self.state == State::Posting || no_stray_bits)
            && unused
                .into_iter()
                .all(|range| self.bytes[range].iter().all(|&byte| byte == 0))
    }

    /// The places for neighbours that are in use; a place may hold [`NONE`].
    pub fn places(&self) -> &'a [Vertex] {
        let count = match self.state {
            State::Posting => 0,
            _ => usize::from(self.header.neighbours),
        };
        bytemuck::cast_slice(&self.bytes[NEIGHBOURS_AT..NEIGHBOURS_AT + count * 4])
    }

    fn is_diverse(&self, layout: &Layout, position: usize) -> bool {
        self.bytes[layout.diverse_at + position / 8] >> (position % 8) & 1 != 0
    }

    /// [`Slot::places`], with what else is known of each neighbour.
    pub fn marked_places(&self, layout: &Layout) -> Vec<Place> {
        let numbers = self.places().iter().enumerate();
        numbers
            .map(|(position, &number)| Place {
                number,
                diverse: self.is_diverse(layout, position),
            })
            .collect()
    }

    /// The neighbours of this vertex.
    pub fn neighbours(&self) -> impl Iterator<Item = Vertex> + use<'a> {
        self.places().iter().copied().filter(|&n| n != NONE)
    }

    /// What the links hold beside their numbers, of a slot with all bytes.
    pub fn links(&self, layout: &Layout) -> &'a [u8] {
        &self.bytes[layout.links_at..layout.code_at]
    }

    /// The code, of a slot with all bytes.
    pub fn code(&self, layout: &Layout) -> &'a [u8] {
        &self.bytes[layout.code_at..layout.code_at + layout.code_len]
    }
}

/// Changes the bytes of a slot, or of its first page.
pub struct SlotMut<'a> {
    bytes: &'a mut [u8],
    diverse: Range<usize>,
}

impl<'a> SlotMut<'a> {
    /// The slot at byte `at` of its first page.
    pub fn new(layout: &Layout, body: &'a mut Body, at: usize) -> Self {
        let end = (at + layout.slot_len).min(BODY_LEN);
        Self::of_bytes(layout, &mut body.0[at..end])
    }

    /// The slot with these bytes.
    pub fn of_bytes(layout: &Layout, bytes: &'a mut [u8]) -> Self {
        SlotMut {
            bytes,
            diverse: layout.diverse_at..layout.links_at,
        }
    }

    fn header(&mut self) -> &mut Header {
        bytemuck::from_bytes_mut(&mut self.bytes[..HEADER_LEN])
    }

    /// Makes this a live vertex without rows or neighbours.
    pub fn init(&mut self, level: u8, below: Vertex, base: Vertex) {
        *self.header() = Header {
            state: 1,
            level,
            heap_tids: 0,
            reserved: 0,
            neighbours: 0,
            reserved_2: 0,
            below,
            base,
        };
    }

    /// Makes this a posting without rows.
    pub fn init_posting(&mut self, next: Vertex, base: Vertex) {
        self.init(0, next, base);
        self.header().state = 3;
    }

    /// Marks a vertex or a posting whose rows are gone.
    pub fn set_dead(&mut self) {
        self.header().state = 2;
    }

    /// Changes what comes below or next.
    pub fn set_below(&mut self, below: Vertex) {
        self.header().below = below;
    }

    /// Writes the rows of a posting; at most [`Layout::posting_capacity`].
    pub fn set_posting_tids(&mut self, tids: &[HeapTid]) {
        self.header().neighbours = tids.len() as u16;
        self.bytes[TIDS_AT..].fill(0);
        let (stored, _) = self.bytes[TIDS_AT..].as_chunks_mut::<6>();
        for (stored, tid) in stored.iter_mut().zip(tids) {
            *stored = tid.to_bytes();
        }
    }

    /// Puts the slot into the chain of free slots, before `next`.
    pub fn set_free(&mut self, next: Vertex) {
        let header = self.header();
        *header = Header::zeroed();
        header.below = next;
        header.base = NONE;
        self.set_heap_tids(&[]);
        self.set_places(&[]);
    }

    /// Writes the rows; at most [`MAX_HEAP_TIDS`].
    pub fn set_heap_tids(&mut self, tids: &[HeapTid]) {
        debug_assert!(tids.len() <= MAX_HEAP_TIDS);
        self.header().heap_tids = tids.len() as u8;
        let (stored, _) = self.bytes[TIDS_AT..NEIGHBOURS_AT].as_chunks_mut::<6>();
        stored.fill([0; 6]);
        for (stored, tid) in stored.iter_mut().zip(tids) {
            *stored = tid.to_bytes();
        }
    }

    /// Writes the places for neighbours, at most the capacity of the vertex's
    /// level.
    pub fn set_places(&mut self, places: &[Place]) {
        self.header().neighbours = places.len() as u16;
        let diverse = self.diverse.clone();
        self.bytes[diverse.clone()].fill(0);
        let stored: &mut [Vertex] =
            bytemuck::cast_slice_mut(&mut self.bytes[NEIGHBOURS_AT..diverse.start]);
        stored.fill(0);
        for (stored, place) in stored.iter_mut().zip(places) {
            *stored = place.number;
        }
        for (position, place) in places.iter().enumerate() {
            self.bytes[diverse.start + position / 8] |= u8::from(place.diverse) << (position % 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hnsw::codec::AnyCodec;

    fn layout(dimension: u32, storage: Storage) -> Layout {
        let options = Options {
            dimension,
            m: 16,
            ef_construction: 64,
            metric: Metric::Cosine,
            storage,
            seed: 0,
            components: 0,
        };
        let codec = AnyCodec::new(&options).expect("cosine has both storages");
        Layout::new(&options, &codec)
    }

    /// A few bytes more would double the size of such an index.
    #[test]
    fn slots_of_common_dimensions_fill_their_pages() {
        let fused = |dimension| layout(dimension, Storage::Fused);
        assert_eq!(fused(384).slots_per_page, 3);
        assert_eq!(fused(768).slots_per_page, 2);
        assert_eq!(fused(1024).slots_per_page, 1);
        assert_eq!(fused(1536).pages_per_slot, 1);
        assert_eq!(fused(3072).pages_per_slot, 2);
        assert_eq!(layout(384, Storage::Plain).slots_per_page, 4);
        assert_eq!(layout(768, Storage::Plain).slots_per_page, 2);
    }
}
