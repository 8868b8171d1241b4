//! Truncation, prefixes, places in texts, and hostile tokenizer files.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{MAX_TEXT_BYTES, TextTokenizer};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::models::unigram::{Unigram, UnigramTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::Metaspace;
use tokenizers::{Tokenizer, TokenizerBuilder};

use crate::chunk::chunks;
use crate::error::{Error, ErrorKind};
use crate::settings::{Pooling, Precision, Settings};

/// A WordPiece tokenizer with the given special tokens' template.
fn json(single: &str) -> String {
    format!(
        r###"{{
        "version": "1.0",
        "truncation": {{"max_length": 3, "strategy": "LongestFirst", "stride": 0}},
        "padding": {{"strategy": {{"Fixed": 64}}, "direction": "Right", "pad_to_multiple_of": null,
                     "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}},
        "added_tokens": [],
        "normalizer": {{"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                        "strip_accents": null, "lowercase": true}},
        "pre_tokenizer": {{"type": "BertPreTokenizer"}},
        "post_processor": {{"type": "TemplateProcessing", "single": {single}, "pair": [],
            "special_tokens": {{
                "[CLS]": {{"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}},
                "[SEP]": {{"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}},
                "[FAR]": {{"id": "[FAR]", "ids": [99], "tokens": ["[FAR]"]}} }} }},
        "decoder": null,
        "model": {{"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {{"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3,
                       "a": 4, "b": 5, "##b": 6, "##a": 7, "c": 8}} }}
        }}"###
    )
}

const BERT: &str = r#"[{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
    {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}]"#;

fn settings(max_tokens: usize) -> Settings {
    Settings {
        architecture: "bert".to_owned(),
        dimension: 1,
        max_tokens,
        pooling: Pooling::Mean,
        normalize: false,
        query_prefix: String::new(),
        passage_prefix: String::new(),
        precision: Precision::Fp32,
        output: "out".to_owned(),
        pad_token_id: 0,
        vocabulary: Some(9),
        lowercase: false,
        one_by_one: false,
        padding_free: false,
        full_dimension: None,
    }
}

fn tokenizer(max_tokens: usize) -> TextTokenizer {
    TextTokenizer::new(json(BERT).as_bytes(), &settings(max_tokens)).expect("tokenizer")
}

fn ids(tokenizer: &TextTokenizer, text: &str) -> Vec<u32> {
    let tokens = tokenizer.tokens(text, || false).expect("tokens");
    assert_eq!(tokens.ids.len(), tokens.types.len());
    tokens.ids
}

#[test]
fn the_files_own_truncation_and_padding_are_ignored() {
    assert_eq!(ids(&tokenizer(16), "A ab  c"), [2, 4, 4, 6, 8, 3]);
    assert_eq!(ids(&tokenizer(16), "\t A ab c\n"), [2, 4, 4, 6, 8, 3]);
    assert_eq!(tokenizer(4).count("A ab c").expect("count"), 6);
}

#[test]
fn truncation_keeps_the_special_tokens() {
    assert_eq!(ids(&tokenizer(5), "a b c a b c"), [2, 4, 5, 8, 3]);
    assert_eq!(ids(&tokenizer(3), "a b c a b c"), [2, 4, 3]);
    assert_eq!(ids(&tokenizer(5), ""), [2, 3]);
    assert_eq!(ids(&tokenizer(5), "  \n "), [2, 3]);
}

/// What the tokenizers below learn from.
const CORPUS: &str = "a ab abab the river, the bridges; unbelievable! 東京は 42 naïve re-read \
     café cab ba x the bridge of the river ran un-der them. Größe! 🙂🙂 don't (it's) rivers";

fn learned(json: &str, max_tokens: usize) -> TextTokenizer {
    let mut settings = settings(max_tokens);
    settings.vocabulary = None;
    TextTokenizer::new(json.as_bytes(), &settings).expect("tokenizer")
}

/// Tokenizers as WordPiece's relatives have them, by name: of RoBERTa, byte-level BPE
/// in which a word has the white space before it with it, and of XLM-R and other
/// SentencePiece models, Unigram in which it becomes a character of its own.
fn kinds() -> Vec<(&'static str, String)> {
    let mut bpe: Tokenizer = TokenizerBuilder::default()
        .with_model(BPE::default())
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)))
        .with_post_processor(Some(ByteLevel::default()))
        .with_decoder(Some(ByteLevel::default()))
        .build()
        .expect("tokenizer")
        .into();
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(330)
        .min_frequency(1)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<char>>())
        .build()
        .into();
    train(&mut bpe, &mut trainer);
    let mut unigram: Tokenizer = TokenizerBuilder::default()
        .with_model(Unigram::default())
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(Metaspace::default()))
        .with_post_processor(None::<tokenizers::PostProcessorWrapper>)
        .with_decoder(Some(Metaspace::default()))
        .build()
        .expect("tokenizer")
        .into();
    let trainer = UnigramTrainerBuilder::default()
        .show_progress(false)
        .vocab_size(90)
        .unk_token(Some("<unk>".to_owned()))
        .special_tokens(vec![tokenizers::AddedToken::from("<unk>", true)])
        .build()
        .expect("trainer");
    train(&mut unigram, &mut trainer.into());
    let written = |tokenizer: Tokenizer| tokenizer.to_string(false).expect("json");
    vec![
        ("WordPiece", json(BERT)),
        ("byte-level BPE", written(bpe)),
        ("Unigram", written(unigram)),
    ]
}

fn train(tokenizer: &mut Tokenizer, trainer: &mut tokenizers::models::TrainerWrapper) {
    tokenizers::parallelism::set_parallelism(false);
    let texts = std::iter::repeat_n(CORPUS, 4);
    tokenizer.train(trainer, texts).expect("train");
}

/// A text of words, some of which run together.
fn some_text(u: &mut arbtest::arbitrary::Unstructured<'_>) -> arbtest::arbitrary::Result<String> {
    let words = [
        "a",
        "ab",
        "c",
        "abab",
        "ba",
        "x",
        "é",
        "漢字",
        " ",
        "cab\u{301}",
        "river",
        "the",
        "unbelievable",
        "bridges.",
        "🙂",
        "don't",
        "\n",
    ];
    let mut text = String::new();
    for _ in 0..u.int_in_range(0..=400)? {
        text.push_str(u.choose(&words)?);
        if u.ratio(2, 3)? {
            text.push(' ');
        }
    }
    Ok(text)
}

#[test]
fn a_prefix_gives_the_same_tokens_as_the_whole_text() {
    for (name, json) in kinds() {
        // So large a limit that the whole text is read at once, against a small one.
        let (large, small) = (learned(&json, 8_000), learned(&json, 12));
        arbtest::arbtest(|u| {
            let text = some_text(u)?;
            let whole = ids(&large, &text);
            let cut = ids(&small, &text);
            let mut expected = whole.clone();
            if whole.len() > 12 {
                expected.truncate(12 - small.special_tokens() / 2);
                if small.special_tokens() > 0 {
                    expected.push(3);
                }
            }
            assert_eq!(cut, expected, "{name}: {text:?}");
            Ok(())
        })
        .budget_ms(500);
    }
}

/// Each piece alone has no more tokens than it may, and between them they have the text.
#[test]
fn pieces_of_a_text_fit_whatever_the_tokenizer() {
    for (name, json) in kinds() {
        let tokenizer = learned(&json, 8_000);
        arbtest::arbtest(|u| {
            let text = some_text(u)?;
            let most = u.int_in_range(1..=40)?;
            let overlap = u.int_in_range(0..=most - 1)?;
            let pieces = chunks(&text, most, overlap, |part| tokenizer.places(part)).unwrap();
            let mut end = 0;
            for piece in &pieces {
                let of_text: String = text.chars().skip(piece.start).take(piece.length).collect();
                assert_eq!(of_text, piece.text, "{name}: {text:?}");
                let between: String = text.chars().take(piece.start).skip(end).collect();
                assert_eq!(between.trim(), "", "{name}: {text:?}");
                end = end.max(piece.start + piece.length);
                let alone = tokenizer.count(piece.text).unwrap() - tokenizer.special_tokens();
                let is_word = !piece.text.contains(char::is_whitespace);
                assert!(piece.length > 0, "{name}: {text:?}");
                assert!(
                    alone <= most || is_word,
                    "{name}: {piece:?} has {alone} of {most}"
                );
            }
            let rest: String = text.chars().skip(end).collect();
            assert_eq!(rest.trim(), "", "{name}: {text:?}");
            Ok(())
        })
        .budget_ms(1_000);
    }
}

#[test]
fn huge_texts_end_soon() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let tokenizer = tokenizer(16);
    let blanks = " ".repeat(64 << 20);
    assert_eq!(ids(&tokenizer, &blanks), [2, 3]);
    let word = "a".repeat(64 << 20);
    assert_eq!(ids(&tokenizer, &word), [2, 1, 3]);
    // Only a word at the very end, beyond what counts.
    let mut far = "\u{200d}".repeat(MAX_TEXT_BYTES / 3 + 1);
    far.push_str(" c");
    let tokens = tokenizer
        .tokens(&far, || {
            ASKED.fetch_add(1, Ordering::SeqCst);
            false
        })
        .expect("tokens");
    assert!(!tokens.ids.contains(&8));
    assert!(ASKED.load(Ordering::SeqCst) > 3, "asked between prefixes");
    assert!(matches!(
        tokenizer.tokens("a", || true),
        Err(Error::Interrupted)
    ));
}

#[test]
fn contradictions_are_errors() {
    let far = r#"[{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[FAR]", "type_id": 0}}]"#;
    let tokenizer = TextTokenizer::new(json(far).as_bytes(), &settings(8)).expect("tokenizer");
    let error = tokenizer.tokens("a", || false).expect_err("id 99 of 9");
    assert_eq!(error.kind(), ErrorKind::Tokenizer);

    let pair = r#"[{"Sequence": {"id": "B", "type_id": 0}}]"#;
    if let Ok(tokenizer) = TextTokenizer::new(json(pair).as_bytes(), &settings(8)) {
        assert!(
            tokenizer.tokens("a", || false).is_err(),
            "there is no sequence B"
        );
    }

    let twice =
        r#"[{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]"#;
    if let Ok(tokenizer) = TextTokenizer::new(json(twice).as_bytes(), &settings(4)) {
        assert!(
            tokenizer.tokens("a b c a", || false).is_err(),
            "8 tokens of 4"
        );
    }

    let mut small = settings(8);
    small.vocabulary = Some(8);
    assert!(TextTokenizer::new(json(BERT).as_bytes(), &small).is_err());
    assert!(TextTokenizer::new(json(BERT).as_bytes(), &settings(2)).is_err());
}

#[test]
fn every_truncated_file_is_an_error() {
    let json = json(BERT);
    for length in 0..json.len() {
        let result = TextTokenizer::new(&json.as_bytes()[..length], &settings(8));
        assert!(result.is_err(), "{length} bytes");
    }
}
