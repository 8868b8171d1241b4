//! `avg` of vectors. The state is an array of doubles: the number of vectors,
//! then the sum of each component. (`sum` adds with the operator `+`.)

use ann::simd::kernels;
use pgrx::prelude::*;

use crate::errors::raise;
use crate::function::{Scanned, functions};
use crate::types::arrays::{State, new_state};
use crate::types::dense::{self, Component, Dense, check_dimensions};
use crate::types::{HalfVector, Vector};

/// The count and the sums, or an ERROR if somebody calls the function with
/// another array.
fn checked<'a>(state: &'a State<'_>, caller: &str) -> &'a [f64] {
    state.values().unwrap_or_else(|| {
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

fn overflow() -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
        "value out of range: overflow",
    )
}

/// Adds a vector to a count and sums.
fn add<T: Component>(state: &mut [f64], vector: Dense<'_, T>) {
    state[0] += 1.0;
    if !(T::components(kernels()).accumulate)(&mut state[1..], vector.values()) {
        overflow();
    }
}

fn accumulate<T: Component>(state: State<'_>, vector: Dense<'_, T>, caller: &str) -> pg_sys::Datum {
    let before = checked(&state, caller);
    let dimensions = vector.values().len();
    if before.len() == 1 {
        return new_state(dimensions + 1, |sums| {
            sums[0] = before[0];
            add(sums, vector);
        });
    }
    check_same(before.len() - 1, dimensions);
    state.changed(|sums| add(sums, vector))
}

fn combine<T: Component>(a: State<'_>, b: State<'_>, caller: &str) -> pg_sys::Datum {
    let (x, y) = (checked(&a, caller), checked(&b, caller));
    for state in [x, y].into_iter().filter(|state| state.len() > 1) {
        check_dimensions::<T>(state.len() - 1);
    }
    let copy = |state: &[f64]| new_state(state.len(), |copy| copy.copy_from_slice(state));
    if x[0] == 0.0 {
        return copy(y);
    }
    if y[0] == 0.0 {
        return copy(x);
    }
    check_same(x.len() - 1, y.len() - 1);
    let add = |sums: &mut [f64]| {
        for (sum, y) in sums.iter_mut().zip(y) {
            *sum += y;
        }
        if sums.iter().any(|sum| sum.is_infinite()) {
            overflow();
        }
    };
    a.changed(add)
}

fn mean<T: Component>(state: &State<'_>, caller: &str) -> Option<pg_sys::Datum> {
    let state = checked(state, caller);
    let count = state[0];
    if count == 0.0 {
        return None;
    }
    check_dimensions::<T>(state.len() - 1);
    let means: Vec<f32> = state[1..].iter().map(|sum| (sum / count) as f32).collect();
    Some(dense::rounded::<T>(&means))
}

macro_rules! aggregates {
    ($vector:ident of $component:ty: $accum:ident, $combine:ident, $avg:ident) => {
        functions! {
            fn $accum(
                            state: State<'_>,
                vector: Scanned<$vector<'_>>,
            ) -> pg_sys::Datum {
                accumulate(state, vector.0, stringify!($accum))
            }

            fn $combine(a: State<'_>, b: State<'_>) -> pg_sys::Datum {
                combine::<$component>(a, b, stringify!($combine))
            }

            fn $avg(state: State<'_>) -> Option<pg_sys::Datum> {
                mean::<$component>(&state, stringify!($avg))
            }
        }
    };
}
aggregates!(Vector of f32: vector_accum, vector_combine, vector_avg);
aggregates!(HalfVector of half::f16: halfvec_accum, halfvec_combine, halfvec_avg);
