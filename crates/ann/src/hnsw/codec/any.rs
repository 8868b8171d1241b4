//! The codec that the options of an index name.

use std::sync::Arc;

use super::{Codec, Fused, FusedQuery, Plain, PlainQuery};
use crate::hnsw::layout::{Options, Storage};

/// One of the codecs; a clone shares what is large.
#[derive(Clone)]
pub enum AnyCodec {
    /// Whole vectors.
    Plain(Plain),
    /// Short codes, with codes beside the links.
    Fused(Arc<Fused>),
}

/// A query of [`AnyCodec`].
pub enum AnyQuery {
    /// Of [`Plain`].
    Plain(PlainQuery),
    /// Of [`Fused`].
    Fused(Box<FusedQuery>),
}

impl AnyCodec {
    /// The codec of an index with these options; `None` if the storage cannot
    /// serve the metric.
    pub fn new(options: &Options) -> Option<Self> {
        let dimension = options.dimension as usize;
        let capacity = 2 * usize::from(options.m);
        match options.storage {
            Storage::Plain => Some(AnyCodec::Plain(Plain::new(options.metric, dimension))),
            Storage::Fused => Fused::new(options.metric, dimension, capacity, options.seed)
                .map(Arc::new)
                .map(AnyCodec::Fused),
        }
    }
}

/// Calls the codec inside.
macro_rules! each {
    ($any:expr, $codec:ident => $call:expr) => {
        match $any {
            AnyCodec::Plain($codec) => $call,
            AnyCodec::Fused($codec) => $call,
        }
    };
}

/// Calls the codec inside with the query inside, which is one of its own.
macro_rules! each_query {
    ($any:expr, $query:expr, ($codec:ident, $inner:ident) => $call:expr) => {
        match ($any, $query) {
            (AnyCodec::Plain($codec), AnyQuery::Plain($inner)) => $call,
            (AnyCodec::Fused($codec), AnyQuery::Fused($inner)) => $call,
            _ => unreachable!("a query belongs to the codec that made it"),
        }
    };
}

impl Codec for AnyCodec {
    type Query = AnyQuery;

    fn code_len(&self) -> usize {
        each!(self, codec => codec.code_len())
    }

    fn links_len(&self, capacity: usize) -> usize {
        each!(self, codec => codec.links_len(capacity))
    }

    fn encode(&self, vector: &[f32], code: &mut [u8]) -> bool {
        each!(self, codec => codec.encode(vector, code))
    }

    fn distance(&self, a: &[u8], b: &[u8]) -> f32 {
        each!(self, codec => codec.distance(a, b))
    }

    fn query(&self, vector: &[f32]) -> Option<AnyQuery> {
        match self {
            AnyCodec::Plain(codec) => codec.query(vector).map(AnyQuery::Plain),
            AnyCodec::Fused(codec) => codec.query(vector).map(Box::new).map(AnyQuery::Fused),
        }
    }

    fn query_of_code(&self, code: &[u8]) -> AnyQuery {
        match self {
            AnyCodec::Plain(codec) => AnyQuery::Plain(codec.query_of_code(code)),
            AnyCodec::Fused(codec) => AnyQuery::Fused(Box::new(codec.query_of_code(code))),
        }
    }

    fn key(&self, query: &AnyQuery, code: &[u8]) -> f32 {
        each_query!(self, query, (codec, query) => codec.key(query, code))
    }

    fn bound(&self, query: &AnyQuery, code: &[u8], key: f32) -> f64 {
        each_query!(self, query, (codec, query) => codec.bound(query, code, key))
    }

    fn estimates(&self, query: &AnyQuery, key: f32, links: &[u8], out: &mut Vec<f32>) {
        each_query!(self, query, (codec, query) => codec.estimates(query, key, links, out));
    }

    fn encode_links(&self, own: &[u8], neighbours: &[(usize, &[u8])], links: &mut [u8]) {
        each!(self, codec => codec.encode_links(own, neighbours, links));
    }

    fn link_matches(&self, own: &[u8], neighbour: (usize, &[u8]), links: &[u8]) -> bool {
        each!(self, codec => codec.link_matches(own, neighbour, links))
    }
}
