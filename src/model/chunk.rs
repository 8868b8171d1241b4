//! `insitu.chunk`: a text in pieces that are short enough for a model.
//!
//! Pieces are cut from the text as the server has it, at the places where
//! `substring` finds them.

#![allow(unsafe_code)]

use pgrx::prelude::*;

use super::{analyze, session};
use crate::encoding::{Encoding, ServerText, Text, from_server};
use crate::errors::raise;

/// The pieces of a text that are short enough for a model: their number, the
/// position of their first character (from 1, as `substring` counts), their length
/// in characters, and themselves. In ANALYZE, none.
#[pg_extern(schema = "insitu", immutable, strict, parallel_safe, cost = 1000)]
#[allow(clippy::type_complexity)]
fn chunk(
    model: Text<'_>,
    input: Text<'_>,
    max_tokens: i32,
    overlap: default!(i32, 0),
) -> TableIterator<
    'static,
    (
        name!(ordinal, i32),
        name!(start, i32),
        name!(length, i32),
        name!(chunk, ServerText),
    ),
> {
    let (Ok(most), Ok(again)) = (usize::try_from(max_tokens), usize::try_from(overlap)) else {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!(
                "max_tokens is {max_tokens} and overlap {overlap}, but neither can be negative"
            ),
        );
    };
    if analyze::is_running() {
        return TableIterator::new(Vec::new());
    }
    let pieces = session::chunk(&model, &input, most, again);
    let (mut begin, mut end) = (Place::first(input), Place::first(input));
    // A text has less than 2^30 characters.
    let rows: Vec<_> = (1..)
        .zip(pieces)
        .map(|(ordinal, (start, length))| {
            begin.move_to(start);
            end.move_to(start + length);
            let bytes = &input.in_server()[begin.bytes..end.bytes];
            (
                ordinal,
                begin.characters as i32 + 1,
                (end.characters - begin.characters) as i32,
                ServerText(bytes.to_vec()),
            )
        })
        .collect();
    TableIterator::new(rows)
}

/// A place between two characters of a text.
struct Place<'a> {
    text: Text<'a>,
    counting: Counting,
    /// Characters of UTF-8 before it.
    unicode: usize,
    /// Characters before it as `substring` counts them.
    characters: usize,
    /// Bytes before it in the encoding of the database.
    bytes: usize,
}

/// How characters of the server and of UTF-8 go together.
enum Counting {
    /// One is one.
    Alike,
    /// The server counts bytes, which are those of UTF-8.
    Bytes,
    /// Some of the server's are several of UTF-8.
    Uneven(i32),
}

impl<'a> Place<'a> {
    /// The beginning of a text.
    fn first(text: Text<'a>) -> Self {
        let counting = match Encoding::of_database() {
            Encoding::Utf8 => Counting::Alike,
            Encoding::None => Counting::Bytes,
            Encoding::Other(number) => {
                let bytes = text.in_server();
                // SAFETY: counts the characters of a text.
                let count = unsafe {
                    pg_sys::pg_mbstrlen_with_len(bytes.as_ptr().cast(), bytes.len() as i32)
                };
                // None of the server's is less than one.
                match count as usize == text.chars().count() {
                    true => Counting::Alike,
                    false => Counting::Uneven(number),
                }
            }
        };
        Place {
            text,
            counting,
            unicode: 0,
            characters: 0,
            bytes: 0,
        }
    }

    /// Goes on to the place after so many characters of UTF-8.
    fn move_to(&mut self, unicode: usize) {
        let count = unicode.saturating_sub(self.unicode);
        let rest = &self.text.in_server()[self.bytes..];
        match self.counting {
            Counting::Alike => {
                // SAFETY: tells how many bytes the next characters of a text have.
                self.bytes += unsafe {
                    pg_sys::pg_mbcharcliplen(rest.as_ptr().cast(), rest.len() as i32, count as i32)
                } as usize;
                self.characters += count;
                self.unicode += count;
            }
            Counting::Bytes => {
                let following = self.text[self.bytes..].char_indices().nth(count);
                let len = following.map_or(rest.len(), |(at, _)| at);
                self.bytes += len;
                self.characters += len;
                self.unicode += count;
            }
            Counting::Uneven(encoding) => {
                while self.unicode < unicode && self.bytes < self.text.in_server().len() {
                    self.step(encoding);
                }
            }
        }
    }

    /// Goes on by one character of the server.
    fn step(&mut self, encoding: i32) {
        let rest = &self.text.in_server()[self.bytes..];
        // SAFETY: reads the first bytes of a character of a text. What is converted of it
        // lives as long as the call.
        let (len, count) = unsafe {
            let len = pg_sys::pg_encoding_mblen(encoding, rest.as_ptr().cast());
            let len = (len.max(1) as usize).min(rest.len());
            (len, from_server(&rest[..len]).chars().count())
        };
        self.bytes += len;
        self.characters += 1;
        self.unicode += count;
    }
}
