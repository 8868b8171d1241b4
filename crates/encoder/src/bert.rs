//! From `model.safetensors` and `config.json` of a BERT to an ONNX graph of ONNX
//! Runtime's fused operators.
//!
//! A layer is six nodes: Attention (with the three projections merged into one
//! matrix), MatMul, SkipLayerNormalization, MatMul, BiasGelu, MatMul, and a
//! SkipLayerNormalization that ends it; the biases of the plain products travel
//! in the nodes that follow them. Writing the graph ourselves, rather than
//! leaving it to ONNX Runtime to find these operators in an export, makes it
//! the same graph whoever exported the model and with whichever version.
//!
//! The graph takes `input_ids`, `attention_mask` and `token_type_ids`, all int32
//! of shape [batch, sequence], and gives `last_hidden_state`, float of shape
//! [batch, sequence, hidden].
//!
//! Sources: Devlin et al., "BERT" (2019); ONNX Runtime, `ContribOperators.md`.

use prost::Message;
use serde::Deserialize;

use crate::error::Error;
use crate::files::{CONFIG, ModelFiles, SAFETENSORS};
use crate::onnx::{
    Attribute, FLOAT, Graph, INT32, MICROSOFT, Model, Node, OperatorSet, Tensor, ValueInfo,
};
use crate::weights::Weights;

/// The graph's output.
pub(crate) const OUTPUT: &str = "last_hidden_state";

const MAX_LAYERS: usize = 1_000;
const MAX_HIDDEN: usize = 16_000;
const MAX_INTERMEDIATE: usize = 1 << 18;
const MAX_VOCABULARY: usize = 10_000_000;
const MAX_POSITIONS: usize = 1 << 20;
const MAX_TYPES: usize = 1_000;

/// The part of `config.json` that shapes a BERT.
#[derive(Deserialize)]
struct Config {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "two")]
    type_vocab_size: usize,
    #[serde(default = "default_epsilon")]
    layer_norm_eps: f64,
    hidden_act: Option<String>,
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
}

fn two() -> usize {
    2
}

fn default_epsilon() -> f64 {
    1e-12
}

/// What came out.
pub(crate) struct Written {
    pub(crate) graph: Vec<u8>,
    pub(crate) dimension: usize,
    pub(crate) vocabulary: usize,
}

/// Whether the configuration is that of a BERT as [`write()`] writes it.
pub(crate) fn can_write(files: &ModelFiles) -> bool {
    matches!(files.json::<Config>(CONFIG), Ok(Some(config)) if config.check_features().is_ok())
}

/// Writes the graph.
pub(crate) fn write(files: &ModelFiles) -> Result<Written, Error> {
    let safetensors = files.require(SAFETENSORS)?;
    files.require(CONFIG)?;
    // A configuration of another family lacks half of the fields: say that it is
    // another family, not which field is missing.
    #[derive(Deserialize)]
    struct Family {
        model_type: Option<String>,
    }
    let family = files
        .json::<Family>(CONFIG)?
        .and_then(|family| family.model_type);
    if family.as_deref() != Some("bert") {
        return Err(Error::unsupported(format!(
            "model_type in {CONFIG} is \"{}\"; {SAFETENSORS} is read for \"bert\", other models \
             need an ONNX export",
            family.as_deref().unwrap_or("")
        )));
    }
    let Some(config) = files.json::<Config>(CONFIG)? else {
        return Err(Error::malformed(CONFIG, "it is null"));
    };
    config.check_features()?;
    config.check_sizes()?;
    let weights = Weights::open(safetensors, "embeddings.word_embeddings.weight")?;
    let mut writer = Writer {
        config: &config,
        weights: &weights,
        nodes: Vec::new(),
        initializers: Vec::new(),
    };
    writer.embeddings()?;
    for layer in 0..config.num_hidden_layers {
        writer.layer(layer)?;
    }
    let model = writer.finish();
    let size = model.encoded_len();
    if size > i32::MAX as usize {
        return Err(Error::unsupported(format!(
            "as an ONNX graph it would have {size} bytes, the limit is {}",
            i32::MAX
        )));
    }
    Ok(Written {
        graph: model.encode_to_vec(),
        dimension: config.hidden_size,
        vocabulary: config.vocab_size,
    })
}

impl Config {
    /// What no size can make up for.
    fn check_features(&self) -> Result<(), Error> {
        let unsupported = |name: &str, value: &str, only: &str| {
            Err(Error::unsupported(format!(
                "{name} in {CONFIG} is \"{value}\"; {only} is implemented"
            )))
        };
        if self.model_type != "bert" {
            return unsupported("model_type", &self.model_type, "\"bert\"");
        }
        // BiasGelu computes the exact form, with the error function.
        let activation = self.hidden_act.as_deref().unwrap_or("gelu");
        if activation != "gelu" {
            return unsupported("hidden_act", activation, "\"gelu\"");
        }
        let positions = self
            .position_embedding_type
            .as_deref()
            .unwrap_or("absolute");
        if positions != "absolute" {
            return unsupported("position_embedding_type", positions, "\"absolute\"");
        }
        if self.is_decoder {
            return unsupported("is_decoder", "true", "an encoder");
        }
        Ok(())
    }

    /// Sizes that a model can have. They keep products of them far from overflow.
    fn check_sizes(&self) -> Result<(), Error> {
        for (name, value, limit) in [
            ("vocab_size", self.vocab_size, MAX_VOCABULARY),
            ("hidden_size", self.hidden_size, MAX_HIDDEN),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, MAX_HIDDEN),
            (
                "intermediate_size",
                self.intermediate_size,
                MAX_INTERMEDIATE,
            ),
            (
                "max_position_embeddings",
                self.max_position_embeddings,
                MAX_POSITIONS,
            ),
            ("type_vocab_size", self.type_vocab_size, MAX_TYPES),
        ] {
            if !(1..=limit).contains(&value) {
                return Err(Error::malformed(
                    CONFIG,
                    format!("{name} is {value}, but must be between 1 and {limit}"),
                ));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(Error::malformed(
                CONFIG,
                format!(
                    "hidden_size {} is not a multiple of num_attention_heads {}",
                    self.hidden_size, self.num_attention_heads
                ),
            ));
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps < 1.0) {
            return Err(Error::malformed(
                CONFIG,
                format!(
                    "layer_norm_eps is {}, but must be between 0 and 1",
                    self.layer_norm_eps
                ),
            ));
        }
        Ok(())
    }
}

struct Writer<'a> {
    config: &'a Config,
    weights: &'a Weights<'a>,
    nodes: Vec<Node>,
    initializers: Vec<Tensor>,
}

impl Writer<'_> {
    /// Adds values under a name and returns the name.
    fn constant(&mut self, name: &str, shape: &[usize], values: &[f32]) -> String {
        self.initializers.push(Tensor::floats(name, shape, values));
        name.to_owned()
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<String, Error> {
        let values = self.weights.read(name, shape)?;
        Ok(self.constant(name, shape, &values))
    }

    /// The weight matrix of a linear layer, inputs first.
    fn matrix(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<String, Error> {
        let values = self.weights.read_transposed(name, outputs, inputs)?;
        Ok(self.constant(name, &[inputs, outputs], &values))
    }

    fn fused(&mut self, operator: &str, inputs: &[&str], output: &str, attributes: Vec<Attribute>) {
        self.nodes
            .push(Node::new(operator, MICROSOFT, inputs, output, attributes));
    }

    fn product(&mut self, input: &str, matrix: &str, output: &str) {
        self.nodes.push(Node::new(
            "MatMul",
            "",
            &[input, matrix],
            output,
            Vec::new(),
        ));
    }

    fn epsilon(&self) -> Vec<Attribute> {
        vec![Attribute::float(
            "epsilon",
            self.config.layer_norm_eps as f32,
        )]
    }

    fn embeddings(&mut self) -> Result<(), Error> {
        let hidden = self.config.hidden_size;
        let words = self.tensor(
            "embeddings.word_embeddings.weight",
            &[self.config.vocab_size, hidden],
        )?;
        let positions = self.tensor(
            "embeddings.position_embeddings.weight",
            &[self.config.max_position_embeddings, hidden],
        )?;
        let types = self.tensor(
            "embeddings.token_type_embeddings.weight",
            &[self.config.type_vocab_size, hidden],
        )?;
        let gamma = self.tensor("embeddings.LayerNorm.weight", &[hidden])?;
        let beta = self.tensor("embeddings.LayerNorm.bias", &[hidden])?;
        let mut node = Node::new(
            "EmbedLayerNormalization",
            MICROSOFT,
            &[
                "input_ids",
                "token_type_ids",
                &words,
                &positions,
                &types,
                &gamma,
                &beta,
            ],
            &layer_input(0, self.config.num_hidden_layers),
            self.epsilon(),
        );
        // The operator insists on its second output, the lengths that it would
        // count from a mask. Attention gets the mask itself.
        node.output.push("lengths".to_owned());
        self.nodes.push(node);
        Ok(())
    }

    fn layer(&mut self, layer: usize) -> Result<(), Error> {
        let Config {
            hidden_size: hidden,
            intermediate_size: intermediate,
            num_attention_heads: heads,
            num_hidden_layers: layers,
            ..
        } = *self.config;
        let stem = format!("encoder.layer.{layer}");
        let input = layer_input(layer, layers);

        let (projections, biases) = self.projections(&stem)?;
        let context = format!("{stem}.context");
        self.fused(
            "Attention",
            &[&input, &projections, &biases, "attention_mask"],
            &context,
            // At most MAX_HIDDEN.
            vec![Attribute::int("num_heads", heads as i64)],
        );
        let attended = format!("{stem}.attended");
        let dense = self.matrix(
            &format!("{stem}.attention.output.dense.weight"),
            hidden,
            hidden,
        )?;
        self.product(&context, &dense, &attended);
        let middle = format!("{stem}.middle");
        self.normalize(
            &format!("{stem}.attention.output"),
            &attended,
            &input,
            &middle,
        )?;

        let wide = format!("{stem}.wide");
        let dense = self.matrix(
            &format!("{stem}.intermediate.dense.weight"),
            hidden,
            intermediate,
        )?;
        self.product(&middle, &dense, &wide);
        let activated = format!("{stem}.activated");
        let bias = self.tensor(&format!("{stem}.intermediate.dense.bias"), &[intermediate])?;
        self.fused("BiasGelu", &[&wide, &bias], &activated, Vec::new());
        let narrow = format!("{stem}.narrow");
        let dense = self.matrix(&format!("{stem}.output.dense.weight"), intermediate, hidden)?;
        self.product(&activated, &dense, &narrow);
        let output = layer_input(layer + 1, layers);
        self.normalize(&format!("{stem}.output"), &narrow, &middle, &output)
    }

    /// The matrices and biases of query, key and value, side by side.
    fn projections(&mut self, stem: &str) -> Result<(String, String), Error> {
        let hidden = self.config.hidden_size;
        let mut parts = Vec::with_capacity(3);
        let mut bias = Vec::new();
        for name in ["query", "key", "value"] {
            let name = format!("{stem}.attention.self.{name}");
            let weight = format!("{name}.weight");
            parts.push(self.weights.read_transposed(&weight, hidden, hidden)?);
            bias.extend(self.weights.read(&format!("{name}.bias"), &[hidden])?);
        }
        // Allocated only now that tensors of this size have been seen.
        let mut matrix = vec![0.0; hidden * 3 * hidden];
        for (part, values) in parts.iter().enumerate() {
            let rows = matrix.chunks_exact_mut(3 * hidden);
            for (row, values) in rows.zip(values.chunks_exact(hidden)) {
                row[part * hidden..][..hidden].copy_from_slice(values);
            }
        }
        let matrix = self.constant(
            &format!("{stem}.projections.weight"),
            &[hidden, 3 * hidden],
            &matrix,
        );
        let bias = self.constant(&format!("{stem}.projections.bias"), &[3 * hidden], &bias);
        Ok((matrix, bias))
    }

    /// LayerNorm(input + dense bias + skip), with the parameters under `stem`.
    fn normalize(
        &mut self,
        stem: &str,
        input: &str,
        skip: &str,
        output: &str,
    ) -> Result<(), Error> {
        let hidden = self.config.hidden_size;
        let gamma = self.tensor(&format!("{stem}.LayerNorm.weight"), &[hidden])?;
        let beta = self.tensor(&format!("{stem}.LayerNorm.bias"), &[hidden])?;
        let bias = self.tensor(&format!("{stem}.dense.bias"), &[hidden])?;
        self.fused(
            "SkipLayerNormalization",
            &[input, skip, &gamma, &beta, &bias],
            output,
            self.epsilon(),
        );
        Ok(())
    }

    fn finish(self) -> Model {
        let ids = |name| ValueInfo::tensor(name, INT32, &[Err("batch"), Err("sequence")]);
        // At most MAX_HIDDEN.
        let hidden = self.config.hidden_size as i64;
        let operator_set = |domain: &str, version| OperatorSet {
            domain: domain.to_owned(),
            version,
        };
        Model {
            // The versions of ONNX 1.12, which every ONNX Runtime since 1.12 reads.
            ir_version: 8,
            producer_name: "insitu".to_owned(),
            graph: Some(Graph {
                node: self.nodes,
                name: "bert".to_owned(),
                initializer: self.initializers,
                input: ["input_ids", "attention_mask", "token_type_ids"]
                    .map(ids)
                    .to_vec(),
                output: vec![ValueInfo::tensor(
                    OUTPUT,
                    FLOAT,
                    &[Err("batch"), Err("sequence"), Ok(hidden)],
                )],
            }),
            opset_import: vec![operator_set("", 17), operator_set(MICROSOFT, 1)],
        }
    }
}

/// The value that enters a layer, or that leaves the last one.
fn layer_input(layer: usize, layers: usize) -> String {
    if layer == layers {
        OUTPUT.to_owned()
    } else {
        format!("encoder.layer.{layer}.input")
    }
}
