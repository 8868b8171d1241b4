//! `insitu.embed_row`, what the triggers of `insitu.auto_embed` run.
//!
//! A trigger keeps no names of columns: they are what its condition refers to,
//! `WHEN (NEW.text IS NOT NULL OR NEW.vector IS NOT NULL)`, where the server follows
//! renames, partitions with other numbers of columns, dumps and restores. So a condition
//! does two things: it says which columns are meant, and it leaves rows out that have
//! nothing to embed. The trigger's only argument is the model.
//!
//! What is done with a row is an expression of the server's: `insitu.embed` of the
//! model and the text, cast to the type of the column of vectors. It is made once for
//! a trigger in a statement.
//!
//! Rows are embedded one by one, as the server calls a trigger before it knows the next
//! row. A trigger after the statement could embed them together, but it would have to
//! write every row twice, and until then others' triggers and constraints would see rows
//! without a vector.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};
use std::num::NonZeroUsize;

use pgrx::htup::heap_getattr_raw;
use pgrx::prelude::*;
use pgrx::varlena::{vardata_any, varsize_any, varsize_any_exhdr};
use pgrx::{is_a, pg_sys};

use super::columns::{embed_function, qualified, shown};
use crate::errors::{raise, raise_with_hint};
use crate::raised::unchanged;

const BEFORE_ROW: u32 = pg_sys::TRIGGER_TYPE_ROW | pg_sys::TRIGGER_TYPE_BEFORE;

/// The columns that a trigger's condition refers to: of texts, and of vectors.
/// `None` if it isn't a condition as `insitu.auto_embed` writes it.
///
/// # Safety
///
/// `condition` is null, or a condition as the server stores it.
pub unsafe fn columns_of(condition: *const c_char) -> Option<(i16, i16)> {
    if condition.is_null() {
        return None;
    }
    // SAFETY: a node says of what type it is before it is read as such.
    unsafe {
        let node = pg_sys::stringToNode(condition).cast::<pg_sys::Node>();
        if node.is_null() || !is_a(node, pg_sys::NodeTag::T_BoolExpr) {
            return None;
        }
        let or = node.cast::<pg_sys::BoolExpr>();
        let arguments = (*or).args;
        if (*or).boolop != pg_sys::BoolExprType::OR_EXPR || (*arguments).length != 2 {
            return None;
        }
        let column = |i: usize| {
            let test = (*(*arguments).elements.add(i))
                .ptr_value
                .cast::<pg_sys::NullTest>();
            if !is_a(test.cast(), pg_sys::NodeTag::T_NullTest)
                || (*test).nulltesttype != pg_sys::NullTestType::IS_NOT_NULL
                || !is_a((*test).arg.cast(), pg_sys::NodeTag::T_Var)
            {
                return None;
            }
            let var = (*test).arg.cast::<pg_sys::Var>();
            let is_new = i64::from((*var).varno) == i64::from(pg_sys::PRS2_NEW_VARNO);
            (is_new && (*var).varattno > 0).then_some((*var).varattno)
        };
        Some((column(0)?, column(1)?))
    }
}

/// Whether a trigger is called before rows of this event (`TRIGGER_TYPE_INSERT` or
/// `TRIGGER_TYPE_UPDATE`, or both) and could change them.
pub fn is_before_row(trigger: &pg_sys::Trigger, events: u32) -> bool {
    let kind = trigger.tgtype as u32;
    let timing = pg_sys::TRIGGER_TYPE_ROW | pg_sys::TRIGGER_TYPE_TIMING_MASK;
    kind & timing == BEFORE_ROW && kind & events != 0
}

/// Whether a trigger is called in a session like this one.
fn is_enabled(trigger: &pg_sys::Trigger) -> bool {
    // SAFETY: reads a setting of the session.
    let role = unsafe { pg_sys::SessionReplicationRole };
    match trigger.tgenabled as u8 {
        pg_sys::TRIGGER_FIRES_ALWAYS => true,
        pg_sys::TRIGGER_FIRES_ON_REPLICA => role == pg_sys::SESSION_REPLICATION_ROLE_REPLICA as i32,
        pg_sys::TRIGGER_FIRES_ON_ORIGIN => role != pg_sys::SESSION_REPLICATION_ROLE_REPLICA as i32,
        _ => false,
    }
}

/// The triggers of a relation, in the order in which they are called.
///
/// # Safety
///
/// The relation is open for as long as they are used.
pub unsafe fn triggers<'a>(relation: pg_sys::Relation) -> &'a [pg_sys::Trigger] {
    // SAFETY: see above; the array has as many elements as the number says.
    unsafe {
        let triggers = (*relation).trigdesc;
        if triggers.is_null() || (*triggers).triggers.is_null() {
            return &[];
        }
        std::slice::from_raw_parts((*triggers).triggers, (*triggers).numtriggers as usize)
    }
}

/// What a trigger needs to know for a statement. It lies in the statement's memory.
struct Plan {
    text: i16,
    /// The length of the type of texts: -1, or a number of bytes.
    text_len: i16,
    /// Whether a value of that type is in its datum: somebody's own trigger may name a
    /// column of any type.
    text_is_by_value: bool,
    vector: i16,
    embedding: *mut pg_sys::ExprState,
    context: *mut pg_sys::ExprContext,
    /// Names of triggers that are called later and could change the text, or null.
    later_on_insert: *const c_char,
    later_on_update: *const c_char,
}

/// The trigger function of `insitu.auto_embed`.
#[pg_extern(sql = false)]
fn embed_row(fcinfo: pg_sys::FunctionCallInfo) -> i64 {
    // SAFETY: the server calls with a call's data that lasts as long as the call, and
    // keeps what a function remembers (`fn_extra`) as long as the statement and the
    // trigger. Attributes are read off the tuples by the relation's own description.
    unsafe {
        let call = called_by((*fcinfo).context);
        let function = (*fcinfo).flinfo;
        if (*function).fn_extra.is_null() {
            let memory = pg_sys::MemoryContextSwitchTo((*function).fn_mcxt);
            let plan = pg_sys::palloc0(size_of::<Plan>()).cast::<Plan>();
            plan.write(plan_for(call, (*function).fn_oid));
            pg_sys::MemoryContextSwitchTo(memory);
            (*function).fn_extra = plan.cast();
        }
        let plan = &*(*function).fn_extra.cast::<Plan>();
        let columns = (*(*call).tg_relation).rd_att;
        let value = |tuple, number: i16| {
            NonZeroUsize::new(number as usize).and_then(|n| heap_getattr_raw(tuple, n, columns))
        };

        let is_update =
            (*call).tg_event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_UPDATE;
        let (new, later) = match is_update {
            true => ((*call).tg_newtuple, plan.later_on_update),
            false => ((*call).tg_trigtuple, plan.later_on_insert),
        };
        let text = value(new, plan.text);
        if is_update {
            refuse_later(call, later);
            let old = value((*call).tg_trigtuple, plan.text);
            let is_same = match plan.text_is_by_value {
                true => old == text,
                false => is_same(old, text, plan.text_len),
            };
            if is_same {
                return new as i64;
            }
        } else {
            if text.is_none() || value(new, plan.vector).is_some() {
                return new as i64;
            }
            refuse_later(call, later);
        }

        (*plan.context).caseValue_datum = text.unwrap_or(pg_sys::Datum::from(0_usize));
        (*plan.context).caseValue_isNull = text.is_none();
        let mut is_null = false;
        let mut vector = match (*plan.embedding).evalfunc {
            Some(evaluate) => unchanged(|| {
                pg_sys::ffi::pg_guard_ffi_boundary(|| {
                    evaluate(plan.embedding, plan.context, &mut is_null)
                })
            }),
            None => pg_sys::Datum::from(0_usize),
        };
        let mut number = i32::from(plan.vector);
        pg_sys::heap_modify_tuple_by_cols(new, columns, 1, &mut number, &mut vector, &mut is_null)
            as i64
    }
}

/// The call of a trigger as `insitu.auto_embed` makes them, or an ERROR.
unsafe fn called_by(context: *mut pg_sys::Node) -> *mut pg_sys::TriggerData {
    // SAFETY: a node says of what type it is before it is read as such.
    let call = unsafe {
        (!context.is_null() && is_a(context, pg_sys::NodeTag::T_TriggerData))
            .then_some(context.cast::<pg_sys::TriggerData>())
            .filter(|&call| {
                let is_of_row = (*call).tg_event & pg_sys::TRIGGER_EVENT_ROW != 0;
                let timing = (*call).tg_event & pg_sys::TRIGGER_EVENT_TIMINGMASK;
                let operation = (*call).tg_event & pg_sys::TRIGGER_EVENT_OPMASK;
                is_of_row
                    && timing == pg_sys::TRIGGER_EVENT_BEFORE
                    && operation != pg_sys::TRIGGER_EVENT_DELETE
            })
    };
    call.unwrap_or_else(|| refuse_trigger())
}

fn refuse_trigger() -> ! {
    raise_with_hint(
        PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
        "insitu.embed_row is called by triggers that insitu.auto_embed makes",
        "Drop the trigger and call insitu.auto_embed.",
    )
}

/// Raises an ERROR where a trigger that is called later could change the text that is
/// to be embedded, so that the row would get a vector of another text.
unsafe fn refuse_later(call: *mut pg_sys::TriggerData, later: *const c_char) {
    if later.is_null() {
        return;
    }
    // SAFETY: `later` is a name; the relation is open.
    let (name, table) = unsafe { (CStr::from_ptr(later), (*(*call).tg_relation).rd_id) };
    raise_with_hint(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!(
            "trigger \"{}\" of {} could change a text after it was embedded",
            shown(name),
            shown(&qualified(table).unwrap_or_default())
        ),
        "Triggers are called in the order of their names: rename it, \
         or call insitu.auto_embed again, which puts the embedding last.",
    );
}

/// Makes the plan in the current memory context.
unsafe fn plan_for(call: *mut pg_sys::TriggerData, this: pg_sys::Oid) -> Plan {
    // SAFETY: the trigger and the relation last as long as the statement. Numbers of
    // columns are compared with the relation's.
    unsafe {
        let (trigger, relation) = (&*(*call).tg_trigger, (*call).tg_relation);
        let columns = (*relation).rd_att;
        let Some((text, vector)) = columns_of(trigger.tgqual) else {
            refuse_trigger()
        };
        let most = (*columns).natts;
        if trigger.tgnargs != 1 || i32::from(text) > most || i32::from(vector) > most {
            refuse_trigger();
        }
        let text_type = ColumnType::of(relation, text);
        let later = |event| {
            let after = triggers(relation)
                .iter()
                .skip_while(|other| other.tgoid != trigger.tgoid);
            let mut others = after.skip(1).filter(|other| {
                other.tgfoid != this && is_before_row(other, event) && is_enabled(other)
            });
            match others.next() {
                Some(other) => pg_sys::pstrdup(other.tgname).cast_const(),
                None => std::ptr::null(),
            }
        };
        let (mut text_len, mut text_is_by_value) = (0, false);
        pg_sys::get_typlenbyval(text_type.kind, &mut text_len, &mut text_is_by_value);
        Plan {
            text,
            text_len,
            text_is_by_value,
            vector,
            embedding: embedding(*trigger.tgargs, text_type, ColumnType::of(relation, vector)),
            context: pg_sys::CreateStandaloneExprContext(),
            later_on_insert: later(pg_sys::TRIGGER_TYPE_INSERT),
            later_on_update: later(pg_sys::TRIGGER_TYPE_UPDATE),
        }
    }
}

/// What a column holds.
struct ColumnType {
    kind: pg_sys::Oid,
    modifier: i32,
    collation: pg_sys::Oid,
}

impl ColumnType {
    /// # Safety
    ///
    /// The relation is open.
    unsafe fn of(relation: pg_sys::Relation, column: i16) -> Self {
        let mut result = ColumnType {
            kind: pg_sys::InvalidOid,
            modifier: -1,
            collation: pg_sys::InvalidOid,
        };
        // SAFETY: reads the catalog; a column that is not there is an ERROR.
        unsafe {
            pg_sys::get_atttypetypmodcoll(
                (*relation).rd_id,
                column,
                &mut result.kind,
                &mut result.modifier,
                &mut result.collation,
            );
        }
        result
    }
}

/// The expression that makes a column's vector out of the text that the context holds
/// as its "case value".
unsafe fn embedding(
    model: *const c_char,
    text: ColumnType,
    vector: ColumnType,
) -> *mut pg_sys::ExprState {
    // SAFETY: nodes are made by the server's own functions, or with the tag of their type.
    unsafe {
        let none = pg_sys::InvalidOid;
        let (function, result) = embed_function();
        let given =
            pg_sys::palloc0(size_of::<pg_sys::CaseTestExpr>()).cast::<pg_sys::CaseTestExpr>();
        (*given).xpr.type_ = pg_sys::NodeTag::T_CaseTestExpr;
        (*given).typeId = text.kind;
        (*given).typeMod = text.modifier;
        (*given).collation = text.collation;
        let body = pg_sys::coerce_to_target_type(
            std::ptr::null_mut(),
            given.cast(),
            text.kind,
            pg_sys::TEXTOID,
            -1,
            pg_sys::CoercionContext::COERCION_EXPLICIT,
            pg_sys::CoercionForm::COERCE_EXPLICIT_CAST,
            -1,
        );
        let model = pg_sys::makeConst(
            pg_sys::TEXTOID,
            -1,
            pg_sys::DEFAULT_COLLATION_OID,
            -1,
            pg_sys::Datum::from(pg_sys::cstring_to_text(model)),
            false,
            false,
        );
        if body.is_null() {
            refuse_trigger();
        }
        let arguments = pg_sys::lappend(std::ptr::null_mut(), model.cast::<c_void>());
        let arguments = pg_sys::lappend(arguments, body.cast());
        let form = pg_sys::CoercionForm::COERCE_EXPLICIT_CALL;
        let embed = pg_sys::makeFuncExpr(function, result, arguments, none, none, form);
        let value = pg_sys::coerce_to_target_type(
            std::ptr::null_mut(),
            embed.cast(),
            result,
            vector.kind,
            vector.modifier,
            pg_sys::CoercionContext::COERCION_ASSIGNMENT,
            pg_sys::CoercionForm::COERCE_IMPLICIT_CAST,
            -1,
        );
        if value.is_null() {
            raise(
                PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
                "the column for vectors has a type that takes none",
            );
        }
        let planned = pg_sys::expression_planner(value.cast());
        pg_sys::ExecInitExpr(planned, std::ptr::null_mut())
    }
}

/// Whether two values of a type that is passed by reference have the same bytes, whatever
/// its `=` says.
unsafe fn is_same(old: Option<pg_sys::Datum>, new: Option<pg_sys::Datum>, len: i16) -> bool {
    let (Some(old), Some(new)) = (old, new) else {
        return old.is_none() && new.is_none();
    };
    // SAFETY: the values are of a type of this length, or tell it themselves.
    unsafe {
        let bytes = |value: pg_sys::Datum, len: usize| {
            std::slice::from_raw_parts(value.cast_mut_ptr::<u8>(), len)
        };
        if len >= 0 {
            return bytes(old, len as usize) == bytes(new, len as usize);
        }
        let (old, new) = (old.cast_mut_ptr::<pg_sys::varlena>(), new.cast_mut_ptr());
        let stored = |value: *mut pg_sys::varlena| bytes(value.into(), varsize_any(value));
        // A long text that nobody touched is the same reference to where it is stored.
        if stored(old) == stored(new) {
            return true;
        }
        if pg_sys::toast_raw_datum_size(old.into()) != pg_sys::toast_raw_datum_size(new.into()) {
            return false;
        }
        let old = pg_sys::pg_detoast_datum_packed(old);
        let new = pg_sys::pg_detoast_datum_packed(new);
        let plain = |value: *mut pg_sys::varlena| {
            std::slice::from_raw_parts(vardata_any(value).cast::<u8>(), varsize_any_exhdr(value))
        };
        plain(old) == plain(new)
    }
}
