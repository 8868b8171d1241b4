use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::ivf::build::Builder;
use crate::ivf::codec::Codec;
use crate::ivf::index::{Index, create};
use crate::ivf::kmeans::{Alone, cluster};
use crate::ivf::layout::Options;
use crate::ivf::scan::Scan;
use crate::mem_pages::MemPages;
use crate::quantize::extended::Bits;
use crate::{AnyVector, HeapTid, Metric};

type MemIndex<'s> = Index<'s, MemPages, Arc<Codec>>;

fn clustered(rng: &mut SmallRng, rows: usize, dimension: usize) -> Vec<Vec<f32>> {
    let centres: Vec<Vec<f32>> = (0..20)
        .map(|_| (0..dimension).map(|_| rng.random_range(-1.0..1.0)).collect())
        .collect();
    (0..rows)
        .map(|_| {
            let centre = &centres[rng.random_range(0..centres.len())];
            centre.iter().map(|c| c + rng.random_range(-0.8..0.8)).collect()
        })
        .collect()
}

fn options(metric: Metric, dimension: usize, bits: Bits) -> Options {
    Options {
        dimension: dimension as u32,
        metric,
        bits,
        seed: 7,
    }
}

fn built<'s>(store: &'s MemPages, options: &Options, rows: &[Vec<f32>], lists: usize) -> MemIndex<'s> {
    let codec = Arc::new(Codec::new(options).unwrap());
    let mut rng = SmallRng::seed_from_u64(5);
    let prepared = rows.iter().flat_map(|row| codec.prepare(AnyVector::Components(row)).unwrap());
    let sample: Vec<f32> = prepared.collect();
    let padded = codec.padded();
    let centroids = cluster(&Alone, &sample, padded, lists, &mut rng, &mut |_| {});
    create(store, options, &codec, &centroids.values).unwrap();
    let index = Index::open(store, codec);
    let mut builder = Builder::new(&index, &Alone, 1 << 20).unwrap();
    for (i, row) in rows.iter().enumerate() {
        assert!(builder.add(AnyVector::Components(row), HeapTid(i as u64 + 1)).unwrap());
    }
    builder.finish().unwrap();
    index
}

fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let pairs = || a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    let dot: f64 = pairs().map(|(a, b)| a * b).sum();
    match metric {
        Metric::L2 => pairs().map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt(),
        Metric::InnerProduct => -dot,
        _ => {
            let norm = |v: &[f32]| v.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
            1.0 - dot / (norm(a) * norm(b))
        }
    }
}

/// All rows that a scan of so many lists returns.
fn all_rows(index: &MemIndex<'_>, query: &[f32], lists: usize, by_bound: bool) -> Vec<(f64, u64)> {
    let query = index.codec().prepare(AnyVector::Components(query)).unwrap();
    let mut scan = Scan::new(index.codec().query(query), by_bound);
    assert!(scan.take_lists(index, lists).unwrap());
    let mut rows = Vec::new();
    while let Some(row) = scan.next_row(index).unwrap() {
        rows.push((row.distance, row.tid.0));
    }
    rows
}

const METRICS: [Metric; 3] = [Metric::L2, Metric::InnerProduct, Metric::Cosine];

#[test]
fn a_scan_of_all_lists_returns_every_row_once_by_a_true_bound() {
    let mut rng = SmallRng::seed_from_u64(1);
    for (metric, bits) in METRICS.into_iter().flat_map(|m| [(m, Bits::Four), (m, Bits::Eight)]) {
        let dimension = 100;
        let rows = clustered(&mut rng, 3000, dimension);
        let store = MemPages::new();
        let index = built(&store, &options(metric, dimension, bits), &rows, 30);
        let report = index.check(&mut |_, _, _| {}).unwrap();
        assert_eq!(report.problems, []);
        assert_eq!((report.rows, report.lists), (3000, 30));
        for _ in 0..5 {
            let query: Vec<f32> = clustered(&mut rng, 1, dimension).remove(0);
            let found = all_rows(&index, &query, 30, true);
            let mut tids: Vec<u64> = found.iter().map(|row| row.1).collect();
            tids.sort_unstable();
            assert_eq!(tids, (1..=3000).collect::<Vec<u64>>());
            // Whoever takes a row for the next one once its distance is below the
            // bound of a later one, as the executor does, is right but for rows
            // that come too late.
            let mut last = f64::NEG_INFINITY;
            let mut late = 0;
            for &(bound, tid) in &found {
                let exact = distance(metric, &query, &rows[tid as usize - 1]);
                assert!(bound <= exact + 1e-9, "{metric:?} {bits:?}: {bound} {exact}");
                late += usize::from(exact < last);
                last = last.max(bound);
            }
            // Few errors are larger than what is allowed for.
            assert!(late < 3, "{metric:?} {bits:?}: {late}");
            // The order of codes is nearly that of the rows themselves.
            let mut exact: Vec<u64> = (1..=3000).collect();
            let key = |tid: &u64| distance(metric, &query, &rows[*tid as usize - 1]);
            exact.sort_by(|a, b| key(a).total_cmp(&key(b)));
            let nearest = all_rows(&index, &query, 30, false);
            let nearest: Vec<u64> = nearest.iter().take(10).map(|row| row.1).collect();
            let hits = nearest.iter().filter(|tid| exact[..10].contains(tid)).count();
            assert!(hits >= if bits == Bits::Eight { 9 } else { 7 }, "{metric:?} {bits:?}: {hits}");
        }
    }
}

#[test]
fn rows_are_inserted_removed_and_found() {
    let mut rng = SmallRng::seed_from_u64(2);
    let rows = clustered(&mut rng, 4000, 70);
    let store = MemPages::new();
    let index = built(&store, &options(Metric::L2, 70, Bits::Eight), &rows[..2000], 12);
    for (i, row) in rows.iter().enumerate().skip(2000) {
        index.insert(AnyVector::Components(row), HeapTid(i as u64 + 1)).unwrap();
    }
    let blocks = crate::page::PageStore::block_count(&store);
    let removed = index.remove(&mut |tid| tid.0 % 3 == 0).unwrap();
    assert_eq!((removed.removed, removed.remaining), (1333, 2667));
    let report = index.check(&mut |tid, list, entry| {
        assert_ne!(tid.0 % 3, 0);
        let row = AnyVector::Components(&rows[tid.0 as usize - 1]);
        assert_eq!(index.encode_row(list, row, tid).unwrap().unwrap(), entry);
    });
    let report = report.unwrap();
    assert_eq!(report.problems, []);
    assert_eq!((report.rows, report.free), (2667, 1333));
    let found = all_rows(&index, &rows[0], 12, true);
    assert_eq!(found.len(), 2667);
    assert_eq!(found[0].1, 1);

    // Places are used again.
    for (i, row) in rows.iter().enumerate().filter(|(i, _)| (i + 1) % 3 == 0) {
        index.insert(AnyVector::Components(row), HeapTid(i as u64 + 1)).unwrap();
    }
    let report = index.check(&mut |_, _, _| {}).unwrap();
    assert_eq!(report.problems, []);
    assert_eq!((report.rows, report.free), (4000, 0));
    assert_eq!(crate::page::PageStore::block_count(&store), blocks);
    let statistics = index.statistics().unwrap();
    assert_eq!((statistics.rows, statistics.built_rows, statistics.lists), (4000, 2000, 12));
    let growth = statistics.spread / statistics.built_spread;
    assert!((0.95..1.1).contains(&growth), "{statistics:?}");
}
