//! The operator `QuantizedLinear`.

use memory::{check_available, vec};
use ort::Result;
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
};
use ort::value::TensorElementType;

use super::linear::{COLUMNS, Finish, Weights};
use super::node::{
    MODEL, SMALL, attribute, check_absent, fail, guard, input, output, parallel, refused, required,
    shaped, slices, with_slice,
};
use super::simd::Isa;

pub(super) struct QuantizedLinear {
    pub(super) threads: usize,
}

/// A node of `QuantizedLinear`.
pub(super) struct LinearKernel {
    weights: Weights,
    gelu: bool,
    /// γ, β and ε of a layer normalization.
    norm: Option<(Vec<f32>, Vec<f32>, f32)>,
    /// Inputs that the node does not have.
    absent: Vec<usize>,
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
        // Here and packed, with what AVX2 splits off.
        check_available(outputs.saturating_mul(inputs).saturating_mul(3), MODEL)
            .map_err(refused)?;
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
                Isa::best(),
                (outputs, inputs),
                block,
                &quantized,
                &scales,
                bias.as_deref(),
            ),
            gelu,
            norm,
            absent,
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
            with_slice(&parts[part], |y| self.weights.run(x, y, finish));
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
        let tiles = self.weights.prepare(x);
        let panels = self.weights.panels();
        let by_panel = vec::filled(0.0, panels * count * COLUMNS, "running the model");
        let mut by_panel = by_panel.map_err(refused)?;
        let share = panels.div_ceil(self.threads);
        {
            let parts = slices(&mut by_panel, share * count * COLUMNS);
            parallel(context, self.threads, parts.len(), |part| {
                let own = part * share..panels.min((part + 1) * share);
                with_slice(&parts[part], |y| {
                    self.weights.run_panels(&tiles, own, y, finish);
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
        finish.rows(self.weights.isa(), y);
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
                self.weights.run(x, y, finish);
                Ok(())
            } else if count >= 24 * self.threads {
                self.by_rows(context, x, y, finish)
            } else {
                self.by_outputs(context, x, y, finish)
            }
        })
    }
}
