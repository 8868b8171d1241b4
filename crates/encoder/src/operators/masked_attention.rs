//! The operator `MaskedAttention`.

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
