//! Rows of iterative searches, in order: a wider search finds no less.

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::fixture::*;
use crate::Metric;
use crate::hnsw::order::{Order, Ordered};
use crate::hnsw::{Scan, Storage};
use crate::mem_pages::MemPages;

/// One row in so many passes the filter.
const FILTER: u64 = 50;

/// The rows that pass the filter, until there are ten of them.
fn filtered(store: &MemPages, query: &[f32], ef: usize, order: Order) -> Vec<u64> {
    let index = open(store);
    let mut scan = Scan::new(query_of(&index, query));
    let by_bound = index.options().storage == Storage::Fused;
    let mut ordered = Ordered::new(order, by_bound);
    let mut rows: Vec<u64> = Vec::new();
    let mut last = f64::NEG_INFINITY;
    let mut all = Vec::new();
    while rows.len() < 10 && !ordered.is_finished() {
        for (rank, tid) in ordered
            .next_round(&mut scan, &index, ef, |_| false)
            .unwrap()
        {
            if order == Order::Strict {
                assert!(rank >= last, "{rank} after {last}");
                last = rank;
            }
            all.push(tid.0);
            if tid.0 % FILTER == 0 {
                rows.push(tid.0);
            }
        }
        if order == Order::Once {
            break;
        }
    }
    let returned = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), returned, "a row came twice");
    rows
}

/// Mean recall of the nearest ten rows that pass the filter.
fn recall_of(
    store: &MemPages,
    vectors: &[Vec<f32>],
    queries: &[Vec<f32>],
    ef: usize,
    order: Order,
) -> f64 {
    let options = *open(store).options();
    let passing: Vec<(u64, &Vec<f32>)> = (0..)
        .zip(vectors)
        .filter(|(row, _)| row % FILTER == 0)
        .collect();
    let found = queries.iter().map(|query| {
        let want = exact(&options, &passing, query, 10);
        let rows = filtered(store, query, ef, order);
        let rows: Vec<(u64, &Vec<f32>)> = rows
            .iter()
            .map(|&row| (row, &vectors[row as usize]))
            .collect();
        let got = exact(&options, &rows, query, 10);
        got.iter().filter(|row| want.contains(row)).count()
    });
    found.sum::<usize>() as f64 / (10 * queries.len()) as f64
}

fn never_falls(metric: Metric, storage: Storage) {
    let mut vectors = clustered(4060, 64, 5);
    let queries = vectors.split_off(4000);
    let store = build_all(&options((metric, storage), 64), &vectors, 0);
    for order in [Order::Once, Order::Relaxed, Order::Strict] {
        let found =
            [10, 40, 100, 200, 400].map(|ef| recall_of(&store, &vectors, &queries, ef, order));
        let mut most = 0.0_f64;
        for &found_here in &found {
            assert!(
                found_here >= most - 0.005,
                "{metric:?}, {storage:?}, {order:?}: {found:?}"
            );
            most = most.max(found_here);
        }
        if order != Order::Once {
            assert!(
                most > if metric == Metric::InnerProduct {
                    0.85
                } else {
                    0.95
                },
                "{metric:?}, {storage:?}, {order:?}: {found:?}"
            );
        }
    }
}

#[test]
fn wider_searches_find_no_less_in_any_order() {
    never_falls(Metric::L2, Storage::Fused);
    never_falls(Metric::Cosine, Storage::Fused);
}

#[test]
fn wider_searches_of_whole_vectors_find_no_less() {
    never_falls(Metric::L2, Storage::Plain);
}

#[test]
fn wider_searches_for_inner_products_find_no_less() {
    never_falls(Metric::InnerProduct, Storage::Fused);
}

#[test]
fn wider_searches_of_noise_find_no_less() {
    let mut rng = SmallRng::seed_from_u64(3);
    let mut vectors: Vec<Vec<f32>> = (0..4060)
        .map(|_| (0..64).map(|_| normal(&mut rng)).collect())
        .collect();
    let queries = vectors.split_off(4000);
    let store = build_all(&options((Metric::L2, Storage::Fused), 64), &vectors, 0);
    let found = [5, 10, 20, 40, 80, 100, 200, 400]
        .map(|ef| recall_of(&store, &vectors, &queries, ef, Order::Strict));
    assert!(found[0] > 0.85, "{found:?}");
    let mut most = 0.0_f64;
    for &found_here in &found {
        assert!(found_here >= most - 0.03, "{found:?}");
        most = most.max(found_here);
    }
}

/// Of more rows than are asked for, the server finds the nearest by their vectors.
#[test]
fn a_narrow_search_by_estimates_returns_more() {
    let vectors = clustered(500, 64, 5);
    let returned = |storage| {
        let store = build_all(&options((Metric::L2, storage), 64), &vectors, 0);
        let index = open(&store);
        let mut scan = Scan::new(query_of(&index, &vectors[0]));
        scan.next_round(&index, 10).unwrap().len()
    };
    assert_eq!(returned(Storage::Plain), 10);
    assert_eq!(returned(Storage::Fused), 32);
}
