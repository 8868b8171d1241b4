//! `insitu.embed_table`: embeds the rows that have a text and no vector, in batches
//! that are committed.
//!
//! A procedure of the server's interface for C may commit, keeps the caller's settings
//! as they are, and can tell beforehand whether it may commit at all.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::time::{Duration, Instant};

use pgrx::fcinfo::{pg_arg_is_null, pg_getarg};
use pgrx::{is_a, prelude::*};

use super::auto::{check_table, model_of, name_argument, table_argument, text_argument};
use super::columns::{
    Columns, check_may_fill, check_right, qualified, quoted, shown, with_descendants,
};
use super::progress::Progress;
use super::statement::{Argument, Connection, fill};
use crate::allocator;
use crate::errors::{notice, raise, raise_with_hint, warning};

const MOST_ROWS: i32 = 100_000;
const BETWEEN_NOTICES: Duration = Duration::from_secs(5);
/// So many passes in turn that embed no fewer rows than the one before say that rows
/// without a vector keep coming.
const PASSES_ALIKE: u32 = 3;

/// Embeds the next rows of a table after one place and before another, and tells the
/// last place, how many rows there were, how many were written, and of how many the
/// vector was taken away again. The rows are locked before they are read, so no text
/// changes meanwhile.
const NEXT_ROWS: &str = "
WITH batch AS MATERIALIZED (
    SELECT ctid AS place, {text}::pg_catalog.text AS body FROM ONLY {table}
     WHERE ctid OPERATOR(pg_catalog.>) $1 AND ctid OPERATOR(pg_catalog.<) $2
       AND {vector} IS NULL AND {text} IS NOT NULL
     LIMIT $3 FOR NO KEY UPDATE),
embedded AS MATERIALIZED (
    SELECT pg_catalog.unnest(pg_catalog.array_agg(place)) AS place,
           pg_catalog.unnest(insitu.embed($4, pg_catalog.array_agg(body))) AS vector FROM batch),
written AS (
    UPDATE ONLY {table} AS t SET {vector} = e.vector FROM embedded e
     WHERE t.ctid OPERATOR(pg_catalog.=) e.place
    RETURNING e.place, t.{vector} AS vector)
SELECT coalesce(pg_catalog.max(w.place), pg_catalog.max(e.place)),
       pg_catalog.count(*), pg_catalog.count(w.place),
       pg_catalog.count(*) FILTER (WHERE w.place IS NOT NULL AND w.vector IS NULL)
  FROM embedded e LEFT JOIN written w ON w.place OPERATOR(pg_catalog.=) e.place";

/// A place of a row.
type Tid = pg_sys::ItemPointerData;

fn tid(block: u32, offset: u16) -> Tid {
    let mut tid = Tid::default();
    pgrx::itemptr::item_pointer_set_all(&mut tid, block, offset);
    tid
}

/// What the call has to do, and how far it is.
struct Job {
    connection: Connection,
    /// The table that was named, for messages.
    table: CString,
    text: CString,
    vector: CString,
    model: CString,
    batch: i32,
    done: i64,
    progress: Progress,
    told: Instant,
}

/// What became of a batch.
struct Batch {
    last: Tid,
    found: i64,
    written: i64,
    lost: i64,
}

/// Embeds the rows that have a text and no vector.
#[pg_extern(sql = false)]
fn embed_table(fcinfo: pg_sys::FunctionCallInfo) {
    // SAFETY: the server calls with a call's data. The arguments are a regclass, two
    // names, a text and an integer, and are copied, because each commit is the end of
    // a transaction.
    let (table, text, vector, model, batch) = unsafe {
        check_may_commit((*fcinfo).context);
        for (i, name) in ["target", "text_column", "vector_column", "model"]
            .iter()
            .enumerate()
        {
            if pg_arg_is_null(fcinfo, i) {
                raise(
                    PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                    format!("{name} must not be null"),
                );
            }
        }
        (
            table_argument(fcinfo),
            name_argument(fcinfo, 1).to_owned(),
            name_argument(fcinfo, 2).to_owned(),
            text_argument(fcinfo, 3),
            pg_getarg::<i32>(fcinfo, 4),
        )
    };
    let Some(batch) = batch.filter(|rows| (1..=MOST_ROWS).contains(rows)) else {
        let batch = batch.map_or("null".to_owned(), |rows| rows.to_string());
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("batch is {batch}, but must be between 1 and {MOST_ROWS}"),
        )
    };
    let table_name = qualified(table).unwrap_or_default();
    check_table(table, &table_name);
    // SAFETY: only asks whether the transaction may write.
    unsafe { pg_sys::PreventCommandIfReadOnly(c"CALL insitu.embed_table".as_ptr()) };
    check_right(table, pg_sys::ACL_SELECT);
    let columns = Columns::checked(table, (&text, &vector), &model);
    warn_of_another(table, columns.vector.number, &vector, &model);

    let connection = Connection::open(true);
    let tables = with_descendants(&connection, table);
    for &(table, _) in &tables {
        check_may_fill(table, &vector);
    }
    let count = fill(
        "SELECT pg_catalog.count(*) FROM {table} WHERE {vector} IS NULL AND {text} IS NOT NULL",
        &[
            ("table", &table_name),
            ("text", &quoted(&text)),
            ("vector", &quoted(&vector)),
        ],
    );
    let total = connection
        .query(&count, &[], |row| row.count(1))
        .first()
        .copied()
        .unwrap_or(0);
    let mut job = Job {
        connection,
        table: table_name,
        text,
        vector,
        progress: Progress::begin(table, &model, total),
        model,
        batch,
        done: 0,
        told: Instant::now(),
    };
    if total > 0 {
        // What is in the way of a commit is so before anything is embedded.
        job.connection.commit();
    }
    let mut left_out = 0;
    for (table, kind) in tables {
        let Some(name) = qualified(table) else {
            continue;
        };
        match kind {
            pg_sys::RELKIND_RELATION => left_out += job.embed_rows_of(table, &name),
            pg_sys::RELKIND_FOREIGN_TABLE => warning(
                format!(
                    "rows of {} are not embedded: it is a foreign table",
                    shown(&name)
                ),
                None,
                None,
            ),
            _ => {}
        }
    }
    let Job {
        connection,
        table,
        done,
        progress,
        ..
    } = job;
    progress.end();
    connection.close();
    let table = shown(&table);
    if left_out > 0 {
        let text =
            format!("{left_out} rows of {table} have no vector: a trigger left them as they are");
        warning(text, None, None);
    }
    notice(format!("embedded {done} rows of {table}"), None, None);
}

/// Raises an ERROR where the procedure can't commit.
///
/// # Safety
///
/// `context` is that of the call.
unsafe fn check_may_commit(context: *mut pg_sys::Node) {
    // SAFETY: a node says of what type it is before it is read as such.
    let (may_commit, is_nested) = unsafe {
        let is_call = !context.is_null() && is_a(context, pg_sys::NodeTag::T_CallContext);
        (
            is_call && !(*context.cast::<pg_sys::CallContext>()).atomic,
            pg_sys::IsSubTransaction(),
        )
    };
    if !may_commit || is_nested {
        let place = match is_nested {
            true => "a subtransaction, as a block with an EXCEPTION clause is",
            false => "a transaction block or a function",
        };
        raise_with_hint(
            PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            format!("insitu.embed_table cannot run inside {place}"),
            "It commits after each batch. Call it on its own; where a client opens transactions by itself, with autocommit on.",
        );
    }
}

/// Says so where the column will have vectors of two models.
fn warn_of_another(table: pg_sys::Oid, number: i16, vector: &CStr, model: &CStr) {
    if let Some(other) = model_of(table, number)
        && *other != *model
    {
        let table = qualified(table).unwrap_or_default();
        warning(
            format!(
                "column \"{}\" of {} is kept embedded by model \"{}\", and gets vectors of model \"{}\" beside those",
                shown(vector),
                shown(&table),
                shown(&other),
                shown(model)
            ),
            None,
            Some("Vectors of two models can be compared only where one was made of the other."),
        );
    }
}

impl Job {
    /// Embeds the rows of one table, without those of its children. Returns how many
    /// were left without a vector.
    ///
    /// Rows that others change move behind, and a scan may begin in the middle: until a
    /// pass from the beginning finds none, or two in turn write none. A pass goes up to
    /// where the table ended when it began, and takes one batch of what has come behind
    /// that: so it ends, whatever comes.
    fn embed_rows_of(&mut self, table: pg_sys::Oid, name: &CStr) -> i64 {
        let (text, vector) = (quoted(&self.text), quoted(&self.vector));
        let parts = [("table", name), ("text", &*text), ("vector", &*vector)];
        let statement = fill(NEXT_ROWS, &parts);
        let mut before = None;
        let mut alike = 0;
        loop {
            let Some((written, left_out)) = self.pass(table, name, &statement) else {
                return 0;
            };
            if written == 0 && (left_out == 0 || before == Some(0)) {
                return left_out;
            }
            let no_fewer = written > 0 && before.is_some_and(|before| written >= before);
            alike = if no_fewer { alike + 1 } else { 0 };
            before = Some(written);
            if alike == PASSES_ALIKE {
                warning(
                    format!("rows of {} keep coming without a vector", shown(name)),
                    Some(format!(
                        "The last passes over it embedded {written} rows each, or more and more."
                    )),
                    Some("Others insert them, or a trigger takes vectors away again."),
                );
                return 0;
            }
        }
    }

    /// Goes over a table once: how many rows were written, and how many were found and
    /// not written. `None` if the table is no more.
    fn pass(&mut self, table: pg_sys::Oid, name: &CStr, statement: &CStr) -> Option<(i64, i64)> {
        let (mut last, mut end) = (tid(0, 0), tid(blocks(table)?, 0));
        let (mut written, mut left_out) = (0, 0);
        let mut is_tail = false;
        loop {
            allocator::check();
            let batch = self.embed_batch(statement, &mut last, &mut end);
            if batch.found == 0 {
                if is_tail {
                    break;
                }
                is_tail = true;
                last = end;
                end = tid(u32::MAX, u16::MAX);
                continue;
            }
            if batch.lost > 0 {
                self.refuse_lost(name, &batch);
            }
            last = batch.last;
            written += batch.written;
            left_out += batch.found - batch.written;
            self.done += batch.written;
            self.progress.note(self.done);
            self.connection.commit();
            if is_tail {
                break;
            }
            self.tell();
        }
        Some((written, left_out))
    }

    fn embed_batch(&mut self, statement: &CStr, last: &mut Tid, end: &mut Tid) -> Batch {
        // SAFETY: the server copies what the parameters refer to. A place in the result
        // is read while the row is there.
        unsafe {
            let model = pg_sys::cstring_to_text(self.model.as_ptr());
            let arguments: [Argument; 4] = [
                (pg_sys::TIDOID, pg_sys::Datum::from(&raw mut *last)),
                (pg_sys::TIDOID, pg_sys::Datum::from(&raw mut *end)),
                (pg_sys::INT4OID, pg_sys::Datum::from(self.batch)),
                (pg_sys::TEXTOID, pg_sys::Datum::from(model)),
            ];
            let rows = self.connection.query(statement, &arguments, |row| Batch {
                last: row
                    .get(1)
                    .map_or(*last, |place| *place.cast_mut_ptr::<Tid>()),
                found: row.count(2),
                written: row.count(3),
                lost: row.count(4),
            });
            pg_sys::pfree(model.cast());
            rows.into_iter().next().unwrap_or(Batch {
                last: *last,
                found: 0,
                written: 0,
                lost: 0,
            })
        }
    }

    fn refuse_lost(&self, table: &CStr, batch: &Batch) -> ! {
        crate::errors::raise_with_detail_and_hint(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!(
                "a trigger of {} takes the vectors in column \"{}\" away again",
                shown(table),
                shown(&self.vector)
            ),
            format!(
                "{} of {} rows were NULL after the update.",
                batch.lost, batch.found
            ),
            "Disable the trigger, or have it leave vectors that are given alone.",
        )
    }

    /// Tells now and then how far the call is; the last words come at its end.
    fn tell(&mut self) {
        if self.told.elapsed() >= BETWEEN_NOTICES && self.done < self.progress.total() {
            self.told = Instant::now();
            let (done, total) = (self.done, self.progress.total());
            let text = format!("embedded {done} of {total} rows of {}", shown(&self.table));
            notice(text, None, None);
        }
    }
}

/// How many blocks a table has; `None` if it is no more.
fn blocks(table: pg_sys::Oid) -> Option<u32> {
    let lock = pg_sys::AccessShareLock as i32;
    // SAFETY: the relation is open while its blocks are counted.
    unsafe {
        let relation = pg_sys::try_relation_open(table, lock);
        if relation.is_null() {
            return None;
        }
        let main = pg_sys::ForkNumber::MAIN_FORKNUM;
        let blocks = pg_sys::RelationGetNumberOfBlocksInFork(relation, main);
        pg_sys::relation_close(relation, lock);
        Some(blocks)
    }
}
