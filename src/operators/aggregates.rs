//! `avg` of vectors. The state is an array of doubles: the number of vectors,
//! then the sum of each component. (`sum` adds with the operator `+`.)

use half::f16;
use pgrx::prelude::*;

use crate::errors::raise;
use crate::types::arrays::State;
use crate::types::dense::{Component, Dense, Owned, check_dimensions};

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

fn accumulate<T: Component>(state: State, vector: Dense<'_, T>, caller: &str) -> Vec<f64> {
    let mut state = checked(state, caller);
    if state.len() == 1 {
        state.resize(vector.values().len() + 1, 0.0);
    }
    check_same(state.len() - 1, vector.values().len());
    state[0] += 1.0;
    for (sum, x) in state[1..].iter_mut().zip(vector.values()) {
        *sum += f64::from(x.to_f32());
    }
    check_sums(&state);
    state
}

fn combine<T: Component>(a: State, b: State, caller: &str) -> Vec<f64> {
    let a = checked(a, caller);
    let b = checked(b, caller);
    for state in [&a, &b].into_iter().filter(|state| state.len() > 1) {
        check_dimensions::<T>(state.len() - 1);
    }
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

fn mean<T: Component>(state: State, caller: &str) -> Option<Owned<T>> {
    let state = checked(state, caller);
    let count = state[0];
    if count == 0.0 {
        return None;
    }
    check_dimensions::<T>(state.len() - 1);
    let mean: Vec<f32> = state[1..].iter().map(|sum| (sum / count) as f32).collect();
    Some(Owned::rounded(&mean))
}

macro_rules! aggregates {
    ($component:ty: $accum:ident, $combine:ident, $avg:ident) => {
        #[pg_extern(immutable, strict, parallel_safe)]
        fn $accum(state: State, vector: Dense<'_, $component>) -> Vec<f64> {
            accumulate(state, vector, stringify!($accum))
        }

        #[pg_extern(immutable, strict, parallel_safe)]
        fn $combine(a: State, b: State) -> Vec<f64> {
            combine::<$component>(a, b, stringify!($combine))
        }

        #[pg_extern(immutable, strict, parallel_safe)]
        fn $avg(state: State) -> Option<Owned<$component>> {
            mean(state, stringify!($avg))
        }
    };
}
aggregates!(f32: vector_accum, vector_combine, vector_avg);
aggregates!(f16: halfvec_accum, halfvec_combine, halfvec_avg);
