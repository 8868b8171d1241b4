//! Event triggers: what the extension does where somebody's command needs it (event_trigger.h).
//! The scripts create them, so they are there in every session, whether it has loaded the
//! library or not.

#![allow(unsafe_code)]

use std::ffi::CStr;

use pgrx::prelude::*;

use crate::errors::raise;

/// The statement that an event trigger is called for, if it is of this kind.
///
/// # Safety
///
/// The call is under way, and nodes of the kind are a `T`.
pub unsafe fn statement<T>(
    call: pg_sys::FunctionCallInfo,
    kind: pg_sys::NodeTag,
) -> Option<*mut T> {
    // SAFETY: the context of a call is a node, if there is any, and the server calls an event
    // trigger with its data.
    unsafe {
        let context = (*call).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_EventTriggerData {
            raise(
                PgSqlErrorCode::ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED,
                "this function is called by an event trigger only",
            );
        }
        let statement = (*context.cast::<pg_sys::EventTriggerData>()).parsetree;
        (!statement.is_null() && (*statement).type_ == kind).then_some(statement.cast())
    }
}

/// A string of a statement; empty where there is none.
///
/// # Safety
///
/// It is null, or ends in a zero and lives for `'a`.
pub unsafe fn string<'a>(string: *const std::ffi::c_char) -> &'a CStr {
    if string.is_null() {
        return c"";
    }
    // SAFETY: as the caller says.
    unsafe { CStr::from_ptr(string) }
}
