//! Truncation, prefixes and hostile tokenizer files.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{MAX_TEXT_BYTES, TextTokenizer};
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

#[test]
fn a_prefix_gives_the_same_tokens_as_the_whole_text() {
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
    ];
    arbtest::arbtest(|u| {
        let mut text = String::new();
        for _ in 0..u.int_in_range(0..=400)? {
            text.push_str(u.choose(&words)?);
            if u.ratio(2, 3)? {
                text.push(' ');
            }
        }
        // So large a limit that the whole text is read at once, against a small one.
        let whole = ids(&tokenizer(8_000), &text);
        let cut = ids(&tokenizer(12), &text);
        let mut expected = whole.clone();
        if whole.len() > 12 {
            expected.truncate(11);
            expected.push(3);
        }
        assert_eq!(cut, expected, "{text:?}");
        Ok(())
    })
    .budget_ms(500);
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
