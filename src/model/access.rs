//! Who may use, share and remove a model: its owner, superusers, and for use
//! the roles that were granted it.

#![allow(unsafe_code)]

use pgrx::prelude::*;

use super::catalog::{self, Model};
use super::role;
use crate::encoding::Text;
use crate::errors::{quoted, raise, raise_with_hint};

/// The role that the present code runs as.
pub fn current_user() -> pg_sys::Oid {
    // SAFETY: reads the state of the session.
    unsafe { pg_sys::GetUserId() }
}

fn has_privileges_of(user: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalog.
    unsafe { pg_sys::has_privs_of_role(user, role) }
}

fn owns(user: pg_sys::Oid, model: &Model) -> bool {
    // SAFETY: reads the catalog. Nobody has the privileges of an owner that is gone.
    let is_superuser = unsafe { pg_sys::superuser_arg(user) };
    is_superuser
        || model
            .owner
            .is_some_and(|owner| has_privileges_of(user, owner))
}

/// Raises an ERROR unless the role may use the model.
pub fn check_use(user: pg_sys::Oid, name: &str, model: &Model) {
    let granted =
        |&grantee: &pg_sys::Oid| grantee == pg_sys::InvalidOid || has_privileges_of(user, grantee);
    if !owns(user, model) && !model.grantees.iter().any(granted) {
        raise_with_hint(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("permission denied for model {name}"),
            "Its owner can grant it with insitu.grant_model.",
        );
    }
}

/// The model, or an ERROR if there is none of this name or the current role
/// does not own it.
pub fn owned(name: &str) -> Model {
    let model = existing(name);
    if !owns(current_user(), &model) {
        raise(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("must be owner of model {name}"),
        );
    }
    model
}

/// The model, or an ERROR if there is none of this name.
pub fn existing(name: &str) -> Model {
    catalog::find(name).unwrap_or_else(|| {
        raise_with_hint(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("model \"{}\" does not exist", quoted(name)),
            if is_restore() {
                RESTORE_FIRST
            } else {
                "The view insitu.models lists the models; insitu.load_model loads one."
            },
        )
    })
}

/// What helps a restore that embeds before it has brought the models.
pub const RESTORE_FIRST: &str = "A restore has to bring the models before what embeds: \
     pg_restore --data-only --schema=insitu.";

/// Whether a restore seems to be at work: every dump empties the search_path first.
fn is_restore() -> bool {
    // SAFETY: the setting is there, a string with a closing zero.
    unsafe {
        let path = pg_sys::GetConfigOption(c"search_path".as_ptr(), true, false);
        !path.is_null() && core::ffi::CStr::from_ptr(path).is_empty()
    }
}

/// Whether the current role may see the settings that are hidden from others.
pub fn may_see_settings() -> bool {
    let reader = pg_sys::Oid::from(pg_sys::ROLE_PG_READ_ALL_SETTINGS);
    has_privileges_of(current_user(), reader)
}

/// Raises an ERROR unless the current role may read files of the server.
pub fn check_server_files() {
    let reader = pg_sys::Oid::from(pg_sys::ROLE_PG_READ_SERVER_FILES);
    if !has_privileges_of(current_user(), reader) {
        raise_with_hint(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied to load a model from files of the server",
            "Only roles with privileges of pg_read_server_files may; others can pass the files as bytea.",
        );
    }
}

/// The role of this name; `public` is `InvalidOid`.
fn role(name: Text<'_>) -> pg_sys::Oid {
    if &*name == "public" {
        return pg_sys::InvalidOid;
    }
    find_role(name).unwrap_or_else(|| {
        raise(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("role \"{}\" does not exist", quoted(&name)),
        )
    })
}

fn find_role(name: Text<'_>) -> Option<pg_sys::Oid> {
    let role = role::by_name(&name.to_c_string());
    (role != pg_sys::InvalidOid).then_some(role)
}

/// Lets a role use a model.
#[pg_extern(schema = "insitu", volatile, parallel_unsafe, strict)]
fn grant_model(name: Text<'_>, role: Text<'_>) {
    catalog::check_writable(c"insitu.grant_model()");
    catalog::lock_name(&name, true);
    let model = owned(&name);
    catalog::add_grant(&model, self::role(role));
}

/// Takes a grant back. A role that was dropped is named by its number.
#[pg_extern(schema = "insitu", volatile, parallel_unsafe, strict)]
fn revoke_model(name: Text<'_>, role: Text<'_>) {
    catalog::check_writable(c"insitu.revoke_model()");
    catalog::lock_name(&name, true);
    let model = owned(&name);
    let by_number = || {
        let role = pg_sys::Oid::from(role.parse::<u32>().ok()?);
        model.grantees.contains(&role).then_some(role)
    };
    let grantee = match find_role(role) {
        None => by_number(),
        known => known,
    };
    catalog::remove_grant(&model, grantee.unwrap_or_else(|| self::role(role)));
}
