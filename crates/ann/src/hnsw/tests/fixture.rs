//! Vectors, indexes over them, and what every test asserts of an index.

use std::collections::HashMap;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::HeapTid;
use crate::Metric;
use crate::hnsw::check::Report;
use crate::hnsw::index::{create, read_frame, read_meta};
use crate::hnsw::layout::Blurred;
use crate::hnsw::{AnyCodec, AnyQuery, Builder, Code, Codec, Index, Options, Scan, Storage, build};
use crate::mem_pages::MemPages;
use crate::metric::{normalize, squares};
use crate::quantize::frame::Frame;
use crate::team::Pair;

/// Every metric with every storage that serves it.
pub const KINDS: [(Metric, Storage); 7] = [
    (Metric::L2, Storage::Plain),
    (Metric::InnerProduct, Storage::Plain),
    (Metric::Cosine, Storage::Plain),
    (Metric::L1, Storage::Plain),
    (Metric::L2, Storage::Fused),
    (Metric::InnerProduct, Storage::Fused),
    (Metric::Cosine, Storage::Fused),
];

pub const STORAGES: [Storage; 2] = [Storage::Plain, Storage::Fused];

pub fn options((metric, storage): (Metric, Storage), dimension: u32) -> Options {
    Options {
        dimension,
        m: 8,
        ef_construction: 40,
        metric,
        storage,
        seed: 17,
        components: 0,
    }
}

fn random(rng: &mut SmallRng, dimension: usize) -> Vec<f32> {
    (0..dimension)
        .map(|_| rng.random_range(-1.0..1.0))
        .collect()
}

/// Points around two dozen centres, which are the same for every seed.
pub fn clustered(count: usize, dimension: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut rng = SmallRng::seed_from_u64(0);
    let centres: Vec<Vec<f32>> = (0..24).map(|_| random(&mut rng, dimension)).collect();
    let mut rng = SmallRng::seed_from_u64(seed);
    (0..count)
        .map(|i| {
            let noise = random(&mut rng, dimension);
            let centre = &centres[i % centres.len()];
            centre.iter().zip(noise).map(|(c, n)| c + 0.4 * n).collect()
        })
        .collect()
}

/// Points with normal deviates of 0.5 around forty centres with those of 1: the
/// lengths of the centres differ.
pub fn normal_clusters(count: usize, dimension: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let centres: Vec<Vec<f32>> = (0..40)
        .map(|_| (0..dimension).map(|_| normal(&mut rng)).collect())
        .collect();
    (0..count)
        .map(|_| {
            let centre = &centres[rng.random_range(0..centres.len())];
            centre.iter().map(|c| c + 0.5 * normal(&mut rng)).collect()
        })
        .collect()
}

/// Points of [`clustered`], each with a length of its own: one in five more than twice as
/// long as the median, one in five less than half.
pub fn of_different_lengths(count: usize, dimension: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut vectors = clustered(count, dimension, seed);
    for vector in &mut vectors {
        let factor = (0.8 * normal(&mut rng)).exp();
        vector.iter_mut().for_each(|x| *x *= factor);
    }
    vectors
}

/// A normal deviate (Box and Muller).
pub fn normal(rng: &mut SmallRng) -> f32 {
    let (u, v) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}

pub fn empty(options: &Options) -> MemPages {
    let store = MemPages::new();
    create(&store, options, &codec(options)).unwrap();
    store
}

pub fn codec(options: &Options) -> AnyCodec {
    AnyCodec::new(options).unwrap()
}

pub fn open(store: &MemPages) -> Index<'_, MemPages, AnyCodec> {
    let meta = read_meta(store).unwrap();
    let options = meta.options().unwrap();
    let frame = read_frame(store, &options).unwrap();
    let codec = AnyCodec::with_frame(&options, frame).unwrap();
    Index::open(store, &meta, codec).unwrap()
}

pub fn encode(codec: &AnyCodec, vector: &[f32]) -> Code {
    let mut code = Code::zeroed(codec.code_len());
    assert!(codec.encode(vector.into(), code.bytes_mut()));
    code
}

/// Inserts the vectors through pages; row `first + i` holds vector i.
pub fn insert_all(store: &MemPages, vectors: &[Vec<f32>], first: u64, seed: u64) {
    let index = open(store);
    let mut rng = SmallRng::seed_from_u64(seed);
    for (i, vector) in vectors.iter().enumerate() {
        let code = encode(index.codec(), vector);
        let tid = HeapTid(first + i as u64);
        index.insert(&code, tid, 1.0 - rng.random::<f64>()).unwrap();
    }
}

/// Builds the index in memory with `threads` workers beside this thread.
pub fn build_all(options: &Options, vectors: &[Vec<f32>], threads: usize) -> MemPages {
    build_with(codec_for(options, vectors), options, vectors, threads)
}

/// The codec that has seen the vectors.
pub fn codec_for(options: &Options, vectors: &[Vec<f32>]) -> AnyCodec {
    let mut sample: Vec<f32> = Vec::new();
    for vector in vectors.iter().take(1000) {
        let mut vector = vector.clone();
        if options.metric != Metric::Cosine || normalize(&mut vector) {
            sample.extend(vector);
        }
    }
    let dimension = options.dimension as usize;
    let frame = Frame::of_sample(options.metric, &sample, dimension, &mut || ()).unwrap();
    AnyCodec::with_frame(options, frame).unwrap()
}

/// Builds the index with a codec.
pub fn build_with(
    codec: AnyCodec,
    options: &Options,
    vectors: &[Vec<f32>],
    threads: usize,
) -> MemPages {
    let store = MemPages::new();
    create(&store, options, &codec).unwrap();
    let builder = built(&codec, options, vectors, threads);
    builder
        .flush(&open(&store), Blurred::default(), &Pair)
        .unwrap();
    store
}

/// The complete graph in memory.
pub fn built(
    codec: &AnyCodec,
    options: &Options,
    vectors: &[Vec<f32>],
    threads: usize,
) -> Builder<AnyCodec> {
    let builder = Builder::new(codec.clone(), *options, 1 << 26, 7).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| builder.linker().work());
        }
        for (i, vector) in vectors.iter().enumerate() {
            let added = builder.add(&encode(codec, vector), HeapTid(i as u64));
            assert_eq!(added, build::Added::Yes);
        }
        builder.close();
        let mut linker = builder.linker();
        while linker.help(0) {}
    });
    builder
}

/// The rows of the first `k` results, nearest first.
pub fn nearest(store: &MemPages, query: &[f32], ef: usize, k: usize) -> Vec<u64> {
    let index = open(store);
    let mut scan = Scan::new(query_of(&index, query));
    let found = scan.next_round(&index, ef).unwrap();
    found
        .iter()
        .flat_map(|f| scan.heap_tids(f))
        .map(|tid| tid.0)
        .take(k)
        .collect()
}

/// Exactly.
fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let pairs = || a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    let norm = |v: &[f32]| squares(v).sqrt();
    match metric {
        Metric::L2 => pairs().map(|(a, b)| (a - b).powi(2)).sum(),
        Metric::L1 => pairs().map(|(a, b)| (a - b).abs()).sum(),
        Metric::Cosine => {
            let (of_a, of_b) = (norm(a), norm(b));
            pairs().map(|(a, b)| (a / of_a - b / of_b).powi(2)).sum()
        }
        _ => -pairs().map(|(a, b)| a * b).sum::<f64>(),
    }
}

pub fn exact(options: &Options, rows: &[(u64, &Vec<f32>)], query: &[f32], k: usize) -> Vec<u64> {
    let mut all: Vec<(f64, u64)> = rows
        .iter()
        .map(|(row, v)| (distance(options.metric, query, v), *row))
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.into_iter().take(k).map(|(_, row)| row).collect()
}

/// Mean recall@10 over the queries, of rows that are compared exactly in the
/// end, as the executor does.
pub fn recall(store: &MemPages, rows: &[(u64, &Vec<f32>)], queries: &[Vec<f32>], ef: usize) -> f64 {
    let options = *open(store).options();
    let vectors: HashMap<u64, &Vec<f32>> = rows.iter().copied().collect();
    let hits: usize = queries
        .iter()
        .map(|query| {
            let want = exact(&options, rows, query, 10);
            let found: Vec<(u64, &Vec<f32>)> = nearest(store, query, ef, ef)
                .into_iter()
                .map(|row| (row, vectors[&row]))
                .collect();
            let got = exact(&options, &found, query, 10);
            got.iter().filter(|row| want.contains(row)).count()
        })
        .sum();
    hits as f64 / (10 * queries.len()) as f64
}

/// The index is valid and holds each of the rows once.
pub fn assert_valid(store: &MemPages, rows: impl IntoIterator<Item = u64>) -> Report {
    let mut held = Vec::new();
    let report = open(store).check(&mut |tid, _| held.push(tid.0)).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    held.sort_unstable();
    let mut rows: Vec<u64> = rows.into_iter().collect();
    rows.sort_unstable();
    assert_eq!(held, rows);
    report
}

/// Vacuums away the rows for which `is_dead` says so.
pub fn vacuum(store: &MemPages, is_dead: impl Fn(u64) -> bool) {
    let index = open(store);
    let marked = index.mark(&mut |tid| is_dead(tid.0)).unwrap();
    index.repair(&marked).unwrap();
    index.free(&marked).unwrap();
}

/// A query for an open index.
pub fn query_of(index: &Index<'_, MemPages, AnyCodec>, vector: &[f32]) -> AnyQuery {
    index.codec().query(vector.into()).unwrap()
}
