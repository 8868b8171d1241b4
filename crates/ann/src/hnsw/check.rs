//! Proving that an index is a valid graph.
//!
//! The invariants, each with the error that breaks it:
//!
//! * every slot parses, and its level, `below` and `base` form one chain per
//!   element down to level 0;
//! * a live vertex on level 0 has rows or postings, an upper one has neither;
//! * the postings of a vertex are a chain of slots of its own;
//! * the vertices of an element have the same code;
//! * what is not in use is zero;
//! * neighbours are other vertices of the same level that are in use, without
//!   repetition; none is a free slot;
//! * the entry point is in use, on the level that the metapage says;
//! * the chain of free slots holds every free slot once, and nothing else;
//! * no row is in two vertices.
//!
//! Not an error, but counted: vertices that no path from the entry point
//! reaches (the heuristic may cut the last link to a vertex, and a crash in
//! mid-insert leaves one), and what waits for a vacuum to free it: marked
//! vertices, and postings that are in no chain (an insert or a vacuum was
//! interrupted).

use std::collections::HashSet;

use memory::vec::{filled, push, reserve, reserve_in_set};
use rustc_hash::FxHashSet;

use super::codec::{Code, Codec};
use super::index::Index;
use super::layout::{HeapTid, Meta, NONE, State, Vertex};
use crate::Error;
use crate::page::PageStore;

/// What memory is asked for.
const CHECK: &str = "the check of an index";

/// At most so many problems are listed.
const MAX_PROBLEMS: usize = 100;

/// What [`Index::check`] found.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// What is wrong; empty for a valid index.
    pub problems: Vec<Error>,
    /// Live vertices on level 0.
    pub elements: u64,
    /// Rows in them.
    pub heap_tids: u64,
    /// Levels of the graph; 0 for an empty index.
    pub levels: u32,
    /// Slots in the chain of free slots.
    pub free_slots: u64,
    /// Vertices and postings that wait for a vacuum to unlink and free them.
    pub marked: u64,
    /// Live vertices on level 0 that the entry point does not lead to.
    pub unreachable: u64,
}

impl Report {
    fn add(&mut self, problem: Error) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }
}

/// What the checker remembers of a slot.
#[derive(Clone, Copy)]
struct Seen {
    state: State,
    /// See [`super::layout::Slot::is_vertex`].
    is_vertex: bool,
    level: u8,
    below: Vertex,
    base: Vertex,
}

impl<S: PageStore, C: Codec> Index<'_, S, C> {
    /// Checks the whole index. `on_row` is called with every row and the code
    /// that the index holds for it.
    ///
    /// Nobody may change the index meanwhile.
    pub fn check(&self, on_row: &mut dyn FnMut(HeapTid, &[u8])) -> Result<Report, Error> {
        let meta = self.meta()?;
        let mut report = Report {
            levels: if meta.entry == NONE {
                0
            } else {
                meta.entry_level + 1
            },
            ..Report::default()
        };
        let expected = u64::from(meta.vertex_count.div_ceil(self.layout.slots_per_page))
            * u64::from(self.layout.pages_per_slot)
            + u64::from(self.layout.first_block());
        if expected > u64::from(self.store.block_count()) {
            report.add(Error::corrupted(
                0,
                format!(
                    "{} vertices need {expected} pages, the index has {}",
                    meta.vertex_count,
                    self.store.block_count()
                ),
            ));
            return Ok(report);
        }
        let seen = self.check_slots(&meta, &mut report, on_row)?;
        let Some(seen) = seen else {
            return Ok(report);
        };
        self.check_chains(&seen, &mut report)?;
        self.check_postings(&seen, &mut report)?;
        self.check_codes(&seen, &mut report)?;
        self.check_free_chain(&meta, &seen, &mut report)?;
        self.check_links(&seen, &mut report)?;
        self.check_entry(&meta, &seen, &mut report)?;
        if report.problems.is_empty() {
            self.count_unreachable(&meta, &seen, &mut report)?;
        }
        Ok(report)
    }

    /// Reads every slot; `None` if some cannot be read.
    fn check_slots(
        &self,
        meta: &Meta,
        report: &mut Report,
        on_row: &mut dyn FnMut(HeapTid, &[u8]),
    ) -> Result<Option<Vec<Seen>>, Error> {
        let mut seen = Vec::new();
        reserve(&mut seen, meta.vertex_count as usize, CHECK)?;
        let mut rows: FxHashSet<HeapTid> = HashSet::default();
        let mut code = Code::zeroed(self.layout.code_len);
        let mut readable = true;
        for (block, vertices) in self.vertex_pages(meta.vertex_count) {
            self.store.pause();
            for vertex in vertices {
                let looked = self.with_slot(vertex, |slot| {
                    let tids: Vec<HeapTid> = slot.heap_tids().collect();
                    let header = slot.header;
                    (
                        Seen {
                            state: slot.state,
                            is_vertex: slot.is_vertex(vertex),
                            level: header.level,
                            below: header.below,
                            base: header.base,
                        },
                        tids,
                        slot.is_tidy(&self.layout),
                    )
                });
                let (slot, mut tids, tidy) = match looked {
                    Ok(looked) => looked,
                    Err(problem) => {
                        report.add(problem);
                        readable = false;
                        continue;
                    }
                };
                push(&mut seen, slot, CHECK)?;
                if !tidy {
                    let reason = format!("slot {vertex} has content where it should have none");
                    report.add(Error::corrupted(block, reason));
                }
                let bottom = slot.state == State::Live && slot.level == 0;
                let may_be_empty = !bottom || slot.below != NONE;
                if !tids.is_empty() && !bottom || tids.is_empty() && !may_be_empty {
                    report.add(Error::corrupted(
                        block,
                        format!(
                            "vertex {vertex} ({:?}, level {}) has {} rows",
                            slot.state,
                            slot.level,
                            tids.len()
                        ),
                    ));
                }
                match slot.state {
                    State::Free | State::Posting => {}
                    State::Dead => report.marked += 1,
                    State::Live if slot.level > 0 => {}
                    State::Live => {
                        report.elements += 1;
                        if let Err(problem) = self.posting_tids(vertex, slot.below, &mut tids) {
                            report.add(problem);
                        }
                        report.heap_tids += tids.len() as u64;
                        self.load_code(vertex, 0, code.bytes_mut())?;
                        reserve_in_set(&mut rows, tids.len(), CHECK)?;
                        for tid in tids {
                            if !rows.insert(tid) {
                                let reason = format!("row {tid} is in two vertices");
                                report.add(Error::corrupted(block, reason));
                            }
                            on_row(tid, code.bytes());
                        }
                    }
                }
            }
        }
        Ok(readable.then_some(seen))
    }

    /// `below` and `base` of every vertex in use.
    fn check_chains(&self, seen: &[Seen], report: &mut Report) -> Result<(), Error> {
        for (vertex, slot) in (0..).zip(seen) {
            if !slot.is_vertex {
                continue;
            }
            let good = if slot.level == 0 {
                slot.base == vertex && (slot.state == State::Live || slot.below == NONE)
            } else {
                let below = seen.get(slot.below as usize);
                let base = seen.get(slot.base as usize);
                below.is_some_and(|b| {
                    b.is_vertex && b.level == slot.level - 1 && b.base == slot.base
                }) && base.is_some_and(|b| b.is_vertex && b.level == 0)
            };
            if !good {
                report.add(Error::corrupted(
                    self.layout.locate(vertex)?.0,
                    format!(
                        "vertex {vertex} of level {} stands on vertex {} and base {}",
                        slot.level, slot.below, slot.base
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The postings of every element, and those of none.
    fn check_postings(&self, seen: &[Seen], report: &mut Report) -> Result<(), Error> {
        let is_posting = |slot: &Seen| !slot.is_vertex && slot.state != State::Free;
        let mut linked = filled(false, seen.len(), CHECK)?;
        let elements = (0..)
            .zip(seen)
            .filter(|(_, slot)| slot.is_vertex && slot.level == 0);
        for (vertex, slot) in elements {
            let mut next = slot.below;
            while next != NONE {
                let posting = seen.get(next as usize);
                let Some(posting) = posting.filter(|p| is_posting(p) && p.base == vertex) else {
                    let reason = format!("vertex {vertex} has slot {next} for a posting");
                    report.add(Error::corrupted(self.layout.locate(vertex)?.0, reason));
                    break;
                };
                if std::mem::replace(&mut linked[next as usize], true) {
                    let reason = format!("vertex {vertex} has the posting {next} twice");
                    report.add(Error::corrupted(self.layout.locate(vertex)?.0, reason));
                    break;
                }
                next = posting.below;
            }
        }
        let unlinked = |(slot, linked): &(&Seen, bool)| slot.state == State::Posting && !linked;
        report.marked += seen.iter().zip(linked).filter(unlinked).count() as u64;
        Ok(())
    }

    /// The codes of the vertices above level 0.
    fn check_codes(&self, seen: &[Seen], report: &mut Report) -> Result<(), Error> {
        let mut code = Code::zeroed(self.layout.code_len);
        let mut base_code = Code::zeroed(self.layout.code_len);
        for (vertex, slot) in (0..).zip(seen) {
            if !slot.is_vertex || slot.level == 0 {
                continue;
            }
            self.store.pause();
            let loaded = self.load_code(vertex, slot.level, code.bytes_mut())?
                && self.load_code(slot.base, 0, base_code.bytes_mut())?;
            if loaded && code != base_code {
                report.add(Error::corrupted(
                    self.layout.locate(vertex)?.0,
                    format!(
                        "vertex {vertex} has another code than its base {}",
                        slot.base
                    ),
                ));
            }
        }
        Ok(())
    }

    fn check_free_chain(
        &self,
        meta: &Meta,
        seen: &[Seen],
        report: &mut Report,
    ) -> Result<(), Error> {
        let free = seen.iter().filter(|s| s.state == State::Free).count() as u64;
        let mut chain = FxHashSet::default();
        let mut next = meta.free_head;
        while next != NONE {
            let Some(slot) = seen.get(next as usize).filter(|s| s.state == State::Free) else {
                let reason = format!("slot {next} in the chain of free slots is not free");
                report.add(Error::corrupted(0, reason));
                break;
            };
            reserve_in_set(&mut chain, 1, CHECK)?;
            if !chain.insert(next) {
                let reason = format!("slot {next} is in the chain of free slots twice");
                report.add(Error::corrupted(0, reason));
                break;
            }
            next = slot.below;
        }
        report.free_slots = chain.len() as u64;
        if report.free_slots != free || u64::from(meta.free_count) != free {
            report.add(Error::corrupted(
                0,
                format!(
                    "{free} slots are free, {} are in the chain of free slots, the metapage counts {}",
                    report.free_slots, meta.free_count
                ),
            ));
        }
        Ok(())
    }

    fn check_links(&self, seen: &[Seen], report: &mut Report) -> Result<(), Error> {
        for (vertex, slot) in (0..).zip(seen) {
            if slot.state != State::Live {
                continue;
            }
            self.store.pause();
            let mut links: Vec<Vertex> =
                self.with_slot(vertex, |slot| slot.neighbours().collect())?;
            links.sort_unstable();
            let repeated = links.windows(2).any(|pair| pair[0] == pair[1]);
            let dangling = links.iter().find(|&&link| {
                link == vertex
                    || !seen
                        .get(link as usize)
                        .is_some_and(|to| to.is_vertex && to.level == slot.level)
            });
            let block = self.layout.locate(vertex)?.0;
            if repeated {
                let reason = format!("vertex {vertex} has a neighbour twice");
                report.add(Error::corrupted(block, reason));
            }
            if let Some(link) = dangling {
                let reason = format!("vertex {vertex} has the dangling neighbour {link}");
                report.add(Error::corrupted(block, reason));
            } else if self.is_fused() {
                self.check_link_codes(vertex, slot.level, report)?;
            }
        }
        Ok(())
    }

    /// What the links of a vertex hold of the neighbours' codes.
    fn check_link_codes(
        &self,
        vertex: Vertex,
        level: u8,
        report: &mut Report,
    ) -> Result<(), Error> {
        let mut own = Code::zeroed(self.layout.code_len);
        let mut links = Code::zeroed(self.layout.links_len());
        let places = self.with_vertex(vertex, level, |slot| {
            own.bytes_mut().copy_from_slice(slot.code(&self.layout));
            links.bytes_mut().copy_from_slice(slot.links(&self.layout));
            slot.places().to_vec()
        })?;
        let places = places.unwrap_or_default();
        let mut code = Code::zeroed(self.layout.code_len);
        for (position, &neighbour) in places.iter().enumerate() {
            if neighbour == NONE || !self.load_code(neighbour, level, code.bytes_mut())? {
                continue;
            }
            let stored = (position, code.bytes());
            if !self.codec.link_matches(own.bytes(), stored, links.bytes()) {
                let reason =
                    format!("vertex {vertex} has another code of its neighbour {neighbour}");
                let block = self.layout.locate(vertex)?.0;
                report.add(Error::corrupted(block, reason));
            }
        }
        Ok(())
    }

    fn check_entry(&self, meta: &Meta, seen: &[Seen], report: &mut Report) -> Result<(), Error> {
        if meta.entry == NONE {
            if report.elements > 0 {
                let reason = format!("no entry point for {} elements", report.elements);
                report.add(Error::corrupted(0, reason));
            }
            return Ok(());
        }
        let good = seen
            .get(meta.entry as usize)
            .is_some_and(|e| e.is_vertex && u32::from(e.level) == meta.entry_level);
        if !good {
            let reason = format!(
                "entry point {} is no vertex of level {}",
                meta.entry, meta.entry_level
            );
            report.add(Error::corrupted(0, reason));
        }
        Ok(())
    }

    /// Walks level 0 from where searches get to it.
    fn count_unreachable(
        &self,
        meta: &Meta,
        seen: &[Seen],
        report: &mut Report,
    ) -> Result<(), Error> {
        let mut reached = filled(false, seen.len(), CHECK)?;
        let mut stack = Vec::new();
        if let Some(entry) = seen.get(meta.entry as usize) {
            reached[entry.base as usize] = true;
            stack.push(entry.base);
        }
        while let Some(vertex) = stack.pop() {
            self.store.pause();
            let links: Vec<Vertex> = self.with_slot(vertex, |slot| slot.neighbours().collect())?;
            for link in links {
                if !std::mem::replace(&mut reached[link as usize], true) {
                    push(&mut stack, link, CHECK)?;
                }
            }
        }
        report.unreachable = seen
            .iter()
            .zip(&reached)
            .filter(|(slot, reached)| slot.state == State::Live && slot.level == 0 && !**reached)
            .count() as u64;
        Ok(())
    }
}
