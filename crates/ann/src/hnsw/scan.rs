//! Nearest rows of a query, in rounds or as a stream.
//!
//! In rounds, the first `ef` vertices come from one beam search. A caller that wants more
//! goes on: each further round returns the next `ef`. As a stream, the search visits the same
//! vertices in the same order whatever `ef` is, which says only how far it goes at first. No
//! vertex is visited twice.

use memory::OutOfMemory;

use super::beam::{Beam, BeamOptions, Counters, Found, Graph, descend};
use super::codec::Codec;
use super::index::Index;
use super::insert::MAX_TRIES;
use super::layout::{HeapTid, NONE, Vertex};
use super::stream::Stream;
use crate::Error;
use crate::page::PageStore;

const OPTIONS: BeamOptions = BeamOptions {
    passages_too: false,
    with_tids: true,
    resumable: true,
};

/// A stream stops after so many visits and multiples of that; later after more, up to this.
const STEP: [usize; 2] = [16, 512];

/// A step is up to such a part of the visits before.
const PART: usize = 8;

/// A search of an index; see [`Scan::next_round`] and [`Scan::advance`]. `Q` is its codec's query.
pub struct Scan<Q> {
    query: Q,
    /// The way down, and the first round.
    beam: Beam,
    /// All else.
    stream: Option<Stream>,
    stage: Stage,
    room: usize,
}

/// How far a search is.
#[derive(Clone, PartialEq)]
enum Stage {
    New,
    /// On level 0, at these vertices, of which none was visited yet.
    Entered(Vec<Vertex>),
    Going,
    Exhausted,
}

impl<Q> Scan<Q> {
    /// A search for the rows nearest to the query.
    pub fn new(query: Q) -> Self {
        Scan {
            query,
            beam: Beam::new(0, OPTIONS),
            stream: None,
            stage: Stage::New,
            room: usize::MAX,
        }
    }

    /// The search, in which vertices that are known and were not visited take about so much
    /// memory: of more, it forgets those that are farthest.
    pub fn within(self, bytes: usize) -> Self {
        Scan {
            room: bytes,
            ..self
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
        self.stage = Stage::Entered(entries);
        Ok(())
    }

    /// The next `ef` nearest vertices (by estimates, no fewer than a search visits at
    /// least), nearest first: no two rounds return the same one. An empty answer means that
    /// there are no more.
    pub fn next_round<S: PageStore, C: Codec<Query = Q>>(
        &mut self,
        index: &Index<'_, S, C>,
        ef: usize,
    ) -> Result<Vec<Found>, Error> {
        if self.is_new() {
            self.first_round(index, ef)?;
        } else if self.stage == Stage::Going {
            let stream = going_on(&mut self.stream, &mut self.beam, index, self.room)?;
            while stream.results() < ef && stream.visit_next(index, &self.query)? {}
        }
        // The server puts rows into order by their vectors: the nearest by codes alone may not be.
        let ef = index.search_extent(ef).ef;
        let found = match &mut self.stream {
            Some(stream) => stream.take_nearest(ef)?,
            None => self.beam.take(ef)?,
        };
        self.note(found.is_empty());
        Ok(found)
    }

    /// What further visits find, in the order of the visits: at first those of a search for the
    /// nearest `ef`, then, in steps that grow with the search, those that follow. An empty answer
    /// means that there are no more.
    ///
    /// After which visits a search stops depends on `ef` for the first of them only.
    pub fn advance<S: PageStore, C: Codec<Query = Q>>(
        &mut self,
        index: &Index<'_, S, C>,
        ef: usize,
    ) -> Result<Vec<Found>, Error> {
        for _ in 0..MAX_TRIES {
            self.enter(index)?;
            if self.stage == Stage::Exhausted {
                break;
            }
            let entries = match std::mem::replace(&mut self.stage, Stage::Going) {
                Stage::Entered(entries) => Some(entries),
                _ => None,
            };
            let stream = match &entries {
                // Also where the way was lost.
                Some(_) => self.stream.insert(Stream::new(index.is_exact(), self.room)),
                None => going_on(&mut self.stream, &mut self.beam, index, self.room)?,
            };
            stream.forget_rows();
            let mut until = stream.visits() + 1;
            if let Some(entries) = &entries {
                for &entry in entries {
                    stream.add(f32::NEG_INFINITY, entry)?;
                }
                stream.reach(index, &self.query, index.search_extent(ef))?;
                until = stream.visits();
            }
            let mut is_more = stream.visit_until(index, &self.query, stop_from(until))?;
            while is_more && stream.results() == 0 {
                let until = stop_from(stream.visits() + 1);
                is_more = stream.visit_until(index, &self.query, until)?;
            }
            if stream.results() > 0 || entries.is_none() {
                break;
            }
            self.stage = Stage::New;
        }
        let found = self.stream.as_mut().map(Stream::take).unwrap_or_default();
        self.note(found.is_empty());
        Ok(found)
    }

    /// All that was found and no round returned, nearest first.
    pub fn rest(&mut self) -> Result<Vec<Found>, OutOfMemory> {
        match &mut self.stream {
            Some(stream) => stream.take_nearest(usize::MAX),
            None => self.beam.take(usize::MAX),
        }
    }

    /// Whether no round was asked for yet.
    pub fn is_new(&self) -> bool {
        matches!(self.stage, Stage::New | Stage::Entered(_))
    }

    /// The rows of a vertex that the last round returned.
    pub fn heap_tids(&self, found: &Found) -> &[HeapTid] {
        match &self.stream {
            Some(stream) => stream.tids(found),
            None => self.beam.tids(found),
        }
    }

    /// What the search did so far.
    pub fn counters(&self) -> Counters {
        let (on_the_way, mut counters) = (
            self.beam.counters(),
            (self.stream.as_ref()).map_or_else(Counters::default, Stream::counters),
        );
        counters.visited += on_the_way.visited;
        counters.estimated += on_the_way.estimated;
        counters
    }

    /// Vertices that a stream has visited on level 0.
    pub fn visits(&self) -> usize {
        self.stream.as_ref().map_or(0, Stream::visits)
    }

    /// Bytes of memory that the search holds, roughly.
    pub fn memory(&self) -> usize {
        self.beam.memory() + self.stream.as_ref().map_or(0, Stream::memory)
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
            let Stage::Entered(entries) = std::mem::replace(&mut self.stage, Stage::New) else {
                self.stage = Stage::Exhausted;
                break;
            };
            self.beam.reset(0, OPTIONS);
            self.stream = None;
            for entry in entries {
                self.beam.start(entry);
            }
            self.beam.run(index, &self.query, extent)?;
            if self.beam.has_results() {
                break;
            }
            // Everything near is dead.
            let stream = going_on(&mut self.stream, &mut self.beam, index, self.room)?;
            while stream.results() == 0 && stream.visit_next(index, &self.query)? {}
            if stream.results() > 0 {
                break;
            }
        }
        Ok(())
    }

    fn note(&mut self, is_exhausted: bool) {
        self.stage = match is_exhausted {
            true => Stage::Exhausted,
            false => Stage::Going,
        };
    }
}

/// The stream that goes on where the beam stopped, or where it stopped itself.
fn going_on<'s, S: PageStore, C: Codec>(
    stream: &'s mut Option<Stream>,
    beam: &mut Beam,
    index: &Index<'_, S, C>,
    room: usize,
) -> Result<&'s mut Stream, OutOfMemory> {
    if stream.is_none() {
        let mut new = Stream::new(index.is_exact(), room);
        beam.go_on(&mut new)?;
        *stream = Some(new);
    }
    Ok(stream.get_or_insert_with(|| Stream::new(index.is_exact(), room)))
}

/// The number of visits, not less than this, after which a stream stops.
pub(super) fn stop_from(visits: usize) -> usize {
    // A power of two: what is a multiple of a larger step is one of a smaller one.
    let step = visits.checked_ilog2().map_or(0, |log| (1 << log) / PART);
    visits.next_multiple_of(step.clamp(STEP[0], STEP[1]))
}
