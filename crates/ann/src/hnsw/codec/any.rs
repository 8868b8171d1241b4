//! The codec that the options of an index name.

use std::sync::Arc;

use super::{Bits, BitsQuery, Codec, Fused, FusedQuery, Measured, Plain, PlainQuery};
use super::{Sparse, SparseQuery};
use crate::AnyVector;
use crate::hnsw::layout::{Options, Storage, per_page, slot_len};
use crate::page::BODY_LEN;
use crate::quantize::frame::Frame;

/// One of the codecs; a clone shares what is large.
#[derive(Clone)]
pub enum AnyCodec {
    /// Whole vectors.
    Plain(Plain),
    /// Strings of bits.
    Bits(Bits),
    /// Sparse vectors.
    Sparse(Sparse),
    /// Short codes, with codes beside the links.
    Fused(Arc<Fused>),
}

/// A query of [`AnyCodec`].
pub enum AnyQuery {
    /// Of [`Plain`].
    Plain(PlainQuery),
    /// Of [`Bits`].
    Bits(BitsQuery),
    /// Of [`Sparse`].
    Sparse(SparseQuery),
    /// Of [`Fused`].
    Fused(Box<FusedQuery>),
}

impl AnyCodec {
    /// The codec of an index with these options that knows nothing of the vectors;
    /// `None` if the storage cannot serve the metric.
    pub fn new(options: &Options) -> Option<Self> {
        Self::with_frame(options, Frame::unlearned(options.dimension as usize))
    }

    /// The codec of an index with these options, whose vectors have this in common;
    /// `None` if the storage cannot serve the metric.
    pub fn with_frame(options: &Options, frame: Frame) -> Option<Self> {
        let dimension = options.dimension as usize;
        let capacity = 2 * usize::from(options.m);
        match options.storage {
            Storage::Plain => Plain::new(options.metric, dimension)
                .map(AnyCodec::Plain)
                .or_else(|| Bits::new(options.metric, dimension).map(AnyCodec::Bits)),
            Storage::Sparse => {
                Sparse::new(options.metric, options.components as usize).map(AnyCodec::Sparse)
            }
            Storage::Fused => Fused::new(options.metric, dimension, capacity, options.seed)
                .map(|codec| {
                    codec.in_frame(frame).fitted(|links_len, code_len| {
                        let (slots, pages) = per_page(slot_len(options.m, links_len, code_len));
                        // Bytes of pages for each slot.
                        pages as usize * BODY_LEN / slots as usize
                    })
                })
                .map(Arc::new)
                .map(AnyCodec::Fused),
        }
    }
}

const OTHER_KIND: &str = "vectors are of the kind that the metric compares";

/// Calls the codec inside.
macro_rules! each {
    ($any:expr, $codec:ident => $call:expr) => {
        match $any {
            AnyCodec::Plain($codec) => $call,
            AnyCodec::Bits($codec) => $call,
            AnyCodec::Sparse($codec) => $call,
            AnyCodec::Fused($codec) => $call,
        }
    };
}

/// Calls the codec inside with the query inside, which is one of its own.
macro_rules! each_query {
    ($any:expr, $query:expr, ($codec:ident, $inner:ident) => $call:expr) => {
        match ($any, $query) {
            (AnyCodec::Plain($codec), AnyQuery::Plain($inner)) => $call,
            (AnyCodec::Bits($codec), AnyQuery::Bits($inner)) => $call,
            (AnyCodec::Sparse($codec), AnyQuery::Sparse($inner)) => $call,
            (AnyCodec::Fused($codec), AnyQuery::Fused($inner)) => $call,
            _ => unreachable!("a query belongs to the codec that made it"),
        }
    };
}

impl Codec for AnyCodec {
    type Vector<'a> = AnyVector<'a>;
    type Query = AnyQuery;

    fn code_len(&self) -> usize {
        each!(self, codec => codec.code_len())
    }

    fn links_len(&self, capacity: usize) -> usize {
        each!(self, codec => codec.links_len(capacity))
    }

    fn encode(&self, vector: AnyVector<'_>, code: &mut [u8]) -> bool {
        match (self, vector) {
            (AnyCodec::Plain(codec), AnyVector::Components(v)) => codec.encode(v, code),
            (AnyCodec::Fused(codec), AnyVector::Components(v)) => codec.encode(v, code),
            (AnyCodec::Bits(codec), AnyVector::Bits(v)) => codec.encode(v, code),
            (AnyCodec::Sparse(codec), AnyVector::Sparse(v)) => codec.encode(v, code),
            _ => unreachable!("{OTHER_KIND}"),
        }
    }

    fn distance(&self, a: &[u8], b: &[u8]) -> f32 {
        each!(self, codec => codec.distance(a, b))
    }

    fn query(&self, vector: AnyVector<'_>) -> Option<AnyQuery> {
        match (self, vector) {
            (AnyCodec::Plain(codec), AnyVector::Components(v)) => {
                codec.query(v).map(AnyQuery::Plain)
            }
            (AnyCodec::Fused(codec), AnyVector::Components(v)) => {
                codec.query(v).map(Box::new).map(AnyQuery::Fused)
            }
            (AnyCodec::Bits(codec), AnyVector::Bits(v)) => codec.query(v).map(AnyQuery::Bits),
            (AnyCodec::Sparse(codec), AnyVector::Sparse(v)) => codec.query(v).map(AnyQuery::Sparse),
            _ => unreachable!("{OTHER_KIND}"),
        }
    }

    fn query_of_code(&self, code: &[u8]) -> AnyQuery {
        match self {
            AnyCodec::Plain(codec) => AnyQuery::Plain(codec.query_of_code(code)),
            AnyCodec::Bits(codec) => AnyQuery::Bits(codec.query_of_code(code)),
            AnyCodec::Sparse(codec) => AnyQuery::Sparse(codec.query_of_code(code)),
            AnyCodec::Fused(codec) => AnyQuery::Fused(Box::new(codec.query_of_code(code))),
        }
    }

    fn key(&self, query: &AnyQuery, code: &[u8]) -> f32 {
        each_query!(self, query, (codec, query) => codec.key(query, code))
    }

    fn measure(&self, query: &AnyQuery, code: &[u8]) -> Measured {
        each_query!(self, query, (codec, query) => codec.measure(query, code))
    }

    fn blur(&self, code: &[u8], key: f32) -> f32 {
        each!(self, codec => codec.blur(code, key))
    }

    fn frame(&self) -> &[f32] {
        each!(self, codec => codec.frame())
    }

    fn bound(&self, query: &AnyQuery, code: &[u8], key: f32) -> f64 {
        each_query!(self, query, (codec, query) => codec.bound(query, code, key))
    }

    fn estimates(
        &self,
        query: &AnyQuery,
        code: &[u8],
        measured: Measured,
        links: &[u8],
        out: &mut Vec<f32>,
    ) {
        each_query!(self, query, (codec, query) => {
            codec.estimates(query, code, measured, links, out);
        });
    }

    fn spread(&self, query: &AnyQuery, code: &[u8], measured: Measured) -> f32 {
        each_query!(self, query, (codec, query) => codec.spread(query, code, measured))
    }

    fn slack(&self, query: &AnyQuery, code: &[u8], key: f32) -> f32 {
        each_query!(self, query, (codec, query) => codec.slack(query, code, key))
    }

    fn encode_links(&self, own: &[u8], neighbours: &[(usize, &[u8])], links: &mut [u8]) {
        each!(self, codec => codec.encode_links(own, neighbours, links));
    }

    fn link_matches(&self, own: &[u8], neighbour: (usize, &[u8]), links: &[u8]) -> bool {
        each!(self, codec => codec.link_matches(own, neighbour, links))
    }
}
