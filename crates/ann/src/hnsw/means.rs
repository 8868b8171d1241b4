//! The mean of several estimates of a vertex's key.
//!
//! In a search, each visited vertex estimates the keys of its neighbours, from
//! codes relative to itself. So the errors of two estimates of the same vertex
//! have little to do with each other, and their mean has a smaller one.
//!
//! This is a cache: each vertex has one place in a table, and loses it to another
//! that wants the same. What is forgotten begins anew.

use super::layout::{NONE, Vertex};

/// Places for each vertex that a beam holds. A visit tells of up to 32 vertices
/// with the usual `m`, half of which were told of before.
const PLACES: usize = 32;

/// More places would be slow to clear, and are hardly ever used.
const MOST: usize = 1 << 16;

/// What is known of a vertex.
#[derive(Clone, Copy)]
struct Sum {
    vertex: Vertex,
    count: f32,
    sum: f32,
}

const NOTHING: Sum = Sum {
    vertex: NONE,
    count: 0.0,
    sum: 0.0,
};

/// See the module. It has no places until [`Means::fit`].
#[derive(Default)]
pub(super) struct Means {
    table: Vec<Sum>,
}

impl Means {
    /// Makes the table fit a beam of a width. If its size changes, all is forgotten.
    pub fn fit(&mut self, width: usize) {
        let places = width.saturating_mul(PLACES).min(MOST);
        if self.table.len() != places {
            self.table.clear();
            self.table.resize(places, NOTHING);
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.table.fill(NOTHING);
    }

    /// Takes estimates of vertices, and makes each the mean of all so far.
    pub fn average(&mut self, vertices: &[Vertex], estimates: &mut [f32]) {
        if self.table.is_empty() {
            return;
        }
        for (&vertex, estimate) in vertices.iter().zip(estimates) {
            let place = self.place(vertex);
            let known = &mut self.table[place];
            // Half are known, and which is not foreseen: no branch.
            let mask = u32::from(known.vertex == vertex).wrapping_neg();
            let kept = |number: f32| f32::from_bits(number.to_bits() & mask);
            *known = Sum {
                vertex,
                count: kept(known.count) + 1.0,
                sum: kept(known.sum) + *estimate,
            };
            *estimate = known.sum / known.count;
        }
    }

    /// The mean of what was estimated for a vertex.
    pub fn get(&self, vertex: Vertex) -> Option<f32> {
        let known = self.table.get(self.place(vertex))?;
        (known.vertex == vertex).then_some(known.sum / known.count)
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        self.table.len() * size_of::<Sum>()
    }

    /// The place of a vertex: by Fibonacci hashing (Knuth, "The Art of Computer
    /// Programming", volume 3, section 6.4).
    fn place(&self, vertex: Vertex) -> usize {
        let hash = vertex.wrapping_mul(0x9e37_79b9);
        (u64::from(hash) * self.table.len() as u64 >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_become_means() {
        let mut means = Means::default();
        means.fit(10);
        let mut estimates = [4.0, -1.0, f32::INFINITY];
        means.average(&[7, 9, 11], &mut estimates);
        assert_eq!(estimates, [4.0, -1.0, f32::INFINITY]);
        let mut estimates = [5.0, 8.0];
        means.average(&[9, 7], &mut estimates);
        assert_eq!(estimates, [2.0, 6.0]);
        assert_eq!(means.get(7), Some(6.0));
        assert_eq!(means.get(8), None);
        // A beam as wide as before goes on, another one begins anew.
        means.fit(10);
        assert_eq!(means.get(7), Some(6.0));
        means.fit(100);
        assert_eq!(means.get(7), None);
    }

    #[test]
    fn a_vertex_that_takes_the_place_of_another_begins_anew() {
        let mut means = Means::default();
        means.fit(1);
        for vertex in 0..1000 {
            let mut estimate = [f32::INFINITY];
            means.average(&[vertex], &mut estimate);
            let mut estimate = [vertex as f32];
            means.average(&[vertex + 5000], &mut estimate);
            assert_eq!(estimate, [vertex as f32]);
        }
    }

    #[test]
    fn without_places_estimates_stay() {
        let mut means = Means::default();
        let mut estimates = [1.0];
        means.average(&[1], &mut estimates);
        means.average(&[1], &mut estimates);
        assert_eq!(estimates, [1.0]);
        assert_eq!(means.get(1), None);
    }
}
