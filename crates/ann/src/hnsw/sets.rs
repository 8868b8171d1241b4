//! Sets of vertices.

use memory::OutOfMemory;
use memory::vec::{filled, lengthen};

use super::layout::{NONE, Vertex};

/// Places for each vertex of a [`VertexSet`], so that few collide.
const SPARSE: usize = 2;

/// A few of many vertices, by open addressing with linear probing (Knuth, "The Art
/// of Computer Programming", section 6.4). A search asks for every neighbour of
/// every vertex that it visits. [`NONE`] is always in it.
pub struct VertexSet {
    /// A power of two of places, [`NONE`] where there is no vertex.
    places: Vec<Vertex>,
    len: usize,
}

impl VertexSet {
    /// An empty set that has memory for so many vertices.
    pub fn with_capacity(vertices: usize) -> Self {
        VertexSet {
            places: vec![NONE; (SPARSE * vertices).next_power_of_two().max(64)],
            len: 0,
        }
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        self.places.len() * size_of::<Vertex>()
    }

    /// The vertices, in no order.
    pub fn iter(&self) -> impl Iterator<Item = Vertex> + '_ {
        self.places.iter().copied().filter(|&vertex| vertex != NONE)
    }

    /// Takes all out; the memory stays.
    pub fn clear(&mut self) {
        self.places.fill(NONE);
        self.len = 0;
    }

    /// Makes room for so many vertices at once.
    pub fn reserve(&mut self, vertices: usize) {
        if SPARSE * vertices > self.places.len() {
            let mut larger = VertexSet::with_capacity(vertices);
            for &vertex in self.places.iter().filter(|&&vertex| vertex != NONE) {
                larger.insert(vertex);
            }
            *self = larger;
        }
    }

    /// Makes room for so many more vertices, which then can be put in without more memory.
    #[inline]
    pub fn make_room(&mut self, more: usize) -> Result<(), OutOfMemory> {
        let vertices = self.len + more;
        if SPARSE * vertices <= self.places.len() {
            return Ok(());
        }
        let places = (SPARSE * vertices).next_power_of_two();
        let places = filled(NONE, places, "the vertices that a search has seen")?;
        let before = std::mem::replace(&mut self.places, places);
        self.len = 0;
        self.extend(before.into_iter().filter(|&vertex| vertex != NONE));
        Ok(())
    }

    /// Whether a vertex is in the set.
    #[inline]
    pub fn contains(&self, vertex: Vertex) -> bool {
        // Half are, and which is not foreseen: no branch but for collisions.
        let first = self.places[self.first(vertex)];
        if (first != vertex) & (first != NONE) {
            return self.places[self.find(vertex)] == vertex;
        }
        first == vertex
    }

    /// Puts a vertex in; false if it was there already.
    #[inline]
    pub fn insert(&mut self, vertex: Vertex) -> bool {
        let place = self.find(vertex);
        if self.places[place] == vertex {
            return false;
        }
        self.places[place] = vertex;
        self.len += 1;
        if SPARSE * self.len > self.places.len() {
            self.reserve(2 * self.len);
        }
        true
    }

    /// Where a vertex goes if nothing is there: by Fibonacci hashing (Knuth, as above),
    /// of which the high bits are the good ones.
    #[inline]
    fn first(&self, vertex: Vertex) -> usize {
        let bits = self.places.len().ilog2().min(32);
        (vertex.wrapping_mul(0x9E37_79B9) >> (32 - bits)) as usize
    }

    /// The place of a vertex, or the one for it.
    #[inline]
    fn find(&self, vertex: Vertex) -> usize {
        let mut place = self.first(vertex);
        while self.places[place] != vertex && self.places[place] != NONE {
            place = (place + 1) & (self.places.len() - 1);
        }
        place
    }
}

impl Extend<Vertex> for VertexSet {
    fn extend<I: IntoIterator<Item = Vertex>>(&mut self, vertices: I) {
        for vertex in vertices {
            self.insert(vertex);
        }
    }
}

/// Many of all vertices: one bit each.
#[derive(Default)]
pub struct VertexBits(Vec<u64>);

impl VertexBits {
    /// Puts a vertex in.
    pub fn insert(&mut self, vertex: Vertex) -> Result<(), OutOfMemory> {
        let word = vertex as usize / 64;
        if word >= self.0.len() {
            let more = word + 1 - self.0.len();
            lengthen(&mut self.0, 0, more, "a set of vertices")?;
        }
        self.0[word] |= 1 << (vertex % 64);
        Ok(())
    }

    /// Whether a vertex is in the set.
    pub fn contains(&self, vertex: Vertex) -> bool {
        self.0
            .get(vertex as usize / 64)
            .is_some_and(|word| word & 1 << (vertex % 64) != 0)
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// The vertices that are not in another set, in ascending order.
    pub fn without<'a>(&'a self, other: &'a VertexBits) -> impl Iterator<Item = Vertex> + 'a {
        self.0.iter().enumerate().flat_map(|(i, &word)| {
            let rest = word & !other.0.get(i).unwrap_or(&0);
            let bits = (0..64).filter(move |bit| rest >> bit & 1 != 0);
            bits.map(move |bit| 64 * i as Vertex + bit)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Numbers that are near each other, and any others.
        #[test]
        fn a_set_is_a_set(
            near in prop::collection::vec(0..2000_u32, 0..3000),
            far in prop::collection::vec(any::<u32>(), 0..100),
        ) {
            let mut set = VertexSet::with_capacity(0);
            for _ in 0..2 {
                let mut expected = HashSet::from([NONE]);
                for (i, &vertex) in near.iter().chain(&far).enumerate() {
                    if i % 3 == 0 {
                        set.make_room(i % 50).unwrap();
                    }
                    prop_assert_eq!(set.contains(vertex), expected.contains(&vertex));
                    prop_assert_eq!(set.insert(vertex), expected.insert(vertex));
                    prop_assert!(set.contains(vertex));
                }
                prop_assert!(set.memory() >= 8 * (expected.len() - 1));
                let found: Vec<u32> = (0..2000).filter(|&v| set.contains(v)).collect();
                prop_assert!(found.iter().all(|v| expected.contains(v)));
                set.clear();
                prop_assert!(!set.contains(0) && set.contains(NONE));
            }
        }
    }

    #[test]
    fn the_difference_of_sets_of_bits() {
        let (mut some, mut others) = (VertexBits::default(), VertexBits::default());
        assert!(some.is_empty());
        for vertex in [0, 63, 64, 200, 1000] {
            some.insert(vertex).unwrap();
        }
        for vertex in [63, 201] {
            others.insert(vertex).unwrap();
        }
        assert!(some.contains(200) && !some.contains(201) && !some.contains(5000));
        let left: Vec<Vertex> = some.without(&others).collect();
        assert_eq!(left, [0, 64, 200, 1000]);
    }
}
