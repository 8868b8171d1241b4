//! What the tests of both drivers share: the address, vectors, brute force, recall.

use std::collections::HashSet;

use pgvector::{Bit, HalfVector, SparseVector, Vector};

pub const ROWS: usize = 1000;
pub const QUERIES: usize = 20;
pub const DIMS: usize = 32;

/// What a connection sets first: the tables are small, and the planner shall prefer indexes all the same.
pub const SETTINGS: &str = "SET enable_seqscan = off; SET hnsw.ef_search = 100";

/// The address of the server, as INSITU_DSN gives it: `host=... port=... dbname=... user=...`.
pub fn address() -> postgres::Config {
    let dsn = std::env::var("INSITU_DSN").expect("INSITU_DSN names the server");
    dsn.parse().expect("INSITU_DSN is a connection string")
}

/// One of the types, as the client makes it of components.
pub trait Value: Sized {
    const TYPE: &'static str;
    const OPERATORS: &'static [Operator];

    fn new(components: &[f32]) -> Self;
}

/// A distance: its operator, its part of the operator class's name, and the same in Rust.
pub struct Operator {
    pub sql: &'static str,
    pub name: &'static str,
    pub distance: fn(&[f32], &[f32]) -> f64,
}

const DENSE: &[Operator] = &[
    Operator {
        sql: "<->",
        name: "l2",
        distance: |a, b| sum(a, b, |a, b| (a - b) * (a - b)).sqrt(),
    },
    Operator {
        sql: "<#>",
        name: "ip",
        distance: |a, b| -sum(a, b, |a, b| a * b),
    },
    Operator {
        sql: "<=>",
        name: "cosine",
        distance: |a, b| {
            let squares = |v| sum(v, v, |a, b| a * b);
            1.0 - sum(a, b, |a, b| a * b) / (squares(a) * squares(b)).sqrt()
        },
    },
    Operator {
        sql: "<+>",
        name: "l1",
        distance: |a, b| sum(a, b, |a, b| (a - b).abs()),
    },
];

const BITS: &[Operator] = &[
    Operator {
        sql: "<~>",
        name: "hamming",
        distance: |a, b| count(a, b, |a, b| a != b),
    },
    Operator {
        sql: "<%>",
        name: "jaccard",
        distance: |a, b| 1.0 - count(a, b, |a, b| a && b) / count(a, b, |a, b| a || b),
    },
];

fn sum(a: &[f32], b: &[f32], term: impl Fn(f64, f64) -> f64) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| term(a.into(), b.into()))
        .sum()
}

fn count(a: &[f32], b: &[f32], counts: impl Fn(bool, bool) -> bool) -> f64 {
    a.iter()
        .zip(b)
        .filter(|&(&a, &b)| counts(a > 0.0, b > 0.0))
        .count() as f64
}

impl Value for Vector {
    const TYPE: &'static str = "vector";
    const OPERATORS: &'static [Operator] = DENSE;

    fn new(components: &[f32]) -> Self {
        components.to_vec().into()
    }
}

impl Value for HalfVector {
    const TYPE: &'static str = "halfvec";
    const OPERATORS: &'static [Operator] = DENSE;

    fn new(components: &[f32]) -> Self {
        HalfVector::from_f32_slice(components)
    }
}

impl Value for SparseVector {
    const TYPE: &'static str = "sparsevec";
    const OPERATORS: &'static [Operator] = DENSE;

    fn new(components: &[f32]) -> Self {
        SparseVector::from_dense(components)
    }
}

impl Value for Bit {
    const TYPE: &'static str = "bit";
    const OPERATORS: &'static [Operator] = BITS;

    fn new(components: &[f32]) -> Self {
        Bit::new(
            &components
                .iter()
                .map(|&value| value > 0.0)
                .collect::<Vec<_>>(),
        )
    }
}

/// Rows around 20 centres, then queries around the same ones, in steps of 1/64: half precision keeps them.
pub fn clustered() -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let mut state = 5_u64;
    // Uniform between -1 and 1, by xorshift.
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    let centres: Vec<Vec<f32>> = (0..20)
        .map(|_| (0..DIMS).map(|_| 2.0 * random()).collect())
        .collect();
    let mut rows: Vec<Vec<f32>> = (0..ROWS + QUERIES)
        .map(|row| {
            let centre = &centres[row % centres.len()];
            centre
                .iter()
                .map(|value| ((value + random()) * 64.0).round() / 64.0)
                .collect()
        })
        .collect();
    let queries = rows.split_off(ROWS);
    (rows, queries)
}

/// The ten rows (id, distance) that are nearest to the query `$1` by an operator.
pub fn nearest_sql(table: &str, operator: &Operator) -> String {
    let sql = operator.sql;
    format!("SELECT id, emb {sql} $1 FROM {table} ORDER BY emb {sql} $1 LIMIT 10")
}

/// Fails unless the lines of a plan read the index in order and sort nothing.
pub fn assert_index_scan(plan: &[String], index: &str) {
    let plan = plan.join("\n");
    assert!(
        plan.contains(&format!("Index Scan using {index} on")),
        "{plan}"
    );
    assert!(!plan.contains("Sort"), "{plan}");
}

/// How many of ten rows are as near as the ten nearest; each must say its true distance, in order.
pub fn hits(
    found: &[(i64, f64)],
    rows: &[Vec<f32>],
    query: &[f32],
    distance: fn(&[f32], &[f32]) -> f64,
) -> usize {
    assert_eq!(found.len(), 10);
    assert_eq!(
        found.iter().map(|row| row.0).collect::<HashSet<_>>().len(),
        10,
        "a row came twice"
    );
    assert!(
        found.is_sorted_by(|a, b| a.1 <= b.1),
        "not in order of distance: {found:?}"
    );
    for &(id, said) in found {
        let is = distance(&rows[id as usize], query);
        assert!(
            (said - is).abs() <= 1e-5 * is.abs().max(1.0),
            "row {id} is at {is}, not at {said}"
        );
    }
    let mut all: Vec<f64> = rows.iter().map(|row| distance(row, query)).collect();
    all.sort_by(f64::total_cmp);
    found
        .iter()
        .filter(|row| row.1 <= all[9] + 1e-5 * all[9].abs().max(1.0))
        .count()
}

/// Fails where queries found too few of their ten nearest rows.
pub fn assert_recall(hits: usize) {
    assert!(
        hits * 100 >= 95 * 10 * QUERIES,
        "{hits} of {}",
        10 * QUERIES
    );
}
