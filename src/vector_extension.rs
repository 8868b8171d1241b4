//! The extension `vector`, which stands for this one: clients of pgvector create
//! it when they start. It has no members. Its script (`compat/`) creates insitu
//! where that is missing, and it depends on insitu, so that a dump has insitu
//! first. Where the server's files of this name are pgvector's, which cannot be
//! in the same database, it is made without its script.

#![allow(unsafe_code)]

use pgrx::prelude::*;

use std::ffi::CStr;

use crate::encoding::{ServerText, Text, argument, shown};
use crate::errors::{raise, raise_with_detail_and_hint, warning};
use crate::event;
use crate::release::PGVECTOR;
use crate::versions;

/// The beginning of what our extension `vector` says of itself (`compat/vector.control`).
const STANDS_FOR_INSITU: &str = "stands for insitu";

/// Creates insitu for the script of `vector`, in the schema that this one goes
/// into, if it is not there.
///
/// The script runs as a superuser, whoever has it run; insitu is created for superusers
/// only.
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
    let (is_superuser, insitu, wanted) = read_one(OUTER, &[outer.1.into()], |row| {
        let schema = |n| Ok::<_, spi::Error>(row.get::<ServerText>(n)?.map(|name| name.to_utf8()));
        Ok((row.get(1)?.unwrap_or(false), schema(2)?, schema(3)?))
    })
    .unwrap_or_default();
    if let Some(insitu) = insitu {
        return tell_of_schema(&insitu, wanted.as_deref());
    }
    if !is_superuser {
        raise_with_detail_and_hint(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied to create extension \"vector\"",
            "It stands for the extension insitu, which is missing in this database, and which only \
             superusers create.",
            "Have a superuser run CREATE EXTENSION insitu in this database first.",
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

/// Whether the extension that is being created is a superuser's, the schema of insitu, if it
/// is there, and that of the extension.
const OUTER: &str = "
SELECT r.rolsuper,
       (SELECT s.nspname::pg_catalog.text FROM pg_catalog.pg_extension i
          JOIN pg_catalog.pg_namespace s ON s.oid OPERATOR(pg_catalog.=) i.extnamespace
         WHERE i.extname OPERATOR(pg_catalog.=) 'insitu'),
       n.nspname::pg_catalog.text
  FROM pg_catalog.pg_extension e
  JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) e.extowner
  JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
 WHERE e.oid OPERATOR(pg_catalog.=) $1";

/// Where `vector` is not there: the schema of insitu, and whether the server's own CREATE
/// EXTENSION makes the one that stands for it, for this role.
const STANDS: &str = "
SELECT e.extnamespace, n.nspname::pg_catalog.text,
       EXISTS (SELECT FROM pg_catalog.pg_available_extensions() a
                WHERE a.name OPERATOR(pg_catalog.=) 'vector' AND pg_catalog.starts_with(a.comment, $1))
       AND pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
  FROM pg_catalog.pg_extension e
  JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
 WHERE e.extname OPERATOR(pg_catalog.=) 'insitu'
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_extension v WHERE v.extname OPERATOR(pg_catalog.=) 'vector')";

/// What is read of the first row of a query, if it has one.
fn read_one<R>(
    query: &str,
    arguments: &[pgrx::datum::DatumWithOid<'_>],
    read: impl FnOnce(spi::SpiHeapTupleData<'_>) -> Result<R, spi::Error>,
) -> Option<R> {
    let result = Spi::connect(|client| {
        let first = client.select(query, Some(1), arguments)?.next();
        first.map(read).transpose()
    });
    match result {
        Ok(found) => found,
        Err(error) => raise(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("the extensions of the database cannot be read: {error}"),
        ),
    }
}

/// Says that the types are in another schema than the one that was asked for.
fn tell_of_schema(insitu: &str, wanted: Option<&str>) {
    if wanted.is_some_and(|wanted| wanted != insitu) {
        let message = format!(
            "the type vector is in schema \"{insitu}\", where extension \"insitu\" was created"
        );
        warning(message, None, None);
    }
}

/// Called before CREATE EXTENSION: has `vector` there where insitu is. The server would run
/// the script of pgvector, if it has that, which fails because its types are there already;
/// and our own only for roles that may create something in the database, where nothing is
/// created.
#[pg_extern(sql = false)]
fn extension_asked_for(fcinfo: pg_sys::FunctionCallInfo) {
    let kind = pg_sys::NodeTag::T_CreateExtensionStmt;
    // SAFETY: the statement is a copy for this execution, and lasts as long.
    let statement = unsafe {
        match event::statement::<pg_sys::CreateExtensionStmt>(fcinfo, kind) {
            Some(statement) if event::string((*statement).extname) == c"vector" => statement,
            _ => return,
        }
    };
    let found = read_one(STANDS, &[argument(STANDS_FOR_INSITU)], |row| {
        let name = row.get::<ServerText>(2)?.map(|name| name.to_utf8());
        Ok((row.get(1)?, name, row.get::<bool>(3)?))
    });
    let Some((Some(schema), Some(name), Some(false))) = found else {
        return;
    };
    // SAFETY: as above; the options of the statement are DefElems.
    unsafe {
        let options = pgrx::PgList::<pg_sys::DefElem>::from_pg((*statement).options);
        let mut version = PGVECTOR;
        for option in options.iter_ptr() {
            let value = || event::string(pg_sys::defGetString(option));
            match event::string((*option).defname).to_bytes() {
                b"new_version" => version = value(),
                b"schema" => {
                    tell_of_schema(&name, Some(&shown(value().to_bytes())));
                }
                _ => {}
            }
        }
        let vector = insert(schema, version);
        depend(vector, pg_sys::DependencyType::DEPENDENCY_NORMAL);
        let comment = c"stands for insitu, for clients that create the extension vector";
        pg_sys::CreateComments(vector, pg_sys::ExtensionRelationId, 0, comment.as_ptr());
        // It is there now, which is what was asked for.
        (*statement).if_not_exists = true;
    }
}

/// Makes the extension `vector`, which is there, depend on this one.
#[pg_extern(schema = "insitu", volatile, parallel_unsafe)]
fn tie_vector() {
    // SAFETY: reads the catalog; a missing extension is an ERROR.
    let vector = unsafe { pg_sys::get_extension_oid(c"vector".as_ptr(), false) };
    // SAFETY: a catalog that it knows.
    let is_owner = unsafe { versions::is_owned(pg_sys::ExtensionRelationId, vector) };
    if !is_owner {
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
    let vector = insert(schema, &version.to_c_string());
    depend(vector, pg_sys::DependencyType::DEPENDENCY_AUTO);
}

/// Writes the extension `vector` into the catalog, as the current role's.
fn insert(schema: pg_sys::Oid, version: &CStr) -> pg_sys::Oid {
    // SAFETY: writes a row of the catalog, which the next command sees.
    unsafe {
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
    }
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
