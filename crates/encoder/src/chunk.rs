//! Texts that are too long for a model, in pieces that are not.
//!
//! Borders are those of sentences (Unicode Standard Annex 29) where there is one
//! in reach, else of words, and only inside a word that is longer than a whole
//! piece those of tokens.

use unicode_segmentation::UnicodeSegmentation;

use crate::error::Error;

/// A run of text without the end of a sentence is taken apart at white space
/// after so many bytes, so that no tokenizer gets more at once.
const MOST_BYTES: usize = 1 << 14;

/// A piece of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk<'t> {
    /// Characters before it in the text.
    pub start: usize,
    /// Its characters.
    pub length: usize,
    /// The piece itself.
    pub text: &'t str,
}

/// A token's place in a text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Its first byte.
    pub start: usize,
    /// Whether a word begins with it.
    pub word: bool,
}

/// Where a piece may end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Border {
    Token,
    Word,
    Sentence,
}

/// Cuts a text into pieces of at most `most` tokens; from each piece, up to
/// `overlap` tokens come again at the beginning of the next one.
///
/// `tokens` gives the places of the tokens of a part of the text. A word may have more
/// of them at the beginning of a piece than it had within its sentence (byte-level BPE
/// takes the white space before it along), so each piece is tokenized once more. It is
/// longer than `most` only if it is a single token that alone is several, or a character
/// that has several.
pub(crate) fn chunks<'t>(
    text: &'t str,
    most: usize,
    overlap: usize,
    mut tokens: impl FnMut(&str) -> Result<Vec<Place>, Error>,
) -> Result<Vec<Chunk<'t>>, Error> {
    let mut places: Vec<(usize, Border)> = Vec::new();
    for (at, sentence) in text.split_sentence_bound_indices() {
        for (within, part) in parts(sentence) {
            // White space at the end may be a token too, from which no piece begins.
            let within_part = |place: &Place| place.start < part.len();
            for (i, place) in tokens(part)?.into_iter().filter(within_part).enumerate() {
                let border = match (i, within, place.word) {
                    (0, 0, _) => Border::Sentence,
                    (0, ..) | (_, _, true) => Border::Word,
                    _ => Border::Token,
                };
                places.push((at + within + place.start, border));
            }
        }
    }
    let mut chunks = Vec::new();
    let (mut characters, mut counted) = (0, 0);
    let mut from = 0;
    while from < places.len() {
        let begin = places[from].0;
        // The tokens of one character can't be parted.
        let inner = places[from..].partition_point(|place| place.0 == begin);
        let least = from + inner;
        let mut to = if least == places.len() || places.len() - from <= most {
            places.len()
        } else {
            best(&places, least, (from + most).max(least))
        };
        let piece = loop {
            let end = places.get(to).map_or(text.len(), |place| place.0);
            let piece = text[begin..end].trim_end();
            if to <= least || fits(piece, most, &mut tokens)? {
                break piece;
            }
            to = best(&places, least, to - 1);
        };
        // Starts never decrease: characters are counted once.
        characters += text[counted..begin].chars().count();
        counted = begin;
        chunks.push(Chunk {
            start: characters,
            length: piece.chars().count(),
            text: piece,
        });
        if to == places.len() {
            break;
        }
        let earliest = to.saturating_sub(overlap).max(least);
        from = if earliest < to {
            first(&places, earliest, to)
        } else {
            to
        };
    }
    Ok(chunks)
}

/// Whether a piece alone has at most so many tokens.
fn fits(
    piece: &str,
    most: usize,
    tokens: &mut impl FnMut(&str) -> Result<Vec<Place>, Error>,
) -> Result<bool, Error> {
    let mut count = 0;
    for (_, part) in parts(piece) {
        count += tokens(part)?.len();
        if count > most {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The last of the best borders in a range, both ends included.
fn best(places: &[(usize, Border)], from: usize, to: usize) -> usize {
    let better = (from..=to).max_by_key(|&i| (places[i].1, i));
    better.unwrap_or(to)
}

/// The first of the best borders in a range.
fn first(places: &[(usize, Border)], from: usize, to: usize) -> usize {
    let better = (from..to).max_by_key(|&i| (places[i].1, std::cmp::Reverse(i)));
    better.unwrap_or(from)
}

/// A sentence in parts of bounded size, and where they begin.
fn parts(sentence: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let mut at = 0;
    while sentence.len() - at > MOST_BYTES {
        let rest = &sentence[at..];
        let prefix = &rest[..rest.floor_char_boundary(MOST_BYTES)];
        let end = prefix.rfind(char::is_whitespace).filter(|&end| end > 0);
        let end = end.unwrap_or(prefix.len());
        parts.push((at, &rest[..end]));
        at += end;
    }
    parts.push((at, &sentence[at..]));
    parts
}

#[cfg(test)]
mod tests {
    use super::{Chunk, MOST_BYTES, Place, chunks};
    use crate::error::Error;

    /// Tokens of up to four characters, none of white space.
    fn tokens(text: &str) -> Result<Vec<Place>, Error> {
        let mut places = Vec::new();
        let mut of_word = 0;
        for (start, character) in text.char_indices() {
            if character.is_whitespace() {
                of_word = 0;
                continue;
            }
            if of_word % 4 == 0 {
                places.push(Place {
                    start,
                    word: of_word == 0,
                });
            }
            of_word += 1;
        }
        Ok(places)
    }

    fn cut(text: &str, most: usize, overlap: usize) -> Vec<Chunk<'_>> {
        let bounded = |part: &str| {
            assert!(part.len() <= MOST_BYTES);
            tokens(part)
        };
        let found = chunks(text, most, overlap, bounded).expect("chunks");
        for chunk in &found {
            let characters = text.chars().skip(chunk.start).take(chunk.length);
            assert_eq!(characters.collect::<String>(), chunk.text);
            assert!(
                tokens(chunk.text).expect("tokens").len() <= most,
                "{chunk:?}"
            );
        }
        found
    }

    fn texts(text: &str, most: usize, overlap: usize) -> Vec<&str> {
        cut(text, most, overlap)
            .into_iter()
            .map(|chunk| chunk.text)
            .collect()
    }

    #[test]
    fn whole_sentences_where_they_fit() {
        let text = "One two. Tre for fiv. Six.";
        assert_eq!(texts(text, 20, 0), [text]);
        assert_eq!(texts(text, 5, 0), ["One two. Tre for fiv.", "Six."]);
        assert_eq!(texts(text, 3, 0), ["One two.", "Tre for fiv.", "Six."]);
        assert_eq!(texts("", 3, 0), [""; 0]);
        assert_eq!(texts(" \n ", 3, 0), [""; 0]);
    }

    #[test]
    fn words_and_tokens_where_sentences_are_too_long() {
        assert_eq!(texts("aa bb cc dd ee", 2, 0), ["aa bb", "cc dd", "ee"]);
        assert_eq!(
            texts("aa bbbbbbbbbbbbb cc", 2, 0),
            ["aa", "bbbbbbbb", "bbbbb", "cc"]
        );
    }

    #[test]
    fn overlap_begins_with_a_sentence_or_a_word() {
        assert_eq!(texts("aa bb cc dd ee", 3, 1), ["aa bb cc", "cc dd ee"]);
        let text = "A b. C d. E f. G h.";
        assert_eq!(texts(text, 4, 2), ["A b. C d.", "C d. E f.", "E f. G h."]);
        assert_eq!(texts(text, 4, 3), ["A b. C d.", "C d. E f.", "E f. G h."]);
        // However much comes again, it goes on.
        assert!(texts(text, 2, 100).len() < 20);
    }

    #[test]
    fn characters_not_bytes_are_counted() {
        let text = "Größe über. 東京 は. 🙂 ok.";
        let found = cut(text, 4, 0);
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].start, found[1].length), (12, 11));
    }

    #[test]
    fn everything_is_in_some_piece() {
        let mut text = String::new();
        for i in 0..3000 {
            text.push_str(["stone ", "bridge. ", "ü🙂", "\n\n", "longerwordthanmost "][i * 7 % 5]);
        }
        text.push_str(&"x".repeat(3 * MOST_BYTES));
        text.push_str(&" ".repeat(3 * MOST_BYTES));
        text.push('y');
        for (most, overlap) in [(1, 0), (7, 0), (50, 10), (1000, 999)] {
            let found = cut(&text, most, overlap);
            let mut end = 0;
            for chunk in found {
                let between: String = text.chars().take(chunk.start).skip(end).collect();
                assert_eq!(between.trim(), "", "before {}", chunk.start);
                end = end.max(chunk.start + chunk.length);
            }
            assert_eq!(end, text.trim_end().chars().count());
        }
    }
}
