//! The tables of models: `insitu.model`, `insitu.model_part` and
//! `insitu.model_grant` (see `sql/models.sql`).
//!
//! They belong to the owner of the extension and are closed to others, so they
//! are read and written with that owner's rights; who may do what is decided in
//! `access` before.

#![allow(unsafe_code)]

use std::collections::HashSet;

use encoder::{CompiledModel, Settings};
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;

use crate::errors::{raise, raise_with_hint};
use crate::security::run_as;

/// Files are kept in parts of so many bytes: a single value of `bytea` could
/// not hold more than 1 GB, and a dump writes each as one line.
const PART_LEN: usize = 8 << 20;

/// A model's row, without its bytes.
pub struct Model {
    pub sha256: String,
    pub settings: Settings,
    /// Of graph and tokenizer.
    pub bytes: i64,
    pub owner: pg_sys::Oid,
    /// Roles that were granted the model; `InvalidOid` is PUBLIC.
    pub grantees: Vec<pg_sys::Oid>,
}

/// Runs `work` with the rights of the owner of the tables.
pub fn as_owner<R>(work: impl FnOnce() -> R) -> R {
    run_as(table_owner(), work)
}

/// The table `insitu.model`.
pub fn model_table() -> pg_sys::Oid {
    // SAFETY: reads the catalog.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"insitu".as_ptr(), false);
        pg_sys::get_relname_relid(c"model".as_ptr(), schema)
    }
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

/// What a query gave, or an ERROR.
fn unwrap<T>(result: Result<T, pgrx::spi::Error>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => raise(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("could not use the tables of models: {error}"),
        ),
    }
}

fn run(query: &str, arguments: &[DatumWithOid<'_>]) {
    unwrap(Spi::run_with_args(query, arguments));
}

/// Runs `work` with a snapshot of this moment, as the server looks into its own
/// catalogs: what was committed before it is seen, and of what is committed
/// after it a message comes.
fn with_fresh_snapshot<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: the snapshot is copied when it is pushed; an ERROR pops it.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetCatalogSnapshot(model_table()));
        let result = work();
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// The model of this name, if there is one.
pub fn find(name: &str) -> Option<Model> {
    let found = with_fresh_snapshot(|| {
        as_owner(|| {
            Spi::connect(|client| {
                let rows = client.select(
                    "SELECT m.sha256, m.settings::pg_catalog.text, m.owner::pg_catalog.oid,
                        ARRAY(SELECT g.grantee::pg_catalog.oid FROM insitu.model_grant g
                               WHERE g.model OPERATOR(pg_catalog.=) m.name),
                        m.bytes
                   FROM insitu.model m WHERE m.name OPERATOR(pg_catalog.=) $1",
                    Some(1),
                    &[name.into()],
                )?;
                if rows.is_empty() {
                    return Ok(None);
                }
                let row = rows.first();
                let (sha256, settings) = row.get_two::<String, String>()?;
                let owner = row.get::<pg_sys::Oid>(3)?;
                let grantees = row.get::<Vec<pg_sys::Oid>>(4)?;
                let bytes = row.get::<i64>(5)?;
                Ok::<_, pgrx::spi::Error>(Some((sha256, settings, owner, grantees, bytes)))
            })
        })
    });
    let (sha256, settings, owner, grantees, bytes) = unwrap(found)?;
    let settings = serde_json::from_str(&settings.unwrap_or_default());
    let Ok(settings) = settings else {
        raise_with_hint(
            PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            format!("the settings of model \"{name}\" cannot be read"),
            "Drop the model and load it again.",
        )
    };
    Some(Model {
        sha256: sha256.unwrap_or_default(),
        settings,
        bytes: bytes.unwrap_or(0),
        owner: owner.unwrap_or(pg_sys::InvalidOid),
        grantees: grantees.unwrap_or_default(),
    })
}

/// The SHA-256 of every model.
pub fn all_sha256() -> HashSet<String> {
    let found = with_fresh_snapshot(|| {
        as_owner(|| {
            Spi::connect(|client| {
                let rows = client.select("SELECT m.sha256 FROM insitu.model m", None, &[])?;
                let values = rows.map(|row| row.get::<String>(1));
                values.collect::<Result<Vec<_>, pgrx::spi::Error>>()
            })
        })
    });
    unwrap(found).into_iter().flatten().collect()
}

/// The bytes of one of a model's files, `graph` or `tokenizer`.
pub fn read_file(name: &str, file: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in 0.. {
        pgrx::check_for_interrupts!();
        // One part at a time, so that the file is in memory only once.
        let data = as_owner(|| {
            Spi::connect(|client| {
                let rows = client.select(
                    "SELECT p.data FROM insitu.model_part p
                      WHERE p.model OPERATOR(pg_catalog.=) $1
                        AND p.file OPERATOR(pg_catalog.=) $2
                        AND p.part OPERATOR(pg_catalog.=) $3",
                    Some(1),
                    &[name.into(), file.into(), part.into()],
                )?;
                if rows.is_empty() {
                    return Ok(None);
                }
                rows.first().get_one::<Vec<u8>>()
            })
        });
        match unwrap(data) {
            Some(data) => bytes.extend(data),
            None => break,
        }
    }
    bytes
}

/// Stores a model under a name that is free.
pub fn store(name: &str, model: &CompiledModel, owner: pg_sys::Oid) {
    let settings = serde_json::to_string(&model.settings).unwrap_or_default();
    let bytes = (model.graph.len() + model.tokenizer.len()) as i64;
    as_owner(|| {
        run(
            "INSERT INTO insitu.model (name, sha256, settings, bytes, owner)
             VALUES ($1, $2, $3::pg_catalog.jsonb, $4, $5)",
            &[
                name.into(),
                model.sha256().into(),
                settings.into(),
                bytes.into(),
                owner.into(),
            ],
        );
        for (file, bytes) in [("graph", &model.graph), ("tokenizer", &model.tokenizer)] {
            for (part, data) in (0_i32..).zip(bytes.chunks(PART_LEN)) {
                pgrx::check_for_interrupts!();
                run(
                    "INSERT INTO insitu.model_part (model, file, part, data)
                     VALUES ($1, $2, $3, $4)",
                    &[name.into(), file.into(), part.into(), data.into()],
                );
            }
        }
    });
}

/// Removes a model, its parts and its grants.
pub fn remove(name: &str) {
    as_owner(|| {
        run(
            "DELETE FROM insitu.model m WHERE m.name OPERATOR(pg_catalog.=) $1",
            &[name.into()],
        );
    });
}

/// A role for a query, in which `InvalidOid` is 0, not NULL.
fn as_number(role: pg_sys::Oid) -> i64 {
    i64::from(role.to_u32())
}

/// Lets a role use a model; `InvalidOid` is PUBLIC.
pub fn add_grant(name: &str, grantee: pg_sys::Oid) {
    as_owner(|| {
        run(
            "INSERT INTO insitu.model_grant (model, grantee)
             VALUES ($1, $2::pg_catalog.oid::pg_catalog.regrole) ON CONFLICT DO NOTHING",
            &[name.into(), as_number(grantee).into()],
        );
    });
}

/// Takes a grant back.
pub fn remove_grant(name: &str, grantee: pg_sys::Oid) {
    as_owner(|| {
        run(
            "DELETE FROM insitu.model_grant g
              WHERE g.model OPERATOR(pg_catalog.=) $1
                AND g.grantee::pg_catalog.oid OPERATOR(pg_catalog.=) $2::pg_catalog.oid",
            &[name.into(), as_number(grantee).into()],
        );
    });
}
