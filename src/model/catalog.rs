//! The tables of models: `insitu.model`, `insitu.model_part` and
//! `insitu.model_grant` (see `sql/models.sql`).
//!
//! They belong to the owner of the extension and are closed to others, so they
//! are read past all rights (`scan`) and written with that owner's rights; who may
//! do what is decided in `access` before.
//!
//! Models share files that are equal: each is stored once, under its SHA-256, and
//! removed with the last model that has it. Locks keep loads and drops of a name
//! or of a file apart until their transactions end.

#![allow(unsafe_code)]

use std::collections::HashSet;
use std::ffi::CStr;
use std::ops::ControlFlow;

use ::memory::check_available;
use encoder::{CompiledModel, Settings, file_sha256};
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;

use super::scan::{self, Key, Row};
use super::session;
use super::{earlier, role};
use crate::allocator;
use crate::encoding::argument;
use crate::errors::{raise, raise_with_hint};
use crate::release;
use crate::security::run_as;

/// Files are kept in parts of so many bytes: a single value of `bytea` could
/// not hold more than 1 GB, and a dump writes each as one line.
const PART_LEN: usize = 8 << 20;

/// What memory is asked for.
const PARTS: &str = "the bytes of a model";

/// A model's row, without its bytes.
pub struct Model {
    /// Stays when the name changes.
    pub id: pgrx::Uuid,
    pub sha256: String,
    /// JSON, which somebody may have edited.
    pub settings: String,
    pub graph: StoredFile,
    pub tokenizer: StoredFile,
    /// Of graph and tokenizer.
    pub bytes: i64,
    /// The role, or nobody, if it is one that was unknown where the model was restored.
    pub owner: Option<pg_sys::Oid>,
    /// Roles that were granted the model; `InvalidOid` is PUBLIC.
    pub grantees: Vec<pg_sys::Oid>,
}

/// A graph or a tokenizer in `insitu.model_part`.
#[derive(Clone)]
pub struct StoredFile {
    pub sha256: String,
    /// They count from 1.
    parts: i32,
    /// Where version 0.1.0 kept it; then it has no SHA-256 of its own.
    earlier: Option<earlier::File>,
}

impl StoredFile {
    /// A file of version 0.1.0.
    pub fn earlier(file: earlier::File) -> Self {
        StoredFile {
            sha256: String::new(),
            parts: 0,
            earlier: Some(file),
        }
    }
}

impl Model {
    /// The settings, or an ERROR if they cannot be read.
    pub fn settings(&self, name: &str) -> Settings {
        serde_json::from_str(&self.settings).unwrap_or_else(|_| {
            raise_with_hint(
                PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                format!("the settings of model \"{name}\" cannot be read"),
                LOAD_AGAIN,
            )
        })
    }
}

/// What helps against a model that is damaged.
pub const LOAD_AGAIN: &str =
    "Drop the model, with force => true if something needs it, and load it again.";

/// Runs `work` with the rights of the owner of the tables.
pub fn as_owner<R>(work: impl FnOnce() -> R) -> R {
    run_as(table_owner(), work)
}

/// The table `insitu.model`.
pub fn model_table() -> pg_sys::Oid {
    scan::table(c"model")
}

fn table_owner() -> pg_sys::Oid {
    // SAFETY: reads the catalog; the tuple is released after its owner is read.
    unsafe {
        let table = model_table();
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::RELOID as i32,
            pg_sys::Datum::from(table),
        );
        if tuple.is_null() {
            raise(
                PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
                "the table insitu.model does not exist",
            );
        }
        let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>();
        let owner = (*form).relowner;
        pg_sys::ReleaseSysCache(tuple);
        owner
    }
}

/// Tells all sessions, when the transaction commits, that the tables have changed.
/// Their triggers do so too, but may be off.
pub fn announce_change() {
    // SAFETY: the table exists.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(model_table()) };
}

/// Raises an ERROR where nothing can be written, on a standby, in a transaction that only
/// reads, and to the tables of another version of the extension, before a long computation is in vain.
pub fn check_writable(function: &CStr) {
    // SAFETY: reads the state of the session; the server copies the name.
    unsafe {
        pg_sys::PreventCommandDuringRecovery(function.as_ptr());
        pg_sys::PreventCommandIfReadOnly(function.as_ptr());
    }
    release::check_same();
}

/// Keeps others from loading, dropping or (unless it is `shared`) granting a model of
/// this name until the transaction ends.
pub fn lock_name(name: &str, shared: bool) {
    let mode = if shared {
        pg_sys::ShareLock
    } else {
        pg_sys::AccessExclusiveLock
    };
    lock("name", name, mode);
}

/// Keeps others from storing and removing these files until the transaction ends.
fn lock_files(files: [&str; 2]) {
    // In one order, whoever locks them.
    let [first, second] = if files[0] <= files[1] {
        files
    } else {
        [files[1], files[0]]
    };
    lock("file", first, pg_sys::AccessExclusiveLock);
    lock("file", second, pg_sys::AccessExclusiveLock);
}

/// Locks something that has no number in the server's catalogs by a hash: two that
/// have the same one wait for each other in vain, no more.
fn lock(kind: &str, name: &str, mode: u32) {
    let bytes = kind.bytes().chain(name.bytes());
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    // SAFETY: the lock is the transaction's, and goes with it.
    unsafe {
        pg_sys::LockDatabaseObject(
            model_table(),
            pg_sys::Oid::from(hash),
            0,
            mode as pg_sys::LOCKMODE,
        );
    }
}

/// Runs a statement and returns the number of its rows, or an ERROR.
fn run(query: &str, arguments: &[DatumWithOid<'_>]) -> usize {
    let rows = Spi::connect_mut(|client| Ok(client.update(query, None, arguments)?.len()));
    match rows {
        Ok(rows) => rows,
        Err::<usize, pgrx::spi::Error>(error) => raise(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("could not use the tables of models: {error}"),
        ),
    }
}

/// The model of this name, if there is one.
pub fn find(name: &str) -> Option<Model> {
    if earlier::is_in_use() {
        return earlier::find(name);
    }
    let mut model = scan::rows(
        c"model",
        c"model_pkey",
        &[(c"name", Key::Text(name))],
        |row| ControlFlow::Break(from_row(row)),
    )?;
    scan::rows(
        c"model_grant",
        c"model_grant_pkey",
        &[(c"model", Key::Uuid(model.id))],
        |row| {
            let grantee = row.get(c"grantee").and_then(role::oid);
            model.grantees.extend(grantee);
            ControlFlow::<()>::Continue(())
        },
    );
    Some(model)
}

fn from_row(row: &Row) -> Model {
    let text = |column| row.get::<String>(column).unwrap_or_default();
    let number = |column| row.get::<i32>(column).unwrap_or(0);
    Model {
        id: row.get(c"id").unwrap_or(pgrx::Uuid::from_bytes([0; 16])),
        sha256: text(c"sha256"),
        settings: row.json(c"settings").unwrap_or_default(),
        graph: StoredFile {
            sha256: text(c"graph"),
            parts: number(c"graph_parts"),
            earlier: None,
        },
        tokenizer: StoredFile {
            sha256: text(c"tokenizer"),
            parts: number(c"tokenizer_parts"),
            earlier: None,
        },
        bytes: row.get(c"bytes").unwrap_or(0),
        owner: row.get(c"owner").and_then(role::oid),
        grantees: Vec::new(),
    }
}

/// The SHA-256 of every model.
pub fn all_sha256() -> HashSet<String> {
    let mut found = HashSet::new();
    scan::rows(c"model", c"", &[], |row| {
        found.extend(row.get::<String>(c"sha256"));
        ControlFlow::<()>::Continue(())
    });
    found
}

/// The bytes of a file, or the number of a part that is missing.
pub fn read_file(file: &StoredFile) -> Result<Vec<u8>, i32> {
    if let Some(earlier) = &file.earlier {
        return earlier::read_file(earlier);
    }
    let mut bytes = Vec::new();
    for part in 1..=file.parts {
        let keys = [
            (c"file", Key::Text(&file.sha256)),
            (c"part", Key::Integer(part)),
        ];
        append_part(c"model_part_pkey", &keys, &mut bytes).ok_or(part)?;
    }
    Ok(bytes)
}

/// Appends one part of a file, so that the file is in memory only once.
pub fn append_part(index: &CStr, keys: &[(&CStr, Key<'_>)], bytes: &mut Vec<u8>) -> Option<()> {
    pgrx::check_for_interrupts!();
    allocator::check();
    // The server reads it once more.
    allocator::unwrap(check_available(3 * PART_LEN, PARTS));
    scan::rows(c"model_part", index, keys, |row| {
        row.append_bytes(c"data", bytes);
        ControlFlow::Break(())
    })
}

/// Stores a file, unless it is there; parts of it that are damaged are mended. The
/// caller has locked it.
fn store_file(sha256: &str, bytes: &[u8]) -> i32 {
    // An empty file has one part, too.
    let mut parts: Vec<&[u8]> = bytes.chunks(PART_LEN).collect();
    if parts.is_empty() {
        parts.push(&[]);
    }
    for (part, &data) in (1_i32..).zip(&parts) {
        pgrx::check_for_interrupts!();
        allocator::check();
        run(
            "INSERT INTO insitu.model_part AS p (file, part, data) VALUES ($1, $2, $3)
             ON CONFLICT (file, part) DO UPDATE SET data = excluded.data
             WHERE p.data OPERATOR(pg_catalog.<>) excluded.data",
            &[sha256.into(), part.into(), data.into()],
        );
    }
    // A file of 2^31 parts would be one of 2^54 bytes.
    parts.len() as i32
}

/// Stores a model under a name that is free and locked.
pub fn store(name: &str, model: &CompiledModel, owner: pg_sys::Oid) {
    let settings = serde_json::to_string(&model.settings).unwrap_or_default();
    let bytes = (model.graph.len() + model.tokenizer.len()) as i64;
    let (sha256, graph, tokenizer) = session::uninterrupted(|| {
        let (graph, tokenizer) = (file_sha256(&model.graph), file_sha256(&model.tokenizer));
        Ok((model.sha256(), graph, tokenizer))
    });
    lock_files([&graph, &tokenizer]);
    as_owner(|| {
        let graph_parts = store_file(&graph, &model.graph);
        let tokenizer_parts = store_file(&tokenizer, &model.tokenizer);
        forget_dropped_roles();
        run(
            "INSERT INTO insitu.model (name, sha256, settings, graph, graph_parts,
                                       tokenizer, tokenizer_parts, bytes, owner)
             VALUES ($1, $2, $3::pg_catalog.jsonb, $4, $5, $6, $7, $8, $9::insitu.role)",
            &[
                argument(name),
                sha256.into(),
                argument(&settings),
                graph.as_str().into(),
                graph_parts.into(),
                tokenizer.as_str().into(),
                tokenizer_parts.into(),
                bytes.into(),
                role::stored(owner).into(),
            ],
        );
    });
    announce_change();
}

/// Removes a model that is locked, its grants, and those of its files that no other
/// model has.
pub fn remove(name: &str, model: &Model) {
    let files = [&*model.graph.sha256, &*model.tokenizer.sha256];
    lock_files(files);
    as_owner(|| {
        run(
            "DELETE FROM insitu.model_grant g WHERE g.model OPERATOR(pg_catalog.=) $1",
            &[model.id.into()],
        );
        forget_dropped_roles();
        let removed = run(
            "DELETE FROM insitu.model m WHERE m.id OPERATOR(pg_catalog.=) $1",
            &[model.id.into()],
        );
        if removed == 0 {
            // It is there, but came after the snapshot of a transaction that has only one.
            raise_with_hint(
                PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
                format!("model \"{name}\" was changed by another transaction"),
                "Try again in a new transaction.",
            );
        }
        for file in files {
            if !is_in_use(file) {
                run(
                    "DELETE FROM insitu.model_part p WHERE p.file OPERATOR(pg_catalog.=) $1",
                    &[file.into()],
                );
            }
        }
    });
    announce_change();
}

/// Whether a model has this file, by now.
fn is_in_use(file: &str) -> bool {
    scan::rows(c"model", c"", &[], |row| {
        let has = |column| {
            row.get::<String>(column)
                .is_some_and(|sha256| sha256 == file)
        };
        if has(c"graph") || has(c"tokenizer") {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })
    .is_some()
}

/// Removes grants to roles that are gone, before another role can get their number.
fn forget_dropped_roles() {
    run(
        "DELETE FROM insitu.model_grant g WHERE (g.model, g.grantee::bigint) IN (
            SELECT v.model, v.grantee::bigint FROM insitu.model_grant v
             WHERE v.grantee::bigint OPERATOR(pg_catalog.<>) 0
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r
                     WHERE r.oid::bigint OPERATOR(pg_catalog.=) v.grantee::bigint)
               FOR UPDATE SKIP LOCKED)",
        &[],
    );
}

/// Lets a role use a model; `InvalidOid` is PUBLIC.
pub fn add_grant(model: &Model, grantee: pg_sys::Oid) {
    as_owner(|| {
        forget_dropped_roles();
        run(
            "INSERT INTO insitu.model_grant (model, grantee)
             VALUES ($1, $2::insitu.role) ON CONFLICT DO NOTHING",
            &[model.id.into(), role::stored(grantee).into()],
        );
    });
    announce_change();
}

/// Takes a grant back.
pub fn remove_grant(model: &Model, grantee: pg_sys::Oid) {
    as_owner(|| {
        run(
            "DELETE FROM insitu.model_grant g
              WHERE g.model OPERATOR(pg_catalog.=) $1
                AND g.grantee::bigint OPERATOR(pg_catalog.=) $2",
            &[model.id.into(), role::stored(grantee).into()],
        );
        forget_dropped_roles();
    });
    announce_change();
}
