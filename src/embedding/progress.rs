//! How far calls of `insitu.embed_table` are: the view `insitu.embed_progress`.
//!
//! Each session has a place in the server's memory where VACUUM, ANALYZE and others
//! write how far they are (`pg_stat_progress_vacuum`). We write there too, under a number
//! that no command of the server has. So nothing is locked or kept in a table, a session
//! writes for itself only, and the server takes it away when a transaction fails or the
//! session ends.

#![allow(unsafe_code)]

use std::ffi::CStr;

use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use crate::versions;

/// The command's number: "insi".
const COMMAND: pg_sys::ProgressCommandType::Type = 0x696e_7369;

/// What the numbers that a command has in its place are; from `MODEL` on, bytes of the
/// model's name.
const DONE: usize = 0;
const TOTAL: usize = 1;
const STARTED: usize = 2;
const MODEL_LEN: usize = 3;
const MODEL: usize = 4;
const ALL: usize = pg_sys::PGSTAT_NUM_PROGRESS_PARAM as usize;
/// A longer name is cut off.
const MODEL_ROOM: usize = (ALL - MODEL) * 8;

/// The progress of this session.
pub struct Progress {
    table: pg_sys::Oid,
    parameters: [i64; ALL],
}

impl Progress {
    /// Begins, with `total` rows to be embedded.
    pub fn begin(table: pg_sys::Oid, model: &CStr, total: i64) -> Self {
        let bytes = model.to_bytes();
        let most = MODEL_ROOM as i32;
        // SAFETY: the text is as long as told. No character is cut into pieces.
        let len = unsafe {
            let len = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
            pg_sys::pg_mbcliplen(model.as_ptr(), len, most)
        };
        let mut name = [0; MODEL_ROOM];
        let len = (len as usize).min(bytes.len()).min(MODEL_ROOM);
        name[..len].copy_from_slice(&bytes[..len]);
        let mut parameters = [0; ALL];
        for (parameter, bytes) in parameters[MODEL..].iter_mut().zip(name.as_chunks().0) {
            *parameter = i64::from_ne_bytes(*bytes);
        }
        parameters[TOTAL] = total;
        // SAFETY: reads the clock.
        parameters[STARTED] = unsafe { pg_sys::GetCurrentTimestamp() };
        parameters[MODEL_LEN] = len as i64;
        let progress = Progress { table, parameters };
        progress.write();
        progress
    }

    /// Notes how many rows are embedded.
    pub fn note(&mut self, done: i64) {
        self.parameters[DONE] = done;
        // More rows may have come.
        self.parameters[TOTAL] = self.parameters[TOTAL].max(done);
        self.write();
    }

    /// How many rows there are to be embedded.
    pub fn total(&self) -> i64 {
        self.parameters[TOTAL]
    }

    fn write(&self) {
        let numbers: [i32; ALL] = std::array::from_fn(|i| i as i32);
        // SAFETY: the session's own place. A trigger of the table may have run a command
        // that has used it.
        unsafe {
            let place = pg_sys::MyBEEntry;
            if place.is_null() {
                return;
            }
            if (*place).st_progress_command != COMMAND {
                pg_sys::pgstat_progress_start_command(COMMAND, self.table);
            }
            pg_sys::pgstat_progress_update_multi_param(
                ALL as i32,
                numbers.as_ptr(),
                self.parameters.as_ptr(),
            );
        }
    }

    /// Ends.
    pub fn end(self) {
        // SAFETY: the session's own place.
        unsafe { pg_sys::pgstat_progress_end_command() };
    }
}

/// Whether the current role may know what a session of another role does: the server's
/// own rule for views of activity.
fn may_see(role: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalog.
    unsafe {
        let user = pg_sys::GetUserId();
        let readers = pg_sys::Oid::from(pg_sys::ROLE_PG_READ_ALL_STATS);
        pg_sys::has_privs_of_role(user, readers) || pg_sys::has_privs_of_role(user, role)
    }
}

/// The sessions of this database that are in `insitu.embed_table`. The model's name is
/// in the encoding of the database. What a session of another role does is NULL.
#[pg_extern(schema = "insitu", volatile, parallel_restricted)]
#[allow(clippy::type_complexity)]
fn embed_jobs() -> TableIterator<
    'static,
    (
        name!(pid, i32),
        name!(relation, Option<pg_sys::Oid>),
        name!(model, Option<Vec<u8>>),
        name!(rows_done, Option<i64>),
        name!(rows_total, Option<i64>),
        name!(started_at, Option<TimestampWithTimeZone>),
    ),
> {
    let mut rows = Vec::new();
    // SAFETY: the server makes a copy of all places, which lasts until the end of the
    // transaction; entries are counted from 1.
    unsafe {
        for i in 1..=pg_sys::pgstat_fetch_stat_numbackends() {
            let entry = versions::session(i);
            if entry.is_null() {
                continue;
            }
            let place = &(*entry).backendStatus;
            let is_ours = place.st_procpid > 0
                && place.st_databaseid == pg_sys::MyDatabaseId
                && place.st_progress_command == COMMAND
                && place.st_progress_param[STARTED] != 0;
            if !is_ours {
                continue;
            }
            let parameters = may_see(place.st_userid).then_some(place.st_progress_param);
            let model = parameters.map(|parameters| {
                let bytes = parameters[MODEL..]
                    .iter()
                    .flat_map(|part| part.to_ne_bytes());
                bytes.take(parameters[MODEL_LEN].max(0) as usize).collect()
            });
            let started = parameters.and_then(|parameters| {
                let datum = pg_sys::Datum::from(parameters[STARTED]);
                TimestampWithTimeZone::from_datum(datum, false)
            });
            rows.push((
                place.st_procpid,
                parameters.map(|_| place.st_progress_command_target),
                model,
                parameters.map(|parameters| parameters[DONE]),
                parameters.map(|parameters| parameters[TOTAL]),
                started,
            ));
        }
    }
    TableIterator::new(rows)
}
