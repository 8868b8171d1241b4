//! What scans return.

use std::sync::Arc;

use proptest::prelude::{
    Just, ProptestConfig, Strategy, any, prop, prop_assert, prop_assert_eq, prop_assume,
    prop_oneof, proptest,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::fixture::*;
use crate::ivf::codec::{Codec, Level};
use crate::ivf::index::{Index, create, read_meta};
use crate::ivf::kmeans::{Centroids, cluster};
use crate::ivf::scan::Scan;
use crate::mem_pages::MemPages;
use crate::page::PageStore;
use crate::quantize::bound::tests::{operator, vector};
use crate::quantize::extended::Bits;
use crate::team::Alone;
use crate::{AnyVector, HeapTid, Metric, simd};

const METRICS: [Metric; 3] = [Metric::L2, Metric::InnerProduct, Metric::Cosine];

#[test]
fn a_scan_of_all_lists_returns_every_row_once_by_a_true_bound() {
    let mut rng = SmallRng::seed_from_u64(1);
    let kinds = [
        (Bits::Four, false),
        (Bits::Eight, false),
        (Bits::Eight, true),
    ];
    let kinds = METRICS
        .into_iter()
        .flat_map(|m| kinds.map(|(bits, branches)| (m, bits, branches)));
    for (metric, bits, in_branches) in kinds {
        let dimension = 100;
        let rows = clustered(&mut rng, 3000, dimension);
        let store = MemPages::new();
        let options = options(metric, dimension, bits);
        let index = built_with(&store, &options, &rows, (30, in_branches));
        assert_eq!(index.has_branches(), in_branches);
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
                assert!(
                    bound <= exact + 1e-9,
                    "{metric:?} {bits:?}: {bound} {exact}"
                );
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
            let hits = nearest
                .iter()
                .filter(|tid| exact[..10].contains(tid))
                .count();
            assert!(
                hits >= if bits == Bits::Eight { 9 } else { 7 },
                "{metric:?} {bits:?}: {hits}"
            );
        }
    }
}

/// Vectors that are much nearer to each other than to the origin, such as the places
/// of a city: few lists are enough, and bounds tell rows apart.
#[test]
fn places_of_a_city_are_found() {
    let mut rng = SmallRng::seed_from_u64(12);
    let place = |rng: &mut SmallRng| -> Vec<f32> {
        let mut near = |x: f32| x + rng.random_range(-0.15..0.15);
        vec![near(139.7), near(35.6)]
    };
    let rows: Vec<Vec<f32>> = (0..6000).map(|_| place(&mut rng)).collect();
    for bits in [Bits::Four, Bits::Eight] {
        let store = MemPages::new();
        let index = built(&store, &options(Metric::L2, 2, bits), &rows[..5000], 60);
        insert_all(&index, &rows[5000..], 5001);
        assert_eq!(index.check(&mut |_, _, _| {}).unwrap().problems, []);
        let index = open(&store);
        let mut found = 0;
        for _ in 0..50 {
            let query = place(&mut rng);
            let exact = |tid: u64| distance(Metric::L2, &query, &rows[tid as usize - 1]);
            let mut nearest: Vec<u64> = (1..=6000).collect();
            nearest.sort_by(|&a, &b| exact(a).total_cmp(&exact(b)));
            let rows = all_rows(&index, &query, 6, true);
            let bounds_hold = rows.iter().all(|&(bound, tid)| bound <= exact(tid) + 1e-9);
            assert!(bounds_hold, "{bits:?}");
            let first: Vec<u64> = rows.iter().take(40).map(|row| row.1).collect();
            found += nearest[..10]
                .iter()
                .filter(|tid| first.contains(tid))
                .count();
        }
        assert!(found >= 490, "{bits:?}: {found} of 500");
    }
}

#[test]
fn rows_are_inserted_removed_and_found() {
    for in_branches in [false, true] {
        insert_remove_and_find(in_branches);
    }
}

fn insert_remove_and_find(in_branches: bool) {
    let mut rng = SmallRng::seed_from_u64(2);
    let rows = clustered(&mut rng, 4000, 70);
    let store = MemPages::new();
    let options = options(Metric::L2, 70, Bits::Eight);
    let index = built_with(&store, &options, &rows[..2000], (12, in_branches));
    for (i, row) in rows.iter().enumerate().skip(2000) {
        index
            .insert(AnyVector::Components(row), HeapTid(i as u64 + 1))
            .unwrap();
    }
    let blocks = store.block_count();
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
        index
            .insert(AnyVector::Components(row), HeapTid(i as u64 + 1))
            .unwrap();
    }
    let report = index.check(&mut |_, _, _| {}).unwrap();
    assert_eq!(report.problems, []);
    assert_eq!((report.rows, report.free), (4000, 0));
    assert_eq!(store.block_count(), blocks);
    let statistics = index.statistics().unwrap();
    assert_eq!(
        (statistics.rows, statistics.built_rows, statistics.lists),
        (4000, 2000, 12)
    );
    let growth = statistics.spread / statistics.built_spread;
    assert!((0.95..1.1).contains(&growth), "{statistics:?}");
}

#[test]
fn bits_are_found_in_their_exact_order() {
    let mut rng = SmallRng::seed_from_u64(8);
    // More bits than a short code has.
    for bits in [24_u32, 100, 3000] {
        let random = |rng: &mut SmallRng| -> Vec<u8> {
            (0..(bits as usize).div_ceil(8))
                .map(|_| rng.random())
                .collect()
        };
        let rows: Vec<Vec<u8>> = (0..500).map(|_| random(&mut rng)).collect();
        let options = options(Metric::Hamming, bits as usize, Bits::Eight);
        let store = MemPages::new();
        let codec = Arc::new(Codec::new(&options).unwrap());
        let prepared = rows
            .iter()
            .map(|row| codec.prepare(AnyVector::Bits(row)).unwrap().vector);
        let sample: Vec<f32> = prepared.flatten().collect();
        let padded = codec.padded();
        let centroids = cluster(
            &Alone,
            &sample,
            padded,
            8,
            Metric::Hamming,
            &mut rng,
            &mut |_| {},
        )
        .unwrap();
        create(&store, &options, &codec, &centroids).unwrap();
        let index = Index::open(&store, codec, read_meta(&store).unwrap());
        for (tid, row) in (1..).zip(&rows) {
            index.insert(AnyVector::Bits(row), HeapTid(tid)).unwrap();
        }
        let report = index.check(&mut |_, _, _| {}).unwrap();
        assert_eq!((report.problems, report.rows), (vec![], 500));
        let query = random(&mut rng);
        let differing = |row: &[u8]| -> u32 {
            row.iter()
                .zip(&query)
                .map(|(a, b)| (a ^ b).count_ones())
                .sum()
        };
        let prepared = index.codec().prepare(AnyVector::Bits(&query)).unwrap();
        let mut scan = Scan::new(index.codec().query(prepared), true);
        assert!(scan.take_lists(&index, 100).unwrap());
        let mut found = Vec::new();
        while let Some(row) = scan.next_row(&index).unwrap() {
            assert_eq!(
                row.distance,
                f64::from(differing(&rows[row.tid.0 as usize - 1]))
            );
            found.push(row.distance);
        }
        assert_eq!(found.len(), 500);
        assert!(found.is_sorted(), "{bits}");
    }
}

#[test]
fn what_stands_behind_the_last_entry_is_nobodys() {
    // Strings of so many bits have more entries to their code pages than columns.
    let options = options(Metric::Hamming, 3000, Bits::Eight);
    let store = MemPages::new();
    let codec = Arc::new(Codec::new(&options).unwrap());
    let zeros = [0_u8; 375];
    let centroid = codec.prepare(AnyVector::Bits(&zeros)).unwrap().vector;
    let centroid = Centroids::new(centroid, codec.padded());
    create(&store, &options, &codec, &centroid).unwrap();
    let index = Index::open(&store, codec, read_meta(&store).unwrap());
    for tid in 1..=32 {
        index.insert(AnyVector::Bits(&zeros), HeapTid(tid)).unwrap();
    }
    let layout = *index.codec().layout(Level::Rows);
    assert!(layout.columns < layout.code_pages * layout.per_page);

    let mut last = 0;
    for (list, link) in lists(&index) {
        let walked = index.walk(list, link, |_, directory, _| {
            last = *directory.last().unwrap();
            Ok(())
        });
        walked.unwrap();
    }
    let at = layout.entry_at(layout.per_page - 1);
    store.damage(last, |body| body.0[at] = 77);
    let removed = index.remove(&mut |_| true).unwrap();
    assert_eq!((removed.removed, removed.remaining), (32, 0));
    assert_eq!(index.statistics().unwrap().rows, 0);
}

#[test]
fn further_lists_follow_the_first_ones() {
    // So few branches are taken at first that others follow.
    for (lists, in_branches) in [(10, false), (70, true)] {
        take_lists_one_after_the_other(lists, in_branches);
    }
}

fn take_lists_one_after_the_other(lists: usize, in_branches: bool) {
    let mut rng = SmallRng::seed_from_u64(9);
    let rows = clustered(&mut rng, 1000, 32);
    let store = MemPages::new();
    let options = options(Metric::L2, 32, Bits::Eight);
    let index = built_with(&store, &options, &rows, (lists, in_branches));
    let mut scan = scan(&index, &rows[3], true);
    let mut found = Vec::new();
    let mut rounds = 0;
    let mut foreseen: Vec<HeapTid> = Vec::new();
    while scan.take_lists(&index, 3).unwrap() {
        rounds += 1;
        while let Some(row) = scan.next_row(&index).unwrap() {
            let upcoming: Vec<HeapTid> = scan.upcoming().collect();
            if let Some((next, later)) = foreseen.split_first() {
                assert_eq!(row.tid, *next);
                assert!(upcoming.starts_with(later));
            }
            found.push(row.tid.0);
            foreseen = upcoming;
        }
    }
    assert_eq!((rounds, scan.taken()), (lists.div_ceil(3), lists as u32));
    assert_eq!(found[0], 4);
    found.sort_unstable();
    assert_eq!(found, (1..=1000).collect::<Vec<u64>>());
}

#[test]
fn extreme_vectors_are_kept_and_found_by_a_true_bound() {
    for metric in METRICS {
        let mut rng = SmallRng::seed_from_u64(4);
        let rows: Vec<Vec<f32>> = [0.0, 1e-45, 1e-39, 1e-30, 1e-10, 1.0, 1e10, 1e19, 1e25, 3e38]
            .into_iter()
            .flat_map(|scale: f32| {
                let mut one = vec![0.0; 70];
                one[5] = scale;
                let noise = (0..70).map(|_| scale * rng.random_range(-1.0..1.0));
                [vec![scale; 70], vec![-scale; 70], one, noise.collect()]
            })
            .filter(|row| metric != Metric::Cosine || row.iter().any(|&x| x != 0.0))
            .collect();
        for lists in [(1, false), (5, false), (5, true)] {
            let store = MemPages::new();
            let index = built_with(&store, &options(metric, 70, Bits::Eight), &rows, lists);
            assert_eq!(index.check(&mut |_, _, _| {}).unwrap().problems, []);
            for query in &rows {
                let found = all_rows(&index, query, 5, true);
                assert_eq!(found.len(), rows.len(), "{metric:?} {}", query[0]);
                for (bound, tid) in found {
                    let row = &rows[tid as usize - 1];
                    for kernels in simd::available() {
                        let exact = operator(&kernels, metric, query, row);
                        let fine = exact.is_nan() || bound <= exact;
                        assert!(fine, "{metric:?} {} {}: {bound} {exact}", query[0], row[0]);
                    }
                }
            }
        }
    }
}

/// Rows and queries of a kind that rounding or codes are bad at, some of them the same.
fn any_rows() -> impl Strategy<Value = Vec<Vec<f32>>> {
    let dimension = prop_oneof![
        4 => Just(1_usize), 4 => Just(3), 20 => Just(65), 20 => Just(128), 4 => Just(384), 1 => Just(1537)
    ];
    // More than a first round looks for, where that does not take long.
    let rows = dimension.prop_flat_map(|d| {
        let most = if d <= 128 { 150 } else { 13 };
        prop::collection::vec(vector(d), 12..most)
    });
    rows.prop_map(|mut rows| {
        rows[1] = rows[0].clone();
        rows[2] = rows[0].iter().map(|x| x * 1.000_1).collect();
        rows
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn every_row_is_found_by_a_true_bound(
        rows in any_rows(), metric in prop::sample::select(&METRICS[..]), four: bool,
        lists in (1..6_usize, any::<bool>())
    ) {
        let bits = if four { Bits::Four } else { Bits::Eight };
        let is_placed = |row: &Vec<f32>| metric != Metric::Cosine || row.iter().any(|&x| x != 0.0);
        let rows: Vec<Vec<f32>> = rows.into_iter().filter(is_placed).collect();
        prop_assume!(!rows.is_empty());
        let store = MemPages::new();
        let index = built_with(&store, &options(metric, rows[0].len(), bits), &rows, lists);
        for query in rows.iter().take(4) {
            let found = all_rows(&index, query, 5, true);
            let mut tids: Vec<u64> = found.iter().map(|row| row.1).collect();
            tids.sort_unstable();
            prop_assert_eq!(tids, (1..=rows.len() as u64).collect::<Vec<u64>>());
            for (bound, tid) in found {
                let row = &rows[tid as usize - 1];
                for kernels in simd::available() {
                    let exact = operator(&kernels, metric, query, row);
                    prop_assert!(
                        exact.is_nan() || bound <= exact,
                        "{:?} of {}, {:?}, {}: {} > {}", metric, row.len(), bits, kernels.name, bound, exact
                    );
                }
            }
        }
    }
}
