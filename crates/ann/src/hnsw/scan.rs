//! Nearest rows of a query, as a stream.
//!
//! The first `ef` vertices come from one beam search. A caller that wants more
//! goes on: each further round returns the next `ef`, without visiting any
//! vertex twice.

use memory::OutOfMemory;

use super::beam::{Beam, BeamOptions, Counters, Found, Graph, descend};
use super::codec::Codec;
use super::index::Index;
use super::insert::MAX_TRIES;
use super::layout::{HeapTid, NONE};
use crate::Error;
use crate::page::PageStore;

const OPTIONS: BeamOptions = BeamOptions {
    passages_too: false,
    with_tids: true,
    resumable: true,
};

/// A round by estimates that goes on looks for so many vertices at a time.
const STEP: usize = 16;

/// A search of an index; see [`Scan::next_round`]. `Q` is its codec's query.
pub struct Scan<Q> {
    query: Q,
    beam: Beam,
    stage: Stage,
}

/// How far a search is.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    New,
    /// On level 0, where nothing was visited yet.
    Entered,
    Going,
    Exhausted,
}

impl<Q> Scan<Q> {
    /// A search for the rows nearest to the query.
    pub fn new(query: Q) -> Self {
        Scan {
            query,
            beam: Beam::new(0, OPTIONS),
            stage: Stage::New,
        }
    }

    /// Walks down to level 0, if the search is new. [`Scan::next_round`] does
    /// so itself; a caller that wants to know what the way costs does it first.
    pub fn enter<S: PageStore, C: Codec<Query = Q>>(
        &mut self,
        index: &Index<'_, S, C>,
    ) -> Result<(), Error> {
        if self.stage != Stage::New {
            return Ok(());
        }
        let meta = index.meta()?;
        if meta.entry == NONE {
            self.stage = Stage::Exhausted;
            return Ok(());
        }
        let level = meta.entry_level as u8;
        let entries = descend(
            index,
            &mut self.beam,
            &self.query,
            meta.entry,
            (level, 0),
            1,
        )?;
        self.beam.reset(0, OPTIONS);
        for entry in entries {
            self.beam.start(entry);
        }
        self.stage = Stage::Entered;
        Ok(())
    }

    /// The next `ef` nearest vertices (by estimates, no fewer than a search visits at
    /// least), nearest first: no two rounds return the
    /// same one. An empty answer means that there are no more.
    pub fn next_round<S: PageStore, C: Codec<Query = Q>>(
        &mut self,
        index: &Index<'_, S, C>,
        ef: usize,
    ) -> Result<Vec<Found>, Error> {
        match self.stage {
            Stage::Exhausted => return Ok(Vec::new()),
            // Farther out, ever more vertices are within the slack of a search: a round
            // would visit many for the rows that it returns.
            Stage::Going => {
                // In steps: each begins with what is nearest by all that is known then.
                let step = index.extent(if index.is_exact() { ef } else { ef.min(STEP) });
                let mut before = None;
                while self.beam.results() < ef && before != Some(self.beam.counters().visited) {
                    before = Some(self.beam.counters().visited);
                    self.beam.resume(index, &self.query, step)?;
                }
            }
            Stage::New | Stage::Entered => self.first_round(index, ef)?,
        }
        // The server puts rows into order by their vectors: the nearest by codes alone may not be.
        let found = self.beam.take(index.search_extent(ef).ef)?;
        self.stage = match found[..] {
            [] => Stage::Exhausted,
            _ => Stage::Going,
        };
        Ok(found)
    }

    /// All that was found and no round returned, nearest first.
    pub fn rest(&mut self) -> Result<Vec<Found>, OutOfMemory> {
        self.beam.take(usize::MAX)
    }

    /// Whether no round was asked for yet.
    pub fn is_new(&self) -> bool {
        matches!(self.stage, Stage::New | Stage::Entered)
    }

    /// The rows of a vertex that a round returned.
    pub fn heap_tids(&self, found: &Found) -> &[HeapTid] {
        self.beam.tids(found)
    }

    /// What the search did so far.
    pub fn counters(&self) -> Counters {
        self.beam.counters()
    }

    /// Bytes of memory that the search holds, roughly.
    pub fn memory(&self) -> usize {
        self.beam.memory()
    }

    /// Searches from the entry point until something is found: vacuum may free
    /// the vertices on the way, see [`MAX_TRIES`].
    fn first_round<S: PageStore, C: Codec<Query = Q>>(
        &mut self,
        index: &Index<'_, S, C>,
        ef: usize,
    ) -> Result<(), Error> {
        let extent = index.search_extent(ef);
        for _ in 0..MAX_TRIES {
            self.enter(index)?;
            if self.stage == Stage::Exhausted {
                break;
            }
            self.beam.run(index, &self.query, extent)?;
            if !self.beam.has_results() {
                // Everything near is dead.
                self.beam.resume(index, &self.query, extent)?;
            }
            if self.beam.has_results() {
                break;
            }
            self.stage = Stage::New;
        }
        Ok(())
    }
}
