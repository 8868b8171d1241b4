//! What nodes of all operators have in common.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use memory::{OutOfMemory, vec};
use ort::operator::{ComputeContext, KernelContext};
use ort::value::{
    DynTensorValueType, IntoShape, PrimitiveTensorElementType, ValueRef, ValueRefMut,
};
use ort::{Error, Result};

/// Products that one thread computes in less time than others, which sleep when
/// there is nothing to do, need to wake up and to be waited for.
pub(super) const SMALL: usize = 24_000_000;

pub(super) fn fail<T>(reason: impl Into<String>) -> Result<T> {
    Err(Error::new(reason.into()))
}

/// What memory is asked for.
pub(super) const MODEL: &str = "the weights of the model";

/// The error of memory that the system refused: ONNX Runtime hands it on.
pub(super) fn refused(error: OutOfMemory) -> Error {
    Error::new(error.to_string())
}

/// A constant input's shape and values; `None` if the node has none, or one that
/// is not constant, see [`check_absent`].
pub(super) fn constant<T: PrimitiveTensorElementType + Copy>(
    context: &KernelContext<'_>,
    index: usize,
) -> Result<Option<(Vec<usize>, Vec<T>)>> {
    let Ok(value) = context.constant_input::<DynTensorValueType>(index) else {
        return Ok(None);
    };
    let (shape, values) = value.try_extract_tensor::<T>()?;
    let shape = shape.iter().map(|&size| usize::try_from(size).unwrap_or(0));
    let values = vec::copied(values, MODEL).map_err(refused)?;
    Ok(Some((shape.collect(), values)))
}

/// An error if a node has inputs that it was taken not to have, because they were
/// not constant.
pub(super) fn check_absent(context: &ComputeContext, absent: &[usize]) -> Result<()> {
    let count = context.num_inputs()?;
    for &index in absent {
        if index < count && context.input(index)?.is_some() {
            return fail(format!("input {index} must be a constant"));
        }
    }
    Ok(())
}

pub(super) fn required<T: PrimitiveTensorElementType + Copy>(
    context: &KernelContext<'_>,
    index: usize,
    what: &str,
) -> Result<(Vec<usize>, Vec<T>)> {
    match constant(context, index)? {
        Some(found) => Ok(found),
        None => fail(format!("{what} are missing or not constant")),
    }
}

/// The values of an optional constant that must have a shape.
pub(super) fn shaped<T: PrimitiveTensorElementType + Copy>(
    context: &KernelContext<'_>,
    index: usize,
    what: &str,
    expected: &[usize],
) -> Result<Option<Vec<T>>> {
    match constant(context, index)? {
        Some((shape, values)) if shape == expected => Ok(Some(values)),
        Some((shape, _)) => fail(format!(
            "{what} have shape {shape:?}, expected was {expected:?}"
        )),
        None => Ok(None),
    }
}

/// An input of a node that runs.
pub(super) fn input<'c>(
    context: &'c ComputeContext,
    index: usize,
    what: &str,
) -> Result<ValueRef<'c>> {
    match context.input(index)? {
        Some(value) => Ok(value),
        None => fail(format!("{what} is missing")),
    }
}

/// The output of a node that runs.
pub(super) fn output(context: &ComputeContext, shape: impl IntoShape) -> Result<ValueRefMut<'_>> {
    match context.output(0, shape)? {
        Some(value) => Ok(value),
        None => fail("nobody takes the result"),
    }
}

/// Texts, tokens of each and values of a token, given the shape of their rows and
/// that of the mask.
pub(super) fn rows_and_mask(rows: &[i64], mask: &[i64]) -> Result<[usize; 3]> {
    match rows {
        // ONNX Runtime's sizes are not negative.
        &[texts, length, width] if mask == [texts, length] => {
            Ok([texts, length, width].map(|size| size as usize))
        }
        _ => fail(format!("the rows have shape {rows:?}, the mask {mask:?}")),
    }
}

/// A whole number among a node's attributes.
pub(super) fn attribute(context: &KernelContext<'_>, name: &str) -> Result<usize> {
    match context.get::<i64>(name).map(usize::try_from) {
        Some(Ok(value)) if value > 0 => Ok(value),
        _ => fail(format!("the attribute {name} must be a positive number")),
    }
}

/// Runs parts of the work on the session's threads, or all of it on this one.
pub(super) fn parallel(
    context: &ComputeContext,
    threads: usize,
    parts: usize,
    work: impl Fn(usize) + Sync + Send,
) -> Result<()> {
    let failed = AtomicBool::new(false);
    let guarded = |part| {
        if catch_unwind(AssertUnwindSafe(|| work(part))).is_err() {
            failed.store(true, Ordering::Relaxed);
        }
    };
    if threads == 1 || parts == 1 {
        (0..parts).for_each(guarded);
    } else {
        context.par_for(parts, 0, guarded)?;
    }
    if failed.load(Ordering::Relaxed) {
        return fail("an operator failed");
    }
    Ok(())
}

/// Runs a part of an operator; a panic becomes an error.
pub(super) fn guard<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| fail("an operator failed"))
}

/// Slices of a result that several threads write, each its own.
pub(super) fn slices(values: &mut [f32], length: usize) -> Vec<Mutex<&mut [f32]>> {
    values.chunks_mut(length.max(1)).map(Mutex::new).collect()
}

/// Works on a slice of [`slices`].
pub(super) fn with_slice(slice: &Mutex<&mut [f32]>, work: impl FnOnce(&mut [f32])) {
    if let Ok(mut slice) = slice.lock() {
        work(&mut slice);
    }
}

/// Tokens that are not padding. Without any, one of padding counts.
pub(super) fn real_tokens(mask: &[i32]) -> usize {
    mask.iter().take_while(|&&real| real != 0).count().max(1)
}
