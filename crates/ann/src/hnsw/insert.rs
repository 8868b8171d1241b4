//! Adding one vector to an index on pages.
//!
//! The order of records makes every prefix of them a valid index: first the
//! element's vertices, bottom up, which nothing points to yet; then each link
//! back to them, a record of its own; last, for an element above all others,
//! the entry point. A crash in between leaves an element that is found less
//! often or not at all; its row is not committed then, and vacuum removes it.

use super::beam::{Beam, BeamOptions, ENTRIES, Found, Graph, descend, step_down};
use super::codec::{Code, Codec};
use super::index::{Index, METAPAGE, NewVertex};
use super::layout::{Blurred, HeapTid, MAX_LEVEL, Meta, NONE, State, Vertex};
use super::links::{Chosen, Newcomer};
use super::witness::is_blurred;
use crate::Error;
use crate::page::PageStore;

/// A search from the entry point can end in vertices that vacuum frees at that
/// moment. Vacuum does so after it has unlinked them, so the next try, which
/// begins at the entry point again, does not meet them. The limit only matters
/// for an index in which nothing is alive.
pub(super) const MAX_TRIES: usize = 8;

/// The level of a new element, from a uniform random number in (0, 1]:
/// ⌊−ln(u) / ln(m)⌋ (Malkov and Yashunin, section 4.1, with mL = 1/ln m).
pub fn random_level(m: u16, uniform: f64) -> u8 {
    let level = -uniform.ln() / f64::from(m).ln();
    // The cast saturates, so that u = 0 gives the highest level.
    (level as u8).min(MAX_LEVEL)
}

/// The vertices nearest to `query` on each level from `top` down to 0, the
/// lists in ascending order of distance; index 0 is level 0.
///
/// It uses the memory of `beam`.
pub(super) fn nearest_by_level<G: Graph>(
    graph: &G,
    beam: &mut Beam,
    query: &G::Query,
    (entry, entry_level): (Vertex, u8),
    top: u8,
    ef: usize,
) -> Result<Vec<Vec<Found>>, Error> {
    let top = top.min(entry_level);
    let mut found = vec![Vec::new(); usize::from(top) + 1];
    // Wide: links into the wrong cluster stay, and with few links to a vertex, whole
    // clusters fall off.
    let mut entries = descend(graph, beam, query, entry, (entry_level, top), ENTRIES)?;
    for level in (0..=top).rev() {
        beam.reset(level, BeamOptions::default());
        for &entry in &entries {
            beam.start(entry);
        }
        beam.run(graph, query, graph.extent(ef))?;
        let nearest = beam.take(ef)?;
        if level > 0 {
            // Where every vertex nearby is dead, go straight down.
            let below = step_down(&nearest);
            entries = if below.is_empty() {
                let below = entries.iter().map(|&entry| graph.below(entry, level));
                below.collect::<Result<_, Error>>()?
            } else {
                below
            };
        }
        found[usize::from(level)] = nearest;
    }
    Ok(found)
}

impl<S: PageStore, C: Codec> Index<'_, S, C> {
    /// Adds a row. `code` is the row's encoded vector, `uniform` a random
    /// number in (0, 1] that decides the element's level.
    ///
    /// The caller makes vacuum's [`super::vacuum`] barrier wait for this call.
    ///
    /// Returns how many of the elements that came last have blurred codes, if this one
    /// counts.
    pub fn insert(
        &self,
        code: &Code,
        tid: HeapTid,
        uniform: f64,
    ) -> Result<Option<Blurred>, Error> {
        let level = random_level(self.options.m, uniform);
        let query = self.codec.query_of_code(code.bytes());
        let (meta, found) = self.find(&query, level, self.options.ef_construction.into())?;
        let is_blurred = self.is_blurred(code, found.first());
        if let Some(level_0) = found.first()
            && self.add_to_duplicate(level_0, code, tid)?
        {
            // Of a sharp code, the vectors are equal too.
            return match is_blurred {
                Some(true) => self.count_blurred().map(Some),
                _ => Ok(None),
            };
        }
        let neighbours = self.choose(&found)?;
        let new = (code, is_blurred);
        let (vertices, counts) = self.write_element(level, new, tid, &neighbours)?;
        self.link_back(&vertices, &neighbours, code, &query)?;
        let alone = neighbours.first().is_none_or(|c| c.places.is_empty());
        if alone || u32::from(level) > meta.entry_level {
            self.raise_entry(level, &vertices, (code, &query), alone)?;
        }
        Ok(is_blurred.map(|_| counts))
    }

    /// The `ef` live vertices nearest to a query on each level up to `level`, and the
    /// metapage by which they were found.
    pub(super) fn find(
        &self,
        query: &C::Query,
        level: u8,
        ef: usize,
    ) -> Result<(Meta, Vec<Vec<Found>>), Error> {
        let mut tries = 0;
        loop {
            let meta = self.meta()?;
            if meta.entry == NONE {
                return Ok((meta, Vec::new()));
            }
            let entry = (meta.entry, meta.entry_level as u8);
            let mut beam = Beam::new(0, BeamOptions::default());
            let found = nearest_by_level(self, &mut beam, query, entry, level, ef)?;
            tries += 1;
            if found.first().is_some_and(|found| !found.is_empty()) || tries == MAX_TRIES {
                return Ok((meta, found));
            }
        }
    }

    /// The neighbours of a new element on each level, out of what was found.
    fn choose(&self, found: &[Vec<Found>]) -> Result<Vec<Chosen>, Error> {
        (0_u8..)
            .zip(found)
            .map(|(level, found)| {
                let candidates: Vec<_> = found.iter().map(|f| (f.distance, f.vertex)).collect();
                self.select(&candidates, level, self.layout.capacity(level))
            })
            .collect()
    }

    /// Whether a code is blurred, of which the nearest vertices are given; `None` if these
    /// are too few to tell, or codes are exact.
    fn is_blurred(&self, code: &Code, nearest: Option<&Vec<Found>>) -> Option<bool> {
        if !self.is_fused() {
            return None;
        }
        let blur = |key| self.codec.blur(code.bytes(), key);
        is_blurred(blur, nearest?.iter().map(|found| found.distance))
    }

    /// Counts a row with a blurred code that became no element.
    fn count_blurred(&self) -> Result<Blurred, Error> {
        let mut page = self.store.lock(METAPAGE)?;
        let mut meta = Meta::parse(&page)?;
        meta.set_blurred(meta.blurred().and(true));
        self.store
            .commit(&mut [&mut page], &mut |bodies| meta.write(bodies[0]));
        Ok(meta.blurred())
    }

    /// Adds the row to an element with the same code, if there is one.
    fn add_to_duplicate(
        &self,
        nearest: &[Found],
        code: &Code,
        tid: HeapTid,
    ) -> Result<bool, Error> {
        let Some(first) = nearest.first() else {
            return Ok(false);
        };
        let mut stored = Code::zeroed(self.layout.code_len);
        for found in nearest.iter().take_while(|f| f.distance == first.distance) {
            if !self.load_code(found.vertex, 0, stored.bytes_mut())? || stored != *code {
                continue;
            }
            if self.add_row(found.vertex, tid)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes the vertices of a new element, bottom up; returns their numbers, and how many
    /// elements have blurred codes. Of this one, it is given whether it has.
    fn write_element(
        &self,
        level: u8,
        (code, is_blurred): (&Code, Option<bool>),
        tid: HeapTid,
        neighbours: &[Chosen],
    ) -> Result<(Vec<Vertex>, Blurred), Error> {
        let mut counts = Blurred::default();
        let none = Chosen::default();
        let mut vertices: Vec<Vertex> = Vec::with_capacity(usize::from(level) + 1);
        let rows = [tid];
        for level in 0..=level {
            let neighbours = neighbours.get(usize::from(level)).unwrap_or(&none);
            let vertex = NewVertex {
                level,
                below: vertices.last().copied().unwrap_or(NONE),
                base: vertices.first().copied(),
                heap_tids: if level == 0 { &rows } else { &[] },
                links: &self.links(code, neighbours),
                code: code.bytes(),
            };
            let (number, counted) =
                self.write_vertex(&vertex, is_blurred.filter(|_| level == 0))?;
            counts = counted;
            vertices.push(number);
        }
        Ok((vertices, counts))
    }

    /// Links the neighbours of a new element back to it, bottom up.
    fn link_back(
        &self,
        vertices: &[Vertex],
        neighbours: &[Chosen],
        code: &Code,
        query: &C::Query,
    ) -> Result<(), Error> {
        for ((level, &number), chosen) in (0_u8..).zip(vertices).zip(neighbours) {
            let new = Newcomer {
                number,
                code,
                query,
            };
            let neighbours: Vec<Vertex> = chosen.places.iter().map(|p| p.number).collect();
            for &neighbour in &neighbours {
                self.add_link(neighbour, level, &new)?;
            }
            self.ensure_linked(number, code, level, &neighbours)?;
        }
        Ok(())
    }

    /// Makes a new element the entry point, if it is above the present one.
    /// `alone` says that the element found no live vertex and so has no
    /// neighbours: then it also takes the place of a dead entry point, or, if
    /// another element came first, gets its neighbours now.
    fn raise_entry(
        &self,
        level: u8,
        vertices: &[Vertex],
        (code, query): (&Code, &C::Query),
        alone: bool,
    ) -> Result<(), Error> {
        let Some(&top) = vertices.last() else {
            return Ok(());
        };
        let vacant = |meta: &Meta| -> Result<bool, Error> {
            Ok(meta.entry == NONE
                || vertices.contains(&meta.entry)
                || alone && self.with_slot(meta.entry, |slot| slot.state != State::Live)?)
        };
        // While the other's entry point still stands: from the element's own,
        // a search would find nothing but itself.
        if alone && !vacant(&self.meta()?)? {
            self.relink(vertices, code, query)?;
        }
        let mut page = self.store.lock(METAPAGE)?;
        let mut meta = Meta::parse(&page)?;
        if vacant(&meta)? || u32::from(level) > meta.entry_level {
            meta.entry = top;
            meta.entry_level = u32::from(level);
            self.store
                .commit(&mut [&mut page], &mut |bodies| meta.write(bodies[0]));
        }
        Ok(())
    }

    /// Gives the vertices of an element neighbours anew.
    pub(super) fn relink(
        &self,
        vertices: &[Vertex],
        code: &Code,
        query: &C::Query,
    ) -> Result<(), Error> {
        let top = (vertices.len() - 1) as u8;
        let (_, mut found) = self.find(query, top, self.options.ef_construction.into())?;
        for found in &mut found {
            found.retain(|f| !vertices.contains(&f.vertex));
        }
        let neighbours = self.choose(&found)?;
        for ((level, &vertex), chosen) in (0_u8..).zip(vertices).zip(&neighbours) {
            for place in &chosen.places {
                if let Some(other) = self.code_of(place.number, level)? {
                    let new = Newcomer {
                        number: place.number,
                        code: &other,
                        query: &self.codec.query_of_code(other.bytes()),
                    };
                    self.add_link(vertex, level, &new)?;
                }
            }
        }
        self.link_back(vertices, &neighbours, code, query)
    }
}
