//! The quantizing compiler: from a model of 32-bit floats to a smaller one.
//!
//! * **fp16** stores the floats of large initializers in 16 bits; a `Cast` widens
//!   them again when a session opens on a processor (for a GPU see [`crate::gpu`]).
//! * **int8** and **int4** put a node of [`crate::operators`] in the place of each
//!   product with a constant matrix and of each look-up in a constant table.
//!   Biases, GELU, and the residual with its layer normalization go into that node
//!   where the graph has them behind the product; ONNX Runtime's fused `Attention`
//!   becomes a product and an attention over real tokens. Tables keep 8 bits.
//!
//! Every other node stays as it was, byte for byte. The result is an ONNX graph
//! again, of the domain `insitu` beside ONNX's own.

mod weights;

use memory::check_available;
use serde::Deserialize;

use crate::compile::CompiledModel;
use crate::error::Error;
use crate::graph::Graph;
use crate::onnx::{Attribute, FLOAT, INT8, INT32, MICROSOFT, Node, Tensor, UINT8};
use crate::operators::DOMAIN;
use crate::settings::Precision;
use crate::weights::transpose;
pub use weights::Scheme;
use weights::{quantize as quantize_matrix, quantize_table};

/// Matrices with fewer elements stay floats.
const LEAST_MATRIX: usize = 4_096;

/// Tables with fewer elements stay floats.
const LEAST_TABLE: usize = 65_536;

/// How weights are quantized.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct QuantizeOptions {
    /// How they become whole numbers.
    pub scheme: Scheme,
    /// Inputs that share a scale: 0 for all of an output's, else a multiple of 4,
    /// 16 to 65,536. By default 0 for int8 and 32 for int4.
    pub block: Option<usize>,
}

impl Default for QuantizeOptions {
    fn default() -> Self {
        QuantizeOptions {
            scheme: Scheme::Linear,
            block: None,
        }
    }
}

impl QuantizeOptions {
    /// Reads the options out of a JSON object.
    ///
    /// # Errors
    /// [`Error::Argument`] with the key or value that is not known.
    pub fn from_json(json: &str) -> Result<Self, Error> {
        serde_json::from_str(json).map_err(|error| {
            let reason = error.to_string();
            // Where in the text says nothing about options that were not given as text.
            let end = reason.rfind(" at line ").unwrap_or(reason.len());
            Error::Argument {
                reason: format!("options cannot be read: {}", &reason[..end]),
            }
        })
    }

    fn check(&self, precision: Precision) -> Result<(), Error> {
        let fail = |reason: String| Err(Error::Argument { reason });
        if self.scheme != Scheme::Linear && precision != Precision::Int4 {
            return fail("the schemes affine and kmeans are for int4".to_owned());
        }
        if let Some(block) = self.block
            && block != 0
            && !((16..=65_536).contains(&block) && block.is_multiple_of(4))
        {
            return fail(format!(
                "block is {block}, but must be 0 or a multiple of 4 between 16 and 65536"
            ));
        }
        Ok(())
    }
}

/// Makes a smaller model of one of 32-bit floats.
///
/// `progress` is told how many of the graph's nodes are done, and says whether to
/// stop.
///
/// # Errors
/// [`Error::NotQuantizable`] if the model is not one of 32-bit floats, has graphs
/// inside its nodes, or nothing in it can be made smaller; [`Error::Argument`] for
/// options that don't go together; [`Error::Interrupted`].
pub fn quantize(
    model: &CompiledModel,
    precision: Precision,
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<CompiledModel, Error> {
    options.check(precision)?;
    let fail = |reason: &str| {
        Err(Error::NotQuantizable {
            reason: reason.to_owned(),
        })
    };
    if model.settings.precision != Precision::Fp32 || precision == Precision::Fp32 {
        return fail("only a model of fp32 can be quantized, to fp16, int8 or int4");
    }
    if model.settings.one_by_one {
        return fail("its graph is quantized already");
    }
    // The graph once more in parts, a matrix as numbers of either kind, and the result.
    check_available(model.graph.len().saturating_mul(3), "quantizing the model")?;
    let graph = Graph::read(&model.graph)?;
    if graph.has_inner_graphs() {
        return fail("its graph has graphs inside (If, Loop or Scan)");
    }
    let mut rewrite = Rewrite {
        graph,
        bits: if precision == Precision::Int4 { 4 } else { 8 },
        options: options.clone(),
        changes: 0,
    };
    let count = rewrite.graph.len();
    for index in 0..count {
        if !progress(index, count) {
            return Err(Error::Interrupted);
        }
        if precision != Precision::Fp16 {
            rewrite.node(index);
        }
    }
    if precision == Precision::Fp16 {
        rewrite.halve();
    }
    progress(count, count);
    if rewrite.changes == 0 {
        return fail("its graph has no constant matrix or table that could be made smaller");
    }
    let domain = (precision != Precision::Fp16).then_some(DOMAIN);
    let mut settings = model.settings.clone();
    settings.precision = precision;
    settings.padding_free = rewrite.graph.is_all_of(DOMAIN);
    Ok(CompiledModel {
        graph: rewrite.graph.write(domain),
        tokenizer: model.tokenizer.clone(),
        settings,
    })
}

struct Rewrite<'a> {
    graph: Graph<'a>,
    bits: usize,
    options: QuantizeOptions,
    changes: usize,
}

/// A product with a constant matrix, as a graph has it.
struct Product {
    input: String,
    /// The weights' name, and their values, a row for each output.
    name: String,
    rows: Vec<f32>,
    inputs: usize,
    outputs: usize,
    /// The name of the biases.
    bias: Option<String>,
    /// The name of the result.
    output: String,
}

impl Rewrite<'_> {
    /// Replaces a node, if there is something better.
    fn node(&mut self, index: usize) {
        let node = self.graph.node(index).clone();
        match (node.domain.as_str(), node.op_type.as_str()) {
            ("" | "ai.onnx", "MatMul") => {
                if let Some(product) = self.matrix_product(&node) {
                    self.linear(index, product);
                }
            }
            ("" | "ai.onnx", "Gemm") => {
                if let Some(product) = self.general_product(&node) {
                    self.linear(index, product);
                }
            }
            ("" | "ai.onnx", "Gather") => self.gather(index, &node),
            (MICROSOFT, "Attention") => self.attention(index, &node),
            (MICROSOFT, "EmbedLayerNormalization") => self.embeddings(index, &node),
            _ => {}
        }
    }

    /// The values of a constant matrix, as it is stored.
    fn matrix(&self, name: &str) -> Option<(usize, usize, Vec<f32>)> {
        match self.graph.initializer(name)?.as_floats()? {
            (shape, values) if values.len() >= LEAST_MATRIX => match shape[..] {
                [rows, columns] => Some((rows, columns, values)),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether a name is that of a constant vector of so many floats.
    fn is_vector(&self, name: &str, length: usize) -> bool {
        let tensor = self.graph.initializer(name);
        tensor.is_some_and(|t| t.data_type == FLOAT && t.dims == [length as i64])
    }

    fn matrix_product(&self, node: &Node) -> Option<Product> {
        let [input, weights] = &node.input[..] else {
            return None;
        };
        let (inputs, outputs, values) = self.matrix(weights)?;
        Some(Product {
            input: input.clone(),
            name: weights.clone(),
            rows: transpose(&values, inputs, outputs),
            inputs,
            outputs,
            bias: None,
            output: node.output.first()?.clone(),
        })
    }

    /// A `Gemm` that is a linear layer.
    fn general_product(&self, node: &Node) -> Option<Product> {
        let mut is_transposed = false;
        for attribute in &node.attribute {
            match (attribute.name.as_str(), attribute.f, attribute.i) {
                ("transB", _, Some(flag)) => is_transposed = flag != 0,
                ("alpha" | "beta", Some(1.0), _) | ("transA", _, Some(0)) => {}
                _ => return None,
            }
        }
        let (rows, columns, values) = self.matrix(node.input.get(1)?)?;
        let (inputs, outputs, rows) = if is_transposed {
            (columns, rows, values)
        } else {
            (rows, columns, transpose(&values, rows, columns))
        };
        let bias = node.input.get(2).filter(|name| !name.is_empty()).cloned();
        if bias
            .as_ref()
            .is_some_and(|name| !self.is_vector(name, outputs))
        {
            return None;
        }
        Some(Product {
            input: node.input.first()?.clone(),
            name: node.input[1].clone(),
            rows,
            inputs,
            outputs,
            bias,
            output: node.output.first()?.clone(),
        })
    }

    /// Puts a `QuantizedLinear` in the place of a product, and of what comes behind
    /// it as far as that operator does it too.
    fn linear(&mut self, index: usize, mut product: Product) {
        let (inputs, outputs) = (product.inputs, product.outputs);
        let mut at = index;
        let mut attributes = Vec::new();
        let mut behind = vec![String::new(); 3];
        if let Some(user) = self.graph.only_user(&product.output)
            && user > index
        {
            let node = self.graph.node(user).clone();
            let other = |index: usize| node.input.get(index).cloned().unwrap_or_default();
            let comes_first = other(0) == product.output;
            match (node.domain.as_str(), node.op_type.as_str()) {
                ("" | "ai.onnx", "Add") if product.bias.is_none() => {
                    let bias = other(usize::from(comes_first));
                    if self.is_vector(&bias, outputs) {
                        product.bias = Some(bias);
                        at = user;
                    }
                }
                (MICROSOFT, "BiasGelu")
                    if product.bias.is_none()
                        && comes_first
                        && self.is_vector(&other(1), outputs) =>
                {
                    product.bias = Some(other(1));
                    attributes.push(Attribute::string("activation", "gelu"));
                    at = user;
                }
                (MICROSOFT, "SkipLayerNormalization")
                    if product.bias.is_none()
                        && comes_first
                        && self.is_plain_norm(&node, outputs) =>
                {
                    product.bias = Some(other(4)).filter(|name| !name.is_empty());
                    behind = [other(1), other(2), other(3)].to_vec();
                    attributes.push(epsilon(&node));
                    at = user;
                }
                _ => {}
            }
        }
        if at != index {
            product.output = self.graph.node(at).output[0].clone();
            self.graph.remove(index);
        }
        let by_default = if self.bits == 4 { 32 } else { 0 };
        let block = match self.options.block.unwrap_or(by_default) {
            0 => inputs,
            block => block.min(inputs),
        };
        let [weights, scales, zero_points, codebook] = self.stored(&product, block);
        let mut inputs_of = vec![
            product.input.clone(),
            weights,
            scales,
            product.bias.clone().unwrap_or_default(),
            zero_points,
            codebook,
        ];
        inputs_of.extend(behind);
        while inputs_of.last().is_some_and(String::is_empty) {
            inputs_of.pop();
        }
        attributes.extend([
            Attribute::int("bits", self.bits as i64),
            Attribute::int("block", block as i64),
            Attribute::int("inputs", inputs as i64),
        ]);
        let inputs_of: Vec<&str> = inputs_of.iter().map(String::as_str).collect();
        let node = Node::new(
            "QuantizedLinear",
            DOMAIN,
            &inputs_of,
            &product.output,
            attributes,
        );
        self.graph.replace(at, node);
        self.changes += 1;
    }

    /// The names of a product's weights, scales, zero points and codebook in few
    /// bits; empty for what the scheme does without. Two nodes may share a matrix,
    /// which then is stored once.
    fn stored(&mut self, product: &Product, block: usize) -> [String; 4] {
        let (inputs, outputs) = (product.inputs, product.outputs);
        let scheme = self.options.scheme;
        let optional = |there: bool, what: &str| match there {
            true => format!("{}.{what}", product.name),
            false => String::new(),
        };
        let names = [
            optional(true, "quantized"),
            optional(true, "scales"),
            optional(scheme == Scheme::Affine, "zero_points"),
            optional(scheme == Scheme::Kmeans, "codebook"),
        ];
        if self.graph.initializer(&names[0]).is_some() {
            return names;
        }
        let matrix = quantize_matrix(&product.rows, inputs, self.bits, block, scheme);
        let row = matrix.bytes.len() / outputs;
        let of_blocks = [outputs, inputs.div_ceil(block)];
        let tensors = [
            Some(Tensor::new(&names[0], UINT8, &[outputs, row], matrix.bytes)),
            Some(Tensor::floats(&names[1], &of_blocks, &matrix.scales)),
            matrix
                .zero_points
                .map(|zeros| Tensor::new(&names[2], UINT8, &of_blocks, zeros)),
            matrix.codebook.map(|codebook| {
                let bytes = codebook.iter().map(|&value| value as u8).collect();
                Tensor::new(&names[3], INT8, &[codebook.len()], bytes)
            }),
        ];
        for tensor in tensors.into_iter().flatten() {
            self.graph.add_initializer(tensor);
        }
        names
    }

    /// Whether a `SkipLayerNormalization` does no more than `QuantizedLinear` can.
    fn is_plain_norm(&self, node: &Node, width: usize) -> bool {
        let has = |index: usize| {
            let name = node.input.get(index).map_or("", String::as_str);
            self.is_vector(name, width)
        };
        let bias = node.input.get(4).is_none_or(|name| name.is_empty()) || has(4);
        node.input.len() >= 4 && has(2) && has(3) && bias && self.gives_one_value(node)
    }

    /// Whether nothing uses more than a node's first output.
    fn gives_one_value(&self, node: &Node) -> bool {
        let mut further = node.output.iter().skip(1);
        further.all(|output| !self.graph.is_used(output))
    }

    /// ONNX Runtime's `Attention`: the product with the three projections, then
    /// `MaskedAttention`.
    fn attention(&mut self, index: usize, node: &Node) {
        let (input, weights, bias, mask, distances) = match &node.input[..] {
            [input, weights, bias, mask] => (input, weights, bias, mask, None),
            [input, weights, bias, mask, past, distances] if past.is_empty() => {
                (input, weights, bias, mask, Some(distances))
            }
            _ => return,
        };
        let [heads] = &node.attribute[..] else {
            return;
        };
        let Some((inputs, outputs, values)) = self.matrix(weights) else {
            return;
        };
        let is_ours = heads.name == "num_heads"
            && outputs == 3 * inputs
            && self.is_vector(bias, outputs)
            && self.graph.input_element(mask) == Some(INT32)
            && node.output.len() == 1;
        if !is_ours {
            return;
        }
        let product = Product {
            input: input.clone(),
            name: weights.clone(),
            rows: transpose(&values, inputs, outputs),
            inputs,
            outputs,
            bias: Some(bias.clone()),
            output: format!("{}.projections", node.output[0]),
        };
        let projections = product.output.clone();
        let mut inputs = vec![projections.as_str(), mask];
        inputs.extend(distances.map(String::as_str));
        let attention = Node::new(
            "MaskedAttention",
            DOMAIN,
            &inputs,
            &node.output[0],
            vec![heads.clone()],
        );
        // The product stands where the attention stood, and that behind it.
        self.linear(index, product);
        self.graph.put_after(index, attention);
    }

    /// ONNX Runtime's sum of embeddings, normalized.
    fn embeddings(&mut self, index: usize, node: &Node) {
        let [ids, types, words, positions, kinds, gamma, beta] = &node.input[..] else {
            return;
        };
        let Some((rows, width, values)) = self.matrix(words) else {
            return;
        };
        let is_ours = self.gives_one_value(node)
            && self.is_vector(gamma, width)
            && self.is_vector(beta, width)
            && [positions, kinds].into_iter().all(|name| {
                let tensor = self.graph.initializer(name);
                tensor.is_some_and(|t| t.dims.len() == 2 && t.dims[1] == width as i64)
            });
        if !is_ours {
            return;
        }
        let [table, scales] = self.table(words, rows, width, &values);
        let inputs = [ids, &table, &scales, types, positions, kinds, gamma, beta];
        let node = Node::new(
            "QuantizedEmbedding",
            DOMAIN,
            &inputs.map(String::as_str),
            &node.output[0],
            vec![epsilon(node)],
        );
        self.graph.replace(index, node);
        self.changes += 1;
    }

    /// A look-up in a large table.
    fn gather(&mut self, index: usize, node: &Node) {
        let [name, ids] = &node.input[..] else {
            return;
        };
        let Some((rows, width, values)) = self.matrix(name) else {
            return;
        };
        let is_first = |a: &Attribute| a.name == "axis" && a.i.unwrap_or(0) == 0;
        let is_alone = self.graph.users(name).iter().all(|&user| {
            let user = self.graph.node(user);
            user.op_type == "Gather" || user.op_type == "QuantizedEmbedding"
        });
        if values.len() < LEAST_TABLE || !node.attribute.iter().all(is_first) || !is_alone {
            return;
        }
        let [table, scales] = self.table(name, rows, width, &values);
        let node = Node::new(
            "QuantizedEmbedding",
            DOMAIN,
            &[ids, &table, &scales],
            &node.output[0],
            Vec::new(),
        );
        self.graph.replace(index, node);
        self.changes += 1;
    }

    /// Adds a table in 8 bits; the names of its rows and scales.
    fn table(&mut self, name: &str, rows: usize, width: usize, values: &[f32]) -> [String; 2] {
        let names = [format!("{name}.rows"), format!("{name}.row_scales")];
        if self.graph.initializer(&names[0]).is_none() {
            let (bytes, scales) = quantize_table(values, width);
            let table = Tensor::new(&names[0], INT8, &[rows, width], bytes);
            self.graph.add_initializer(table);
            self.graph
                .add_initializer(Tensor::floats(&names[1], &[rows], &scales));
        }
        names
    }

    /// Stores large initializers in 16 bits.
    fn halve(&mut self) {
        for name in self.graph.initializer_names() {
            let Some((shape, values)) = self.graph.initializer(&name).and_then(Tensor::as_floats)
            else {
                continue;
            };
            // A value that 16 bits can't hold stays what it is.
            let most = half::f16::MAX.to_f32();
            if values.len() < LEAST_MATRIX || values.iter().any(|value| value.abs() > most) {
                continue;
            }
            let stored = format!("{name}.fp16");
            let tensor = Tensor::halves(&stored, &shape, &values);
            self.graph.rename_initializer(&name, tensor);
            let to = vec![Attribute::int("to", i64::from(FLOAT))];
            self.graph
                .add_first(Node::new("Cast", "", &[&stored], &name, to));
            self.changes += 1;
        }
    }
}

/// The attribute ε of a node that normalizes.
fn epsilon(node: &Node) -> Attribute {
    let given = node.attribute.iter().find(|a| a.name == "epsilon");
    let value = given.and_then(|a| a.f).unwrap_or(1e-12);
    Attribute::float("epsilon", value)
}

#[cfg(test)]
mod export_tests;
