//! A graph that is told what its visits find, for tests of searches.

use std::cell::RefCell;

use crate::Error;
use crate::hnsw::beam::{Extent, Graph, Neighbours, Visit};
use crate::hnsw::layout::{HeapTid, NONE, Vertex};

/// A graph of which each visit is written down: a key, and keys or estimates of others.
/// All levels are alike.
#[derive(Default)]
pub struct Told<'t> {
    pub is_exact: bool,
    pub visits: &'t [(f32, &'t [(Vertex, f32)])],
    pub slack: f32,
    /// Levels and vertices, in the order of the visits.
    pub visited: RefCell<Vec<(u8, Vertex)>>,
}

impl Graph for Told<'_> {
    type Query = ();

    fn is_exact(&self) -> bool {
        self.is_exact
    }

    fn extent(&self, ef: usize) -> Extent {
        Extent::of_width(ef)
    }

    fn visit(
        &self,
        vertex: Vertex,
        level: u8,
        _query: &(),
        _tids: Option<&mut Vec<HeapTid>>,
        neighbours: &mut Neighbours<'_>,
    ) -> Result<Option<Visit>, Error> {
        self.visited.borrow_mut().push((level, vertex));
        let (key, told) = self.visits[vertex as usize];
        for &(number, estimate) in told {
            if !(self.is_exact && neighbours.seen.contains(number)) {
                neighbours.numbers.push(number);
                neighbours.estimates.push(estimate);
            }
        }
        Ok(Some(Visit {
            live: true,
            key,
            bound: 0.0,
            spread: 1.0,
            slack: self.slack,
            below: vertex,
        }))
    }

    fn below(&self, _vertex: Vertex, _level: u8) -> Result<Vertex, Error> {
        Ok(NONE)
    }

    fn prefetch(&self, _vertex: Vertex, _level: u8) {}
}
