//! `insitu.auto_embed` and `insitu.drop_auto_embed`: a trigger for each column of
//! vectors. A dump writes it as any other trigger of the table.
//!
//! Triggers are called in the order of their names, and the embedding has to be the
//! last, so its trigger has a name behind all others: `~insitu_embed`, and where that is
//! not enough, the last other name before it.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::ops::ControlFlow;

use pgrx::fcinfo::pg_getarg_datum;
use pgrx::prelude::*;

use super::columns::{
    Column, Columns, check_right, function, literal, owned, qualified, quoted, shown,
    with_descendants,
};
use super::present::tell_of_others;
use super::statement::{Connection, fill};
use super::trigger::{columns_of, is_before_row, triggers};
use crate::errors::{notice, raise, raise_with_hint};
use crate::event;
use crate::systable;
use crate::versions;

const NAME: &CStr = c"~insitu_embed";
const EVENTS: u32 = pg_sys::TRIGGER_TYPE_INSERT | pg_sys::TRIGGER_TYPE_UPDATE;

/// A trigger of `insitu.auto_embed`.
struct Embedded {
    name: CString,
    text: i16,
    vector: i16,
    model: CString,
    /// Whether it belongs to the trigger of a partitioned table.
    is_clone: bool,
}

/// The triggers of `insitu.auto_embed` on a table that is open.
///
/// # Safety
///
/// The relation is open.
unsafe fn embedded(relation: pg_sys::Relation, this: pg_sys::Oid) -> Vec<Embedded> {
    // SAFETY: the triggers' strings are copied while the relation is open.
    unsafe {
        let ours = triggers(relation)
            .iter()
            .filter(|t| t.tgfoid == this && t.tgnargs == 1);
        ours.filter_map(|trigger| {
            let (text, vector) = columns_of(trigger.tgqual)?;
            Some(Embedded {
                name: owned(trigger.tgname),
                text,
                vector,
                model: owned(*trigger.tgargs),
                is_clone: trigger.tgisclone,
            })
        })
        .collect()
    }
}

/// The triggers of a table, which is opened for that.
fn embedded_in(table: pg_sys::Oid, lock: u32) -> Vec<Embedded> {
    let this = function(c"embed_row", &[]);
    // SAFETY: the table is open while its triggers are looked at; the lock stays until
    // the end of the transaction.
    unsafe {
        let relation = pg_sys::relation_open(table, lock as i32);
        let found = embedded(relation, this);
        pg_sys::relation_close(relation, pg_sys::NoLock as i32);
        found
    }
}

/// By which model `insitu.auto_embed` keeps a column of a table embedded.
pub fn model_of(table: pg_sys::Oid, vector: i16) -> Option<CString> {
    let mut found = embedded_in(table, pg_sys::AccessShareLock).into_iter();
    found.find(|e| e.vector == vector).map(|e| e.model)
}

/// What others' triggers of a table are called that could change a row after a trigger
/// of this name; the last of them.
unsafe fn last_after(name: &CStr, table: pg_sys::Oid, this: pg_sys::Oid) -> Option<CString> {
    // SAFETY: the table is open while its triggers are looked at.
    unsafe {
        let lock = pg_sys::AccessShareLock as i32;
        let relation = pg_sys::relation_open(table, lock);
        let others = triggers(relation)
            .iter()
            .filter(|t| t.tgfoid != this && is_before_row(t, EVENTS));
        let last = others
            .map(|t| owned(t.tgname))
            .filter(|other| &**other > name)
            .max();
        pg_sys::relation_close(relation, lock);
        last
    }
}

/// Has rows embedded when they are inserted without a vector, and when their text
/// changes.
#[pg_extern(sql = false)]
fn auto_embed(fcinfo: pg_sys::FunctionCallInfo) {
    // SAFETY: the function is STRICT; its arguments are a regclass, two names, and a
    // text, which last as long as the call.
    let (table, text, vector, model) = unsafe {
        (
            table_argument(fcinfo),
            name_argument(fcinfo, 1),
            name_argument(fcinfo, 2),
            text_argument(fcinfo, 3),
        )
    };
    let table_name = qualified(table).unwrap_or_default();
    check_table(table, &table_name);
    check_right(table, pg_sys::ACL_TRIGGER);
    // Before the lock that CREATE TRIGGER takes, because it may load the model, and behind
    // it, because only then columns stay as they are.
    let check = || Columns::checked(table, (text, vector), &model);
    check();
    let existing = embedded_in(table, pg_sys::ShareRowExclusiveLock);
    let columns = check();
    if columns.text.is_generated {
        raise_with_hint(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!(
                "column \"{}\" of {} is generated, and has no value yet when rows are embedded",
                shown(text),
                shown(&table_name)
            ),
            "Name the column that it is generated from, or use insitu.embed_table.",
        );
    }
    let mut existing = existing
        .into_iter()
        .filter(|e| e.vector == columns.vector.number);
    let existing = existing.next();
    if let Some(before) = &existing
        && (before.model != model || before.text != columns.text.number)
    {
        refuse_another(table, vector, before);
    }

    let connection = Connection::open(false);
    let descendants = with_descendants(&connection, table);
    let is_partitioned = descendants.contains(&(table, pg_sys::RELKIND_PARTITIONED_TABLE));
    let others = descendants
        .iter()
        .filter(|(oid, _)| is_partitioned && *oid != table);
    let tables: Vec<pg_sys::Oid> = std::iter::once(table)
        .chain(others.map(|(oid, _)| *oid))
        .collect();
    for &partition in &tables[1..] {
        refuse_own(partition, (text, vector), &model);
    }
    let this = function(c"embed_row", &[]);
    let last_after = |name: &CStr| {
        // SAFETY: the tables exist: this one is locked, and so none of its partitions goes.
        let of = |&table: &pg_sys::Oid| unsafe { last_after(name, table, this) };
        tables.iter().filter_map(of).max()
    };
    match existing {
        // The same call again changes nothing, unless another trigger has come behind.
        Some(existing) if last_after(&existing.name).is_none() => {
            if existing.is_clone {
                connection.close();
                return;
            }
        }
        existing => {
            // Rows of a foreign table have no places.
            let has_places = descendants
                .iter()
                .all(|&(_, kind)| kind != pg_sys::RELKIND_FOREIGN_TABLE);
            if existing.is_none() && has_places {
                let named = (table, &*table_name);
                tell_of_others(&connection, named, (text, vector), &columns, &model);
            }
            let name = free_name(last_after(NAME), &tables);
            if let Some(existing) = existing {
                connection.run(&drop_statement(&existing.name, &table_name));
            }
            connection.run(&fill(
                "CREATE TRIGGER {name} BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW \
                 WHEN (NEW.{text} IS NOT NULL OR NEW.{vector} IS NOT NULL) \
                 EXECUTE FUNCTION insitu.embed_row({model})",
                &[
                    ("name", &quoted(&name)),
                    ("table", &table_name),
                    ("text", &quoted(text)),
                    ("vector", &quoted(vector)),
                    ("model", &literal(&model)),
                ],
            ));
        }
    }
    connection.close();
    if !is_partitioned && descendants.len() > 1 {
        notice(
            format!(
                "tables that inherit from {} are not embedded with it",
                shown(&table_name)
            ),
            None,
            Some("Call insitu.auto_embed for each of them."),
        );
    }
}

/// Called behind CREATE TRIGGER, whoever runs it: `auto_embed`, or a restore.
#[pg_extern(sql = false)]
fn trigger_created(fcinfo: pg_sys::FunctionCallInfo) {
    let kind = pg_sys::NodeTag::T_CreateTrigStmt;
    // SAFETY: the statement was just run, so that the table is locked; its parts last as long
    // as the call.
    unsafe {
        let Some(statement) = event::statement::<pg_sys::CreateTrigStmt>(fcinfo, kind) else {
            return;
        };
        let name = event::string((*statement).trigname);
        let lock = pg_sys::NoLock as i32;
        let table = pg_sys::RangeVarGetRelidExtended(
            (*statement).relation,
            lock,
            0,
            None,
            std::ptr::null_mut(),
        );
        let created = embedded_in(table, pg_sys::NoLock);
        if let Some(created) = created.iter().find(|e| *e.name == *name) {
            go_with_columns(table, name, [created.text, created.vector]);
        }
    }
}

/// Lets a trigger go with either of its columns when that is dropped, as an index does.
/// The server, which writes down what its condition refers to, would rather keep the
/// columns.
///
/// # Safety
///
/// The table is locked, and has the trigger and the columns.
unsafe fn go_with_columns(table: pg_sys::Oid, name: &CStr, columns: [i16; 2]) {
    let address = |class, object, column: i16| pg_sys::ObjectAddress {
        classId: class,
        objectId: object,
        objectSubId: i32::from(column),
    };
    // SAFETY: changes what the catalog says of a trigger of the table, which the caller
    // may have: the table is locked.
    unsafe {
        let trigger = pg_sys::get_trigger_oid(table, name.as_ptr(), false);
        pg_sys::deleteDependencyRecordsForClass(
            pg_sys::TriggerRelationId,
            trigger,
            pg_sys::RelationRelationId,
            pg_sys::DependencyType::DEPENDENCY_NORMAL as c_char,
        );
        let depender = address(pg_sys::TriggerRelationId, trigger, 0);
        for column in columns {
            let column = address(pg_sys::RelationRelationId, table, column);
            let auto = pg_sys::DependencyType::DEPENDENCY_AUTO;
            pg_sys::recordDependencyOn(&depender, &column, auto);
        }
        pg_sys::CommandCounterIncrement();
    }
}

/// A name for a trigger that none of the tables has, behind `last`.
fn free_name(last: Option<CString>, tables: &[pg_sys::Oid]) -> CString {
    for number in 1_u32.. {
        let mut name = last.clone().unwrap_or_default().into_bytes();
        name.extend_from_slice(NAME.to_bytes());
        if number > 1 {
            name.extend_from_slice(format!("_{number}").as_bytes());
        }
        if name.len() >= pg_sys::NAMEDATALEN as usize {
            break;
        }
        let name = CString::new(name).unwrap_or_default();
        // SAFETY: reads the catalog.
        let is_taken = |&table: &pg_sys::Oid| unsafe {
            pg_sys::get_trigger_oid(table, name.as_ptr(), true) != pg_sys::InvalidOid
        };
        if !tables.iter().any(is_taken) {
            return name;
        }
    }
    raise_with_hint(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!(
            "trigger \"{}\" would be called after the one that embeds",
            shown(&last.unwrap_or_default())
        ),
        "Triggers are called in the order of their names: give it a shorter one.",
    )
}

/// Raises an ERROR where a partition has a trigger of its own that embeds the column
/// otherwise.
fn refuse_own(partition: pg_sys::Oid, (text, vector): (&CStr, &CStr), model: &CStr) {
    let number = |name: &CStr| {
        // SAFETY: reads the catalog.
        unsafe { pg_sys::get_attnum(partition, name.as_ptr()) }
    };
    let found = embedded_in(partition, pg_sys::AccessShareLock);
    for own in found.iter().filter(|e| e.vector == number(vector)) {
        if !own.is_clone && (*own.model != *model || own.text != number(text)) {
            refuse_another(partition, vector, own);
        }
    }
}

fn refuse_another(table: pg_sys::Oid, vector: &CStr, before: &Embedded) -> ! {
    // SAFETY: reads the catalog.
    let text = unsafe { owned(pg_sys::get_attname(table, before.text, true)) };
    let table = qualified(table).unwrap_or_default();
    raise_with_hint(
        PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
        format!(
            "column \"{}\" of {} is embedded already, from column \"{}\" by model \"{}\"",
            shown(vector),
            shown(&table),
            shown(&text),
            shown(&before.model)
        ),
        format!(
            "End that with SELECT insitu.drop_auto_embed({}, {}). \
             Rows keep their vectors: to embed them anew, set the column to NULL and use insitu.embed_table.",
            shown(&literal(&table)),
            shown(&literal(vector))
        ),
    )
}

/// Undoes `auto_embed`.
#[pg_extern(sql = false)]
fn drop_auto_embed(fcinfo: pg_sys::FunctionCallInfo) {
    // SAFETY: the function is STRICT; its arguments are a regclass and a name.
    let (table, vector) = unsafe { (table_argument(fcinfo), name_argument(fcinfo, 1)) };
    let table_name = qualified(table).unwrap_or_default();
    check_table(table, &table_name);
    let column = Column::named(table, vector);
    let found = embedded_in(table, pg_sys::AccessShareLock);
    let found = found.into_iter().find(|e| e.vector == column.number);
    let Some(found) = found else {
        raise_with_hint(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!(
                "insitu.auto_embed was not called for column \"{}\" of {}",
                shown(vector),
                shown(&table_name)
            ),
            "The view insitu.auto_embeds lists what is embedded.",
        )
    };
    check_owner(table);
    let connection = Connection::open(false);
    connection.run(&drop_statement(&found.name, &table_name));
    connection.close();
}

fn drop_statement(trigger: &CStr, table: &CStr) -> CString {
    let parts = [("trigger", &*quoted(trigger)), ("table", table)];
    fill("DROP TRIGGER {trigger} ON {table}", &parts)
}

/// The columns that a trigger of `insitu.auto_embed` refers to, of texts and of vectors;
/// NULL of any other trigger.
#[pg_extern(schema = "insitu", stable, parallel_safe, strict)]
fn embedded_columns(trigger: pg_sys::Oid) -> Option<Vec<i16>> {
    let this = function(c"embed_row", &[]);
    let key = systable::equal(
        pg_sys::Anum_pg_trigger_oid as i32,
        pg_sys::F_OIDEQ,
        pg_sys::Datum::from(trigger),
    );
    let index = pg_sys::Oid::from(pg_sys::TriggerOidIndexId);
    // SAFETY: the index is that of the catalog's OIDs; its rows have this form, and a
    // condition that ends with a zero.
    let columns = unsafe {
        systable::scan(pg_sys::TriggerRelationId, index, &mut [key], |row| {
            let form = pg_sys::GETSTRUCT(row.tuple).cast::<pg_sys::FormData_pg_trigger>();
            let condition = row.value(pg_sys::Anum_pg_trigger_tgqual as i32);
            let condition = condition.filter(|_| (*form).tgfoid == this);
            let text = condition.map(|text| pg_sys::text_to_cstring(text.cast_mut_ptr()));
            ControlFlow::Break(text.and_then(|text| columns_of(text)))
        })
    }
    .flatten();
    columns.map(|(text, vector)| vec![text, vector])
}

/// Raises an ERROR unless the relation is one whose rows can be embedded.
pub fn check_table(table: pg_sys::Oid, name: &CStr) {
    // SAFETY: reads the catalog.
    let kind = unsafe { pg_sys::get_rel_relkind(table) } as u8;
    if kind == 0 {
        raise(
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            format!("there is no relation with OID {}", table.to_u32()),
        );
    }
    if ![
        pg_sys::RELKIND_RELATION,
        pg_sys::RELKIND_PARTITIONED_TABLE,
        pg_sys::RELKIND_FOREIGN_TABLE,
    ]
    .contains(&kind)
    {
        raise(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("{} is not a table", shown(name)),
        );
    }
}

/// Raises the server's ERROR unless the current role owns the table.
fn check_owner(table: pg_sys::Oid) {
    // SAFETY: reads the catalog.
    unsafe {
        if !versions::is_owned(pg_sys::RelationRelationId, table) {
            let name = pg_sys::get_rel_name(table);
            let result = pg_sys::AclResult::ACLCHECK_NOT_OWNER;
            pg_sys::aclcheck_error(result, pg_sys::ObjectType::OBJECT_TABLE, name);
        }
    }
}

/// The argument `target`.
///
/// # Safety
///
/// The first argument of the call is a regclass that is not null.
pub unsafe fn table_argument(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Oid {
    // SAFETY: see above.
    let value = unsafe { pg_getarg_datum(fcinfo, 0) };
    pg_sys::Oid::from(value.map_or(0, |value| value.value() as u32))
}

/// An argument of type `name`.
///
/// # Safety
///
/// The argument is of this type and not null.
pub unsafe fn name_argument<'a>(fcinfo: pg_sys::FunctionCallInfo, number: usize) -> &'a CStr {
    // SAFETY: see above; a name has a closing zero.
    unsafe {
        match pg_getarg_datum(fcinfo, number) {
            Some(name) => CStr::from_ptr(name.cast_mut_ptr::<c_char>()),
            None => c"",
        }
    }
}

/// An argument of type `text`.
///
/// # Safety
///
/// The argument is of this type and not null.
pub unsafe fn text_argument(fcinfo: pg_sys::FunctionCallInfo, number: usize) -> CString {
    // SAFETY: see above; the server returns a new string.
    unsafe {
        match pg_getarg_datum(fcinfo, number) {
            Some(text) => owned(pg_sys::text_to_cstring(text.cast_mut_ptr())),
            None => CString::default(),
        }
    }
}
