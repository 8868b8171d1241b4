//! Rows of iterative searches, in order: a wider search finds no less.

use std::cmp::Ordering;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::fixture::*;
use crate::Metric;
use crate::hnsw::order::{Order, Ordered};
use crate::hnsw::{Scan, Storage};
use crate::mem_pages::MemPages;
use crate::quantize::bound::tests::operator;

const WIDTHS: [usize; 8] = [5, 10, 20, 40, 80, 100, 200, 400];
const NEAREST: usize = 10;
const QUERIES: usize = 20;

/// How many of these rows a search returns among the nearest ten of every `filter`th row, as
/// the executor takes them: it compares the vectors, and looks at no further row whose
/// bound is no nearer than the tenth.
fn hits(
    store: &MemPages,
    (vectors, query): (&[Vec<f32>], &[f32]),
    (ef, order, filter): (usize, Order, u64),
    want: &[u64],
) -> usize {
    let index = open(store);
    let mut scan = Scan::new(query_of(&index, query));
    let by_bound = index.options().storage == Storage::Fused;
    let mut ordered = Ordered::new(order, by_bound);
    let kernels = crate::simd::kernels();
    let metric = index.options().metric;
    // Fetched and not returned, the nearest last.
    let mut queue: Vec<(f64, u64)> = Vec::new();
    let mut returned: Vec<u64> = Vec::new();
    let mut last = f64::NEG_INFINITY;
    let mut all = Vec::new();
    while returned.len() < NEAREST && !ordered.is_finished() {
        for (rank, tid) in ordered
            .next_round(&mut scan, &index, ef, |_, _| false)
            .unwrap()
        {
            if order == Order::Strict {
                assert!(rank >= last, "{rank} after {last}");
                last = rank;
            }
            all.push(tid.0);
            while queue.last().is_some_and(|&(distance, _)| distance <= rank) {
                returned.extend(queue.pop().map(|(_, row)| row));
            }
            if tid.0 % filter == 0 {
                let distance = match by_bound {
                    true => operator(kernels, metric, query, &vectors[tid.0 as usize]),
                    false => rank,
                };
                let farther =
                    |&(other, _): &(f64, u64)| other.total_cmp(&distance) != Ordering::Less;
                queue.insert(queue.partition_point(farther), (distance, tid.0));
            }
        }
        if order == Order::Once {
            break;
        }
    }
    let fetched = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), fetched, "a row came twice");
    returned.extend(queue.into_iter().rev().map(|(_, row)| row));
    returned.truncate(NEAREST);
    returned.iter().filter(|row| want.contains(row)).count()
}

/// Hits of the queries at each width.
fn at_widths(
    store: &MemPages,
    vectors: &[Vec<f32>],
    queries: &[Vec<f32>],
    order: Order,
    filter: u64,
) -> Vec<[usize; WIDTHS.len()]> {
    let options = *open(store).options();
    let passing: Vec<(u64, &Vec<f32>)> = (0..)
        .zip(vectors)
        .filter(|(row, _)| row % filter == 0)
        .collect();
    let of = |query: &Vec<f32>| {
        let want = exact(&options, &passing, query, NEAREST);
        WIDTHS.map(|ef| hits(store, (vectors, query), (ef, order, filter), &want))
    };
    queries.iter().map(of).collect()
}

fn sums(hits: &[[usize; WIDTHS.len()]]) -> [usize; WIDTHS.len()] {
    std::array::from_fn(|width| hits.iter().map(|query| query[width]).sum())
}

fn noise(count: usize, dimension: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut rng = SmallRng::seed_from_u64(seed);
    (0..count)
        .map(|_| (0..dimension).map(|_| normal(&mut rng)).collect())
        .collect()
}

/// Vectors of some number, of so many dimensions, of a seed.
type Draw = fn(usize, usize, u64) -> Vec<Vec<f32>>;

fn never_falls(metric: Metric, storage: Storage) {
    for (draw, seed) in [
        (clustered as Draw, 5),
        (noise as Draw, 3),
        (noise as Draw, 4),
    ] {
        let mut vectors = draw(3000 + QUERIES, 64, seed);
        let queries = vectors.split_off(3000);
        let store = build_all(&options((metric, storage), 64), &vectors, 0);
        let case = format!("{metric:?}, {storage:?}, seed {seed}");
        for filter in [10, 50, 200] {
            // What a narrower search finds a wider one finds too, for each query.
            let hits = at_widths(&store, &vectors, &queries, Order::Strict, filter);
            for found in &hits {
                assert!(found.is_sorted(), "{case}, 1 of {filter}: {found:?}");
            }
            let hits = at_widths(&store, &vectors, &queries, Order::Relaxed, filter);
            let relaxed = sums(&hits);
            assert!(relaxed.is_sorted(), "{case}, 1 of {filter}: {relaxed:?}");
        }
    }
}

#[test]
fn wider_searches_find_no_less_in_any_order() {
    never_falls(Metric::L2, Storage::Fused);
}

/// A search that does not go on returns as many rows as it is wide. Some of them are there
/// because nearer ones were missed, and may pass a filter by luck.
#[test]
fn wider_searches_that_do_not_go_on_find_no_less() {
    for (metric, storage) in [
        (Metric::L2, Storage::Fused),
        (Metric::Cosine, Storage::Fused),
        (Metric::InnerProduct, Storage::Fused),
        (Metric::L2, Storage::Plain),
    ] {
        let mut vectors = clustered(4060, 64, 5);
        let queries = vectors.split_off(4000);
        let store = build_all(&options((metric, storage), 64), &vectors, 0);
        let found = sums(&at_widths(&store, &vectors, &queries, Order::Once, 50));
        let falls = found.windows(2).map(|w| w[0].saturating_sub(w[1]));
        // Of 600.
        assert!(falls.max() <= Some(3), "{metric:?}, {storage:?}: {found:?}");
    }
}

#[test]
fn wider_searches_by_cosine_find_no_less() {
    never_falls(Metric::Cosine, Storage::Fused);
}

#[test]
fn wider_searches_of_whole_vectors_find_no_less() {
    never_falls(Metric::L2, Storage::Plain);
    never_falls(Metric::InnerProduct, Storage::Plain);
}

#[test]
fn wider_searches_for_inner_products_find_no_less() {
    never_falls(Metric::InnerProduct, Storage::Fused);
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
