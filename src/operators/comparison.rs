//! A total order of vectors, for B-trees, DISTINCT and GROUP BY: component by
//! component, then by the number of dimensions.

use std::cmp::Ordering;

use pgrx::prelude::*;

use crate::types::Vector;

fn compare(a: Vector<'_>, b: Vector<'_>) -> Ordering {
    // Components are finite, so they have an order; −0 equals 0.
    let (a, b) = (a.values(), b.values());
    let pairs = a.iter().zip(b).map(|(x, y)| x.partial_cmp(y));
    pairs
        .flatten()
        .find(|order| order.is_ne())
        .unwrap_or_else(|| a.len().cmp(&b.len()))
}

#[pg_extern(immutable, strict, parallel_safe)]
fn vector_cmp(a: Vector<'_>, b: Vector<'_>) -> i32 {
    compare(a, b) as i32
}

#[pg_extern(immutable, strict, parallel_safe)]
fn vector_lt(a: Vector<'_>, b: Vector<'_>) -> bool {
    compare(a, b).is_lt()
}

#[pg_extern(immutable, strict, parallel_safe)]
fn vector_le(a: Vector<'_>, b: Vector<'_>) -> bool {
    compare(a, b).is_le()
}

#[pg_extern(immutable, strict, parallel_safe)]
fn vector_eq(a: Vector<'_>, b: Vector<'_>) -> bool {
    compare(a, b).is_eq()
}

#[pg_extern(immutable, strict, parallel_safe)]
fn vector_ne(a: Vector<'_>, b: Vector<'_>) -> bool {
    compare(a, b).is_ne()
}

#[pg_extern(immutable, strict, parallel_safe)]
fn vector_ge(a: Vector<'_>, b: Vector<'_>) -> bool {
    compare(a, b).is_ge()
}

#[pg_extern(immutable, strict, parallel_safe)]
fn vector_gt(a: Vector<'_>, b: Vector<'_>) -> bool {
    compare(a, b).is_gt()
}
