//! `avg(vector)`. The state is an array of doubles: the number of vectors,
//! then the sum of each component. (`sum(vector)` adds with `vector_add`.)

use pgrx::prelude::*;

use crate::errors::raise;
use crate::types::arrays::State;
use crate::types::vector::check_dimensions;
use crate::types::{OwnedVector, Vector};

/// The count and the sums, or an ERROR if somebody calls the function with
/// another array.
fn checked(state: State, caller: &str) -> Vec<f64> {
    state.0.unwrap_or_else(|| {
        raise(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("{caller}: expected state array"),
        )
    })
}

fn check_same(expected: usize, dimensions: usize) {
    if expected != dimensions {
        raise(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!("expected {expected} dimensions, not {dimensions}"),
        );
    }
}

fn check_sums(state: &[f64]) {
    if state.iter().any(|sum| sum.is_infinite()) {
        raise(
            PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            "value out of range: overflow",
        );
    }
}

#[pg_extern(immutable, strict, parallel_safe)]
fn vector_accum(state: State, vector: Vector<'_>) -> Vec<f64> {
    let mut state = checked(state, "vector_accum");
    if state[0] == 0.0 {
        state.truncate(1);
        state.resize(vector.values().len() + 1, 0.0);
    }
    check_same(state.len() - 1, vector.values().len());
    state[0] += 1.0;
    for (sum, &x) in state[1..].iter_mut().zip(vector.values()) {
        *sum += f64::from(x);
    }
    check_sums(&state);
    state
}

#[pg_extern(immutable, strict, parallel_safe)]
fn vector_combine(a: State, b: State) -> Vec<f64> {
    let a = checked(a, "vector_combine");
    let b = checked(b, "vector_combine");
    if a[0] == 0.0 {
        return b;
    }
    if b[0] == 0.0 {
        return a;
    }
    check_same(a.len() - 1, b.len() - 1);
    let sums: Vec<f64> = a.iter().zip(&b).map(|(x, y)| x + y).collect();
    check_sums(&sums);
    sums
}

#[pg_extern(immutable, strict, parallel_safe)]
fn vector_avg(state: State) -> Option<OwnedVector> {
    let state = checked(state, "vector_avg");
    let count = state[0];
    if count == 0.0 {
        return None;
    }
    check_dimensions(state.len() - 1);
    let mean = state[1..].iter().map(|sum| (sum / count) as f32).collect();
    Some(OwnedVector::checked(mean))
}
