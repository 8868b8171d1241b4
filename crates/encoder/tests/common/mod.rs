//! Small BERTs with random weights, and what they must compute: a naive forward
//! pass in `f64`, written from the paper, that shares nothing with the crate.

#![allow(dead_code, reason = "every test binary uses its own part of this")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};
use serde_json::{Value, json};

use encoder::{CompiledModel, Encoder, ModelFiles, Options, Provider, compile, load_runtime};

/// Ids of the special tokens in every tokenizer here; words start after them.
pub const PAD: u32 = 0;
pub const UNKNOWN: u32 = 1;
pub const CLS: u32 = 2;
pub const SEP: u32 = 3;
pub const FIRST_WORD: u32 = 4;

pub fn variable(name: &str) -> PathBuf {
    std::env::var_os(name)
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            panic!("the environment variable {name} is not set; `make test` sets it")
        })
}

pub fn runtime() {
    load_runtime(&variable("INSITU_ONNXRUNTIME")).expect("ONNX Runtime loads");
}

pub fn minilm() -> CompiledModel {
    let files = ModelFiles::read_directory(&variable("INSITU_MINILM")).expect("files");
    compile(&files).expect("compile")
}

pub fn options() -> Options {
    Options {
        provider: Provider::Cpu,
        threads: 1,
        batch_tokens: 4_096,
        interrupted: || false,
    }
}

pub fn open(model: &CompiledModel, options: Options) -> Encoder {
    runtime();
    Encoder::new(
        &model.graph,
        &model.tokenizer,
        model.settings.clone(),
        options,
    )
    .expect("encoder")
}

pub fn bits(vectors: &[f32]) -> Vec<u32> {
    vectors.iter().map(|value| value.to_bits()).collect()
}

/// Every text alone, then in many compositions, with other limits and threads.
pub fn same_in_any_company(model: &CompiledModel, texts: &[String], rounds: usize) {
    let mut encoder = open(model, options());
    let dimension = encoder.dimension();
    let alone: Vec<Vec<u32>> = texts
        .iter()
        .map(|text| bits(&encoder.embed(&[text.as_str()]).expect("alone")))
        .collect();
    let mut random = Random::new(17);
    for threads in [1, 2, 3] {
        for batch_tokens in [1, 100, 1_000, 1_000_000] {
            let mut encoder = open(
                model,
                Options {
                    threads,
                    batch_tokens,
                    ..options()
                },
            );
            for _ in 0..rounds {
                let chosen: Vec<usize> = (0..1 + random.below(40))
                    .map(|_| random.below(texts.len()))
                    .collect();
                let batch: Vec<&str> = chosen.iter().map(|&text| texts[text].as_str()).collect();
                let together = bits(&encoder.embed(&batch).expect("together"));
                for (&text, vector) in chosen.iter().zip(together.chunks_exact(dimension)) {
                    assert_eq!(
                        vector, alone[text],
                        "text {text}, {threads} threads, {batch_tokens} tokens a batch"
                    );
                }
            }
        }
    }
}

/// A sequence of numbers that is the same in every run (splitmix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.number() % limit as u64).expect("fits")
    }

    /// Between -1 and 1.
    pub fn value(&mut self) -> f32 {
        (self.number() >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }
}

#[derive(Clone, Copy)]
pub struct Shape {
    pub layers: usize,
    pub heads: usize,
    pub hidden: usize,
    pub intermediate: usize,
    pub vocabulary: usize,
    pub positions: usize,
}

impl Shape {
    pub const SMALL: Shape = Shape {
        layers: 2,
        heads: 2,
        hidden: 16,
        intermediate: 40,
        vocabulary: 50,
        positions: 64,
    };
}

/// Encoders that are BERTs but for what is told here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Bert,
    /// The first token has the position behind the padding token's number.
    Roberta,
    /// Tokens have no types; everything has other names.
    DistilBert,
    /// Positions as in RoBERTa, no types; scores depend on distance.
    Mpnet,
}

pub struct Bert {
    pub family: Family,
    pub shape: Shape,
    /// Under the names of a BERT.
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    dtype: Dtype,
}

/// Buckets of distances in an MPNet.
const BUCKETS: usize = 32;

const EPSILON: f64 = 1e-12;

impl Bert {
    /// Random weights that the given type holds exactly.
    pub fn random(seed: u64, shape: Shape, dtype: Dtype) -> Self {
        Bert::of(Family::Bert, seed, shape, dtype)
    }

    pub fn of(family: Family, seed: u64, shape: Shape, dtype: Dtype) -> Self {
        let mut random = Random::new(seed);
        let mut tensors = BTreeMap::new();
        let mut add = |name: String, dimensions: &[usize], centre: f32, scale: f32| {
            let size: usize = dimensions.iter().product();
            let values: Vec<f32> = (0..size)
                .map(|_| round(centre + scale * random.value(), dtype))
                .collect();
            tensors.insert(name, (dimensions.to_vec(), values));
        };
        let Shape {
            hidden,
            intermediate,
            ..
        } = shape;
        for (name, rows) in [
            ("word", shape.vocabulary),
            ("position", shape.positions),
            ("token_type", 2),
        ] {
            if name == "token_type" && matches!(family, Family::DistilBert | Family::Mpnet) {
                continue;
            }
            add(
                format!("embeddings.{name}_embeddings.weight"),
                &[rows, hidden],
                0.0,
                1.0,
            );
        }
        if family == Family::Mpnet {
            let name = "encoder.relative_attention_bias.weight".to_owned();
            add(name, &[BUCKETS, shape.heads], 0.0, 1.5);
        }
        let mut stems = vec!["embeddings".to_owned()];
        for layer in 0..shape.layers {
            let stem = format!("encoder.layer.{layer}");
            for (name, outputs, inputs) in [
                ("attention.self.query", hidden, hidden),
                ("attention.self.key", hidden, hidden),
                ("attention.self.value", hidden, hidden),
                ("attention.output.dense", hidden, hidden),
                ("intermediate.dense", intermediate, hidden),
                ("output.dense", hidden, intermediate),
            ] {
                add(
                    format!("{stem}.{name}.weight"),
                    &[outputs, inputs],
                    0.0,
                    0.4,
                );
                add(format!("{stem}.{name}.bias"), &[outputs], 0.0, 0.4);
            }
            stems.push(format!("{stem}.attention.output"));
            stems.push(format!("{stem}.output"));
        }
        for stem in stems {
            add(format!("{stem}.LayerNorm.weight"), &[hidden], 1.0, 0.4);
            add(format!("{stem}.LayerNorm.bias"), &[hidden], 0.0, 0.4);
        }
        Bert {
            family,
            shape,
            tensors,
            dtype,
        }
    }

    pub fn config(&self) -> Value {
        if self.family == Family::DistilBert {
            return json!({
                "model_type": "distilbert",
                "vocab_size": self.shape.vocabulary,
                "dim": self.shape.hidden,
                "n_layers": self.shape.layers,
                "n_heads": self.shape.heads,
                "hidden_dim": self.shape.intermediate,
                "max_position_embeddings": self.shape.positions,
                "activation": "gelu",
                "pad_token_id": PAD,
            });
        }
        let mut config = self.bert_config();
        match self.family {
            Family::Roberta => config["model_type"] = json!("xlm-roberta"),
            Family::Mpnet => {
                config["model_type"] = json!("mpnet");
                config["relative_attention_num_buckets"] = json!(BUCKETS);
            }
            _ => {}
        }
        config
    }

    fn bert_config(&self) -> Value {
        json!({
            "model_type": "bert",
            "vocab_size": self.shape.vocabulary,
            "hidden_size": self.shape.hidden,
            "num_hidden_layers": self.shape.layers,
            "num_attention_heads": self.shape.heads,
            "intermediate_size": self.shape.intermediate,
            "max_position_embeddings": self.shape.positions,
            "type_vocab_size": 2,
            "layer_norm_eps": EPSILON,
            "hidden_act": "gelu",
            "pad_token_id": PAD,
        })
    }

    pub fn safetensors(&self, prefix: &str) -> Vec<u8> {
        let raw: Vec<(String, Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, (dimensions, values))| {
                let bytes = values
                    .iter()
                    .flat_map(|&value| to_bytes(value, self.dtype))
                    .collect();
                (
                    format!("{prefix}{}", self.name(name)),
                    dimensions.clone(),
                    bytes,
                )
            })
            .collect();
        let views = raw.iter().map(|(name, dimensions, bytes)| {
            let view = TensorView::new(self.dtype, dimensions.clone(), bytes).expect("view");
            (name.as_str(), view)
        });
        serialize(views, None).expect("serialize")
    }

    /// A tensor's name in the family's files.
    fn name(&self, bert: &str) -> String {
        let (stem, kind) = bert.rsplit_once('.').expect("a kind");
        let Some(rest) = stem.strip_prefix("encoder.layer.") else {
            return bert.to_owned();
        };
        let (layer, part) = rest.split_once('.').expect("a part");
        let (folder, part) = match (self.family, part) {
            (Family::DistilBert, part) => (
                "transformer",
                match part {
                    "attention.self.query" => "attention.q_lin",
                    "attention.self.key" => "attention.k_lin",
                    "attention.self.value" => "attention.v_lin",
                    "attention.output.dense" => "attention.out_lin",
                    "attention.output.LayerNorm" => "sa_layer_norm",
                    "intermediate.dense" => "ffn.lin1",
                    "output.dense" => "ffn.lin2",
                    "output.LayerNorm" => "output_layer_norm",
                    other => panic!("{other}"),
                },
            ),
            (Family::Mpnet, "attention.self.query") => ("encoder", "attention.attn.q"),
            (Family::Mpnet, "attention.self.key") => ("encoder", "attention.attn.k"),
            (Family::Mpnet, "attention.self.value") => ("encoder", "attention.attn.v"),
            (Family::Mpnet, "attention.output.dense") => ("encoder", "attention.attn.o"),
            (Family::Mpnet, "attention.output.LayerNorm") => ("encoder", "attention.LayerNorm"),
            (_, part) => ("encoder", part),
        };
        format!("{folder}.layer.{layer}.{part}.{kind}")
    }

    /// Rows of the table of positions before that of the first token.
    fn first_position(&self) -> usize {
        match self.family {
            Family::Roberta | Family::Mpnet => PAD as usize + 1,
            Family::Bert | Family::DistilBert => 0,
        }
    }

    /// Tokens that a text may have.
    pub fn room(&self) -> usize {
        self.shape.positions - self.first_position()
    }

    /// What an MPNet adds to a score, after T5's description: half of the buckets
    /// are for keys behind the query. Of each half the first eight are distances,
    /// and eight more grow as a power does, up to a distance of 128.
    fn of_distance(&self, head: usize, query: usize, key: usize) -> f64 {
        if self.family != Family::Mpnet {
            return 0.0;
        }
        let behind = if key > query { BUCKETS / 2 } else { 0 };
        let distance = query.abs_diff(key);
        let within = match distance {
            0..8 => distance,
            _ => {
                let part = (distance as f64 / 8.0).log2() / 16_f64.log2();
                (8 + (part * 8.0).floor() as usize).min(15)
            }
        };
        let table = self.values("encoder.relative_attention_bias.weight");
        f64::from(table[(behind + within) * self.shape.heads + head])
    }

    /// A model directory's files.
    pub fn files(&self, prefix: &str) -> BTreeMap<String, Vec<u8>> {
        BTreeMap::from([
            (
                "config.json".to_owned(),
                self.config().to_string().into_bytes(),
            ),
            ("model.safetensors".to_owned(), self.safetensors(prefix)),
            (
                "tokenizer.json".to_owned(),
                tokenizer(self.shape.vocabulary).to_string().into_bytes(),
            ),
        ])
    }

    pub fn compile(&self) -> CompiledModel {
        compile(&ModelFiles::new(self.files("")).expect("files")).expect("compile")
    }

    /// The hidden states of a text, special tokens included in `ids`.
    pub fn hidden_states(&self, ids: &[u32]) -> Vec<Vec<f64>> {
        let mut states: Vec<Vec<f64>> = ids
            .iter()
            .enumerate()
            .map(|(position, &id)| {
                let word = self.row("embeddings.word_embeddings.weight", id as usize);
                let place = position + self.first_position();
                let place = self.row("embeddings.position_embeddings.weight", place);
                let kind = match self.family {
                    Family::DistilBert | Family::Mpnet => vec![0.0; self.shape.hidden],
                    _ => self.row("embeddings.token_type_embeddings.weight", 0),
                };
                let sum: Vec<f64> = (0..self.shape.hidden)
                    .map(|i| word[i] + place[i] + kind[i])
                    .collect();
                self.normalize("embeddings", &sum)
            })
            .collect();
        for layer in 0..self.shape.layers {
            states = self.layer(&format!("encoder.layer.{layer}"), &states);
        }
        states
    }

    fn layer(&self, stem: &str, states: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let project = |name: &str| -> Vec<Vec<f64>> {
            states
                .iter()
                .map(|state| self.linear(&format!("{stem}.attention.self.{name}"), state))
                .collect()
        };
        let (queries, keys, values) = (project("query"), project("key"), project("value"));
        let size = self.shape.hidden / self.shape.heads;
        states
            .iter()
            .zip(&queries)
            .enumerate()
            .map(|(at, (state, query))| {
                let mut context = vec![0.0; self.shape.hidden];
                for head in 0..self.shape.heads {
                    let part = head * size..(head + 1) * size;
                    let scores: Vec<f64> = keys
                        .iter()
                        .enumerate()
                        .map(|(token, key)| {
                            let products = part.clone().map(|i| query[i] * key[i]);
                            let score = products.sum::<f64>() / (size as f64).sqrt();
                            score + self.of_distance(head, at, token)
                        })
                        .collect();
                    let largest = scores.iter().copied().fold(f64::MIN, f64::max);
                    let weights: Vec<f64> =
                        scores.iter().map(|score| (score - largest).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    for (weight, value) in weights.iter().zip(&values) {
                        for i in part.clone() {
                            context[i] += weight / total * value[i];
                        }
                    }
                }
                let attended = self.linear(&format!("{stem}.attention.output.dense"), &context);
                let middle =
                    self.normalize(&format!("{stem}.attention.output"), &add(&attended, state));
                let wide: Vec<f64> = self
                    .linear(&format!("{stem}.intermediate.dense"), &middle)
                    .into_iter()
                    .map(gelu)
                    .collect();
                let narrow = self.linear(&format!("{stem}.output.dense"), &wide);
                self.normalize(&format!("{stem}.output"), &add(&narrow, &middle))
            })
            .collect()
    }

    fn values(&self, name: &str) -> &[f32] {
        &self.tensors[name].1
    }

    fn row(&self, name: &str, row: usize) -> Vec<f64> {
        let hidden = self.shape.hidden;
        self.values(name)[row * hidden..(row + 1) * hidden]
            .iter()
            .map(|&value| f64::from(value))
            .collect()
    }

    fn linear(&self, name: &str, input: &[f64]) -> Vec<f64> {
        let weight = self.values(&format!("{name}.weight"));
        let bias = self.values(&format!("{name}.bias"));
        weight
            .chunks_exact(input.len())
            .zip(bias)
            .map(|(row, &bias)| {
                let products = row.iter().zip(input).map(|(&w, x)| f64::from(w) * x);
                products.sum::<f64>() + f64::from(bias)
            })
            .collect()
    }

    fn normalize(&self, stem: &str, values: &[f64]) -> Vec<f64> {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        let gamma = self.values(&format!("{stem}.LayerNorm.weight"));
        let beta = self.values(&format!("{stem}.LayerNorm.bias"));
        values
            .iter()
            .zip(gamma.iter().zip(beta))
            .map(|(x, (&gamma, &beta))| {
                (x - mean) / (variance + EPSILON).sqrt() * f64::from(gamma) + f64::from(beta)
            })
            .collect()
    }
}

fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + error_function(x / std::f64::consts::SQRT_2))
}

/// By its power series near zero and its continued fraction away from it; both
/// are good to 1e-12 in their half.
fn error_function(x: f64) -> f64 {
    let size = x.abs();
    let value = if size < 3.0 {
        let (mut term, mut sum) = (size, size);
        for n in 1..200 {
            let n = f64::from(n);
            term *= -size * size / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let mut fraction = 0.0;
        for n in (1..200).rev() {
            fraction = f64::from(n) / 2.0 / (size + fraction);
        }
        1.0 - (-size * size).exp() / (std::f64::consts::PI.sqrt() * (size + fraction))
    };
    value.copysign(x)
}

fn round(value: f32, dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F16 => f16::from_f32(value).to_f32(),
        Dtype::BF16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

fn to_bytes(value: f32, dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        Dtype::BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
        _ => value.to_le_bytes().to_vec(),
    }
}

/// A WordPiece tokenizer whose words are `w4`, `w5`, ... after their ids.
pub fn tokenizer(vocabulary: usize) -> Value {
    let mut words: serde_json::Map<String, Value> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
        .iter()
        .enumerate()
        .map(|(id, &word)| (word.to_owned(), json!(id)))
        .collect();
    for id in FIRST_WORD as usize..vocabulary {
        words.insert(format!("w{id}"), json!(id));
    }
    let special = |token: &str, id: u32| json!({"id": token, "ids": [id], "tokens": [token]});
    let added = |token: &str, id: u32| {
        json!({"id": id, "content": token, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": true})
    };
    json!({
        "version": "1.0",
        "truncation": {"max_length": 7, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 33}, "direction": "Right", "pad_to_multiple_of": null,
                    "pad_id": PAD, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [added("[PAD]", PAD), added("[UNK]", UNKNOWN), added("[CLS]", CLS),
                         added("[SEP]", SEP)],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"[CLS]": special("[CLS]", CLS), "[SEP]": special("[SEP]", SEP)}
        },
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": words}
    })
}

/// Words, as ids without the special tokens.
pub fn words(random: &mut Random, count: usize, vocabulary: usize) -> Vec<u32> {
    let first = FIRST_WORD as usize;
    (0..count)
        .map(|_| u32::try_from(first + random.below(vocabulary - first)).expect("fits"))
        .collect()
}

pub fn text(words: &[u32]) -> String {
    let words: Vec<String> = words.iter().map(|id| format!("w{id}")).collect();
    words.join(" ")
}

/// Between the special tokens.
pub fn with_specials(words: &[u32]) -> Vec<u32> {
    [&[CLS], words, &[SEP]].concat()
}

/// Writes a model's files into a directory.
pub fn write_directory(path: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in files {
        let file = path.join(name);
        std::fs::create_dir_all(file.parent().expect("parent")).expect("folder");
        std::fs::write(file, bytes).expect("write");
    }
}
