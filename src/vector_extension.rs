//! The extension `vector`, which stands for this one: clients of pgvector create
//! it when they start. It has no members. Its script (`compat/`) creates insitu
//! where that is missing, and it depends on insitu, so that a dump has insitu
//! first.

#![allow(unsafe_code)]

use pgrx::prelude::*;

use crate::encoding::Text;
use crate::errors::raise;

/// Creates insitu for the script of `vector`, in the schema that this one goes
/// into.
///
/// The server refuses one CREATE EXTENSION in the script of another, because it
/// notes in two variables which extension new objects belong to. They are put
/// aside meanwhile, and back afterwards, whatever happens.
#[pg_extern(sql = false)]
fn create_insitu() {
    // SAFETY: reads and writes variables of the session, on its only thread.
    let outer = unsafe { (pg_sys::creating_extension, pg_sys::CurrentExtensionObject) };
    let note = |(is_creating, extension)| {
        // SAFETY: as above.
        unsafe {
            pg_sys::creating_extension = is_creating;
            pg_sys::CurrentExtensionObject = extension;
        }
    };
    if !outer.0 {
        raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "insitu is created in this way by the script of another extension only",
        );
    }
    PgTryBuilder::new(|| {
        note((false, pg_sys::InvalidOid));
        if let Err(error) = Spi::run("CREATE EXTENSION insitu") {
            raise(
                PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                format!("the extension insitu could not be created: {error}"),
            );
        }
    })
    .finally(|| note(outer))
    .execute();
}

/// Makes the extension `vector`, which is there, depend on this one.
#[pg_extern(schema = "insitu", volatile, parallel_unsafe)]
fn tie_vector() {
    // SAFETY: reads the catalog; a missing extension is an ERROR.
    let vector = unsafe { pg_sys::get_extension_oid(c"vector".as_ptr(), false) };
    if !owns_extension(vector) {
        raise(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "must be owner of extension vector",
        );
    }
    depend(vector, pg_sys::DependencyType::DEPENDENCY_NORMAL);
}

/// Makes the extension `vector` without its script. Nobody asked for it, so it
/// goes when insitu goes.
#[pg_extern(sql = false)]
fn leave_vector(schema: pg_sys::Oid, version: Text<'_>) {
    let version = version.to_c_string();
    // SAFETY: writes a row of the catalog, which the next command sees.
    let vector = unsafe {
        let vector = pg_sys::InsertExtensionTuple(
            c"vector".as_ptr(),
            pg_sys::GetUserId(),
            schema,
            false,
            version.as_ptr(),
            pg_sys::Datum::null(),
            pg_sys::Datum::null(),
            std::ptr::null_mut(),
        );
        pg_sys::CommandCounterIncrement();
        vector.objectId
    };
    depend(vector, pg_sys::DependencyType::DEPENDENCY_AUTO);
}

/// Writes down that the extension `vector` depends on this one, once.
fn depend(vector: pg_sys::Oid, kind: pg_sys::DependencyType::Type) {
    let class = pg_sys::ExtensionRelationId;
    let address = |extension| pg_sys::ObjectAddress {
        classId: class,
        objectId: extension,
        objectSubId: 0,
    };
    // SAFETY: reads and writes the catalog; the addresses are copied.
    unsafe {
        let insitu = pg_sys::get_extension_oid(c"insitu".as_ptr(), false);
        pg_sys::deleteDependencyRecordsForSpecific(class, vector, kind as _, class, insitu);
        pg_sys::recordDependencyOn(&address(vector), &address(insitu), kind);
    }
}

fn owns_extension(extension: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalog.
    unsafe {
        #[cfg(feature = "pg15")]
        let is_owner = pg_sys::pg_extension_ownercheck(extension, pg_sys::GetUserId());
        #[cfg(not(feature = "pg15"))]
        let is_owner =
            pg_sys::object_ownercheck(pg_sys::ExtensionRelationId, extension, pg_sys::GetUserId());
        is_owner
    }
}
