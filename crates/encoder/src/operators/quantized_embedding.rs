//! The operator `QuantizedEmbedding`.

use ort::Result;
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
};
use ort::value::TensorElementType;

use super::embedding::{Further, Table, look_up};
use super::node::{check_absent, constant, fail, guard, output, required, shaped};
use super::simd::Isa;

/// With ids of 64 bits, or of 32.
pub(super) struct QuantizedEmbedding<const WIDE: bool>;

/// A node of `QuantizedEmbedding`.
pub(super) struct EmbeddingKernel<const WIDE: bool> {
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
