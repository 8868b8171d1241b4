//! From a model's files to the three things that are stored for ever: graph,
//! tokenizer, settings.
//!
//! This needs no ONNX Runtime. Whether the graph runs is for
//! [`crate::Encoder::probe`] to find out.

use std::fmt::Write;

use memory::check_available;
use sha2::{Digest, Sha256};

use crate::bert;
use crate::error::Error;
use crate::files::{ModelFiles, TOKENIZER};
use crate::onnx::{FLOAT, INT32, INT64, ValueInfo};
use crate::scan::{Refusal, Scan, scan};
use crate::settings::{Pooling, Precision, Settings};
use crate::sidecar::Facts;
use crate::tokenizer::TextTokenizer;

/// The inputs that the encoder can fill.
pub(crate) const INPUTS: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];

/// An output that is one vector per text already.
pub(crate) const POOLED_OUTPUT: &str = "sentence_embedding";

/// Names under which exporters give one vector per token.
const TOKEN_OUTPUTS: [&str; 2] = ["last_hidden_state", "token_embeddings"];

/// A model in the form in which it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct CompiledModel {
    /// An ONNX model: the user's own, byte for byte, or one that we wrote.
    pub graph: Vec<u8>,
    /// `tokenizer.json`, byte for byte.
    pub tokenizer: Vec<u8>,
    /// Everything else.
    pub settings: Settings,
}

impl CompiledModel {
    /// Names the model by its content: hexadecimal SHA-256 over graph, tokenizer
    /// and settings (as JSON), each after its length as eight little-endian bytes.
    pub fn sha256(&self) -> String {
        // Strings, numbers and units: nothing in it can fail to become JSON.
        let settings = serde_json::to_vec(&self.settings).unwrap_or_default();
        let mut hasher = Sha256::new();
        for part in [&self.graph, &self.tokenizer, &settings] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hex(&hasher.finalize())
    }
}

/// Names a file by its content: hexadecimal SHA-256.
pub fn file_sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// Turns a model's files into what is stored.
///
/// `model.safetensors` is preferred for a BERT, or one of its relatives, whose graph this crate can write,
/// because of the fused operators; for everything else the ONNX export is taken.
///
/// # Errors
/// [`Error::Incomplete`], [`Error::Malformed`] or [`Error::Unsupported`] with the
/// file and the value that stand in the way; [`Error::Interrupted`].
pub fn compile(files: &ModelFiles) -> Result<CompiledModel, Error> {
    compile_with(files, &CompileOptions::default())
}

/// How a model is compiled.
#[derive(Clone, Debug, Default)]
pub struct CompileOptions {
    /// Only the first so many dimensions of each vector, for models that were
    /// trained so that these stand for the whole (Matryoshka). By default all.
    pub dimensions: Option<usize>,
}

/// As [`compile()`], with options.
///
/// # Errors
/// As [`compile()`]; [`Error::Argument`] for options that the model can't serve.
pub fn compile_with(files: &ModelFiles, options: &CompileOptions) -> Result<CompiledModel, Error> {
    let has_safetensors = files.has_weights();
    let onnx = files.onnx();
    if !has_safetensors && onnx.is_none() {
        return Err(Error::Incomplete {
            missing: "it has neither \"model.safetensors\" nor \"onnx/model.onnx\"".to_owned(),
        });
    }
    // The weights once more as numbers, as a graph, and as its bytes.
    check_available(files.bytes().saturating_mul(3), "compiling the model")?;
    let tokenizer = files.require(TOKENIZER)?;
    let facts = Facts::read(files)?;
    let (graph, mut settings) = match onnx {
        Some((name, bytes)) if !(has_safetensors && bert::can_write(files)) => {
            (bytes.to_vec(), from_onnx(name, bytes, facts)?)
        }
        _ => from_safetensors(files, facts)?,
    };
    if let Some(dimensions) = options.dimensions {
        if !(1..=settings.dimension).contains(&dimensions) {
            return Err(Error::Argument {
                reason: format!(
                    "dimensions is {dimensions}, but must be between 1 and the {} of the model",
                    settings.dimension
                ),
            });
        }
        if dimensions < settings.dimension {
            settings.full_dimension = Some(settings.dimension);
            settings.dimension = dimensions;
        }
    }
    settings.check()?;
    TextTokenizer::new(tokenizer, &settings)?;
    Ok(CompiledModel {
        graph,
        tokenizer: tokenizer.to_vec(),
        settings,
    })
}

fn from_safetensors(files: &ModelFiles, facts: Facts) -> Result<(Vec<u8>, Settings), Error> {
    let written = bert::write(files, &facts)?;
    let pooled = !facts.dense.is_empty();
    let output = Output {
        name: if pooled { POOLED_OUTPUT } else { bert::OUTPUT }.to_owned(),
        pooled,
        dimension: Some(written.dimension),
    };
    let mut settings = settings(facts, output)?;
    settings.vocabulary = Some(written.vocabulary);
    Ok((written.graph, settings))
}

fn from_onnx(name: &str, graph: &[u8], facts: Facts) -> Result<Settings, Error> {
    let scan = scan(graph).map_err(|refusal| match refusal {
        Refusal::Malformed(reason) => Error::malformed(name, reason),
        Refusal::Unsupported(reason) => Error::unsupported(format!("{reason} ({name})")),
    })?;
    check_inputs(name, &scan)?;
    let output = choose_output(name, &scan.outputs)?;
    let mut settings = settings(facts, output)?;
    settings.one_by_one = scan.dynamic_quantization;
    Ok(settings)
}

/// The graph's output that gives the vectors.
struct Output {
    name: String,
    /// One vector per text, not one per token.
    pooled: bool,
    dimension: Option<usize>,
}

fn settings(facts: Facts, output: Output) -> Result<Settings, Error> {
    let pooling = if output.pooled {
        Pooling::None
    } else if !facts.dense.is_empty() {
        return Err(Error::unsupported(
            "modules.json has a Dense module, which of an ONNX export only one that gives \
             sentence_embedding can bring along",
        ));
    } else {
        facts.pooling.ok_or_else(|| {
            Error::unsupported("modules.json has no Pooling module, so it gives no vector per text")
        })?
    };
    let dimension = output.dimension.or(facts.hidden_size).ok_or_else(|| {
        Error::unsupported(format!(
            "neither the graph's output \"{}\" nor config.json (hidden_size) tells the dimension",
            output.name
        ))
    })?;
    Ok(Settings {
        architecture: facts.architecture.unwrap_or_else(|| "onnx".to_owned()),
        dimension,
        max_tokens: facts.max_tokens,
        pooling,
        normalize: facts.normalize,
        query_prefix: facts.query_prefix,
        passage_prefix: facts.passage_prefix,
        precision: Precision::Fp32,
        output: output.name,
        pad_token_id: facts.pad_token_id,
        vocabulary: None,
        lowercase: facts.lowercase,
        one_by_one: false,
        padding_free: false,
        full_dimension: None,
    })
}

fn check_inputs(file: &str, scan: &Scan) -> Result<(), Error> {
    let mut takes_ids = false;
    for input in &scan.inputs {
        // In old graphs every initializer is declared as an input with a default.
        if scan.initializers.contains(&input.name) {
            continue;
        }
        if !INPUTS.contains(&input.name.as_str()) {
            return Err(Error::unsupported(format!(
                "the graph in {file} has the input \"{}\"; {} can be filled",
                input.name,
                INPUTS.join(", ")
            )));
        }
        if !matches!(input.element(), Some(INT32 | INT64)) {
            return Err(Error::unsupported(format!(
                "the graph in {file} wants \"{}\" as something else than int32 or int64 numbers",
                input.name
            )));
        }
        takes_ids |= input.name == INPUTS[0];
    }
    if !takes_ids {
        return Err(Error::unsupported(format!(
            "the graph in {file} has no input \"{}\"",
            INPUTS[0]
        )));
    }
    Ok(())
}

/// The number of dimensions, if it is declared.
fn rank(value: &ValueInfo) -> Option<usize> {
    value.shape().map(|shape| shape.len())
}

fn is_float(value: &ValueInfo) -> bool {
    value.element() == Some(FLOAT)
}

fn choose_output(file: &str, outputs: &[ValueInfo]) -> Result<Output, Error> {
    let named = |name: &str| outputs.iter().find(|value| value.name == name);
    let pooled = named(POOLED_OUTPUT).filter(|value| rank(value).is_none_or(|rank| rank == 2));
    let by_token = || {
        TOKEN_OUTPUTS
            .into_iter()
            .find_map(named)
            .filter(|value| rank(value).is_none_or(|rank| rank == 3))
            .or_else(|| {
                outputs
                    .iter()
                    .find(|value| is_float(value) && rank(value) == Some(3))
            })
    };
    let Some(value) = pooled.or_else(by_token) else {
        return Err(Error::unsupported(format!(
            "the graph in {file} has no output \"{POOLED_OUTPUT}\", \"{}\" or \"{}\", nor another \
             one with a float vector per token",
            TOKEN_OUTPUTS[0], TOKEN_OUTPUTS[1]
        )));
    };
    if !is_float(value) {
        return Err(Error::unsupported(format!(
            "the graph in {file} gives \"{}\" as something else than 32-bit floats",
            value.name
        )));
    }
    let last = value
        .shape()
        .and_then(|shape| shape.last().copied().flatten());
    let dimension = match last {
        // Some exporters write 0 or -1 for "varies".
        Some(size) if size > 0 => usize::try_from(size).ok(),
        _ => None,
    };
    Ok(Output {
        name: value.name.clone(),
        pooled: pooled.is_some(),
        dimension,
    })
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
