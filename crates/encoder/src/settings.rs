//! How a model's vectors are made, besides its graph: stored with it for ever.

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The most dimensions that a vector type stores.
pub const MAX_DIMENSION: usize = 16_000;

/// The most dimensions that a graph gives, some of which may be cut off.
const MAX_WIDTH: usize = 1 << 20;

/// The longest text, in tokens, that any model is allowed to ask for: attention
/// takes memory with the square of it.
pub const MAX_TOKENS: usize = 32_768;

/// How the vectors of a text's tokens become one.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// That of the first token.
    Cls,
    /// The largest value of each dimension.
    Max,
    /// That of the last token.
    LastToken,
    /// The graph gives one vector per text already.
    None,
}

impl Pooling {
    const NAMES: [(Pooling, &'static str); 4] = [
        (Pooling::Mean, "mean"),
        (Pooling::Cls, "cls"),
        (Pooling::Max, "max"),
        (Pooling::LastToken, "last_token"),
    ];

    /// Its name in a graph; empty for [`Pooling::None`].
    pub(crate) fn name(self) -> &'static str {
        let named = Pooling::NAMES.iter().find(|(pooling, _)| *pooling == self);
        named.map_or("", |(_, name)| name)
    }

    /// By its name in a graph.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let named = Pooling::NAMES.iter().find(|(_, known)| *known == name);
        named.map(|(pooling, _)| *pooling)
    }
}

/// How the graph's weights are stored.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// As in the source, 32-bit floats for a graph of ours.
    Fp32,
    /// 16-bit floats, which a processor computes with as 32-bit ones.
    Fp16,
    /// Matrices and tables of 8 bits, and activations with a scale per token.
    Int8,
    /// Matrices of 4 bits; else as `Int8`.
    Int4,
}

impl Precision {
    /// Its name in SQL and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Fp16 => "fp16",
            Precision::Int8 => "int8",
            Precision::Int4 => "int4",
        }
    }

    /// By its name in SQL and JSON.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "fp32" => Precision::Fp32,
            "fp16" => Precision::Fp16,
            "int8" => Precision::Int8,
            "int4" => Precision::Int4,
            _ => return None,
        })
    }
}

/// What has to be known, besides graph and tokenizer, to turn texts into vectors.
///
/// Its JSON form is part of [`crate::CompiledModel::sha256`], so a field may be
/// added later only with a default that is left out of the JSON.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Settings {
    /// `model_type` of `config.json`, or `onnx`. For people; nothing depends on it.
    pub architecture: String,
    /// Dimensions of a vector, 1 to [`MAX_DIMENSION`].
    pub dimension: usize,
    /// Tokens of a text that count, special tokens included; the rest is cut off.
    pub max_tokens: usize,
    /// From token vectors to one vector.
    pub pooling: Pooling,
    /// Whether vectors are scaled to length 1.
    pub normalize: bool,
    /// What the model wants before a search query. [`crate::Encoder`] does not add it.
    pub query_prefix: String,
    /// What the model wants before a stored passage. [`crate::Encoder`] does not add it.
    pub passage_prefix: String,
    /// How the weights are stored.
    pub precision: Precision,
    /// The graph's output that is read.
    pub output: String,
    /// The token that fills a text up to the padded length.
    pub pad_token_id: u32,
    /// Token ids are below this, where the size of the table is known.
    pub vocabulary: Option<usize>,
    /// Whether texts are lowercased before the tokenizer sees them.
    pub lowercase: bool,
    /// Whether a batch would change results, so that texts must run alone.
    pub one_by_one: bool,
    /// Whether padding has no part in any result, whatever its length: every node is
    /// an operator of ours.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub padding_free: bool,
    /// Dimensions that the graph gives, if vectors are cut off (Kusupati et al.,
    /// "Matryoshka Representation Learning", 2022).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_dimension: Option<usize>,
}

impl Settings {
    /// Dimensions that the graph gives.
    pub(crate) fn width(&self) -> usize {
        self.full_dimension.unwrap_or(self.dimension)
    }

    /// Checks the limits. Settings come back from storage, where anyone with the
    /// right to write may have changed them.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let fail = |reason: String| Err(Error::Settings { reason });
        if !(1..=MAX_DIMENSION).contains(&self.dimension) {
            return fail(format!(
                "dimension is {}, but must be between 1 and {MAX_DIMENSION}",
                self.dimension
            ));
        }
        if self.width() < self.dimension || self.width() > MAX_WIDTH {
            return fail(format!(
                "the graph gives {} dimensions, of which {} cannot be taken",
                self.width(),
                self.dimension
            ));
        }
        if !(1..=MAX_TOKENS).contains(&self.max_tokens) {
            return fail(format!(
                "max_tokens is {}, but must be between 1 and {MAX_TOKENS}",
                self.max_tokens
            ));
        }
        if self.output.is_empty() {
            return fail("the name of the graph's output is empty".to_owned());
        }
        if let Some(vocabulary) = self.vocabulary
            && usize::try_from(self.pad_token_id).is_ok_and(|pad| pad >= vocabulary)
        {
            return fail(format!(
                "pad_token_id is {}, but the vocabulary has {vocabulary} tokens",
                self.pad_token_id
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Pooling, Precision, Settings};

    fn settings() -> Settings {
        Settings {
            architecture: "bert".to_owned(),
            dimension: 384,
            max_tokens: 256,
            pooling: Pooling::LastToken,
            normalize: true,
            query_prefix: "query: ".to_owned(),
            passage_prefix: String::new(),
            precision: Precision::Fp32,
            output: "last_hidden_state".to_owned(),
            pad_token_id: 0,
            vocabulary: Some(30_522),
            lowercase: false,
            one_by_one: false,
            padding_free: false,
            full_dimension: None,
        }
    }

    #[test]
    fn json_is_stable() {
        let json = serde_json::to_string(&settings()).expect("json");
        // The sha256 of every stored model rests on this text.
        assert_eq!(
            json,
            "{\"architecture\":\"bert\",\"dimension\":384,\"max_tokens\":256,\
             \"pooling\":\"last_token\",\"normalize\":true,\"query_prefix\":\"query: \",\
             \"passage_prefix\":\"\",\"precision\":\"fp32\",\"output\":\"last_hidden_state\",\
             \"pad_token_id\":0,\"vocabulary\":30522,\"lowercase\":false,\"one_by_one\":false}"
        );
        let back: Settings = serde_json::from_str(&json).expect("parse");
        assert_eq!(back, settings());
    }

    #[test]
    fn limits_are_checked() {
        assert!(settings().check().is_ok());
        let changes: [fn(&mut Settings); 6] = [
            |s| s.full_dimension = Some(383),
            |s| s.dimension = 0,
            |s| s.dimension = 16_001,
            |s| s.max_tokens = 0,
            |s| s.output.clear(),
            |s| s.pad_token_id = 30_522,
        ];
        for change in changes {
            let mut settings = settings();
            change(&mut settings);
            assert!(settings.check().is_err(), "{settings:?}");
        }
    }
}
