//! The operator `Pool`.

use ort::Result;
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
};
use ort::value::TensorElementType;

use super::node::{fail, guard, input, output, real_tokens, rows_and_mask};
use crate::pooling::pool;
use crate::settings::Pooling;

pub(super) struct Pool;

/// A node of `Pool`.
pub(super) struct PoolKernel {
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
