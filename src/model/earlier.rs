//! Models as version 0.1.0 kept them: the files of each model beside it, under its name,
//! and roles as the server's `regrole`.
//!
//! They are read, so that embedding goes on until `ALTER EXTENSION insitu UPDATE`, and so
//! that a dump of that version, which may compute generated columns, can be restored.
//! They are not written (`release::check_same`).

#![allow(unsafe_code)]

use std::ops::ControlFlow;

use pgrx::prelude::*;

use super::catalog::{Model, StoredFile, append_part, model_table};
use super::scan::{self, Key};
use crate::allocator;
use crate::encoding::Text;

/// Where a file of a model is.
#[derive(Clone)]
pub struct File {
    model: String,
    kind: &'static str,
}

/// Whether the tables are those of version 0.1.0.
pub fn is_in_use() -> bool {
    // SAFETY: reads the catalog.
    unsafe { pg_sys::get_attnum(model_table(), c"graph".as_ptr()) == 0 }
}

/// The model of this name, if there is one.
pub fn find(name: &str) -> Option<Model> {
    // Columns of text have the database's collation, in whose order keys are not looked up.
    let key = Key::Text(name);
    let mut model = scan::rows(c"model", c"", &[(c"name", key)], |row| {
        let file = |kind| {
            StoredFile::earlier(File {
                model: name.to_owned(),
                kind,
            })
        };
        ControlFlow::Break(Model {
            id: pgrx::Uuid::from_bytes([0; 16]),
            sha256: row.get(c"sha256").unwrap_or_default(),
            settings: row.json(c"settings").unwrap_or_default(),
            graph: file("graph"),
            tokenizer: file("tokenizer"),
            bytes: row.get(c"bytes").unwrap_or(0),
            owner: row.get(c"owner"),
            grantees: Vec::new(),
        })
    })?;
    scan::rows(c"model_grant", c"", &[(c"model", key)], |row| {
        model.grantees.extend(row.get::<pg_sys::Oid>(c"grantee"));
        ControlFlow::<()>::Continue(())
    });
    Some(model)
}

/// The bytes of a file, or the number of a part that is missing.
pub fn read_file(file: &File) -> Result<Vec<u8>, i32> {
    let mut bytes = Vec::new();
    let keys = [
        (c"model", Key::Text(&file.model)),
        (c"file", Key::Text(file.kind)),
    ];
    // They count from 0 there.
    for part in 0_i32.. {
        let keys = [keys[0], keys[1], (c"part", Key::Integer(part))];
        match append_part(c"", &keys, &mut bytes) {
            Some(()) => (),
            None if part == 0 => return Err(part),
            None => break,
        }
    }
    Ok(bytes)
}

/// The SHA-256 of a file, for the script that updates the extension.
#[pg_extern(sql = false)]
fn earlier_file_sha256(model: Text<'_>, kind: Text<'_>) -> Option<String> {
    let kind = match &*kind {
        "graph" => "graph",
        _ => "tokenizer",
    };
    let bytes = read_file(&File {
        model: (*model).to_owned(),
        kind,
    });
    allocator::check();
    bytes.ok().map(|bytes| encoder::file_sha256(&bytes))
}
