//! The mean of several estimates of a vertex's key.
//!
//! In a search, each visited vertex estimates the keys of its neighbours, from
//! codes relative to itself. So the errors of two estimates of the same vertex
//! have little to do with each other, and their mean has a smaller one. The error
//! grows with the distances of the visited vertex from the query and from its
//! neighbour, under inner product with the sines of the angles to them
//! ([`crate::quantize::rabitq`]); of a neighbour that is near the query, these are
//! about equal. So the variance goes with the fourth power of the distance, and
//! estimates are weighted by its inverse.
//!
//! This is a cache: each vertex has one place in a table, and loses it to another
//! that wants the same. What is forgotten begins anew.

use memory::OutOfMemory;
use memory::vec::filled;

use super::layout::{NONE, Vertex};

/// Places for each visit. One tells of up to 32 vertices with the usual `m`, half of
/// which were told of before.
const PLACES: usize = 32;

/// More places would be slow to clear, and are hardly ever used.
const MOST: usize = 1 << 16;

/// What is known of a vertex.
#[derive(Clone, Copy)]
struct Mean {
    vertex: Vertex,
    mean: f32,
    weight: f32,
}

const NOTHING: Mean = Mean {
    vertex: NONE,
    mean: 0.0,
    weight: 0.0,
};

/// What is not below is no estimate: the vertex is too far for numbers.
const FAR: f32 = f32::MAX / 4.0;

/// What an estimate weighs, of the [`super::codec::Codec::spread`] of the vertex that tells.
pub(super) fn weight_of(spread: f32) -> f32 {
    /// Sums of weights, and their quotients, are numbers.
    const WEIGHTS: (f32, f32) = (1e-30, 1e30);
    let weight = (1.0 / spread / spread).clamp(WEIGHTS.0, WEIGHTS.1);
    if weight.is_nan() { WEIGHTS.1 } else { weight }
}

/// See the module. It has no places until [`Means::fit`].
#[derive(Default)]
pub(super) struct Means {
    table: Vec<Mean>,
}

impl Means {
    /// Makes the table fit so many visits. If its size changes, all is forgotten.
    pub fn fit(&mut self, visits: usize) {
        let places = visits.saturating_mul(PLACES).min(MOST);
        if self.table.len() != places {
            self.table.clear();
            self.table.resize(places, NOTHING);
        }
    }

    /// Makes the table large enough for so many visits. What is known stays known.
    pub fn grow(&mut self, visits: usize) -> Result<(), OutOfMemory> {
        /// Of few visits, without growing.
        const LEAST: usize = 64;
        let visits = visits.max(LEAST).next_power_of_two();
        let places = visits.saturating_mul(PLACES).min(MOST);
        if places <= self.table.len() {
            return Ok(());
        }
        let larger = filled(NOTHING, places, "what a search has learned")?;
        let before = std::mem::replace(&mut self.table, larger);
        // Of a multiple of the places, each has some that were one before.
        for known in before.into_iter().filter(|known| known.vertex != NONE) {
            let place = self.place(known.vertex);
            self.table[place] = known;
        }
        Ok(())
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.table.fill(NOTHING);
    }

    /// Takes an estimate of a vertex with its [`weight_of`], and returns the mean of all so
    /// far, and what it was before, if that is known.
    #[inline]
    pub fn tell(&mut self, vertex: Vertex, estimate: f32, weight: f32) -> (f32, Option<f32>) {
        let place = self.place(vertex);
        let known = &mut self.table[place];
        let is_known = known.vertex == vertex;
        // Half are known, and which is not foreseen: no branch.
        let mask = u32::from(is_known).wrapping_neg();
        let kept = |number: f32| f32::from_bits(number.to_bits() & mask);
        let (mean, before) = (kept(known.mean), kept(known.weight));
        let share = weight / (before + weight);
        if estimate.abs() >= FAR || estimate.is_nan() {
            return (estimate, is_known.then_some(mean));
        }
        let now = mean + share * (estimate - mean);
        *known = Mean {
            vertex,
            mean: now,
            weight: before + weight,
        };
        (now, is_known.then_some(mean))
    }

    /// Takes estimates of vertices, and makes each the mean of all so far. `spread`
    /// is the [`super::codec::Codec::spread`] of the vertex that tells.
    pub fn average(&mut self, vertices: &[Vertex], estimates: &mut [f32], spread: f32) {
        if self.table.is_empty() {
            return;
        }
        let weight = weight_of(spread);
        for (&vertex, estimate) in vertices.iter().zip(estimates) {
            *estimate = self.tell(vertex, *estimate, weight).0;
        }
    }

    /// The mean of what was estimated for a vertex.
    pub fn get(&self, vertex: Vertex) -> Option<f32> {
        let known = self.table.get(self.place(vertex))?;
        (known.vertex == vertex).then_some(known.mean)
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        self.table.len() * size_of::<Mean>()
    }

    /// The place of a vertex: by Fibonacci hashing (Knuth, "The Art of Computer
    /// Programming", volume 3, section 6.4).
    fn place(&self, vertex: Vertex) -> usize {
        let hash = vertex.wrapping_mul(0x9e37_79b9);
        ((u64::from(hash) * self.table.len() as u64) >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn averaged(means: &mut Means, told: &[(Vertex, f32)], spread: f32) -> Vec<f32> {
        let (vertices, mut estimates): (Vec<_>, Vec<_>) = told.iter().copied().unzip();
        means.average(&vertices, &mut estimates, spread);
        estimates
    }

    #[test]
    fn estimates_become_means() {
        let mut means = Means::default();
        means.fit(10);
        let told = averaged(&mut means, &[(7, 4.0), (9, -1.0)], 1.0);
        assert_eq!(told, [4.0, -1.0]);
        let told = averaged(&mut means, &[(9, 5.0), (7, 8.0)], 1.0);
        assert_eq!(told, [2.0, 6.0]);
        // Weights of 2 until now, and of 1/16.
        let told = averaged(&mut means, &[(7, 39.0)], 4.0);
        assert_eq!(told, [7.0]);
        assert_eq!(means.get(7), Some(7.0));
        assert_eq!(means.get(8), None);
        // A beam as wide as before goes on, another one begins anew.
        means.fit(10);
        assert_eq!(means.get(7), Some(7.0));
        means.fit(100);
        assert_eq!(means.get(7), None);
    }

    #[test]
    fn what_is_too_far_for_numbers_has_no_part_in_a_mean() {
        for far in [f32::MAX, f32::INFINITY, f32::NAN] {
            for spread in [0.0, 1e-30, 1.0, 1e30, f32::INFINITY, f32::NAN] {
                let mut means = Means::default();
                means.fit(1);
                averaged(&mut means, &[(7, far)], spread);
                assert_eq!(averaged(&mut means, &[(7, 3.0)], spread), [3.0]);
                averaged(&mut means, &[(7, far)], spread);
                let mean = averaged(&mut means, &[(7, 5.0)], spread)[0];
                assert!((mean - 4.0).abs() < 1e-6, "{mean}");
            }
        }
    }

    #[test]
    fn a_vertex_that_takes_the_place_of_another_begins_anew() {
        let mut means = Means::default();
        means.fit(1);
        for vertex in 0..1000 {
            averaged(&mut means, &[(vertex, 1e9)], 1.0);
            let told = [(vertex + 5000, vertex as f32)];
            assert_eq!(averaged(&mut means, &told, 1.0), [vertex as f32]);
        }
    }

    #[test]
    fn without_places_estimates_stay() {
        let mut means = Means::default();
        averaged(&mut means, &[(1, 1.0)], 1.0);
        assert_eq!(averaged(&mut means, &[(1, 3.0)], 1.0), [3.0]);
        assert_eq!(means.get(1), None);
    }
}
