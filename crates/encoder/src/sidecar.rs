//! The JSON files beside a model's weights, as sentence-transformers and
//! transformers write them.
//!
//! What enters is [`ModelFiles`]; what leaves is [`Facts`], with the defaults of
//! sentence-transformers for everything that no file says: mean pooling, no
//! normalization, no prompts.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::files::{
    CONFIG, MODULES, ModelFiles, PROMPTS, SAFETENSORS, SENTENCE_CONFIGS, TOKENIZER,
    TOKENIZER_CONFIG, is_module_config,
};
use crate::settings::{MAX_DIMENSION, MAX_TOKENS, Pooling};

/// The limit of a model that names none, which is that of BERT.
const DEFAULT_MAX_TOKENS: usize = 512;

const POOLING_CONFIG: &str = "1_Pooling/config.json";

/// Model types whose positions start after the padding token's number.
const OFFSET_POSITIONS: [&str; 7] = [
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "roberta-prelayernorm",
    "camembert",
    "longformer",
    "mpnet",
];

/// What the files say about making vectors.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) architecture: Option<String>,
    /// Size of a token's vector.
    pub(crate) hidden_size: Option<usize>,
    /// Absent if modules.json has no pooling module.
    pub(crate) pooling: Option<Pooling>,
    pub(crate) normalize: bool,
    /// Modules of linear layers, see [`Facts::dense_layers`].
    pub(crate) dense: Vec<DenseModule>,
    pub(crate) max_tokens: usize,
    /// Rows of the table of positions before that of the first token.
    pub(crate) first_position: usize,
    pub(crate) query_prefix: String,
    pub(crate) passage_prefix: String,
    pub(crate) pad_token_id: u32,
    pub(crate) lowercase: bool,
}

/// A module of a linear layer, whose files an export with it inside does not need.
#[derive(Debug)]
pub(crate) struct DenseModule {
    path: String,
    /// It stands between pooling and normalization.
    in_place: bool,
}

/// A linear layer after pooling.
#[derive(Debug, PartialEq)]
pub(crate) struct Dense {
    /// The file of its weights.
    pub(crate) weights: String,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) bias: bool,
    /// tanh follows; else nothing does.
    pub(crate) tanh: bool,
}

#[derive(Deserialize)]
struct DenseConfig {
    in_features: usize,
    out_features: usize,
    #[serde(default = "yes")]
    bias: bool,
    activation_function: Option<String>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    r#type: String,
}

#[derive(Deserialize, Default)]
struct PoolingConfig {
    word_embedding_dimension: Option<usize>,
    /// The newer form of the flags below.
    pooling_mode: Option<String>,
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
    #[serde(default)]
    pooling_mode_max_tokens: bool,
    #[serde(default)]
    pooling_mode_mean_sqrt_len_tokens: bool,
    #[serde(default)]
    pooling_mode_weightedmean_tokens: bool,
    #[serde(default)]
    pooling_mode_lasttoken: bool,
    include_prompt: Option<bool>,
}

#[derive(Deserialize, Default)]
struct ModelConfig {
    model_type: Option<String>,
    hidden_size: Option<usize>,
    /// The same under its other names.
    d_model: Option<usize>,
    dim: Option<usize>,
    max_position_embeddings: Option<f64>,
    pad_token_id: Option<i64>,
}

#[derive(Deserialize, Default)]
struct SentenceConfig {
    max_seq_length: Option<f64>,
    do_lower_case: Option<bool>,
}

#[derive(Deserialize, Default)]
struct TokenizerConfig {
    /// "No limit" is written as 1e30.
    model_max_length: Option<f64>,
}

#[derive(Deserialize, Default)]
struct Prompts {
    prompts: Option<HashMap<String, Option<String>>>,
}

/// The tokenizer's own description, of which only the padding token is of use here.
#[derive(Deserialize, Default)]
struct TokenizerFile {
    padding: Option<Padding>,
}

#[derive(Deserialize)]
struct Padding {
    pad_id: u32,
}

/// The files that modules.json refers to and that are ours to read.
pub(crate) fn module_files(files: &ModelFiles) -> Result<Vec<String>, Error> {
    let Some(modules) = files.json::<Vec<Module>>(MODULES)? else {
        return Ok(vec![POOLING_CONFIG.to_owned()]);
    };
    let mut names = Vec::new();
    for module in &modules {
        if ["Pooling", "Dense"].contains(&kind(module)) {
            names.push(config_of(module)?);
        }
        if kind(module) == "Dense" {
            names.push(format!("{}/{SAFETENSORS}", module.path));
        }
    }
    Ok(names)
}

/// The last part of a Python class path.
fn kind(module: &Module) -> &str {
    module.r#type.rsplit('.').next().unwrap_or_default()
}

fn config_of(module: &Module) -> Result<String, Error> {
    let name = format!("{}/config.json", module.path);
    if is_module_config(&name) {
        Ok(name)
    } else {
        Err(Error::malformed(
            MODULES,
            format!("\"{}\" is not a module's folder", module.path),
        ))
    }
}

/// The configuration of a module that modules.json names.
fn module_config<T: DeserializeOwned>(files: &ModelFiles, name: &str) -> Result<T, Error> {
    files.json(name)?.ok_or_else(|| Error::Incomplete {
        missing: format!("{MODULES} refers to \"{name}\", which is not there"),
    })
}

impl Facts {
    pub(crate) fn read(files: &ModelFiles) -> Result<Self, Error> {
        let config: ModelConfig = files.json(CONFIG)?.unwrap_or_default();
        let sentence_file = SENTENCE_CONFIGS
            .into_iter()
            .find(|&name| files.get(name).is_some())
            .unwrap_or_default();
        let sentence: SentenceConfig = files.json(sentence_file)?.unwrap_or_default();
        let tokenizer: TokenizerConfig = files.json(TOKENIZER_CONFIG)?.unwrap_or_default();
        let prompts: Prompts = files.json(PROMPTS)?.unwrap_or_default();
        let pad_token_id = match config.pad_token_id.and_then(|id| u32::try_from(id).ok()) {
            Some(id) => id,
            None => files
                .json::<TokenizerFile>(TOKENIZER)?
                .and_then(|tokenizer| tokenizer.padding)
                .map_or(0, |padding| padding.pad_id),
        };

        let has_offset = |kind: &String| OFFSET_POSITIONS.contains(&kind.as_str());
        let first_position = match config.model_type.as_ref().is_some_and(has_offset) {
            true => pad_token_id as usize + 1,
            false => 0,
        };
        let positions = config
            .max_position_embeddings
            .map(|positions| positions - first_position as f64);
        let max_tokens = max_tokens(&[
            (CONFIG, "max_position_embeddings", positions),
            // Whoever made the model for sentences knows better than the tokenizer.
            match sentence.max_seq_length {
                Some(_) => (sentence_file, "max_seq_length", sentence.max_seq_length),
                None => (
                    TOKENIZER_CONFIG,
                    "model_max_length",
                    tokenizer.model_max_length,
                ),
            },
        ])?;

        let mut facts = Facts {
            architecture: config.model_type,
            hidden_size: config.hidden_size.or(config.d_model).or(config.dim),
            pooling: None,
            normalize: false,
            dense: Vec::new(),
            max_tokens,
            first_position,
            query_prefix: String::new(),
            passage_prefix: String::new(),
            pad_token_id,
            lowercase: sentence.do_lower_case.unwrap_or(false),
        };
        facts.read_prompts(prompts);
        facts.read_modules(files)?;
        Ok(facts)
    }

    fn read_prompts(&mut self, prompts: Prompts) {
        let mut prompts = prompts.prompts.unwrap_or_default();
        let mut take = |names: &[&str]| {
            names
                .iter()
                .find_map(|&name| prompts.remove(name).flatten())
                .unwrap_or_default()
        };
        self.query_prefix = take(&["query", "search_query"]);
        self.passage_prefix = take(&["passage", "document", "search_document"]);
    }

    fn read_modules(&mut self, files: &ModelFiles) -> Result<(), Error> {
        let Some(modules) = files.json::<Vec<Module>>(MODULES)? else {
            self.pooling = Some(match files.json::<PoolingConfig>(POOLING_CONFIG)? {
                Some(config) => self.read_pooling(POOLING_CONFIG, &config)?,
                None => Pooling::Mean,
            });
            return Ok(());
        };
        for module in &modules {
            match kind(module) {
                "Transformer" => {}
                "Pooling" => {
                    let name = config_of(module)?;
                    let config: PoolingConfig = module_config(files, &name)?;
                    self.pooling = Some(self.read_pooling(&name, &config)?);
                }
                "Normalize" => self.normalize = true,
                "Dense" => self.dense.push(DenseModule {
                    path: module.path.clone(),
                    in_place: self.pooling.is_some() && !self.normalize,
                }),
                other => {
                    return Err(Error::unsupported(format!(
                        "{MODULES} has a module of the type \"{other}\""
                    )));
                }
            }
        }
        Ok(())
    }

    /// The linear layers after pooling.
    pub(crate) fn dense_layers(&self, files: &ModelFiles) -> Result<Vec<Dense>, Error> {
        self.dense.iter().map(|module| module.read(files)).collect()
    }

    fn read_pooling(&self, file: &str, config: &PoolingConfig) -> Result<Pooling, Error> {
        if let (Some(word), Some(hidden)) = (config.word_embedding_dimension, self.hidden_size)
            && word != hidden
        {
            return Err(Error::malformed(
                file,
                format!(
                    "word_embedding_dimension is {word}, but the hidden size in {CONFIG} is {hidden}"
                ),
            ));
        }
        if config.include_prompt == Some(false)
            && !(self.query_prefix.is_empty() && self.passage_prefix.is_empty())
        {
            return Err(Error::unsupported(format!(
                "{file} leaves the prompt out of pooling (include_prompt)"
            )));
        }
        if let Some(mode) = &config.pooling_mode {
            return match mode.as_str() {
                "mean" => Ok(Pooling::Mean),
                "cls" => Ok(Pooling::Cls),
                "max" => Ok(Pooling::Max),
                "lasttoken" => Ok(Pooling::LastToken),
                other => Err(Error::unsupported(format!(
                    "{file} asks for \"{other}\" pooling; mean, cls, max and lasttoken are implemented"
                ))),
            };
        }
        let modes = [
            (config.pooling_mode_mean_tokens, Some(Pooling::Mean)),
            (config.pooling_mode_cls_token, Some(Pooling::Cls)),
            (config.pooling_mode_max_tokens, Some(Pooling::Max)),
            (config.pooling_mode_lasttoken, Some(Pooling::LastToken)),
            (config.pooling_mode_mean_sqrt_len_tokens, None),
            (config.pooling_mode_weightedmean_tokens, None),
        ];
        let mut chosen = modes
            .into_iter()
            .filter(|(asked_for, _)| *asked_for)
            .map(|(_, pooling)| pooling);
        match (chosen.next(), chosen.next()) {
            (Some(Some(pooling)), None) => Ok(pooling),
            (None, _) => Err(Error::malformed(file, "it asks for no pooling")),
            _ => Err(Error::unsupported(format!(
                "{file} asks for more than one pooling, or for a weighted one; one of mean, cls, \
                 max and lasttoken is implemented"
            ))),
        }
    }
}

impl DenseModule {
    fn read(&self, files: &ModelFiles) -> Result<Dense, Error> {
        if !self.in_place {
            return Err(Error::unsupported(format!(
                "{MODULES} has a Dense module that does not stand between Pooling and Normalize"
            )));
        }
        let name = format!("{}/config.json", self.path);
        let config: DenseConfig = module_config(files, &name)?;
        let activation = config.activation_function.unwrap_or_default();
        let tanh = match activation.rsplit('.').next().unwrap_or_default() {
            // The library's own default.
            "" | "Tanh" => true,
            "Identity" => false,
            _ => {
                return Err(Error::unsupported(format!(
                    "activation_function in {name} is \"{activation}\"; Tanh and Identity are \
                     implemented"
                )));
            }
        };
        for (field, size) in [
            ("in_features", config.in_features),
            ("out_features", config.out_features),
        ] {
            if !(1..=MAX_DIMENSION).contains(&size) {
                return Err(Error::malformed(
                    &name,
                    format!("{field} is {size}, but must be between 1 and {MAX_DIMENSION}"),
                ));
            }
        }
        Ok(Dense {
            weights: format!("{}/{SAFETENSORS}", self.path),
            inputs: config.in_features,
            outputs: config.out_features,
            bias: config.bias,
            tanh,
        })
    }
}

/// The smallest of the limits that are given.
fn max_tokens(limits: &[(&str, &str, Option<f64>)]) -> Result<usize, Error> {
    let mut smallest = None::<f64>;
    for &(file, name, limit) in limits {
        let Some(limit) = limit else { continue };
        if limit.is_nan() || limit < 1.0 {
            return Err(Error::malformed(
                file,
                format!("{name} leaves room for {limit} tokens, but must leave some"),
            ));
        }
        // "No limit" is written as a very large number.
        if limit < 1e9 {
            smallest = Some(smallest.map_or(limit, |other| other.min(limit)));
        }
    }
    Ok(smallest.map_or(DEFAULT_MAX_TOKENS, |limit| (limit as usize).min(MAX_TOKENS)))
}

#[cfg(test)]
#[path = "sidecar_tests.rs"]
mod tests;
