//! Indexes for tests.

use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::ivf::build::Builder;
use crate::ivf::codec::Codec;
use crate::ivf::index::{Index, List, create, read_mean, read_meta};
use crate::ivf::kmeans::cluster;
use crate::ivf::layout::{Link, Options};
use crate::ivf::scan::Scan;
use crate::mem_pages::MemPages;
use crate::quantize::extended::Bits;
use crate::team::Alone;
use crate::{AnyVector, HeapTid, Metric};

pub type MemIndex<'s> = Index<'s, MemPages, Arc<Codec>>;

pub fn clustered(rng: &mut SmallRng, rows: usize, dimension: usize) -> Vec<Vec<f32>> {
    let centres: Vec<Vec<f32>> = (0..20)
        .map(|_| {
            (0..dimension)
                .map(|_| rng.random_range(-1.0..1.0))
                .collect()
        })
        .collect();
    (0..rows)
        .map(|_| {
            let centre = &centres[rng.random_range(0..centres.len())];
            centre
                .iter()
                .map(|c| c + rng.random_range(-0.8..0.8))
                .collect()
        })
        .collect()
}

/// A row of components as a metric takes it: for Hamming, a bit for each component that
/// is positive.
pub struct Row<'r> {
    components: &'r [f32],
    bits: Option<Vec<u8>>,
}

impl<'r> Row<'r> {
    pub fn new(metric: Metric, components: &'r [f32]) -> Self {
        let byte = |eight: &[f32]| {
            let bits = eight.iter().enumerate();
            bits.fold(0, |byte, (i, &x)| byte | u8::from(x > 0.0) << (7 - i))
        };
        let bits = (metric == Metric::Hamming).then(|| components.chunks(8).map(byte).collect());
        Row { components, bits }
    }

    pub fn vector(&self) -> AnyVector<'_> {
        match &self.bits {
            Some(bits) => AnyVector::Bits(bits),
            None => AnyVector::Components(self.components),
        }
    }
}

pub fn options(metric: Metric, dimension: usize, bits: Bits) -> Options {
    Options {
        dimension: dimension as u32,
        metric,
        bits,
        seed: 7,
    }
}

pub fn built<'s>(
    store: &'s MemPages,
    options: &Options,
    rows: &[Vec<f32>],
    lists: usize,
) -> MemIndex<'s> {
    built_with(store, options, rows, (lists, false))
}

/// The same; with lists in branches, as if there were many, if `in_branches` says so.
pub fn built_with<'s>(
    store: &'s MemPages,
    options: &Options,
    rows: &[Vec<f32>],
    (lists, in_branches): (usize, bool),
) -> MemIndex<'s> {
    let mut codec = Codec::new(options).unwrap();
    let mut rng = SmallRng::seed_from_u64(5);
    let padded = codec.padded();
    let mut sample = vec![0.0; rows.len() * padded];
    for (row, out) in rows.iter().zip(sample.chunks_exact_mut(padded)) {
        let row = Row::new(options.metric, row);
        codec.load(row.vector(), out).unwrap();
    }
    codec.set_mean_of(&sample, &mut || ());
    codec.prepare_loaded(&mut sample);
    let codec = Arc::new(codec);
    let mut centroids = cluster(
        &Alone,
        &sample,
        padded,
        lists,
        options.metric,
        &mut rng,
        &mut |_| {},
    )
    .unwrap();
    if in_branches {
        centroids = centroids.in_branches(&Alone, None, &mut rng).unwrap().0;
    }
    create(store, options, &codec, &centroids).unwrap();
    let index = Index::open(store, codec, read_meta(store).unwrap());
    let mut builder = Builder::new(&index, &Alone, 1 << 20).unwrap();
    for (i, row) in rows.iter().enumerate() {
        assert!(
            builder
                .add(
                    Row::new(options.metric, row).vector(),
                    HeapTid(i as u64 + 1)
                )
                .unwrap()
        );
    }
    builder.finish().unwrap();
    index
}

pub fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let pairs = || a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    let dot: f64 = pairs().map(|(a, b)| a * b).sum();
    match metric {
        Metric::L2 => pairs().map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt(),
        Metric::InnerProduct => -dot,
        _ => {
            let norm = |v: &[f32]| {
                v.iter()
                    .map(|&x| f64::from(x) * f64::from(x))
                    .sum::<f64>()
                    .sqrt()
            };
            1.0 - dot / (norm(a) * norm(b))
        }
    }
}

/// Opens the index of a store.
pub fn open(store: &MemPages) -> MemIndex<'_> {
    let meta = read_meta(store).unwrap();
    let codec = Codec::new(&meta.options().unwrap()).unwrap();
    let codec = codec.with_mean(read_mean(store, &meta).unwrap());
    Index::open(store, Arc::new(codec), meta)
}

/// Adds rows, numbered from `first` on.
pub fn insert_all(index: &MemIndex<'_>, rows: &[Vec<f32>], first: u64) {
    for (tid, row) in (first..).zip(rows) {
        let row = Row::new(index.codec().options().metric, row);
        let inserted = index.insert(row.vector(), HeapTid(tid));
        assert!(inserted.unwrap());
    }
}

/// The lists of an index, and where their members are.
pub fn lists(index: &MemIndex<'_>) -> Vec<(List, Link)> {
    let mut lists = Vec::new();
    index
        .for_each_list(&mut |list, link| {
            lists.push((list, link));
            Ok(())
        })
        .unwrap();
    lists
}

/// A scan that has taken no lists yet.
pub fn scan(index: &MemIndex<'_>, query: &[f32], by_bound: bool) -> Scan {
    let query = Row::new(index.codec().options().metric, query);
    let query = index.codec().prepare(query.vector()).unwrap();
    Scan::new(index.codec().query(query), by_bound)
}

/// All rows that a scan of so many lists returns.
pub fn all_rows(
    index: &MemIndex<'_>,
    query: &[f32],
    lists: usize,
    by_bound: bool,
) -> Vec<(f64, u64)> {
    let mut scan = scan(index, query, by_bound);
    assert!(scan.take_lists(index, lists).unwrap());
    let mut rows = Vec::new();
    while let Some(row) = scan.next_row(index).unwrap() {
        rows.push((row.distance, row.tid.0));
    }
    rows
}
