//! Nearest rows of a query, as a stream.
//!
//! The first `ef` vertices come from one beam search. A caller that wants more
//! goes on: each further round returns the next `ef`, without visiting any
//! vertex twice.

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

/// A search of an index; see [`Scan::next_round`]. `Q` is its codec's query.
pub struct Scan<Q> {
    query: Q,
    beam: Beam,
    started: bool,
    exhausted: bool,
}

impl<Q> Scan<Q> {
    /// A search for the rows nearest to the query.
    pub fn new(query: Q) -> Self {
        Scan {
            query,
            beam: Beam::new(0, OPTIONS),
            started: false,
            exhausted: false,
        }
    }

    /// The next `ef` nearest vertices, nearest first: no two rounds return the
    /// same one. An empty answer means that there are no more.
    pub fn next_round<S: PageStore, C: Codec<Query = Q>>(
        &mut self,
        index: &Index<'_, S, C>,
        ef: usize,
    ) -> Result<Vec<Found>, Error> {
        if self.exhausted {
            return Ok(Vec::new());
        }
        if self.started {
            self.beam.resume(index, &self.query, index.width(ef))?;
        } else {
            self.started = true;
            self.first_round(index, ef)?;
        }
        let found = self.beam.take(ef);
        self.exhausted = found.is_empty();
        Ok(found)
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
        for _ in 0..MAX_TRIES {
            let meta = index.meta()?;
            if meta.entry == NONE {
                break;
            }
            let level = meta.entry_level as u8;
            let entries = descend(index, &mut self.beam, &self.query, meta.entry, level, 0)?;
            self.beam.reset(0, OPTIONS);
            for entry in entries {
                self.beam.start(entry);
            }
            self.beam.run(index, &self.query, index.width(ef))?;
            if !self.beam.has_results() {
                // Everything near is dead.
                self.beam.resume(index, &self.query, index.width(ef))?;
            }
            if self.beam.has_results() {
                break;
            }
        }
        Ok(())
    }
}
