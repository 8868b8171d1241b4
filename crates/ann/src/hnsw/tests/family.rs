//! Vectors of many kinds: short codes find what whole vectors do, or the builder learns
//! that they don't.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::fixture::*;
use crate::Metric;
use crate::hnsw::layout::Blurred;
use crate::hnsw::witness::Witness;
use crate::hnsw::{AnyCodec, Storage};

const DIMENSION: usize = 64;
const ROWS: usize = 1500;
const QUERIES: usize = 60;

/// Components of a vector; the number is that of the row.
type Row = Box<dyn Fn(&mut SmallRng, usize) -> Vec<f32>>;

/// Vectors whose components are drawn one by one.
fn each(component: impl Fn(&mut SmallRng, usize) -> f32 + 'static) -> Row {
    Box::new(move |rng, _| (0..DIMENSION).map(|i| component(rng, i)).collect())
}

/// Normal deviates around some centres, of which rows take turns.
fn around(centres: usize, size: f32, deviation: f32) -> Row {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut centre = || -> Vec<f32> { (0..DIMENSION).map(|_| size * normal(&mut rng)).collect() };
    let centres: Vec<Vec<f32>> = (0..centres).map(|_| centre()).collect();
    Box::new(move |rng, row| {
        let centre = centres[row % centres.len()].iter();
        centre.map(|c| c + deviation * normal(rng)).collect()
    })
}

/// One component of this, and normal deviates.
fn beside(one: impl Fn(&mut SmallRng) -> f32 + 'static) -> Row {
    each(move |rng, i| if i == 5 { one(rng) } else { normal(rng) })
}

/// Student's distribution.
fn student(rng: &mut SmallRng, degrees: usize) -> f32 {
    let squares: f32 = (0..degrees).map(|_| normal(rng).powi(2)).sum();
    normal(rng) / (squares / degrees as f32).sqrt()
}

fn draw(row: &Row, seed: u64) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut rows: Vec<Vec<f32>> = (0..ROWS + QUERIES).map(|i| row(&mut rng, i)).collect();
    let queries = rows.split_off(ROWS);
    (rows, queries)
}

const EVERY: [Metric; 3] = [Metric::L2, Metric::Cosine, Metric::InnerProduct];

/// What an index with the default storage finds, whichever that turns out to be, is what
/// one of whole vectors does. Returns the metrics for which that is fused.
fn check(name: &str, row: &Row) -> Vec<Metric> {
    let (rows, queries) = draw(row, 7);
    let numbered: Vec<(u64, &Vec<f32>)> = (0..).zip(&rows).collect();
    let mut fused = Vec::new();
    for metric in EVERY {
        let options = options((metric, Storage::Fused), DIMENSION as u32);
        let codec = codec_for(&options, &rows);
        let watched = rows.iter().step_by(15).map(|row| &row[..]);
        let mut witness = Witness::new(&options, &codec, watched).unwrap().unwrap();
        for row in &rows {
            witness.show(&codec, row, &encode(&codec, row));
        }
        let builder = built(&codec, &options, &rows, 0);
        witness.search(&builder, &mut || ()).unwrap();
        if !witness.is_satisfied(&codec) {
            continue;
        }
        fused.push(metric);
        let by_codes = recall(&build_all(&options, &rows, 0), &numbered, &queries, 40);
        let plain = self::options((metric, Storage::Plain), DIMENSION as u32);
        let by_vectors = recall(&build_all(&plain, &rows, 0), &numbered, &queries, 40);
        // 600 rows were sought.
        assert!(
            by_codes >= by_vectors - 0.0134,
            "{name}, {metric:?}: {by_codes} {by_vectors}"
        );
    }
    fused
}

#[test]
fn means_that_all_vectors_share_are_no_part_of_codes() {
    for mean in [13.0, 130.0, 1300.0] {
        let fused = check("mean", &each(move |rng, _| mean + normal(rng)));
        assert_eq!(fused, EVERY, "{mean}");
    }
    let random = each(|rng, _| 1000.0 + rng.random::<f32>());
    assert_eq!(check("random", &random), EVERY);
    let kelvin = each(|rng, _| 288.0 + 10.0 * normal(rng));
    assert_eq!(check("kelvin", &kelvin), EVERY);
    let of_any_size = each(|rng, i| 10_f32.powf(i as f32 / 13.0 - 2.0) + normal(rng));
    assert_eq!(check("any size", &of_any_size), EVERY);
}

#[test]
fn one_component_may_dominate() {
    let year = beside(|rng| f32::from(rng.random_range(1990..2024_u16)));
    assert_eq!(check("year", &year), EVERY);
    let large = beside(|rng| 1e3 * normal(rng));
    assert_eq!(check("large", &large), EVERY);
    let time = beside(|rng| 1e7 * rng.random::<f32>());
    assert_eq!(check("time", &time), EVERY);
    let scales = each(|rng, i| normal(rng) * 10_f32.powf(i as f32 / 10.7 - 3.0));
    assert_eq!(check("scales", &scales), EVERY);
}

#[test]
fn other_distributions_are_searched_as_whole_vectors_are() {
    check("cauchy", &each(|rng, _| student(rng, 1)));
    check("lognormal", &each(|rng, _| (2.0 * normal(rng)).exp()));
    check(
        "few values",
        &each(|rng, _| f32::from(rng.random_range(0..3_u8))),
    );
    let sparse = each(|rng, i| match rng.random_range(0..20) {
        _ if i == 0 => 0.01,
        0 => normal(rng).abs(),
        _ => 0.0,
    });
    check("sparse", &sparse);
    assert_eq!(check("clouds", &around(50, 1.0, 0.4)), EVERY);
    check("clusters 10 apart", &around(50, 10.0, 1.0));
    check("near duplicates in tens", &around(150, 1.0, 1e-3));
}

#[test]
fn the_builder_learns_that_codes_tell_nothing_apart() {
    let far = around(20, 1000.0, 1.0);
    assert_eq!(check("clusters 1000 apart", &far), []);
    let alike = around(10, 1.0, 1e-3);
    assert_eq!(check("near duplicates in hundreds", &alike), []);
}

/// Angles of a few ten-thousandths are compared as well as distances are.
#[test]
fn whole_vectors_tell_small_angles_apart() {
    for mean in [1300.0, 5000.0] {
        let (rows, queries) = draw(&each(move |rng, _| mean + normal(rng)), 7);
        let numbered: Vec<(u64, &Vec<f32>)> = (0..).zip(&rows).collect();
        let [by_angle, by_distance] = [Metric::Cosine, Metric::L2].map(|metric| {
            let options = options((metric, Storage::Plain), DIMENSION as u32);
            recall(&build_all(&options, &rows, 0), &numbered, &queries, 40)
        });
        // Of 600 rows.
        assert!(
            by_angle >= by_distance - 0.05,
            "{mean}: {by_angle} {by_distance}"
        );
    }
}

/// Inserts rows into an index that was built with a frame of `first`, and returns what it
/// counts then.
fn counted(first: &[Vec<f32>], rows: &[Vec<f32>], metric: Metric) -> Blurred {
    let options = options((metric, Storage::Fused), DIMENSION as u32);
    let store = build_with(codec_for(&options, first), &options, first, 0);
    insert_all(&store, rows, first.len() as u64, 3);
    open(&store).meta().unwrap().blurred()
}

#[test]
fn an_index_counts_rows_that_it_was_not_built_for() {
    // Of an index without rows, the axis is where all components are alike.
    let warm = each(|rng, _| 1300.0 + normal(rng));
    let (warm, _) = draw(&warm, 1);
    let counts = counted(&[], &warm[..600], Metric::L2);
    assert!(counts.of > 500 && counts.share() < 0.02, "{counts:?}");
    let mean = |i| if i % 2 == 0 { 1300.0 } else { 30.0 };
    let (rows, _) = draw(&each(move |rng, i| mean(i) + normal(rng)), 1);
    let (others, _) = draw(&around(50, 1.0, 0.4), 2);
    for metric in [Metric::L2, Metric::Cosine] {
        let counts = counted(&[], &rows[..600], metric);
        assert!(
            counts.of > 500 && counts.share() > 0.5,
            "{metric:?}: {counts:?}"
        );
        let counts = counted(&others, &rows[..600], metric);
        assert!(
            counts.of > 500 && counts.share() > 0.5,
            "{metric:?}: {counts:?}"
        );
        // Built with them, or of others to begin with.
        let counts = counted(&rows[..500], &rows[500..], metric);
        assert!(
            counts.of > 500 && counts.share() < 0.02,
            "{metric:?}: {counts:?}"
        );
        let counts = counted(&[], &others[..600], metric);
        assert!(
            counts.of > 500 && counts.share() < 0.02,
            "{metric:?}: {counts:?}"
        );
    }
}

/// Rows that come later are found as those are that the index was built of.
#[test]
fn later_rows_of_the_same_kind_are_found() {
    let (rows, queries) = draw(&each(|rng, _| 1000.0 + rng.random::<f32>()), 5);
    let numbered: Vec<(u64, &Vec<f32>)> = (0..).zip(&rows).collect();
    let [fused, plain] = [Storage::Fused, Storage::Plain].map(|storage| {
        let options = options((Metric::L2, storage), DIMENSION as u32);
        let codec = match storage {
            Storage::Fused => codec_for(&options, &rows[..ROWS / 3]),
            _ => AnyCodec::new(&options).unwrap(),
        };
        let store = build_with(codec, &options, &rows[..ROWS / 3], 0);
        insert_all(&store, &rows[ROWS / 3..], ROWS as u64 / 3, 1);
        assert_valid(&store, 0..ROWS as u64);
        recall(&store, &numbered, &queries, 40)
    });
    assert!(fused >= plain - 0.01, "{fused} {plain}");
}

#[test]
fn long_rows_of_counts_forget_what_came_first() {
    let mut counts = Blurred::default();
    (0..60_000).for_each(|_| counts = counts.and(false));
    (0..200_000).for_each(|_| counts = counts.and(true));
    assert!(counts.share() > 0.9, "{counts:?}");
}
