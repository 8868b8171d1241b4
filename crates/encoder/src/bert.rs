//! From `model.safetensors` and `config.json` of a BERT, or of a family that is a
//! BERT under other names, to an ONNX graph of ONNX Runtime's fused operators.
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
//! What a family has of its own ([`Family`]): RoBERTa counts positions from behind
//! the padding token's number on; DistilBERT has no types of tokens; MPNet has none
//! either, and adds to every score of attention a number that depends on how far
//! apart two tokens are.
//!
//! Sources: Devlin et al., "BERT" (2019); Liu et al., "RoBERTa" (2019); Conneau et
//! al., "XLM-R" (2020); Sanh et al., "DistilBERT" (2019); Song et al., "MPNet"
//! (2020), with the buckets of Raffel et al., "T5" (2020), section 2.1; ONNX
//! Runtime, `ContribOperators.md`.

use prost::Message;
use serde::Deserialize;

use crate::compile::POOLED_OUTPUT;
use crate::error::Error;
use crate::files::{CONFIG, MODULES, ModelFiles, SAFETENSORS};
use crate::onnx::{
    Attribute, FLOAT, Graph, INT32, MICROSOFT, Model, Node, OperatorSet, Tensor, ValueInfo,
};
use crate::operators::DOMAIN;
use crate::settings::Pooling;
use crate::sidecar::{Dense, Facts};
use crate::weights::Weights;

/// What is added to scores of attention for the distance of tokens.
const DISTANCES: &str = "distances";

/// The graph's output.
pub(crate) const OUTPUT: &str = "last_hidden_state";

const MAX_LAYERS: usize = 1_000;
const MAX_HIDDEN: usize = 16_000;
const MAX_INTERMEDIATE: usize = 1 << 18;
const MAX_VOCABULARY: usize = 10_000_000;
const MAX_POSITIONS: usize = 1 << 20;
const MAX_TYPES: usize = 1_000;

/// A family of encoders.
struct Family {
    /// `model_type` in `config.json`.
    types: &'static [&'static str],
    /// What stands before every name of a tensor where a head was saved along.
    prefix: &'static str,
    /// Parts of a BERT's names, and what they are here.
    names: &'static [(&'static str, &'static str)],
    /// Tokens have types.
    kinds: bool,
    /// Scores of attention depend on distance.
    relative: bool,
}

const FAMILIES: [Family; 4] = [
    Family {
        types: &["bert"],
        prefix: "bert.",
        names: &[],
        kinds: true,
        relative: false,
    },
    Family {
        types: &["roberta", "xlm-roberta", "camembert"],
        prefix: "roberta.",
        names: &[],
        kinds: true,
        relative: false,
    },
    Family {
        types: &["distilbert"],
        prefix: "distilbert.",
        names: &[
            ("encoder.layer.", "transformer.layer."),
            ("attention.self.query", "attention.q_lin"),
            ("attention.self.key", "attention.k_lin"),
            ("attention.self.value", "attention.v_lin"),
            ("attention.output.dense", "attention.out_lin"),
            ("attention.output.LayerNorm", "sa_layer_norm"),
            ("intermediate.dense", "ffn.lin1"),
            ("output.dense", "ffn.lin2"),
            ("output.LayerNorm", "output_layer_norm"),
        ],
        kinds: false,
        relative: false,
    },
    Family {
        types: &["mpnet"],
        prefix: "mpnet.",
        names: &[
            ("attention.self.query", "attention.attn.q"),
            ("attention.self.key", "attention.attn.k"),
            ("attention.self.value", "attention.attn.v"),
            ("attention.output.dense", "attention.attn.o"),
            ("attention.output.LayerNorm", "attention.LayerNorm"),
        ],
        kinds: false,
        relative: true,
    },
];

/// Distances of tokens share a number from so many on.
const MAX_DISTANCE: f64 = 128.0;

impl Family {
    fn of(model_type: &str) -> Option<&'static Family> {
        FAMILIES
            .iter()
            .find(|family| family.types.contains(&model_type))
    }

    /// The name of a tensor, given that in a BERT.
    fn name(&self, bert: &str) -> String {
        // "attention.output.dense" comes first, and is no "output.dense" then.
        let renamed = |name: String, (theirs, ours): &(&str, &str)| name.replacen(theirs, ours, 1);
        self.names.iter().fold(bert.to_owned(), renamed)
    }
}

/// The part of `config.json` that shapes a BERT. DistilBERT has other names.
#[derive(Deserialize)]
struct Config {
    model_type: String,
    vocab_size: usize,
    #[serde(alias = "dim")]
    hidden_size: usize,
    #[serde(alias = "n_layers")]
    num_hidden_layers: usize,
    #[serde(alias = "n_heads")]
    num_attention_heads: usize,
    #[serde(alias = "hidden_dim")]
    intermediate_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "two")]
    type_vocab_size: usize,
    #[serde(default = "default_epsilon")]
    layer_norm_eps: f64,
    #[serde(default = "default_buckets")]
    relative_attention_num_buckets: usize,
    #[serde(alias = "activation")]
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

fn default_buckets() -> usize {
    32
}

/// What came out.
pub(crate) struct Written {
    pub(crate) graph: Vec<u8>,
    pub(crate) dimension: usize,
    pub(crate) vocabulary: usize,
}

/// Whether the configuration is that of a family that [`write()`] writes.
pub(crate) fn can_write(files: &ModelFiles) -> bool {
    matches!(files.json::<Config>(CONFIG), Ok(Some(config)) if config.check_features().is_ok())
}

/// Writes the graph: up to the vectors of tokens, or, where linear layers follow
/// the pooling, up to one vector per text.
pub(crate) fn write(files: &ModelFiles, facts: &Facts) -> Result<Written, Error> {
    files.require(CONFIG)?;
    // A configuration of another family lacks half of the fields: say that it is
    // another family, not which field is missing.
    #[derive(Deserialize)]
    struct Kind {
        model_type: Option<String>,
    }
    let kind = files.json::<Kind>(CONFIG)?.and_then(|kind| kind.model_type);
    let kind = kind.unwrap_or_default();
    let Some(family) = Family::of(&kind) else {
        let known: Vec<&str> = FAMILIES
            .iter()
            .flat_map(|family| family.types)
            .copied()
            .collect();
        return Err(Error::unsupported(format!(
            "model_type in {CONFIG} is \"{kind}\"; {SAFETENSORS} is read for {}, other models \
             need an ONNX export",
            known.join(", ")
        )));
    };
    let Some(config) = files.json::<Config>(CONFIG)? else {
        return Err(Error::malformed(CONFIG, "it is null"));
    };
    config.check_features()?;
    config.check_sizes()?;
    let offset = facts.first_position;
    let Some(positions) = config
        .max_position_embeddings
        .checked_sub(offset)
        .filter(|&p| p > 0)
    else {
        return Err(Error::malformed(
            CONFIG,
            format!(
                "max_position_embeddings is {}, of which {offset} come before the first token",
                config.max_position_embeddings
            ),
        ));
    };
    let first = "embeddings.word_embeddings.weight";
    let weights = Weights::open(files, family.prefix, first)?;
    let mut writer = Writer {
        config: &config,
        family,
        offset,
        positions,
        weights: &weights,
        nodes: Vec::new(),
        initializers: Vec::new(),
    };
    writer.embeddings()?;
    if family.relative {
        writer.distances()?;
    }
    for layer in 0..config.num_hidden_layers {
        writer.layer(layer)?;
    }
    let dense = facts.dense_layers(files)?;
    if let Some(pooling) = facts.pooling.filter(|_| !dense.is_empty()) {
        writer.head(files, pooling, &dense)?;
    }
    let last = dense.last();
    let dimension = last.map_or(config.hidden_size, |dense| dense.outputs);
    // At most MAX_HIDDEN and MAX_DIMENSION.
    let size = Ok(dimension as i64);
    let output = match last {
        None => (OUTPUT, &[Err("batch"), Err("sequence"), size][..]),
        Some(_) => (POOLED_OUTPUT, &[Err("batch"), size][..]),
    };
    let model = writer.finish(output);
    let size = model.encoded_len();
    if size > i32::MAX as usize {
        return Err(Error::unsupported(format!(
            "as an ONNX graph it would have {size} bytes, the limit is {}",
            i32::MAX
        )));
    }
    Ok(Written {
        graph: model.encode_to_vec(),
        dimension,
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
        if Family::of(&self.model_type).is_none() {
            return unsupported("model_type", &self.model_type, "a BERT");
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
            (
                "relative_attention_num_buckets",
                self.relative_attention_num_buckets,
                MAX_TYPES,
            ),
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
    family: &'static Family,
    /// Rows of the table of positions that are not used.
    offset: usize,
    /// Tokens that a text may have.
    positions: usize,
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
        let values = self.weights.read(&self.family.name(name), shape)?;
        Ok(self.constant(name, shape, &values))
    }

    /// The weight matrix of a linear layer, inputs first.
    fn matrix(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<String, Error> {
        let theirs = self.family.name(name);
        let values = self.weights.read_transposed(&theirs, outputs, inputs)?;
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
        let name = "embeddings.position_embeddings.weight";
        let shape = [self.config.max_position_embeddings, hidden];
        let rows = self.weights.read(&self.family.name(name), &shape)?;
        let used = &rows[self.offset * hidden..];
        let positions = self.constant(name, &[self.positions, hidden], used);
        let name = "embeddings.token_type_embeddings.weight";
        let types = if self.family.kinds {
            self.tensor(name, &[self.config.type_vocab_size, hidden])?
        } else {
            // One type for all, which adds nothing.
            self.constant(name, &[1, hidden], &vec![0.0; hidden])
        };
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

    /// What is added to scores for the distance of two tokens, of shape [1, heads,
    /// sequence, sequence]: looked up in a table of one row for each distance.
    fn distances(&mut self) -> Result<(), Error> {
        let heads = self.config.num_attention_heads;
        let buckets = self.config.relative_attention_num_buckets;
        let name = "encoder.relative_attention_bias.weight";
        let weights = self.weights.read(name, &[buckets, heads])?;
        let reach = self.positions - 1;
        let table: Vec<f32> = (0..=2 * reach)
            .flat_map(|i| {
                // How far the key is behind the query.
                let bucket = bucket(i as i64 - reach as i64, buckets);
                weights[bucket * heads..][..heads].iter().copied()
            })
            .collect();
        let table = self.constant("distances.table", &[2 * reach + 1, heads], &table);
        let rows = (0..self.positions).flat_map(|query| {
            // At most MAX_POSITIONS.
            (0..self.positions).map(move |key| (key + reach - query) as i32)
        });
        let rows: Vec<u8> = rows.flat_map(i32::to_le_bytes).collect();
        let shape = [self.positions, self.positions];
        self.initializers
            .push(Tensor::new("distances.rows", INT32, &shape, rows));
        for (name, values) in [
            ("one", &[1_i64][..]),
            ("zeros", &[0, 0]),
            ("axes", &[0, 1]),
            ("first", &[0]),
        ] {
            let name = format!("distances.{name}");
            self.initializers
                .push(Tensor::integers(&name, &[values.len()], values));
        }
        let permutation = Attribute::ints("perm", &[2, 0, 1]);
        for (operator, inputs, output, attributes) in [
            ("Shape", &["input_ids"][..], "distances.shape", vec![]),
            (
                "Gather",
                &["distances.shape", "distances.one"],
                "distances.length",
                vec![],
            ),
            (
                "Concat",
                &["distances.length", "distances.length"],
                "distances.ends",
                vec![Attribute::int("axis", 0)],
            ),
            (
                "Slice",
                &[
                    "distances.rows",
                    "distances.zeros",
                    "distances.ends",
                    "distances.axes",
                ],
                "distances.used",
                vec![],
            ),
            (
                "Gather",
                &[&table, "distances.used"],
                "distances.by_token",
                vec![],
            ),
            (
                "Transpose",
                &["distances.by_token"],
                "distances.by_head",
                vec![permutation],
            ),
            (
                "Unsqueeze",
                &["distances.by_head", "distances.first"],
                DISTANCES,
                vec![],
            ),
        ] {
            self.nodes
                .push(Node::new(operator, "", inputs, output, attributes));
        }
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
        let mut inputs = vec![input.as_str(), &projections, &biases, "attention_mask"];
        if self.family.relative {
            // No past.
            inputs.extend(["", DISTANCES]);
        }
        self.fused(
            "Attention",
            &inputs,
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
            let weight = self.family.name(&weight);
            parts.push(self.weights.read_transposed(&weight, hidden, hidden)?);
            let name = self.family.name(&format!("{name}.bias"));
            bias.extend(self.weights.read(&name, &[hidden])?);
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

    /// Pooling and linear layers.
    fn head(
        &mut self,
        files: &ModelFiles,
        pooling: Pooling,
        layers: &[Dense],
    ) -> Result<(), Error> {
        let mode = Attribute::string("mode", pooling.name());
        let inputs = [OUTPUT, "attention_mask"];
        let mut input = "pooled".to_owned();
        self.nodes
            .push(Node::new("Pool", DOMAIN, &inputs, &input, vec![mode]));
        let mut size = self.config.hidden_size;
        for (i, dense) in layers.iter().enumerate() {
            if dense.inputs != size {
                return Err(Error::malformed(
                    MODULES,
                    format!(
                        "a Dense module takes {} dimensions, but gets {size}",
                        dense.inputs
                    ),
                ));
            }
            size = dense.outputs;
            let weights = Weights::of_module(files, &dense.weights)?;
            let matrix = weights.read_transposed("linear.weight", dense.outputs, dense.inputs)?;
            let stem = format!("dense.{i}");
            let shape = [dense.inputs, dense.outputs];
            let matrix = self.constant(&format!("{stem}.weight"), &shape, &matrix);
            let mut steps = vec![("MatMul", vec![matrix])];
            if dense.bias {
                let bias = weights.read("linear.bias", &[dense.outputs])?;
                let bias = self.constant(&format!("{stem}.bias"), &[dense.outputs], &bias);
                steps.push(("Add", vec![bias]));
            }
            if dense.tanh {
                steps.push(("Tanh", vec![]));
            }
            let count = steps.len();
            for (step, (operator, constants)) in steps.into_iter().enumerate() {
                let is_end = step + 1 == count && i + 1 == layers.len();
                let output = match is_end {
                    true => POOLED_OUTPUT.to_owned(),
                    false => format!("{stem}.{operator}"),
                };
                let mut inputs = vec![input.as_str()];
                inputs.extend(constants.iter().map(String::as_str));
                self.nodes
                    .push(Node::new(operator, "", &inputs, &output, Vec::new()));
                input = output;
            }
        }
        Ok(())
    }

    /// The model, with the name and shape of its output.
    fn finish(self, output: (&str, &[Result<i64, &str>])) -> Model {
        let ids = |name| ValueInfo::tensor(name, INT32, &[Err("batch"), Err("sequence")]);
        let operator_set = |domain: &str, version| OperatorSet {
            domain: domain.to_owned(),
            version,
        };
        let mut operator_sets = vec![operator_set("", 17), operator_set(MICROSOFT, 1)];
        if self.nodes.iter().any(|node| node.domain == DOMAIN) {
            operator_sets.push(operator_set(DOMAIN, 1));
        }
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
                output: vec![ValueInfo::tensor(output.0, FLOAT, output.1)],
            }),
            opset_import: operator_sets,
        }
    }
}

/// The bucket of a distance: half of them for keys before the query, half for those
/// behind it; of each half, one for each of the nearest distances, then wider ones.
fn bucket(distance: i64, buckets: usize) -> usize {
    let half = buckets / 2;
    let exact = half / 2;
    let side = if distance > 0 { half } else { 0 };
    let size = distance.unsigned_abs() as usize;
    if size < exact {
        return side + size;
    }
    let octaves = (size as f64 / exact as f64).ln() / (MAX_DISTANCE / exact as f64).ln();
    let wide = exact + (octaves * (half - exact) as f64) as usize;
    side + wide.min(half.saturating_sub(1))
}

/// The value that enters a layer, or that leaves the last one.
fn layer_input(layer: usize, layers: usize) -> String {
    if layer == layers {
        OUTPUT.to_owned()
    } else {
        format!("encoder.layer.{layer}.input")
    }
}
