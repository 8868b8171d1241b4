//! Operators of our own, which ONNX Runtime calls for the nodes of the domain
//! [`DOMAIN`].
//!
//! * `QuantizedLinear` (x, weights, scales, bias?, zero_points?, codebook?,
//!   residual?, γ?, β?): see [`linear`]. x is float of any rank with `inputs` last;
//!   weights are uint8 of shape [outputs, bytes], `bits` each (8: two's complement;
//!   4: two to a byte, the first in the low half, in −8..=7 about the zero point
//!   8); scales are float [outputs, blocks of `block` inputs]. With 4 bits, there
//!   may be zero points, uint8 [outputs, blocks], or a codebook, int8 \[16\].
//!   `activation` is "", or "gelu".
//! * `MaskedAttention` (qkv, mask, bias?): see [`attention`]. qkv is float [texts,
//!   tokens, 3·hidden], mask int32 [texts, tokens], ones before zeros; bias is float
//!   [1, heads, tokens, tokens] and is added to the scores.
//! * `QuantizedEmbedding` (ids, table, scales, types?, positions?, kinds?, γ?, β?):
//!   see [`embedding`]. ids and types are int32 or int64, the table int8 [rows,
//!   width], scales float \[rows\]; with all of the others, the sum of token,
//!   position and type is normalized.
//! * `Pool` (states, mask): states is float [texts, tokens, hidden], mask int32
//!   [texts, tokens], ones before zeros; gives one row per text, by the `mode` mean,
//!   cls, max or last_token of its real tokens.
//!
//! A graph may come from anyone who may load models, so everything about a node
//! is checked when a session opens, and ids and shapes when it runs. Nothing here
//! may panic: ONNX Runtime's C++ frames lie between us and the caller.

mod attention;
mod embedding;
mod linear;
mod simd;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput,
};
use ort::value::{
    DynTensorValueType, IntoShape, PrimitiveTensorElementType, TensorElementType, ValueRef,
    ValueRefMut,
};
use ort::{Error, Result};

use crate::pooling::pool;
use crate::settings::Pooling;
use attention::{Head, Scratch, attend};
use embedding::{Further, Table, look_up};
use linear::{COLUMNS, Finish, Weights};
pub(crate) use simd::{Isa, dot};

/// The domain of the operators.
pub(crate) const DOMAIN: &str = "insitu";

/// Products that one thread computes in less time than others, which sleep when
/// there is nothing to do, need to wake up and to be waited for.
const SMALL: usize = 24_000_000;

/// The operators for a session with so many threads.
pub(crate) fn domain(threads: usize) -> Result<OperatorDomain> {
    OperatorDomain::new(DOMAIN)?
        .add(QuantizedLinear { threads })?
        .add(MaskedAttention { threads })?
        .add(Pool)?
        .add(QuantizedEmbedding::<false>)?
        .add(QuantizedEmbedding::<true>)
}

fn fail<T>(reason: impl Into<String>) -> Result<T> {
    Err(Error::new(reason.into()))
}

/// A constant input's shape and values; `None` if the node has none, or one that
/// is not constant, see [`check_absent`].
fn constant<T: PrimitiveTensorElementType + Copy>(
    context: &KernelContext<'_>,
    index: usize,
) -> Result<Option<(Vec<usize>, Vec<T>)>> {
    let Ok(value) = context.constant_input::<DynTensorValueType>(index) else {
        return Ok(None);
    };
    let (shape, values) = value.try_extract_tensor::<T>()?;
    let shape = shape.iter().map(|&size| usize::try_from(size).unwrap_or(0));
    Ok(Some((shape.collect(), values.to_vec())))
}

/// An error if a node has inputs that it was taken not to have, because they were
/// not constant.
fn check_absent(context: &ComputeContext, absent: &[usize]) -> Result<()> {
    let count = context.num_inputs()?;
    for &index in absent {
        if index < count && context.input(index)?.is_some() {
            return fail(format!("input {index} must be a constant"));
        }
    }
    Ok(())
}

fn required<T: PrimitiveTensorElementType + Copy>(
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
fn shaped<T: PrimitiveTensorElementType + Copy>(
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
fn input<'c>(context: &'c ComputeContext, index: usize, what: &str) -> Result<ValueRef<'c>> {
    match context.input(index)? {
        Some(value) => Ok(value),
        None => fail(format!("{what} is missing")),
    }
}

/// The output of a node that runs.
fn output(context: &ComputeContext, shape: impl IntoShape) -> Result<ValueRefMut<'_>> {
    match context.output(0, shape)? {
        Some(value) => Ok(value),
        None => fail("nobody takes the result"),
    }
}

/// Texts, tokens of each and values of a token, given the shape of their rows and
/// that of the mask.
fn rows_and_mask(rows: &[i64], mask: &[i64]) -> Result<[usize; 3]> {
    match rows {
        // ONNX Runtime's sizes are not negative.
        &[texts, length, width] if mask == [texts, length] => {
            Ok([texts, length, width].map(|size| size as usize))
        }
        _ => fail(format!("the rows have shape {rows:?}, the mask {mask:?}")),
    }
}

/// A whole number among a node's attributes.
fn attribute(context: &KernelContext<'_>, name: &str) -> Result<usize> {
    match context.get::<i64>(name).map(usize::try_from) {
        Some(Ok(value)) if value > 0 => Ok(value),
        _ => fail(format!("the attribute {name} must be a positive number")),
    }
}

/// Runs parts of the work on the session's threads, or all of it on this one.
fn parallel(
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
fn guard<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| fail("an operator failed"))
}

/// Slices of a result that several threads write, each its own.
fn slices(values: &mut [f32], length: usize) -> Vec<Mutex<&mut [f32]>> {
    values.chunks_mut(length.max(1)).map(Mutex::new).collect()
}

/// Works on a slice of [`slices`].
fn with_slice(slice: &Mutex<&mut [f32]>, work: impl FnOnce(&mut [f32])) {
    if let Ok(mut slice) = slice.lock() {
        work(&mut slice);
    }
}

struct QuantizedLinear {
    threads: usize,
}

/// A node of `QuantizedLinear`.
struct LinearKernel {
    weights: Weights,
    gelu: bool,
    /// γ, β and ε of a layer normalization.
    norm: Option<(Vec<f32>, Vec<f32>, f32)>,
    /// Inputs that the node does not have.
    absent: Vec<usize>,
    isa: Isa,
    threads: usize,
}

/// Where the residual stands among the inputs.
const RESIDUAL: usize = 6;

impl Operator for QuantizedLinear {
    type Kernel<'attr> = LinearKernel;

    fn name(&self) -> &str {
        "QuantizedLinear"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        use TensorElementType::{Float32, Int8, Uint8};
        [
            OperatorInput::required(Float32),
            OperatorInput::required(Uint8),
            OperatorInput::required(Float32),
            OperatorInput::optional(Float32),
            OperatorInput::optional(Uint8),
            OperatorInput::optional(Int8),
            OperatorInput::optional(Float32),
            OperatorInput::optional(Float32),
            OperatorInput::optional(Float32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> Result<LinearKernel> {
        guard(|| LinearKernel::new(context, self.threads))
    }
}

impl LinearKernel {
    fn new(context: &KernelContext<'_>, threads: usize) -> Result<Self> {
        let inputs = attribute(context, "inputs")?;
        let block = attribute(context, "block")?.min(inputs);
        let bits = attribute(context, "bits")?;
        let (shape, bytes) = required::<u8>(context, 1, "the weights")?;
        let row = match bits {
            8 => inputs,
            4 => inputs.div_ceil(2),
            _ => return fail(format!("weights of {bits} bits are not known")),
        };
        let outputs = match shape[..] {
            [outputs, bytes] if bytes == row && outputs > 0 => outputs,
            _ => {
                return fail(format!(
                    "the weights have shape {shape:?}, a row needs {row} bytes"
                ));
            }
        };
        let blocks = inputs.div_ceil(block);
        let of_blocks = [outputs, blocks];
        let Some(scales) = shaped::<f32>(context, 2, "the scales", &of_blocks)? else {
            return fail("the scales are missing");
        };
        let bias = shaped::<f32>(context, 3, "the biases", &[outputs])?;
        let zero_points = shaped::<u8>(context, 4, "the zero points", &of_blocks)?;
        let codebook = shaped::<i8>(context, 5, "the values of the codebook", &[16])?;
        let quantized: Vec<i8> = if bits == 8 {
            bytes.iter().map(|&byte| byte as i8).collect()
        } else {
            let level = |output: usize, input: usize| {
                let byte = bytes[output * row + input / 2];
                let q = if input.is_multiple_of(2) {
                    byte & 15
                } else {
                    byte >> 4
                };
                let zero = |zeros: &Vec<u8>| zeros[output * blocks + input / block].min(15);
                match (&codebook, &zero_points) {
                    (Some(codebook), _) => codebook[usize::from(q)],
                    (None, zeros) => q as i8 - zeros.as_ref().map_or(8, zero) as i8,
                }
            };
            (0..outputs * inputs)
                .map(|i| level(i / inputs, i % inputs))
                .collect()
        };
        let gamma = shaped::<f32>(context, RESIDUAL + 1, "γ", &[outputs])?;
        let beta = shaped::<f32>(context, RESIDUAL + 2, "β", &[outputs])?;
        let epsilon = context.get::<f32>("epsilon").unwrap_or(1e-12);
        let activation = context.get::<String>("activation").unwrap_or_default();
        let gelu = match activation.as_str() {
            "" => false,
            "gelu" => true,
            other => return fail(format!("the activation \"{other}\" is not known")),
        };
        let mut absent = Vec::new();
        for (index, is_there) in [
            (3, bias.is_some()),
            (4, zero_points.is_some()),
            (5, codebook.is_some()),
            (RESIDUAL + 1, gamma.is_some()),
            (RESIDUAL + 2, beta.is_some()),
        ] {
            if !is_there {
                absent.push(index);
            }
        }
        let norm = gamma.zip(beta).map(|(gamma, beta)| (gamma, beta, epsilon));
        if gelu && norm.is_some() {
            return fail("an activation and a normalization exclude each other");
        }
        Ok(LinearKernel {
            weights: Weights::pack(
                (outputs, inputs),
                block,
                &quantized,
                &scales,
                bias.as_deref(),
            ),
            gelu,
            norm,
            absent,
            isa: Isa::best(),
            threads,
        })
    }

    /// Runs the layer where there are enough rows for all threads: each takes some.
    fn by_rows(
        &self,
        context: &ComputeContext,
        x: &[f32],
        y: &mut [f32],
        finish: Finish<'_>,
    ) -> Result<()> {
        let (inputs, outputs) = (self.weights.inputs(), self.weights.outputs());
        let count = x.len() / inputs;
        // Several parts for each thread, so that none waits long for another.
        let rows = count
            .div_ceil(8 * self.threads)
            .next_multiple_of(12)
            .min(96);
        let parts = slices(y, rows * outputs);
        parallel(context, self.threads, parts.len(), |part| {
            let at = part * rows;
            let x = &x[at * inputs..][..rows.min(count - at) * inputs];
            let finish = finish.behind(at * outputs);
            with_slice(&parts[part], |y| self.weights.run(self.isa, x, y, finish));
        })
    }

    /// Runs the layer where there are few rows: each thread takes some outputs.
    fn by_outputs(
        &self,
        context: &ComputeContext,
        x: &[f32],
        y: &mut [f32],
        finish: Finish<'_>,
    ) -> Result<()> {
        let outputs = self.weights.outputs();
        let count = x.len() / self.weights.inputs();
        let tiles = self.weights.prepare(self.isa, x);
        let panels = self.weights.panels();
        let mut by_panel = vec![0.0; panels * count * COLUMNS];
        let share = panels.div_ceil(self.threads);
        {
            let parts = slices(&mut by_panel, share * count * COLUMNS);
            parallel(context, self.threads, parts.len(), |part| {
                with_slice(&parts[part], |y| {
                    let panels = y.chunks_exact_mut(count * COLUMNS);
                    for (panel, y) in (part * share..).zip(panels) {
                        self.weights.run_panel(self.isa, &tiles, panel, y, finish);
                    }
                });
            })?;
        }
        for (panel, values) in by_panel.chunks_exact(count * COLUMNS).enumerate() {
            let column = panel * COLUMNS;
            let width = COLUMNS.min(outputs - column);
            let rows = y.chunks_exact_mut(outputs);
            for (row, values) in rows.zip(values.chunks_exact(COLUMNS)) {
                row[column..column + width].copy_from_slice(&values[..width]);
            }
        }
        finish.rows(self.isa, y);
        Ok(())
    }
}

impl Kernel for LinearKernel {
    fn compute(&mut self, context: &ComputeContext) -> Result<()> {
        guard(|| {
            check_absent(context, &self.absent)?;
            let (inputs, outputs) = (self.weights.inputs(), self.weights.outputs());
            let x = input(context, 0, "x")?;
            let (shape, x) = x.try_extract_tensor::<f32>()?;
            let mut shape = shape.to_vec();
            match shape.last_mut() {
                Some(last) if *last == inputs as i64 => *last = outputs as i64,
                _ => return fail(format!("x has shape {shape:?}, a row has {inputs} values")),
            }
            let count = x.len() / inputs;
            let residual = match &self.norm {
                None => None,
                Some(_) => context.input(RESIDUAL)?,
            };
            let finish = match (&self.norm, &residual) {
                (None, _) if self.gelu => Finish::Gelu,
                (None, _) => Finish::Plain,
                (Some((gamma, beta, epsilon)), Some(residual)) => {
                    let (found, residual) = residual.try_extract_tensor::<f32>()?;
                    if residual.len() != count * outputs {
                        return fail(format!("the residual has shape {found:?}"));
                    }
                    Finish::Normalize {
                        residual,
                        gamma,
                        beta,
                        epsilon: *epsilon,
                    }
                }
                (Some(_), None) => return fail("the residual is missing"),
            };
            let mut y = output(context, shape)?;
            let (_, y) = y.try_extract_tensor_mut::<f32>()?;
            let is_small = count * inputs * outputs < SMALL;
            if self.threads == 1 || is_small {
                self.weights.run(self.isa, x, y, finish);
                Ok(())
            } else if count >= 24 * self.threads {
                self.by_rows(context, x, y, finish)
            } else {
                self.by_outputs(context, x, y, finish)
            }
        })
    }
}

struct MaskedAttention {
    threads: usize,
}

/// A node of `MaskedAttention`.
struct AttentionKernel {
    heads: usize,
    isa: Isa,
    threads: usize,
}

impl Operator for MaskedAttention {
    type Kernel<'attr> = AttentionKernel;

    fn name(&self) -> &str {
        "MaskedAttention"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [
            OperatorInput::required(TensorElementType::Float32),
            OperatorInput::required(TensorElementType::Int32),
            OperatorInput::optional(TensorElementType::Float32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> Result<AttentionKernel> {
        Ok(AttentionKernel {
            heads: attribute(context, "num_heads")?,
            isa: Isa::best(),
            threads: self.threads,
        })
    }
}

impl Kernel for AttentionKernel {
    fn compute(&mut self, context: &ComputeContext) -> Result<()> {
        guard(|| {
            let (qkv, mask) = (input(context, 0, "qkv")?, input(context, 1, "the mask")?);
            let (shape, qkv) = qkv.try_extract_tensor::<f32>()?;
            let (mask_shape, mask) = mask.try_extract_tensor::<i32>()?;
            let [texts, length, stride] = rows_and_mask(shape, mask_shape)?;
            let hidden = stride / 3;
            let size = hidden / self.heads;
            if stride == 0 || size * self.heads * 3 != stride {
                return fail(format!(
                    "{stride} values are not those of {} heads",
                    self.heads
                ));
            }
            let bias = match context.num_inputs()? {
                3.. => context.input(2)?,
                _ => None,
            };
            let bias = match &bias {
                Some(bias) => {
                    let (shape, values) = bias.try_extract_tensor::<f32>()?;
                    if shape[..] != [1, self.heads as i64, length as i64, length as i64] {
                        return fail(format!("the bias has shape {shape:?}"));
                    }
                    Some(values)
                }
                None => None,
            };
            let mut y = output(context, [texts, length, hidden])?;
            let (_, y) = y.try_extract_tensor_mut::<f32>()?;
            if texts * length == 0 {
                return Ok(());
            }
            let is_small = texts * length * length * hidden < SMALL / 4;
            let threads = if is_small { 1 } else { self.threads };
            // A thread takes all heads of a text or, where there are few texts for so
            // many threads, one.
            let share = match threads == 1 || texts >= 2 * threads {
                true => self.heads,
                false => 1,
            };
            let groups = self.heads / share;
            let result = Interleaved(y.as_mut_ptr());
            parallel(context, threads, texts * groups, |part| {
                let (text, group) = (part / groups, part % groups);
                let qkv = &qkv[text * length * stride..][..length * stride];
                let mask = &mask[text * length..][..length];
                let real = real_tokens(mask);
                let mut scratch = Scratch::default();
                for head in group * share..(group + 1) * share {
                    let at = head * size;
                    let parts = Head {
                        size,
                        stride,
                        at: [at, hidden + at, 2 * hidden + at],
                        real,
                    };
                    let bias = bias.map(|all| &all[head * length * length..][..length * length]);
                    attend(
                        self.isa,
                        qkv,
                        parts,
                        bias,
                        &mut scratch,
                        &mut |token, context| {
                            result.write((text * length + token) * hidden + at, context);
                        },
                    );
                    for token in real..length {
                        result.fill((text * length + token) * hidden + at, size);
                    }
                }
            })
        })
    }
}

/// A result of which several threads write parts that interleave.
struct Interleaved(*mut f32);

#[allow(unsafe_code)]
// SAFETY: every head writes its own components of a text's rows, and no other's.
unsafe impl Sync for Interleaved {}
#[allow(unsafe_code)]
// SAFETY: as above.
unsafe impl Send for Interleaved {}

impl Interleaved {
    #[allow(unsafe_code)]
    fn write(&self, at: usize, values: &[f32]) {
        // SAFETY: `at` is that of a head's components in a row of the result.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.0.add(at), values.len()) }
    }

    /// Zeros, for padding.
    #[allow(unsafe_code)]
    fn fill(&self, at: usize, count: usize) {
        // SAFETY: as above.
        unsafe { std::ptr::write_bytes(self.0.add(at), 0, count) }
    }
}

struct Pool;

/// A node of `Pool`.
struct PoolKernel {
    mode: Pooling,
}

impl Operator for Pool {
    type Kernel<'attr> = PoolKernel;

    fn name(&self) -> &str {
        "Pool"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [
            OperatorInput::required(TensorElementType::Float32),
            OperatorInput::required(TensorElementType::Int32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> Result<PoolKernel> {
        let mode = context.get::<String>("mode").unwrap_or_default();
        match Pooling::from_name(&mode) {
            Some(mode) => Ok(PoolKernel { mode }),
            None => fail(format!("the mode \"{mode}\" is not known")),
        }
    }
}

impl Kernel for PoolKernel {
    fn compute(&mut self, context: &ComputeContext) -> Result<()> {
        guard(|| {
            let states = input(context, 0, "the states")?;
            let mask = input(context, 1, "the mask")?;
            let (shape, states) = states.try_extract_tensor::<f32>()?;
            let (mask_shape, mask) = mask.try_extract_tensor::<i32>()?;
            let [texts, length, width] = rows_and_mask(shape, mask_shape)?;
            let mut y = output(context, [texts, width])?;
            let (_, y) = y.try_extract_tensor_mut::<f32>()?;
            if length * width == 0 {
                return fail("there are no tokens to pool");
            }
            let mut sums = Vec::new();
            let texts = states
                .chunks_exact(length * width)
                .zip(mask.chunks_exact(length));
            for ((states, mask), vector) in texts.zip(y.chunks_exact_mut(width)) {
                let real = real_tokens(mask);
                pool(
                    self.mode,
                    false,
                    &states[..real * width],
                    width,
                    &mut sums,
                    vector,
                );
            }
            Ok(())
        })
    }
}

/// Tokens that are not padding. Without any, one of padding counts.
fn real_tokens(mask: &[i32]) -> usize {
    mask.iter().take_while(|&&real| real != 0).count().max(1)
}

/// With ids of 64 bits, or of 32.
struct QuantizedEmbedding<const WIDE: bool>;

/// A node of `QuantizedEmbedding`.
struct EmbeddingKernel<const WIDE: bool> {
    table: Table,
    isa: Isa,
}

/// Where the types of tokens stand among the inputs.
const TYPES: usize = 3;

impl<const WIDE: bool> Operator for QuantizedEmbedding<WIDE> {
    type Kernel<'attr> = EmbeddingKernel<WIDE>;

    fn name(&self) -> &str {
        "QuantizedEmbedding"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        use TensorElementType::{Float32, Int8, Int32, Int64};
        let ids = if WIDE { Int64 } else { Int32 };
        [
            OperatorInput::required(ids),
            OperatorInput::required(Int8),
            OperatorInput::required(Float32),
            OperatorInput::optional(ids),
            OperatorInput::optional(Float32),
            OperatorInput::optional(Float32),
            OperatorInput::optional(Float32),
            OperatorInput::optional(Float32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(
        &self,
        context: &KernelContext<'attr>,
    ) -> Result<EmbeddingKernel<WIDE>> {
        let (shape, quantized) = required::<i8>(context, 1, "the rows of the table")?;
        let [count, width] = shape[..] else {
            return fail(format!("the table has shape {shape:?}"));
        };
        if width == 0 {
            return fail("the rows of the table are empty");
        }
        let Some(scales) = shaped::<f32>(context, 2, "the scales", &[count])? else {
            return fail("the scales are missing");
        };
        let rows = |index, what: &str| match constant::<f32>(context, index)? {
            Some((shape, values)) if shape.len() == 2 && shape[1] == width => Ok(Some(values)),
            Some((shape, _)) => fail(format!("{what} have shape {shape:?}")),
            None => Ok(None),
        };
        let positions = rows(TYPES + 1, "the positions")?;
        let types = rows(TYPES + 2, "the types")?;
        let gamma = shaped::<f32>(context, TYPES + 3, "γ", &[width])?;
        let beta = shaped::<f32>(context, TYPES + 4, "β", &[width])?;
        let further = match (positions, types, gamma, beta) {
            (Some(positions), Some(types), Some(gamma), Some(beta)) => Some(Further {
                positions,
                types,
                gamma,
                beta,
                epsilon: context.get::<f32>("epsilon").unwrap_or(1e-12),
            }),
            (None, None, None, None) => None,
            _ => return fail("positions, types, γ and β belong together"),
        };
        Ok(EmbeddingKernel {
            table: Table {
                width,
                quantized,
                scales,
                further,
            },
            isa: Isa::best(),
        })
    }
}

impl<const WIDE: bool> EmbeddingKernel<WIDE> {
    /// The ids of an input, checked against the number of rows they choose from.
    fn ids(
        context: &ComputeContext,
        input: usize,
        rows: usize,
    ) -> Result<Option<(Vec<i64>, Vec<usize>)>> {
        let Some(value) = context.input(input)? else {
            return Ok(None);
        };
        let (shape, ids): (Vec<i64>, Vec<i64>) = if WIDE {
            let (shape, ids) = value.try_extract_tensor::<i64>()?;
            (shape.to_vec(), ids.to_vec())
        } else {
            let (shape, ids) = value.try_extract_tensor::<i32>()?;
            (
                shape.to_vec(),
                ids.iter().map(|&id| i64::from(id)).collect(),
            )
        };
        let checked = ids.iter().map(|&id| match usize::try_from(id) {
            Ok(id) if id < rows => Ok(id),
            _ => fail(format!("the id {id} is not in a table of {rows} rows")),
        });
        Ok(Some((shape, checked.collect::<Result<_>>()?)))
    }
}

impl<const WIDE: bool> Kernel for EmbeddingKernel<WIDE> {
    fn compute(&mut self, context: &ComputeContext) -> Result<()> {
        guard(|| {
            let table = &self.table;
            if table.further.is_none() {
                check_absent(
                    context,
                    &[TYPES, TYPES + 1, TYPES + 2, TYPES + 3, TYPES + 4],
                )?;
            }
            let Some((shape, ids)) = Self::ids(context, 0, table.scales.len())? else {
                return fail("the ids are missing");
            };
            let mut types = None;
            let mut length = 1;
            if let Some(further) = &table.further {
                length = shape.last().map_or(1, |&last| last as usize).max(1);
                if length * table.width > further.positions.len() {
                    return fail(format!("there are no positions for {length} tokens"));
                }
                types = Self::ids(context, TYPES, further.types.len() / table.width)?;
            }
            if types
                .as_ref()
                .is_some_and(|(_, types)| types.len() != ids.len())
            {
                return fail("there are not as many types as ids");
            }
            let mut shape = shape;
            shape.push(table.width as i64);
            let mut y = output(context, shape)?;
            let (_, y) = y.try_extract_tensor_mut::<f32>()?;
            for (i, (row, &id)) in y.chunks_exact_mut(table.width).zip(&ids).enumerate() {
                let kind = types.as_ref().map_or(0, |(_, types)| types[i]);
                look_up(self.isa, table, [id, i % length, kind], row);
            }
            Ok(())
        })
    }
}
