//! Searches of a graph in memory, as they will be once it is on pages.
//!
//! A search of pages goes by what codes beside links say of the neighbours. Where these
//! are off by too much, it finds less than one that looks at the neighbours' own codes.
//! Of inner products they may be: an estimate is off by a part of a vector's length, and
//! few long vectors may hide all others.

use super::{Builder, present};
use crate::Error;
use crate::hnsw::beam::{Beam, BeamOptions, ENTRIES, Extent, Graph, Neighbours, Visit, descend};
use crate::hnsw::codec::{Code, Codec};
use crate::hnsw::index::search_extent;
use crate::hnsw::layout::{HeapTid, NONE, Vertex};

/// The graph as its pages will tell of it.
struct AsWritten<'b, C>(&'b Builder<C>);

impl<C: Codec> Graph for AsWritten<'_, C> {
    type Query = C::Query;

    fn is_exact(&self) -> bool {
        false
    }

    fn extent(&self, ef: usize) -> Extent {
        search_extent(true, self.0.options.metric, ef)
    }

    fn visit(
        &self,
        vertex: Vertex,
        level: u8,
        query: &C::Query,
        _tids: Option<&mut Vec<HeapTid>>,
        neighbours: &mut Neighbours<'_>,
    ) -> Result<Option<Visit>, Error> {
        let Builder { codec, options, .. } = self.0;
        let own = self.0.code(vertex);
        let measured = codec.measure(query, own);
        let mut links = Code::zeroed(codec.links_len(2 * usize::from(options.m)));
        let mut codes = Vec::new();
        for (position, link) in present(self.0.list(vertex, level)).enumerate() {
            neighbours.numbers.push(link.vertex);
            codes.push((position, self.0.code(link.vertex)));
        }
        codec.encode_links(own, &codes, links.bytes_mut());
        codec.estimates(query, own, measured, links.bytes(), neighbours.estimates);
        Ok(Some(Visit {
            live: true,
            key: measured.key,
            bound: f64::from(measured.key),
            spread: codec.spread(query, own, measured),
            slack: codec.slack(query, own, measured.key),
            below: vertex,
        }))
    }

    fn below(&self, vertex: Vertex, _level: u8) -> Result<Vertex, Error> {
        Ok(vertex)
    }

    fn prefetch(&self, _vertex: Vertex, _level: u8) {}
}

impl<C: Codec> Builder<C> {
    /// Keys of the `ef` nearest codes that two searches for a code find: one that looks at
    /// the codes of all neighbours, and one that goes by what links hold. The graph must be
    /// complete.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]: memory holds no corrupted pages.
    pub fn trial(&self, code: &[u8], ef: usize) -> Result<[Vec<f32>; 2], Error> {
        let exact = self.search(self, code, Extent::of_width(ef), ef)?;
        let query = self.codec.query_of_code(code);
        let written = AsWritten(self);
        let estimated = self.search(&written, &query, written.extent(ef), ef)?;
        Ok([exact, estimated])
    }

    fn search<G: Graph>(
        &self,
        graph: &G,
        query: &G::Query,
        extent: Extent,
        ef: usize,
    ) -> Result<Vec<f32>, Error> {
        let Some((entry, top)) = *self.entry.read() else {
            return Ok(Vec::new());
        };
        let mut beam = Beam::new(0, BeamOptions::default());
        let entries = descend(graph, &mut beam, query, entry, (top, 0), ENTRIES)?;
        beam.reset(0, BeamOptions::default());
        entries
            .into_iter()
            .filter(|&e| e != NONE)
            .for_each(|e| beam.start(e));
        beam.run(graph, query, extent)?;
        let found = beam.take(ef)?;
        Ok(found.into_iter().map(|found| found.distance).collect())
    }
}
