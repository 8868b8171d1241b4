//! Running code with the rights of another role.

#![allow(unsafe_code)]

use pgrx::prelude::*;

use crate::raised::unchanged;

/// Runs `work` as `role`, in the way of the server's own maintenance commands:
/// as a security-restricted operation, and with a `search_path` in which no
/// name can be put before the server's, not even a temporary one.
pub fn run_as<R>(role: pg_sys::Oid, work: impl FnOnce() -> R) -> R {
    // SAFETY: an ERROR in `work` ends the transaction or subtransaction, and
    // with it the server restores the user and the settings.
    unsafe {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let restricted =
            pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
        pg_sys::SetUserIdAndSecContext(role, context | restricted as i32);
        let level = pg_sys::NewGUCNestLevel();
        pg_sys::set_config_option(
            c"search_path".as_ptr(),
            c"pg_catalog, pg_temp".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        let result = unchanged(work);
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::SetUserIdAndSecContext(user, context);
        result
    }
}
