//! The operator `MaskedAttention`.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;

use ort::Result;
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
};
use ort::value::TensorElementType;

use super::attention::{Head, Scratch, attend};
use super::node::{
    SMALL, attribute, fail, guard, input, output, parallel, real_tokens, rows_and_mask,
};
use super::simd::Isa;

pub(super) struct MaskedAttention {
    pub(super) threads: usize,
}

/// A node of `MaskedAttention`.
pub(super) struct AttentionKernel {
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
            let result = Interleaved::new(y);
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
                            let at = (text * length + token) * hidden + at;
                            // SAFETY: this head's components of a row of this text,
                            // which no other part of the work has.
                            unsafe { result.write(at, context) };
                        },
                    );
                    for token in real..length {
                        let at = (text * length + token) * hidden + at;
                        // SAFETY: as above.
                        unsafe { result.fill(at, size) };
                    }
                }
            })
        })
    }
}

/// A result of which several threads write parts that interleave.
struct Interleaved<'r>(&'r [UnsafeCell<f32>]);

// SAFETY: it is only written to, and who writes says that nobody else writes there.
unsafe impl Sync for Interleaved<'_> {}

impl<'r> Interleaved<'r> {
    fn new(result: &'r mut [f32]) -> Self {
        let cells = std::ptr::from_mut(result) as *const [UnsafeCell<f32>];
        // SAFETY: a cell is laid out as what is in it, and the slice is borrowed for
        // writing as long as the cells are.
        Interleaved(unsafe { &*cells })
    }

    /// # Safety
    ///
    /// No other thread writes to these places meanwhile.
    unsafe fn write(&self, at: usize, values: &[f32]) {
        let places = UnsafeCell::raw_get(self.0[at..at + values.len()].as_ptr());
        // SAFETY: the places are there, and as the caller says.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), places, values.len()) };
    }

    /// Zeros, for padding.
    ///
    /// # Safety
    ///
    /// As for [`Interleaved::write`].
    unsafe fn fill(&self, at: usize, count: usize) {
        let places = UnsafeCell::raw_get(self.0[at..at + count].as_ptr());
        // SAFETY: as above.
        unsafe { std::ptr::write_bytes(places, 0, count) };
    }
}
