//! From a text to the numbers that a model takes.
//!
//! What enters is a text and the bytes of a `tokenizer.json`; what leaves is at
//! most `max_tokens` token ids with their type ids, special tokens included. The
//! file's own truncation and padding are ignored: how long a text may be is a
//! setting of the model, and padding is the encoder's business.
//!
//! Texts are tokenized one by one on the caller's thread. The library's batch
//! functions would start a pool of threads of their own.
//!
//! # Long texts
//!
//! A tokenizer reads all of a text, and takes some fifty times its size in
//! memory, before a word of it can be cut off. So a long text is read from its
//! beginning, in prefixes of doubling length, until one gives at least twice the
//! tokens that count. A prefix ends before white space, so that it holds whole
//! words: tokenizers take words apart one by one, and for the few that look
//! across, what follows a cut reaches a token or two back, not the `max_tokens`
//! tokens that lie between the cut and what is kept. And in no case are more than
//! [`MAX_TEXT_BYTES`] read.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use memory::check_available;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{Encoding, PaddingParams, PostProcessor, Tokenizer, TruncationDirection};

use crate::chunk::Place;
use crate::error::Error;
use crate::files::TOKENIZER;
use crate::settings::Settings;

/// The part of a text, in bytes from its beginning, that can have an effect on
/// its vector: what follows is as if it were not there. It bounds the memory and
/// the time in which a text that hardly has any tokens (a megabyte of blanks)
/// can't be interrupted. 32 bytes for each token of the longest models.
pub const MAX_TEXT_BYTES: usize = 1 << 20;

/// The first prefix has this many bytes per token that counts; languages have
/// 2 to 6, so one prefix nearly always does.
const PREFIX_BYTES_PER_TOKEN: usize = 16;

/// Bytes of memory for each of a tokenizer's file, and in any case.
const MEMORY_OF_FILE: usize = 32;
const LEAST_MEMORY: usize = 8 << 20;

/// Bytes of memory for each of a text, whose tokens know where they are from.
const MEMORY_OF_TEXT: usize = 128;

/// A text with fewer bytes hardly takes any.
const SHORT_TEXT: usize = 16 << 10;

/// A text's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) ids: Vec<u32>,
    /// Which sequence of a pair a token belongs to, mostly 0. As long as `ids`.
    pub(crate) types: Vec<u32>,
}

/// The tokenizer of one model.
pub(crate) struct TextTokenizer {
    /// Without truncation, padding and post-processor.
    tokenizer: Tokenizer,
    /// Adds the special tokens.
    processor: Option<PostProcessorWrapper>,
    /// How many it adds, less than `max_tokens`.
    special_tokens: usize,
    max_tokens: usize,
    vocabulary: Option<usize>,
    lowercase: bool,
}

/// Whether there is memory for the tokens of a text.
fn check_text(text: &str) -> Result<(), Error> {
    match text.len() {
        ..SHORT_TEXT => Ok(()),
        bytes => Ok(check_available(
            bytes.saturating_mul(MEMORY_OF_TEXT),
            "the tokens of a text",
        )?),
    }
}

impl TextTokenizer {
    pub(crate) fn new(json: &[u8], settings: &Settings) -> Result<Self, Error> {
        // The library counts on its callers for this, process-wide: it must never
        // start threads in a process that steers itself with signals.
        tokenizers::parallelism::set_parallelism(false);
        let needed = json.len().saturating_mul(MEMORY_OF_FILE) + LEAST_MEMORY;
        check_available(needed, "the tokenizer of the model")?;
        let mut tokenizer = no_panic(|| Tokenizer::from_bytes(json))
            .map_err(|reason| Error::malformed(TOKENIZER, reason))?;
        let processor = tokenizer.get_post_processor().cloned();
        tokenizer
            .with_post_processor(None::<PostProcessorWrapper>)
            .with_padding(None::<PaddingParams>);
        // Fails only for a limit, and this sets none.
        tokenizer
            .with_truncation(None)
            .map_err(|error| Error::malformed(TOKENIZER, error))?;
        let special_tokens = processor
            .as_ref()
            .map_or(0, |processor| processor.added_tokens(false));
        if special_tokens >= settings.max_tokens {
            return Err(Error::malformed(
                TOKENIZER,
                format!(
                    "it adds {special_tokens} special tokens, but the model takes {} tokens in all",
                    settings.max_tokens
                ),
            ));
        }
        if let Some(vocabulary) = settings.vocabulary {
            let ids = tokenizer.get_vocab(true);
            let largest = ids.values().copied().max().unwrap_or(0);
            if usize::try_from(largest).is_ok_and(|id| id >= vocabulary) {
                return Err(Error::malformed(
                    TOKENIZER,
                    format!(
                        "it has a token with the id {largest}, but the model knows the ids below \
                         {vocabulary}"
                    ),
                ));
            }
        }
        Ok(TextTokenizer {
            tokenizer,
            processor,
            special_tokens,
            max_tokens: settings.max_tokens,
            vocabulary: settings.vocabulary,
            lowercase: settings.lowercase,
        })
    }

    /// The tokens of a text that count. `interrupted` is asked between prefixes.
    pub(crate) fn tokens(&self, text: &str, interrupted: fn() -> bool) -> Result<Tokens, Error> {
        let text = self.prepare(text);
        let room = self.max_tokens - self.special_tokens;
        let mut length = self.max_tokens.saturating_mul(PREFIX_BYTES_PER_TOKEN);
        let mut encoding = loop {
            if interrupted() {
                return Err(Error::Interrupted);
            }
            if length >= text.len() {
                break self.encode(&text)?;
            }
            if let Some(words) = whole_words(prefix(&text, length)) {
                let encoding = self.encode(words)?;
                if encoding.len() >= 2 * self.max_tokens {
                    break encoding;
                }
            }
            length = length.saturating_mul(2);
        };
        if encoding.len() > room {
            encoding.truncate(room, 0, TruncationDirection::Right);
            // The parts that were cut off, which nobody needs.
            encoding.take_overflowing();
        }
        let encoding = match &self.processor {
            Some(processor) => no_panic(|| processor.process(encoding, None, true))
                .map_err(|reason| Error::Tokenizer { reason })?,
            None => encoding,
        };
        self.check(&encoding)?;
        Ok(Tokens {
            ids: encoding.get_ids().to_vec(),
            types: encoding.get_type_ids().to_vec(),
        })
    }

    /// How many tokens the whole text has, special tokens included, before
    /// anything is cut off.
    pub(crate) fn count(&self, text: &str) -> Result<usize, Error> {
        let encoding = self.encode(&self.prepare(text))?;
        Ok(encoding.len() + self.special_tokens)
    }

    /// How many special tokens a text gets.
    pub(crate) fn special_tokens(&self) -> usize {
        self.special_tokens
    }

    /// The places of the tokens of a text, special ones left out.
    pub(crate) fn places(&self, text: &str) -> Result<Vec<Place>, Error> {
        check_text(text)?;
        // Lower case may have other bytes: for each, the byte it came from.
        let mut lowered = String::new();
        let mut from = Vec::new();
        if self.lowercase {
            for (at, character) in text.char_indices() {
                lowered.extend(character.to_lowercase());
                from.resize(lowered.len(), at);
            }
        }
        let tokenized = if self.lowercase { &lowered[..] } else { text };
        let encoding = no_panic(|| self.tokenizer.encode(tokenized, false))
            .map_err(|reason| Error::Tokenizer { reason })?;
        let mut places = Vec::with_capacity(encoding.len());
        let mut word_before = None;
        for (&(start, _), &word) in encoding.get_offsets().iter().zip(encoding.get_word_ids()) {
            let start = from.get(start).copied().unwrap_or(start);
            let start = text.floor_char_boundary(start);
            // Some tokens have the white space before a word with them.
            let blank = text[start..].len() - text[start..].trim_start().len();
            let is_after_blank = text[..start].ends_with(char::is_whitespace) || blank > 0;
            places.push(Place {
                start: start + blank,
                word: is_after_blank || word != word_before,
            });
            word_before = word;
        }
        Ok(places)
    }

    /// The text as the model's own library would hand it to the tokenizer.
    fn prepare<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let text = prefix(text, MAX_TEXT_BYTES).trim();
        if self.lowercase {
            Cow::Owned(text.to_lowercase())
        } else {
            Cow::Borrowed(text)
        }
    }

    fn encode(&self, text: &str) -> Result<Encoding, Error> {
        check_text(text)?;
        no_panic(|| self.tokenizer.encode_fast(text, false))
            .map_err(|reason| Error::Tokenizer { reason })
    }

    /// Special tokens have ids of their own in the file, and a template may
    /// repeat the text: neither can be told before a text has gone through.
    fn check(&self, encoding: &Encoding) -> Result<(), Error> {
        let ids = encoding.get_ids();
        if ids.len() > self.max_tokens {
            return Err(Error::Tokenizer {
                reason: format!(
                    "the tokenizer gives {} tokens, the model takes {}",
                    ids.len(),
                    self.max_tokens
                ),
            });
        }
        if encoding.get_type_ids().len() != ids.len() {
            return Err(Error::Tokenizer {
                reason: format!(
                    "the tokenizer gives {} tokens with {} types",
                    ids.len(),
                    encoding.get_type_ids().len()
                ),
            });
        }
        if let Some(vocabulary) = self.vocabulary
            && let Some(id) = ids
                .iter()
                .find(|&&id| usize::try_from(id).is_ok_and(|id| id >= vocabulary))
        {
            return Err(Error::Tokenizer {
                reason: format!(
                    "the tokenizer gives the id {id}, the model knows the ids below {vocabulary}"
                ),
            });
        }
        Ok(())
    }
}

/// At most `length` bytes from the beginning, in whole characters.
fn prefix(text: &str, length: usize) -> &str {
    &text[..text.floor_char_boundary(length)]
}

/// The part of a prefix before its last white space, if it has any.
fn whole_words(prefix: &str) -> Option<&str> {
    let end = prefix.rfind(char::is_whitespace)?;
    // The start of a run of white space: how a run is split depends on its length.
    Some(prefix[..end].trim_end())
}

/// The library panics on some contradictions in a hostile file. They are errors
/// of the file, and must not unwind through a caller that knows nothing of it.
fn no_panic<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    // Nothing that `work` touches is used again after a panic: a tokenizer has
    // no state that a text changes, but for a cache behind a lock of its own.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(panic
            .downcast_ref::<&str>()
            .map(|message| (*message).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "the tokenizer's rules contradict themselves".to_owned())),
    }
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
