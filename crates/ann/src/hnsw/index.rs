//! An open index: reading and writing single vertices on pages.

use super::beam::{Graph, Visit};
use super::codec::{Code, Codec};
use super::layout::{HeapTid, Layout, Meta, NONE, Options, Slot, SlotMut, State, Vertex};
use super::neighbours::select_diverse;
use crate::Error;
use crate::page::{Body, PageStore};

/// The metapage's block.
pub const METAPAGE: u32 = 0;

/// An index on the pages of a store.
pub struct Index<'s, S, C> {
    pub(super) store: &'s S,
    pub(super) codec: C,
    pub(super) layout: Layout,
    pub(super) options: Options,
}

/// Writes the metapage of an empty index; it becomes block 0.
pub fn create<S: PageStore>(store: &S, options: &Options, codec: &impl Codec) -> Result<(), Error> {
    let meta = Meta::new(options, &Layout::new(options, codec));
    let mut page = store.extend()?;
    store.commit(&mut [&mut page], &mut |bodies| meta.write(bodies[0]));
    Ok(())
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

    /// Looks at a vertex's slot under a share lock.
    pub(super) fn with_slot<R>(
        &self,
        vertex: Vertex,
        look: impl FnOnce(Slot<'_>) -> R,
    ) -> Result<R, Error> {
        let (block, at) = self.layout.locate(vertex)?;
        let page = self.store.read(block)?;
        Ok(look(Slot::parse(&self.layout, block, &page, at)?))
    }

    /// Changes a vertex's slot (not its code) in one record, if `decide` says
    /// so after a look at it under the exclusive lock.
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
        let copied = self.read_vertex(vertex, level, |_, pieces| {
            pieces(&mut |range, bytes| code[range].copy_from_slice(bytes))
        })?;
        Ok(copied.is_some())
    }

    /// Looks at a vertex and the pieces of its code, or returns `None` if the
    /// slot holds no vertex of `level`.
    ///
    /// The first page stays locked while the other pages of a large slot are
    /// read, so the vertex cannot be replaced half-way.
    fn read_vertex<R>(
        &self,
        vertex: Vertex,
        level: u8,
        look: impl FnOnce(
            &Slot<'_>,
            &mut dyn FnMut(&mut dyn FnMut(std::ops::Range<usize>, &[u8])) -> Result<(), Error>,
        ) -> Result<R, Error>,
    ) -> Result<Option<R>, Error> {
        let (block, at) = self.layout.locate(vertex)?;
        let page = self.store.read(block)?;
        let slot = Slot::parse(&self.layout, block, &page, at)?;
        if slot.state == State::Free || slot.header.level != level {
            return Ok(None);
        }
        look(&slot, &mut |piece| {
            for (i, (range, from)) in self.layout.code_pieces(at).enumerate() {
                let bytes = from..from + range.len();
                if i == 0 {
                    piece(range, &page.0[bytes]);
                } else {
                    piece(range, &self.store.read(block + i as u32)?.0[bytes]);
                }
            }
            Ok(())
        })
        .map(Some)
    }

    /// Hands out a slot and writes a vertex into it, in one record; the pages
    /// of a large slot that hold only code are written before, while the slot
    /// still counts as free. The first vertex of an empty index becomes its
    /// entry point in the same record.
    pub(super) fn write_vertex(&self, vertex: &NewVertex<'_>) -> Result<Vertex, Error> {
        let mut meta_page = self.store.lock(METAPAGE)?;
        let mut meta = Meta::parse(&meta_page)?;
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
        if meta.entry == NONE && vertex.level == 0 {
            meta.entry = number;
            meta.entry_level = 0;
        }
        for (i, (range, from)) in self.layout.code_pieces(at).enumerate().skip(1) {
            let mut page = self.store.lock(block + i as u32)?;
            self.store.commit(&mut [&mut page], &mut |bodies| {
                bodies[0].0[from..from + range.len()].copy_from_slice(&vertex.code[range.clone()]);
            });
        }
        self.store
            .commit(&mut [&mut meta_page, &mut first], &mut |bodies| {
                meta.write(bodies[0]);
                vertex.write(&self.layout, number, bodies[1], at);
            });
        Ok(number)
    }

    /// Of the candidates (nearest first, of one level), at most `limit`
    /// diverse ones.
    pub(super) fn select(
        &self,
        candidates: &[(f32, Vertex)],
        level: u8,
        limit: usize,
    ) -> Result<Vec<Vertex>, Error> {
        // Codes are compared many times each: copy them off their pages once.
        let mut kept = Vec::with_capacity(candidates.len());
        let mut codes = Vec::with_capacity(candidates.len());
        for &(distance, vertex) in candidates {
            let mut code = Code::zeroed(self.layout.code_len);
            if self.load_code(vertex, level, code.bytes_mut())? {
                kept.push((distance, vertex));
                codes.push(code);
            }
        }
        let distances: Vec<f32> = kept.iter().map(|(distance, _)| *distance).collect();
        let (chosen, _) = select_diverse(&distances, limit, |i, j| {
            self.codec.distance(codes[i].bytes(), codes[j].bytes())
        });
        Ok(chosen.into_iter().map(|i| kept[i].1).collect())
    }

    /// The distance of a vertex to a code, if it is a live vertex of `level`.
    pub(super) fn live_distance(
        &self,
        vertex: Vertex,
        level: u8,
        code: &[u8],
    ) -> Result<Option<f32>, Error> {
        Ok(match self.visit(vertex, level, code, None)? {
            Visit::Live(distance) => Some(distance),
            Visit::Absent | Visit::Passage(_) => None,
        })
    }
}

impl<S: PageStore, C: Codec> Graph for Index<'_, S, C> {
    fn visit(
        &self,
        vertex: Vertex,
        level: u8,
        query: &[u8],
        tids: Option<&mut Vec<HeapTid>>,
    ) -> Result<Visit, Error> {
        let visit = self.read_vertex(vertex, level, |slot, pieces| {
            let mut sum = 0.0;
            pieces(&mut |range, bytes| sum += self.codec.partial(&query[range], bytes))?;
            let distance = self.codec.key(sum);
            if let Some(tids) = tids {
                tids.extend(slot.heap_tids());
            }
            Ok(match slot.state {
                State::Live => Visit::Live(distance),
                State::Dead | State::Free => Visit::Passage(distance),
            })
        })?;
        Ok(visit.unwrap_or(Visit::Absent))
    }

    fn neighbours(&self, vertex: Vertex, level: u8, out: &mut Vec<Vertex>) -> Result<(), Error> {
        self.with_slot(vertex, |slot| {
            if slot.state != State::Free && slot.header.level == level {
                out.extend_from_slice(slot.neighbours());
            }
        })
    }

    fn below(&self, vertex: Vertex, level: u8) -> Result<Vertex, Error> {
        self.with_slot(vertex, |slot| {
            if slot.state != State::Free && slot.header.level == level {
                slot.header.below
            } else {
                NONE
            }
        })
    }

    fn prefetch(&self, _vertex: Vertex) {}
}

/// A vertex to be written.
pub(super) struct NewVertex<'a> {
    pub level: u8,
    /// `NONE` on level 0.
    pub below: Vertex,
    /// `None` on level 0: the vertex itself.
    pub base: Option<Vertex>,
    pub heap_tids: &'a [HeapTid],
    pub neighbours: &'a [Vertex],
    pub code: &'a [u8],
}

impl NewVertex<'_> {
    /// Writes the vertex into the slot at byte `at` of its first page.
    pub fn write(&self, layout: &Layout, number: Vertex, body: &mut Body, at: usize) {
        let mut slot = SlotMut::new(layout, body, at);
        slot.init(self.level, self.below, self.base.unwrap_or(number));
        slot.set_heap_tids(self.heap_tids);
        slot.set_neighbours(self.neighbours);
        if let Some((range, from)) = layout.code_pieces(at).next() {
            body.0[from..from + range.len()].copy_from_slice(&self.code[range]);
        }
    }
}
