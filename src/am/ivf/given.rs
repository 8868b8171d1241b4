//! Centroids out of a table.
//!
//! The option names the table. Beside it, the index depends on the table in `pg_depend`: so
//! the table cannot be dropped without the index, which is built anew by REINDEX, TRUNCATE
//! and whatever else rewrites the indexed table; and a table that was renamed is found all
//! the same.

#![allow(unsafe_code)]

use ann::ivf::layout::MAX_LISTS;
use memory::vec::reserve;
use pgrx::prelude::*;

use super::build::{Plan, check_budget};
use crate::allocator;
use crate::am::open::RowContext;
use crate::encoding::{ServerText, argument};
use crate::errors::{notice, raise, raise_with_hint, warning};

/// A table of centroids.
struct Table {
    oid: pg_sys::Oid,
    /// Its name with its schema: from PostgreSQL 17 on, commands that build indexes look
    /// names up in no schema but the server's.
    name: String,
    is_temporary: bool,
    /// Whether the option alone leads to it, whatever the search path is.
    is_named: bool,
}

fn wrong(message: String, hint: &str) -> ! {
    raise_with_hint(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        message,
        hint,
    )
}

/// The tables that an index depends on as on one of centroids. (An expression may depend on
/// another table, but hardly on one with a single column of the index's type.)
const DEPENDS_ON: &str = "
    SELECT d.refobjid, d.objid OPERATOR(pg_catalog.=) $1 AS is_own
      FROM pg_catalog.pg_depend d
      JOIN pg_catalog.pg_index i ON i.indexrelid OPERATOR(pg_catalog.=) d.objid
      JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) d.objid
     WHERE d.classid OPERATOR(pg_catalog.=) 1259::pg_catalog.oid
       AND d.refclassid OPERATOR(pg_catalog.=) 1259::pg_catalog.oid
       AND d.refobjsubid OPERATOR(pg_catalog.=) 0 AND d.deptype OPERATOR(pg_catalog.=) 'n'
       AND i.indrelid OPERATOR(pg_catalog.=) $2 AND d.refobjid OPERATOR(pg_catalog.<>) $2
       AND (d.objid OPERATOR(pg_catalog.=) $1
            OR c.reloptions OPERATOR(pg_catalog.@>)
               ARRAY[pg_catalog.concat('centroids=', $4::pg_catalog.text)])
       AND 1::pg_catalog.int8 OPERATOR(pg_catalog.=)
           (SELECT pg_catalog.count(*) FROM pg_catalog.pg_attribute a
             WHERE a.attrelid OPERATOR(pg_catalog.=) d.refobjid
               AND a.atttypid OPERATOR(pg_catalog.=) $3
               AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped)";

/// Finds the table that the option of an index names: without a schema, in that of the
/// indexed table or else on the search path (which maintenance commands restrict from
/// PostgreSQL 17 on); where there is none of this name, the one that the index depends on,
/// or, while it is built beside another one that it is to replace, that one.
fn find(
    client: &spi::SpiClient<'_>,
    (index, heap, kind): (pg_sys::Oid, pg_sys::Oid, pg_sys::Oid),
    name: &str,
) -> Result<Option<Table>, spi::Error> {
    let rows = client.select(
        &format!(
            "WITH depends AS ({DEPENDS_ON}),
            named AS (SELECT pg_catalog.to_regclass(
                CASE WHEN pg_catalog.array_length(pg_catalog.parse_ident($4), 1)
                          OPERATOR(pg_catalog.=) 1 THEN pg_catalog.concat(
                        pg_catalog.quote_ident(n.nspname::pg_catalog.text), '.', $4)
                    ELSE $4 END) AS oid
                FROM pg_catalog.pg_class c
                JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
               WHERE c.oid OPERATOR(pg_catalog.=) $2),
            found AS (SELECT n.oid AS named, coalesce(
                n.oid,
                pg_catalog.to_regclass($4),
                (SELECT refobjid::pg_catalog.regclass FROM depends
                  ORDER BY is_own DESC LIMIT 1)) AS oid
                FROM named n)
            SELECT c.oid,
                   pg_catalog.concat(CASE WHEN c.relpersistence OPERATOR(pg_catalog.=) 't'
                                          THEN 'pg_temp'
                                          ELSE pg_catalog.quote_ident(n.nspname::pg_catalog.text)
                                     END, '.',
                                     pg_catalog.quote_ident(c.relname::pg_catalog.text)),
                   c.relpersistence OPERATOR(pg_catalog.=) 't',
                   f.named IS NOT NULL
              FROM found f
              JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) f.oid
              JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace"
        ),
        Some(1),
        &[index.into(), heap.into(), kind.into(), argument(name)],
    )?;
    let mut found = None;
    for row in rows {
        if let (Some(oid), Some(name), Some(is_temporary), Some(is_named)) = (
            row.get(1)?,
            row.get::<ServerText>(2)?,
            row.get(3)?,
            row.get(4)?,
        ) {
            found = Some(Table {
                oid,
                name: name.to_utf8(),
                is_temporary,
                is_named,
            });
        }
    }
    Ok(found)
}

/// Makes an index depend on a table of centroids, or on none, and on no other one.
///
/// # Safety
///
/// `index` is open.
unsafe fn depend(
    client: &spi::SpiClient<'_>,
    index: pg_sys::Relation,
    on: Option<&Table>,
) -> Result<(), spi::Error> {
    // SAFETY: the caller gives an open index.
    let (oid, heap, kind) = unsafe {
        let oid = (*index).rd_id;
        (oid, (*(*index).rd_index).indrelid, *(*index).rd_opcintype)
    };
    let none: Option<&str> = None;
    let rows = client.select(
        DEPENDS_ON,
        None,
        &[oid.into(), heap.into(), kind.into(), none.into()],
    )?;
    let mut is_there = false;
    let mut others = Vec::new();
    for row in rows {
        match row.get::<pg_sys::Oid>(1)? {
            Some(table) if on.is_some_and(|on| on.oid == table) => is_there = true,
            Some(table) => others.push(table),
            None => {}
        }
    }
    let class = pg_sys::RelationRelationId;
    for other in others {
        // SAFETY: changes the catalog of dependencies.
        unsafe {
            pg_sys::deleteDependencyRecordsForSpecific(class, oid, b'n' as _, class, other);
        }
    }
    if let Some(table) = on.filter(|_| !is_there) {
        let address = |object| pg_sys::ObjectAddress {
            classId: class,
            objectId: object,
            objectSubId: 0,
        };
        // SAFETY: as above.
        unsafe {
            pg_sys::recordDependencyOn(
                &address(oid),
                &address(table.oid),
                pg_sys::DependencyType::DEPENDENCY_NORMAL,
            );
        }
    }
    Ok(())
}

/// Runs `work` with a snapshot. The commit that empties a temporary table builds its indexes
/// anew, after the snapshot is gone.
fn with_snapshot<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: what is pushed is popped; an ERROR leaves that to the server.
    unsafe {
        let is_commit = !pg_sys::ActiveSnapshotSet();
        if is_commit {
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        let result = work();
        if is_commit {
            pg_sys::PopActiveSnapshot();
        }
        result
    }
}

/// An index whose centroids come from a sample depends on no table of centroids.
///
/// # Safety
///
/// `index` is open.
pub unsafe fn forget(index: pg_sys::Relation) {
    // SAFETY: passed on.
    let result = with_snapshot(|| Spi::connect(|client| unsafe { depend(client, index, None) }));
    if let Err(error) = result {
        raise(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("dependencies of an index cannot be read: {error}"),
        );
    }
}

/// Whether the index is being made, and not made anew.
///
/// # Safety
///
/// `index` is open.
unsafe fn is_new(index: pg_sys::Relation) -> bool {
    /// `InvalidSubTransactionId` (c.h).
    const NONE: pg_sys::SubTransactionId = 0;
    // SAFETY: the caller gives an open index. What CREATE INDEX CONCURRENTLY builds was
    // made by an earlier transaction, and takes no rows yet.
    unsafe { (*index).rd_createSubid != NONE || !(*(*index).rd_index).indisready }
}

/// The vectors of a table of centroids, loaded: of its one column of the index's type. The
/// index depends on the table from now on. It may be empty if the index is, as where a
/// schema is restored without its data.
///
/// `None` and a WARNING if the table of an index that is made anew is gone: TRUNCATE and
/// what rewrites the indexed table must go on. (An ALTER TABLE that makes an index again
/// without building it forgets what the index depends on.)
///
/// # Safety
///
/// An open index and its table.
pub(super) unsafe fn centroids(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    plan: &Plan,
    name: &str,
) -> Option<Vec<f32>> {
    // SAFETY: reads a table with the rights of the index's owner, as whom an index
    // is built.
    unsafe {
        let kind = *(*index).rd_opcintype;
        let result = with_snapshot(|| {
            Spi::connect(|client| {
                let Some(table) = find(client, ((*index).rd_id, (*heap).rd_id, kind), name)? else {
                    missing(name, is_new(index));
                    return Ok(None);
                };
                let is_temporary =
                    (*(*index).rd_rel).relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP;
                if table.is_temporary && !is_temporary {
                    raise_with_hint(
                        PgSqlErrorCode::ERRCODE_INVALID_TABLE_DEFINITION,
                        format!(
                            "centroids of a permanent index cannot come from the temporary table {}",
                            table.name
                        ),
                        "REINDEX and TRUNCATE read the table again. Take a permanent one.",
                    );
                }
                if !table.is_named && !is_temporary {
                    notice(
                        format!(
                            "a dump of the index will not find its centroids by the name \"{name}\""
                        ),
                        None,
                        Some(&format!(
                            "ALTER INDEX ... SET (centroids = '{}').",
                            table.name
                        )),
                    );
                }
                let values = read(client, plan, &table, kind)?;
                depend(client, index, Some(&table))?;
                Ok::<_, spi::Error>(Some((values, table.name)))
            })
        });
        let (values, table) = match result {
            Ok(read) => read?,
            Err(error) => wrong(
                format!("centroids cannot be read from {name}: {error}"),
                "Name a table.",
            ),
        };
        let lists = values.len() / plan.codec.padded();
        let main = pg_sys::ForkNumber::MAIN_FORKNUM;
        if lists == 0 && pg_sys::RelationGetNumberOfBlocksInFork(heap, main) == 0 {
            notice(
                format!("table {table} has no centroids: the index gets one list"),
                None,
                Some("REINDEX when both tables have rows."),
            );
            return Some(values);
        }
        if lists == 0 || lists > MAX_LISTS as usize {
            wrong(
                format!("table {table} has {lists} centroids"),
                &format!("An index has 1 to {MAX_LISTS} lists."),
            );
        }
        Some(values)
    }
}

/// Says that there is no table of this name: an ERROR where the index is new.
fn missing(name: &str, is_new: bool) {
    let message = format!("relation \"{name}\" with the centroids of an index does not exist");
    let hint = "Name it with its schema: ALTER INDEX ... SET (centroids = 'schema.table').";
    if is_new {
        raise_with_hint(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, message, hint);
    }
    let detail = "The index takes centroids from a sample of its own table.";
    warning(message, Some(detail.to_owned()), Some(hint));
}

/// Reads the vectors of a table.
///
/// # Safety
///
/// `kind` is the type of the plan's index.
unsafe fn read(
    client: &spi::SpiClient<'_>,
    plan: &Plan,
    table: &Table,
    kind: pg_sys::Oid,
) -> Result<Vec<f32>, spi::Error> {
    let columns = client.select(
        "SELECT pg_catalog.quote_ident(attname::pg_catalog.text) FROM pg_catalog.pg_attribute
          WHERE attrelid OPERATOR(pg_catalog.=) $1 AND atttypid OPERATOR(pg_catalog.=) $2
            AND attnum OPERATOR(pg_catalog.>) 0 AND NOT attisdropped",
        None,
        &[table.oid.into(), kind.into()],
    )?;
    let columns: Vec<ServerText> = columns
        .filter_map(|row| row.get::<ServerText>(1).ok().flatten())
        .collect();
    let Table { name, .. } = table;
    let [column] = &columns[..] else {
        wrong(
            format!(
                "table {name} has {} columns of the index's type, not one",
                columns.len()
            ),
            "Centroids are read from a table with one column of vectors.",
        );
    };
    let column = column.to_utf8();
    let query = format!("SELECT {column} FROM {name} WHERE {column} IS NOT NULL");
    let rows = client.select(
        &ServerText::new(&query).into_c_string(),
        Some(i64::from(MAX_LISTS) + 1),
        &[],
    )?;
    let mut values = Vec::new();
    let mut loaded = vec![0.0; plan.codec.padded()];
    // SAFETY: used for as long as this function, whose caller has the current context.
    let mut context = unsafe { RowContext::new() };
    for row in rows {
        pgrx::check_for_interrupts!();
        allocator::check();
        let Some(vector) = row.get::<pgrx::AnyElement>(1)? else {
            continue;
        };
        check_budget(values.len() / plan.codec.padded() + 1, plan);
        let mut load = || {
            // SAFETY: the column is of the index's type.
            let value = unsafe { plan.reader.read(vector.datum()) };
            if plan.codec.load(value.as_vector(), &mut loaded).is_some() {
                let room = reserve(&mut values, loaded.len(), "the centroids");
                allocator::unwrap(room);
                values.extend_from_slice(&loaded);
            }
        };
        // SAFETY: what is loaded is a copy.
        unsafe { context.run_and_reset(&mut load) };
    }
    Ok(values)
}
