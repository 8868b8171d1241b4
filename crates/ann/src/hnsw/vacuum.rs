//! Removing rows: mark, repair, free.
//!
//! 1. [`Index::mark`] takes the dead rows out of every vertex and posting, and marks the
//!    elements that have none left. Marked vertices stay in the graph as a way
//!    through; inserts no longer link to them.
//! 2. The caller waits until every insert that began before the end of (1) has
//!    ended (the *barrier*): from then on nobody makes a link to a marked one.
//! 3. [`Index::repair`] gives every vertex with a marked neighbour others in its
//!    place, out of the marked one's own neighbours. Singh et al.,
//!    "FreshDiskANN", 2021 (arXiv:2105.09613), section 4.2, and Xu et al.,
//!    "In-Place Updates of a Graph Index for Streaming Approximate Nearest
//!    Neighbor Search", 2025 (arXiv:2502.13826) do so: work bounded by the
//!    neighbours of the dead. A vertex that loses many of its neighbours
//!    ([`searches`]) searches the graph instead.
//! 4. [`Index::free`] puts the marked slots into the chain of free slots.
//!
//! A crash between any two records leaves a valid index in which some vertices
//! are marked; the next vacuum finds and finishes them.

use std::rc::Rc;

use memory::vec::{push, reserve_in_map};
use rustc_hash::FxHashMap;

use super::beam::{Graph, Neighbours};
use super::codec::{Code, Codec};
use super::index::{Index, METAPAGE, fused_width};
use super::layout::{HeapTid, Meta, NONE, Slot, SlotMut, State, Vertex};
use super::links::{Neighbourhood, Newcomer};
use super::sets::{VertexBits, VertexSet};
use crate::Error;
use crate::page::{Block, PageStore};

/// What memory is asked for.
const VACUUM: &str = "a vacuum";

/// What a pass over the pages finds, beside the dead.
#[derive(Default)]
struct Found {
    /// Vertices above level 0: (number, level, base).
    upper: Vec<(Vertex, u8, Vertex)>,
    /// Elements with postings.
    with_postings: Vec<Vertex>,
    /// Postings.
    postings: Vec<Vertex>,
}

/// What becomes of a slot.
struct Change {
    at: usize,
    kept: Vec<HeapTid>,
    is_posting: bool,
    dies: bool,
}

/// A repair under way.
struct Repair<'m, Q> {
    marked: &'m Marked,
    /// For each vertex that is still to be repaired, how many of its dead links gave
    /// way to new ones already.
    displaced: FxHashMap<Vertex, u32>,
    ready: Ready<Q>,
}

/// A code, and the query for what is near to it.
type Prepared<Q> = Rc<(Code, Q)>;

/// Live vertices that were candidates a while ago, ready to be measured. They are
/// soon candidates again: pages are repaired in order, and hold near vertices.
struct Ready<Q>(Vec<Option<(Vertex, u8, Prepared<Q>)>>);

impl<Q> Ready<Q> {
    /// As many as sixteen megabytes have room for.
    fn of_codes(code_len: usize) -> Self {
        // A query has floats and a table besides.
        let places = (16 << 20) / (10 * code_len.max(1));
        Ready((0..places.clamp(16, 4096)).map(|_| None).collect())
    }

    fn place(&mut self, vertex: Vertex) -> &mut Option<(Vertex, u8, Prepared<Q>)> {
        let places = self.0.len();
        &mut self.0[vertex as usize % places]
    }
}

/// What [`Index::mark`] found.
#[derive(Default)]
pub struct Marked {
    dead: VertexBits,
    /// Those above level 0.
    dead_upper: Vec<(u8, Vertex)>,
    /// The highest live vertex, and its level.
    best: Option<(u8, Vertex)>,
    /// Rows removed.
    pub removed: u64,
    /// Rows that stay.
    pub remaining: u64,
}

impl Marked {
    /// Whether there is anything to repair and free.
    pub fn any(&self) -> bool {
        !self.dead.is_empty()
    }
}

/// Whether a vertex that loses `lost` of its `neighbours` searches the graph for
/// others, instead of those behind the dead.
///
/// Behind most neighbours, most are dead as well. A search of fused vertices
/// is wide enough to do without; one of plain vertices has exactly `ef`, and
/// what local repairs lose adds up, most of all where rows that were replaced
/// are far from the others under inner product.
fn searches(is_fused: bool, lost: usize, neighbours: usize) -> bool {
    let share = if is_fused { 2 } else { 8 };
    share * lost > neighbours
}

fn newcomer<Q>(number: Vertex, prepared: &(Code, Q)) -> Newcomer<'_, Q> {
    Newcomer {
        number,
        code: &prepared.0,
        query: &prepared.1,
    }
}

impl<S: PageStore, C: Codec> Index<'_, S, C> {
    /// Removes the rows for which `is_dead` says so, and marks the elements
    /// that have no rows left.
    ///
    /// The inserts of these rows must have ended before this call. (Those that
    /// PostgreSQL's vacuum names were collected from the table before it.)
    pub fn mark(&self, is_dead: &mut dyn FnMut(HeapTid) -> bool) -> Result<Marked, Error> {
        let mut marked = Marked::default();
        let mut found = Found::default();
        for (block, vertices) in self.vertex_pages(self.meta()?.vertex_count) {
            self.store.pause();
            self.mark_page(block, vertices, is_dead, &mut marked, &mut found)?;
        }
        self.mark_postings(&found, &mut marked)?;
        for &(vertex, level, base) in &found.upper {
            self.store.pause();
            if marked.dead.contains(base) {
                let still = |slot: Slot<'_>| slot.state == State::Live && slot.header.base == base;
                self.change_slot(vertex, still, |slot| slot.set_dead())?;
                marked.dead.insert(vertex)?;
                push(&mut marked.dead_upper, (level, vertex), VACUUM)?;
            } else if marked.best.is_none_or(|(best, _)| level > best) {
                marked.best = Some((level, vertex));
            }
        }
        Ok(marked)
    }

    /// Unlinks the postings without rows, and marks the elements that have
    /// postings and no rows left.
    fn mark_postings(&self, found: &Found, marked: &mut Marked) -> Result<(), Error> {
        let mut linked = VertexBits::default();
        for &base in &found.with_postings {
            self.store.pause();
            if self.trim_postings(base, &mut marked.dead, &mut linked)? {
                marked.dead.insert(base)?;
            } else if marked.best.is_none() {
                marked.best = Some((0, base));
            }
        }
        for &posting in &found.postings {
            if linked.contains(posting) || marked.dead.contains(posting) {
                continue;
            }
            // An insert that has not linked it yet has a row in it. One that
            // crashed there had a row that is gone.
            self.store.pause();
            let is_dead = self.mark_posting_dead(posting)?
                || self.with_slot(posting, |slot| slot.state == State::Dead)?;
            if is_dead {
                marked.dead.insert(posting)?;
            }
        }
        Ok(())
    }

    fn mark_page(
        &self,
        block: Block,
        vertices: std::ops::Range<Vertex>,
        is_dead: &mut dyn FnMut(HeapTid) -> bool,
        marked: &mut Marked,
        found: &mut Found,
    ) -> Result<(), Error> {
        let mut any_dead = false;
        {
            let page = self.store.read(block)?;
            for vertex in vertices.clone() {
                let slot = Slot::parse(&self.layout, block, &page, self.layout.locate(vertex)?.1)?;
                match slot.state {
                    State::Free => {}
                    State::Dead if !slot.is_vertex(vertex) => {
                        push(&mut found.postings, vertex, VACUUM)?;
                    }
                    State::Posting => {
                        let dead = slot.posting_tids().filter(|&tid| is_dead(tid)).count();
                        any_dead |= dead > 0;
                        marked.removed += dead as u64;
                        marked.remaining += (slot.posting_tids().len() - dead) as u64;
                        push(&mut found.postings, vertex, VACUUM)?;
                    }
                    State::Dead => {
                        // An earlier vacuum did not get to its end.
                        marked.dead.insert(vertex)?;
                        if slot.header.level > 0 {
                            push(&mut marked.dead_upper, (slot.header.level, vertex), VACUUM)?;
                        }
                    }
                    State::Live if slot.header.level > 0 => {
                        let upper = (vertex, slot.header.level, slot.header.base);
                        push(&mut found.upper, upper, VACUUM)?;
                    }
                    State::Live => {
                        let dead = slot.heap_tids().filter(|&tid| is_dead(tid)).count();
                        any_dead |= dead > 0;
                        marked.removed += dead as u64;
                        marked.remaining += (slot.heap_tids().len() - dead) as u64;
                        if slot.header.below != NONE {
                            push(&mut found.with_postings, vertex, VACUUM)?;
                        } else if dead < slot.heap_tids().len() && marked.best.is_none() {
                            marked.best = Some((0, vertex));
                        }
                    }
                }
            }
        }
        if !any_dead {
            return Ok(());
        }

        // Rows that an insert added since then are not dead, so asking again
        // under the exclusive lock changes nothing but what has to change.
        let mut page = self.store.lock(block)?;
        let mut changes: Vec<Change> = Vec::new();
        for vertex in vertices {
            let at = self.layout.locate(vertex)?.1;
            let slot = Slot::parse(&self.layout, block, &page, at)?;
            let is_posting = slot.state == State::Posting;
            let rows: Vec<HeapTid> = match slot.state {
                State::Posting => slot.posting_tids().collect(),
                State::Live if slot.header.level == 0 => slot.heap_tids().collect(),
                _ => continue,
            };
            let kept: Vec<HeapTid> = rows.iter().copied().filter(|&tid| !is_dead(tid)).collect();
            if kept.len() < rows.len() {
                let dies = kept.is_empty() && !is_posting && slot.header.below == NONE;
                if dies {
                    marked.dead.insert(vertex)?;
                }
                changes.push(Change {
                    at,
                    kept,
                    is_posting,
                    dies,
                });
            }
        }
        self.store.commit(&mut [&mut page], &mut |bodies| {
            for change in &changes {
                let mut slot = SlotMut::new(&self.layout, bodies[0], change.at);
                if change.is_posting {
                    slot.set_posting_tids(&change.kept);
                } else {
                    slot.set_heap_tids(&change.kept);
                }
                if change.dies {
                    slot.set_dead();
                }
            }
        });
        Ok(())
    }

    /// Unlinks the marked vertices: replaces the entry point if it is one, and
    /// gives every vertex that has marked neighbours new ones. Call it after
    /// the barrier.
    pub fn repair(&self, marked: &Marked) -> Result<(), Error> {
        if !marked.any() {
            return Ok(());
        }
        self.replace_entry(marked)?;
        let mut repair = Repair {
            marked,
            displaced: FxHashMap::default(),
            ready: Ready::of_codes(self.layout.code_len),
        };
        for (block, vertices) in self.vertex_pages(self.meta()?.vertex_count) {
            self.store.pause();
            let mut broken = Vec::new();
            {
                let page = self.store.read(block)?;
                for vertex in vertices {
                    let at = self.layout.locate(vertex)?.1;
                    let slot = Slot::parse(&self.layout, block, &page, at)?;
                    let has_dead = || slot.neighbours().any(|n| marked.dead.contains(n));
                    let is_broken = || repair.displaced.contains_key(&vertex) || has_dead();
                    if slot.state == State::Live && is_broken() {
                        broken.push((vertex, slot.header.level));
                    }
                }
            }
            for (vertex, level) in broken {
                self.repair_vertex(&mut repair, vertex, level)?;
            }
        }
        self.link_the_unlinked()
    }

    fn replace_entry(&self, marked: &Marked) -> Result<(), Error> {
        let best = match marked.best {
            Some(best) => Some(best),
            // Inserts that ended before the barrier may have found vertices
            // that were marked right after: theirs are there, but unlinked.
            None => self.highest_live()?,
        };
        let mut page = self.store.lock(METAPAGE)?;
        let mut meta = Meta::parse(&page)?;
        if meta.entry == NONE || !marked.dead.contains(meta.entry) {
            return Ok(());
        }
        let (level, vertex) = best.unwrap_or((0, NONE));
        meta.entry = vertex;
        meta.entry_level = u32::from(level);
        self.store
            .commit(&mut [&mut page], &mut |bodies| meta.write(bodies[0]));
        Ok(())
    }

    fn highest_live(&self) -> Result<Option<(u8, Vertex)>, Error> {
        let mut highest = None;
        for (_, vertices) in self.vertex_pages(self.meta()?.vertex_count) {
            self.store.pause();
            for vertex in vertices {
                let level = self.with_slot(vertex, |slot| {
                    (slot.state == State::Live).then_some(slot.header.level)
                })?;
                highest = highest.max(level.map(|level| (level, vertex)));
            }
        }
        Ok(highest)
    }

    /// Gives a vertex new neighbours in the place of its dead ones: those behind
    /// them, or, where it lost many, the nearest that a search finds, which then
    /// get links to it in turn.
    fn repair_vertex(
        &self,
        repair: &mut Repair<'_, C::Query>,
        vertex: Vertex,
        level: u8,
    ) -> Result<(), Error> {
        let marked = repair.marked;
        while let Some(mut list) = self.neighbourhood(vertex, level)? {
            let neighbours = list.neighbours().count();
            let dead = list.positions_of(|number| marked.dead.contains(number));
            let displaced = repair
                .displaced
                .get(&vertex)
                .map_or(0, |&count| count as usize);
            let lost = dead.len() + displaced;
            let searches = searches(self.is_fused(), lost, neighbours);
            let candidates = if searches {
                let nearest = self.nearest_to(marked, vertex, level, &list)?;
                list.clear();
                nearest
            } else {
                let behind = self.behind_the_dead(marked, vertex, level, &list)?;
                dead.into_iter().for_each(|position| list.remove(position));
                behind
            };
            self.fill(&mut list, &candidates, level, &mut repair.ready)?;
            if !self.replace_links(vertex, level, &list)? {
                continue;
            }
            if searches {
                let new = Newcomer {
                    number: vertex,
                    code: &list.own,
                    query: &list.query,
                };
                for neighbour in list.neighbours() {
                    self.link_back_from(repair, neighbour, level, &new)?;
                }
            }
            break;
        }
        repair.displaced.remove(&vertex);
        Ok(())
    }

    /// The live vertices nearest to a vertex, its present neighbours among them.
    fn nearest_to(
        &self,
        marked: &Marked,
        vertex: Vertex,
        level: u8,
        list: &Neighbourhood<C::Query>,
    ) -> Result<Vec<Vertex>, Error> {
        // Among the dead, plain vertices have to look as far as fused ones.
        let ef = usize::from(self.options.ef_construction);
        let ef = if self.is_fused() { ef } else { fused_width(ef) };
        let (_, found) = self.find(&list.query, level, ef)?;
        let found = found.get(usize::from(level)).map_or(&[][..], |found| found);
        let mut nearest: Vec<(f32, Vertex)> =
            found.iter().map(|f| (f.distance, f.vertex)).collect();
        nearest.retain(|&(_, number)| number != vertex && !list.contains(number));
        let kept = list.with_distances();
        nearest.extend(kept.filter(|&(_, number)| !marked.dead.contains(number)));
        nearest.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        Ok(nearest.into_iter().map(|(_, number)| number).collect())
    }

    /// Adds a link to a vertex as the heuristic says, in the place of a dead link if
    /// there is one; that is counted, as the vertex is still to be repaired, whether it
    /// has dead links left or not.
    fn link_back_from(
        &self,
        repair: &mut Repair<'_, C::Query>,
        vertex: Vertex,
        level: u8,
        new: &Newcomer<'_, C::Query>,
    ) -> Result<(), Error> {
        let marked = repair.marked;
        while let Some(mut list) = self.neighbourhood(vertex, level)? {
            if list.contains(new.number) {
                break;
            }
            let dead = list.positions_of(|number| marked.dead.contains(number));
            let mut gave_way = false;
            if list.room() == 0
                && let Some(&position) = dead.last()
            {
                list.remove(position);
                gave_way = true;
            }
            let added = list.add(new, &list.measure(&self.codec, new));
            if !added {
                break;
            }
            if self.replace_links(vertex, level, &list)? {
                if gave_way {
                    reserve_in_map(&mut repair.displaced, 1, VACUUM)?;
                    *repair.displaced.entry(vertex).or_default() += 1;
                }
                break;
            }
        }
        Ok(())
    }

    /// Links to the vertices that no other links to (any more).
    fn link_the_unlinked(&self) -> Result<(), Error> {
        let (mut live, mut linked) = (VertexBits::default(), VertexBits::default());
        for (block, vertices) in self.vertex_pages(self.meta()?.vertex_count) {
            self.store.pause();
            let page = self.store.read(block)?;
            for vertex in vertices {
                let at = self.layout.locate(vertex)?.1;
                let slot = Slot::parse(&self.layout, block, &page, at)?;
                if slot.state == State::Live {
                    live.insert(vertex)?;
                    slot.neighbours().try_for_each(|n| linked.insert(n))?;
                }
            }
        }
        for vertex in live.without(&linked) {
            self.store.pause();
            let level = self.with_slot(vertex, |slot| slot.header.level)?;
            let Some(list) = self.neighbourhood(vertex, level)? else {
                continue;
            };
            let neighbours: Vec<Vertex> = list.neighbours().collect();
            self.ensure_linked(vertex, &list.own, level, &neighbours)?;
            if neighbours.is_empty() && level == 0 {
                self.relink(&[vertex], &list.own, &list.query)?;
            }
        }
        Ok(())
    }

    /// Adds links to the candidates (about nearest first) for which there is
    /// room: the diverse ones, then the nearest of the others. Links that are
    /// there stay; some vertex may be reached by them alone.
    fn fill(
        &self,
        list: &mut Neighbourhood<C::Query>,
        candidates: &[Vertex],
        level: u8,
        ready: &mut Ready<C::Query>,
    ) -> Result<(), Error> {
        let mut others = Vec::new();
        for &number in candidates {
            if list.room() == 0 {
                return Ok(());
            }
            let Some(prepared) = self.prepared(number, level, ready)? else {
                continue;
            };
            let new = newcomer(number, &prepared);
            let away = list.measure(&self.codec, &new);
            if list.is_diverse(&away) {
                list.add(&new, &away);
            } else {
                others.push((number, prepared));
            }
        }
        for (number, prepared) in others.iter().take(list.room()) {
            let new = newcomer(*number, prepared);
            list.add(&new, &list.measure(&self.codec, &new));
        }
        Ok(())
    }

    /// A live vertex, ready to be measured; `None` if it is not (it may be free).
    fn prepared(
        &self,
        vertex: Vertex,
        level: u8,
        ready: &mut Ready<C::Query>,
    ) -> Result<Option<Prepared<C::Query>>, Error> {
        let place = ready.place(vertex);
        // Nobody else makes live vertices dead or free while a vacuum runs.
        if let Some((known, of_level, prepared)) = place
            && (*known, *of_level) == (vertex, level)
        {
            return Ok(Some(Rc::clone(prepared)));
        }
        let mut code = Code::zeroed(self.layout.code_len);
        let copied = self.with_vertex(vertex, level, |slot| {
            code.bytes_mut().copy_from_slice(slot.code(&self.layout));
            slot.state == State::Live
        })?;
        if copied != Some(true) {
            return Ok(None);
        }
        let query = self.codec.query_of_code(code.bytes());
        let prepared = Rc::new((code, query));
        *place = Some((vertex, level, Rc::clone(&prepared)));
        Ok(Some(prepared))
    }

    /// Vertices that may take the place of a vertex's dead neighbours, about
    /// nearest first: the nearest behind each of them, so that no direction is
    /// lost, and as many again of those nearest behind any.
    fn behind_the_dead(
        &self,
        marked: &Marked,
        vertex: Vertex,
        level: u8,
        list: &Neighbourhood<C::Query>,
    ) -> Result<Vec<Vertex>, Error> {
        let mut seen = VertexSet::with_capacity(512);
        seen.extend(list.neighbours().chain([vertex]));
        let mut candidates: Vec<(f32, Vertex)> = Vec::new();
        let mut others: Vec<(f32, Vertex)> = Vec::new();
        let mut numbers = Vec::new();
        let mut estimates = Vec::new();
        let by_distance = |a: &(f32, Vertex), b: &(f32, Vertex)| a.0.total_cmp(&b.0);
        let dead = list.neighbours().filter(|&n| marked.dead.contains(n));
        let dead: Vec<Vertex> = dead.collect();
        for (i, &gone) in dead.iter().enumerate() {
            if let Some(&next) = dead.get(i + 1) {
                self.prefetch(next, level);
            }
            numbers.clear();
            estimates.clear();
            let mut neighbours = Neighbours {
                seen: &seen,
                numbers: &mut numbers,
                estimates: &mut estimates,
            };
            self.visit(gone, level, &list.query, None, &mut neighbours)?;
            let mut nearest: Option<(f32, Vertex)> = None;
            for behind in estimates.iter().copied().zip(numbers.iter().copied()) {
                if marked.dead.contains(behind.1) || !seen.insert(behind.1) {
                    continue;
                }
                let is_nearest =
                    nearest.is_none_or(|nearest| by_distance(&behind, &nearest).is_lt());
                let other = if is_nearest {
                    nearest.replace(behind)
                } else {
                    Some(behind)
                };
                others.extend(other);
            }
            candidates.extend(nearest);
        }
        if others.len() > candidates.len() {
            others.select_nth_unstable_by(candidates.len(), by_distance);
            others.truncate(candidates.len());
        }
        candidates.append(&mut others);
        candidates.sort_unstable_by(by_distance);
        Ok(candidates.into_iter().map(|(_, number)| number).collect())
    }

    /// Frees the marked slots. Call it after [`Index::repair`].
    pub fn free(&self, marked: &Marked) -> Result<(), Error> {
        // From the top down: a vertex must never outlive one that it stands on.
        let mut upper = marked.dead_upper.clone();
        upper.sort_unstable_by(|a, b| b.cmp(a));
        for (level, vertex) in upper {
            let block = self.layout.locate(vertex)?.0;
            self.store.pause();
            self.free_on_page(block, vertex..vertex + 1, marked, level)?;
        }
        for (block, vertices) in self.vertex_pages(self.meta()?.vertex_count) {
            if vertices.clone().any(|v| marked.dead.contains(v)) {
                self.store.pause();
                self.free_on_page(block, vertices, marked, 0)?;
            }
        }
        Ok(())
    }

    /// Frees the marked ones among the vertices of a page, of one level.
    fn free_on_page(
        &self,
        block: Block,
        vertices: std::ops::Range<Vertex>,
        marked: &Marked,
        level: u8,
    ) -> Result<(), Error> {
        let mut meta_page = self.store.lock(METAPAGE)?;
        let mut meta = Meta::parse(&meta_page)?;
        let mut page = self.store.lock(block)?;
        let mut freed = Vec::new();
        for vertex in vertices.filter(|&v| marked.dead.contains(v)) {
            let at = self.layout.locate(vertex)?.1;
            let slot = Slot::parse(&self.layout, block, &page, at)?;
            if slot.state == State::Dead && slot.header.level == level {
                freed.push((at, meta.free_head));
                meta.free_head = vertex;
                meta.free_count += 1;
            }
        }
        if freed.is_empty() {
            return Ok(());
        }
        self.store
            .commit(&mut [&mut meta_page, &mut page], &mut |bodies| {
                meta.write(bodies[0]);
                for &(at, next) in &freed {
                    SlotMut::new(&self.layout, bodies[1], at).set_free(next);
                }
            });
        Ok(())
    }

    /// Every first page of slots, with the numbers of the vertices on it.
    pub(super) fn vertex_pages(
        &self,
        count: Vertex,
    ) -> impl Iterator<Item = (Block, std::ops::Range<Vertex>)> + use<S, C> {
        let (per_page, pages) = (self.layout.slots_per_page, self.layout.pages_per_slot);
        let start = self.layout.first_block();
        (0..count.div_ceil(per_page)).map(move |i| {
            let first = i * per_page;
            let last = first.saturating_add(per_page).min(count);
            (start + i * pages, first..last)
        })
    }
}
