//! What a vertex stores of its vector, and of those of its neighbours.
//!
//! A [`Codec`] turns a vector into a *code*, a byte string of one length for
//! the whole index, and compares codes. [`Plain`] stores the vector itself,
//! [`Bits`] a string of bits, [`Sparse`] the largest components of a sparse one.
//! [`Fused`] stores a short code, and beside each link a still shorter one of
//! the neighbour, so that a visit to a vertex also tells about how far its
//! neighbours are. [`AnyCodec`] is the one that an index's options name.

mod any;
mod bits;
mod fused;
mod plain;
mod sparse;

pub use any::{AnyCodec, AnyQuery};
pub use bits::{Bits, BitsQuery};
pub use fused::{Fused, FusedQuery};
pub use plain::{Plain, PlainQuery};
pub use sparse::{Sparse, SparseQuery};

/// A code in memory, aligned to 8 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code(Vec<u64>);

impl Code {
    /// A code of `len` zero bytes; `len` is a multiple of 8.
    pub fn zeroed(len: usize) -> Self {
        debug_assert!(len.is_multiple_of(8));
        Code(vec![0; len / 8])
    }

    /// A copy of a code.
    pub fn copied(bytes: &[u8]) -> Self {
        let mut code = Code::zeroed(bytes.len());
        code.bytes_mut().copy_from_slice(bytes);
        code
    }

    /// The code's bytes.
    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }

    /// The code's bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// How far a code is from a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// The ordering key.
    pub key: f32,
    /// The part of it that codes beside links are estimates of.
    pub rest: f32,
}

impl Measured {
    /// Of a codec whose keys have no parts.
    pub fn whole(key: f32) -> Self {
        Measured { key, rest: key }
    }
}

/// How vectors are stored in vertices and compared.
///
/// Ordering keys are those of [`crate::Metric::key`]: smaller is nearer. What is
/// said of links has defaults for a codec that stores nothing beside them.
pub trait Codec: Sync {
    /// What is encoded, of the index's dimension.
    type Vector<'a>: Copy;
    /// A query, prepared for many comparisons.
    type Query;

    /// Bytes of a code; a multiple of 8.
    fn code_len(&self) -> usize;

    /// Bytes that `capacity` links of a vertex take beside the numbers of the
    /// neighbours; a multiple of 8. With 0, links say nothing of how far their
    /// neighbours are.
    fn links_len(&self, _capacity: usize) -> usize {
        0
    }

    /// Encodes a vector. Returns false when the vector cannot be placed under the metric (a zero vector under cosine)
    /// and is left out of the index.
    fn encode(&self, vector: Self::Vector<'_>, code: &mut [u8]) -> bool;

    /// The ordering key of two codes.
    fn distance(&self, a: &[u8], b: &[u8]) -> f32;

    /// Prepares a vector as a query; `None` as for [`Codec::encode`].
    fn query(&self, vector: Self::Vector<'_>) -> Option<Self::Query>;

    /// Prepares a query for what is near to a code.
    fn query_of_code(&self, code: &[u8]) -> Self::Query;

    /// The ordering key of a code for a query.
    fn key(&self, query: &Self::Query, code: &[u8]) -> f32;

    /// The ordering key of a code for a query, and its parts.
    fn measure(&self, query: &Self::Query, code: &[u8]) -> Measured {
        Measured::whole(self.key(query, code))
    }

    /// Of the key of two codes, of which one and the key are given, about the standard
    /// deviation of what codes are off by; 0 if they are exact.
    fn blur(&self, _code: &[u8], _key: f32) -> f32 {
        0.0
    }

    /// What the codec has learned of the vectors, to be kept with the index.
    fn frame(&self) -> &[f32] {
        &[]
    }

    /// A lower bound of the distance that the metric's SQL operator computes
    /// for the vector of a code, whose key is given.
    fn bound(&self, query: &Self::Query, code: &[u8], key: f32) -> f64;

    /// The estimated keys of the neighbours at all positions of a vertex, in
    /// the multiple of 32 that [`Codec::links_len`] has room for. `code` is the
    /// vertex's own, and `measured`; `links` are the bytes beside the numbers.
    fn estimates(
        &self,
        _query: &Self::Query,
        _code: &[u8],
        _measured: Measured,
        _links: &[u8],
        _out: &mut Vec<f32>,
    ) {
    }

    /// The square of the distance between a query and a code, as it was measured, or
    /// under inner product between the query and its projection on the code. It tells
    /// how good the code's [`Codec::estimates`] are.
    fn spread(&self, _query: &Self::Query, _code: &[u8], _measured: Measured) -> f32 {
        1.0
    }

    /// By how much the estimated key of a vertex may be larger than that of the farthest
    /// one that is sought for the vertex to be worth a visit, where both are about as far
    /// as a code whose key is given.
    fn slack(&self, _query: &Self::Query, _code: &[u8], _key: f32) -> f32 {
        0.0
    }

    /// Writes what links of a vertex hold of their neighbours: each with its
    /// position and the neighbour's code. `own` is the vertex's code.
    fn encode_links(&self, _own: &[u8], _neighbours: &[(usize, &[u8])], _links: &mut [u8]) {}

    /// Whether the link at a position is that to a neighbour of this code, as
    /// [`Codec::encode_links`] writes it.
    fn link_matches(&self, _own: &[u8], _neighbour: (usize, &[u8]), _links: &[u8]) -> bool {
        true
    }
}
