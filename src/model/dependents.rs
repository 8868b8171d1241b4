//! What would fail without a model: generated columns, defaults, indexes,
//! constraints, views, policies, functions and triggers that name it.
//!
//! The name is an argument, so the server's own records of dependencies end at
//! `insitu.embed`. They say which expressions call our functions; these are read as
//! trees, in which a call with the name as a constant of its argument is exact. Functions
//! whose body is text are searched for a call with the name in the same statement, or
//! with a variable that was given the name before. A function that calls ours may pass
//! its own arguments on, so calls of it are looked at as calls of ours are, and so are
//! those of functions that call this one. An argument may also be a column, whose default
//! is the name. What is put together while a statement runs, what stands in rows, and what
//! is sent by clients, is not found.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_void};

use pgrx::prelude::*;

use super::catalog;
use crate::allocator;
use crate::encoding::{ServerText, argument};
use crate::errors::{raise, raise_with_detail_and_hint};

/// So many are named; the server does alike.
const MOST_NAMED: usize = 100;

/// Our functions that take the name of a model, and the numbers of the arguments that
/// are one.
const FUNCTIONS: &str = "
SELECT p.oid, ARRAY(SELECT a.number::pg_catalog.int4 - 1
                      FROM pg_catalog.unnest(p.proargnames) WITH ORDINALITY a (name, number)
                     WHERE a.name IN ('model', 'reference', 'source') AND a.number <= p.pronargs)
  FROM pg_catalog.pg_proc p
 WHERE p.pronamespace = 'insitu'::pg_catalog.regnamespace
   AND p.proargnames && '{model,reference,source}'::pg_catalog.text[]";

/// Others' functions that call one of those in `$2`, but for those in `$1`, with all of
/// their arguments.
const CALLERS: &str = r#"
SELECT p.oid, ARRAY(SELECT pg_catalog.generate_series(0, p.pronargs - 1))
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang,
       LATERAL (SELECT pg_catalog.string_agg(DISTINCT pg_catalog.regexp_replace(
                           f.proname::pg_catalog.text, '([^[:alnum:]_])', '\\\1', 'g'), '|') AS any
                  FROM pg_catalog.pg_proc f WHERE f.oid = ANY ($2)) names
 WHERE l.lanname NOT IN ('internal', 'c') AND p.pronargs > 0 AND p.oid <> ALL ($1)
   AND CASE WHEN p.prosqlbody IS NULL
            THEN p.prosrc ~* ('\m(?:' || names.any || ')"?\s*\(')
            ELSE EXISTS (SELECT FROM pg_catalog.pg_depend d
                          WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid
                            AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                            AND d.refobjid = ANY ($2)) END"#;

/// Defaults of parameters of these functions.
const DEFAULTS: &str = "
SELECT pg_catalog.pg_describe_object('pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, 0),
       pg_catalog.convert_to(p.proargdefaults::pg_catalog.text, pg_catalog.getdatabaseencoding())
  FROM pg_catalog.pg_proc p WHERE p.oid = ANY ($1) AND p.proargdefaults IS NOT NULL ORDER BY 1";

/// Defaults of the columns that something which calls one of these functions refers to:
/// the table, the number of the column, and the tree.
const COLUMNS: &str = "
SELECT DISTINCT a.adrelid, a.adnum, pg_catalog.convert_to(a.adbin::pg_catalog.text, pg_catalog.getdatabaseencoding())
  FROM pg_catalog.pg_depend f
  JOIN pg_catalog.pg_depend c ON c.classid = f.classid AND c.objid = f.objid AND c.objsubid = f.objsubid
  JOIN pg_catalog.pg_attrdef a ON a.adrelid = c.refobjid AND a.adnum = c.refobjsubid
  JOIN pg_catalog.pg_attribute t ON t.attrelid = a.adrelid AND t.attnum = a.adnum AND t.attgenerated = ''
 WHERE f.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND f.refobjid = ANY ($1)
   AND c.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass";

/// Every expression that calls one of these functions: what it belongs to, the tree, and the
/// tables and numbers of the columns that it refers to.
const EXPRESSIONS: &str = "
WITH d AS MATERIALIZED (
    SELECT DISTINCT classid, objid, objsubid FROM pg_catalog.pg_depend
     WHERE refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND refobjid = ANY ($1)),
found (classid, objid, objsubid, tree) AS (
    -- A default depends itself; of a generated column, the column does.
    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid, a.adrelid, a.adnum::pg_catalog.int4,
           a.adbin::pg_catalog.text
      FROM d JOIN pg_catalog.pg_attrdef a ON a.oid = d.objid
     WHERE d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
    UNION ALL
    SELECT d.classid, d.objid, d.objsubid, a.adbin::pg_catalog.text
      FROM d JOIN pg_catalog.pg_attrdef a ON a.adrelid = d.objid AND a.adnum = d.objsubid
     WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
    UNION ALL
    SELECT d.classid, d.objid, 0, t.tree
      FROM d JOIN pg_catalog.pg_index i ON i.indexrelid = d.objid,
           LATERAL (VALUES (i.indexprs::pg_catalog.text), (i.indpred::pg_catalog.text)) t (tree)
     WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
    UNION ALL
    SELECT d.classid, d.objid, 0, p.partexprs::pg_catalog.text
      FROM d JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = d.objid
     WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
    UNION ALL
    SELECT d.classid, d.objid, 0, c.conbin::pg_catalog.text
      FROM d JOIN pg_catalog.pg_constraint c ON c.oid = d.objid
     WHERE d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
    UNION ALL
    -- A view, rather than its rule.
    SELECT CASE WHEN r.rulename = '_RETURN' THEN 'pg_catalog.pg_class'::pg_catalog.regclass ELSE d.classid END,
           CASE WHEN r.rulename = '_RETURN' THEN r.ev_class ELSE d.objid END, 0, t.tree
      FROM d JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid,
           LATERAL (VALUES (r.ev_action::pg_catalog.text), (r.ev_qual::pg_catalog.text)) t (tree)
     WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
    UNION ALL
    SELECT d.classid, d.objid, 0, t.tgqual::pg_catalog.text
      FROM d JOIN pg_catalog.pg_trigger t ON t.oid = d.objid
     WHERE d.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass
    UNION ALL
    SELECT d.classid, d.objid, 0, t.tree
      FROM d JOIN pg_catalog.pg_policy p ON p.oid = d.objid,
           LATERAL (VALUES (p.polqual::pg_catalog.text), (p.polwithcheck::pg_catalog.text)) t (tree)
     WHERE d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass
    UNION ALL
    SELECT d.classid, d.objid, 0, s.stxexprs::pg_catalog.text
      FROM d JOIN pg_catalog.pg_statistic_ext s ON s.oid = d.objid
     WHERE d.classid = 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass
    UNION ALL
    SELECT d.classid, d.objid, 0, t.tree
      FROM d JOIN pg_catalog.pg_proc p ON p.oid = d.objid,
           LATERAL (VALUES (p.prosqlbody::pg_catalog.text), (p.proargdefaults::pg_catalog.text)) t (tree)
     WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
    UNION ALL
    SELECT d.classid, d.objid, 0, t.typdefaultbin::pg_catalog.text
      FROM d JOIN pg_catalog.pg_type t ON t.oid = d.objid
     WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass)
SELECT pg_catalog.pg_describe_object(classid, objid, objsubid),
       pg_catalog.convert_to(tree, pg_catalog.getdatabaseencoding()), tables, columns
  FROM found,
       LATERAL (SELECT pg_catalog.array_agg(c.refobjid), pg_catalog.array_agg(c.refobjsubid)
                  FROM pg_catalog.pg_depend c
                 WHERE (c.classid = found.classid AND c.objid = found.objid AND c.objsubid = found.objsubid
                        -- What a view refers to, its rule does.
                        OR c.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
                           AND found.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                           AND c.objid IN (SELECT r.oid FROM pg_catalog.pg_rewrite r WHERE r.ev_class = found.objid)
                        -- And what a generated column does, its expression may.
                        OR c.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
                           AND found.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                           AND c.objid IN (SELECT a.oid FROM pg_catalog.pg_attrdef a
                                            WHERE a.adrelid = found.objid AND a.adnum = found.objsubid))
                   AND c.refobjsubid > 0 AND c.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass) refers (tables, columns)
 WHERE tree IS NOT NULL AND tree <> '<>' ORDER BY 1";

/// A text as the server has it.
const BYTES: &str = "SELECT pg_catalog.convert_to($1, pg_catalog.getdatabaseencoding())";

/// Functions whose text has a call of one of these, and behind it in the same statement
/// the name, or a variable that is given the name before; and triggers of
/// `insitu.auto_embed`, whose last argument it is.
const TEXTS: &str = r#"
SELECT pg_catalog.pg_describe_object('pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, 0)
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang,
       LATERAL (SELECT '''' || pg_catalog.replace($1, '''', '''''') || '''') q (literal),
       LATERAL (SELECT '\m(?:' || pg_catalog.string_agg(DISTINCT pg_catalog.regexp_replace(
                           f.proname::pg_catalog.text, '([^[:alnum:]_])', '\\\1', 'g'), '|') || ')"?\s*\([^;]*'
                  FROM pg_catalog.pg_proc f WHERE f.oid = ANY ($2)) c (call),
       LATERAL (SELECT '(?:' || pg_catalog.regexp_replace(q.literal, '([^[:alnum:]])', '\\\1', 'g') || '|\$\w*\$'
                    || pg_catalog.regexp_replace($1, '([^[:alnum:]])', '\\\1', 'g') || '\$)') n (name)
 WHERE l.lanname NOT IN ('internal', 'c') AND p.prosqlbody IS NULL
   AND (pg_catalog.strpos(p.prosrc, q.literal) > 0 OR pg_catalog.strpos(p.prosrc, '$' || $1 || '$') > 0)
   AND (p.prosrc ~* (c.call || n.name)
        OR p.prosrc ~* ('\m(\w+)(?:\s+(?:constant\s+)?[\w.]+)?\s*(?::=|=|\mdefault\M)\s*' || n.name || '.*' || c.call || '\m\1\M'))
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                    WHERE e.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND e.objid = p.oid AND e.deptype = 'e'
                      AND e.refobjid = (SELECT x.oid FROM pg_catalog.pg_extension x WHERE x.extname = 'insitu'))
UNION ALL
SELECT pg_catalog.pg_describe_object('pg_catalog.pg_trigger'::pg_catalog.regclass, t.oid, 0)
  FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid,
       LATERAL (SELECT '\x00'::pg_catalog.bytea || t.tgargs, '\x00'::pg_catalog.bytea || $3 || '\x00'::pg_catalog.bytea) a (given, last)
 WHERE p.pronamespace = 'insitu'::pg_catalog.regnamespace AND p.proname = 'embed_row' AND t.tgparentid = 0
   AND pg_catalog.substring(a.given, greatest(pg_catalog.length(a.given) - pg_catalog.length(a.last) + 1, 1)) = a.last
ORDER BY 1"#;

/// A function and the numbers of its arguments that may name a model.
struct Taker {
    function: pg_sys::Oid,
    arguments: Vec<i32>,
}

/// What a walk through a tree looks for.
struct Search<'a> {
    takers: &'a [Taker],
    name: &'a [u8],
    /// Numbers of columns whose default is the name, of the tables that an expression refers
    /// to.
    columns: Vec<i16>,
}

/// Raises an ERROR if something in the database needs the model.
pub fn check_none(name: &str) {
    let found = catalog::as_owner(|| match find(name) {
        Ok(found) => found,
        Err(error) => raise(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("could not look for what needs model \"{name}\": {error}"),
        ),
    });
    if found.is_empty() {
        return;
    }
    let mut detail: Vec<String> = found
        .iter()
        .take(MOST_NAMED)
        .map(|object| format!("{object} depends on model {name}"))
        .collect();
    if found.len() > MOST_NAMED {
        detail.push(format!("and {} other objects", found.len() - MOST_NAMED));
    }
    raise_with_detail_and_hint(
        PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
        format!("cannot drop model \"{name}\" because other objects depend on it"),
        detail.join("\n"),
        format!(
            "Drop them first, or drop the model all the same: insitu.drop_model('{name}', force => true). \
             They fail then until a model of this name is loaded."
        ),
    );
}

/// Descriptions of what needs the model, each once.
fn find(name: &str) -> Result<Vec<String>, pgrx::spi::Error> {
    Spi::connect(|client| {
        let mut takers = takers_of(client.select(FUNCTIONS, None, &[])?)?;
        let (ours, mut looked_at) = (takers.len(), 0);
        let oids = |takers: &[Taker]| -> Vec<pg_sys::Oid> {
            takers.iter().map(|taker| taker.function).collect()
        };
        // Functions that call these, and functions that call those, until there are no more.
        while looked_at < takers.len() {
            let (known, new) = (oids(&takers), oids(&takers[looked_at..]));
            looked_at = takers.len();
            takers.extend(takers_of(client.select(
                CALLERS,
                None,
                &[known.into(), new.into()],
            )?)?);
        }
        let functions = oids(&takers);
        let bytes = client.select(BYTES, None, &[argument(name)])?.first();
        let bytes = bytes.get_one::<Vec<u8>>()?.unwrap_or_default();
        let mut search = Search {
            takers: &takers,
            name: &bytes,
            columns: Vec::new(),
        };
        let mut named: Vec<(pg_sys::Oid, i16)> = Vec::new();
        for row in client.select(COLUMNS, None, &[functions.clone().into()])? {
            if let (Some(table), Some(column), Some(tree)) = (row.get(1)?, row.get(2)?, row.get(3)?)
                && search.is_constant_of(tree)
            {
                named.push((table, column));
            }
        }
        let mut found: Vec<String> = Vec::new();
        for row in client.select(EXPRESSIONS, None, &[functions.clone().into()])? {
            pgrx::check_for_interrupts!();
            allocator::check();
            let (object, tree) = (row.get::<ServerText>(1)?, row.get::<Vec<u8>>(2)?);
            let object = object.map(|object| object.to_utf8());
            let tables = row.get::<Vec<pg_sys::Oid>>(3)?.unwrap_or_default();
            let columns = row.get::<Vec<i32>>(4)?.unwrap_or_default();
            let refers = tables
                .into_iter()
                .zip(columns.into_iter().map(|n| n as i16));
            let refers = refers.filter(|column| named.contains(column));
            search.columns = refers.map(|(_, column)| column).collect();
            if let (Some(object), Some(tree)) = (object, tree)
                && found.last() != Some(&object)
                && search.is_in(tree)
            {
                found.push(object);
            }
        }
        search.columns.clear();
        let mut others: Vec<String> = Vec::new();
        for row in client.select(DEFAULTS, None, &[oids(&takers[ours..]).into()])? {
            let (object, tree) = (row.get::<ServerText>(1)?, row.get::<Vec<u8>>(2)?);
            if let (Some(object), Some(tree)) = (object, tree)
                && search.is_constant_of(tree)
            {
                others.push(object.to_utf8());
            }
        }
        for row in client.select(
            TEXTS,
            None,
            &[argument(name), functions.into(), bytes.clone().into()],
        )? {
            others.extend(row.get::<ServerText>(1)?.map(|object| object.to_utf8()));
        }
        for object in others {
            if !found.contains(&object) {
                found.push(object);
            }
        }
        Ok(found)
    })
}

/// Functions and the numbers of their arguments, as the server lists them.
fn takers_of(rows: spi::SpiTupleTable<'_>) -> Result<Vec<Taker>, pgrx::spi::Error> {
    let mut takers = Vec::new();
    for row in rows {
        if let (Some(function), Some(arguments)) = (row.get(1)?, row.get(2)?) {
            takers.push(Taker {
                function,
                arguments,
            });
        }
    }
    Ok(takers)
}

impl Search<'_> {
    /// Whether an expression, or list of expressions or queries, in the form of the
    /// server's catalogs, has a call with the name.
    fn is_in(&self, tree: Vec<u8>) -> bool {
        // SAFETY: the walker looks for calls.
        unsafe { self.walks(tree, visit) }
    }

    /// Whether such an expression has the name as a constant, or refers to a column whose
    /// default it is.
    fn is_constant_of(&self, tree: Vec<u8>) -> bool {
        // SAFETY: the walker looks for constants.
        unsafe { self.walks(tree, visit_constants) }
    }

    /// # Safety
    ///
    /// The walker takes nodes of expressions, and the search.
    unsafe fn walks(&self, tree: Vec<u8>, walker: Walker) -> bool {
        let tree = CString::new(tree).unwrap_or_default();
        // SAFETY: the server made the tree, which goes with the memory of the query that
        // read it.
        unsafe {
            let node = pg_sys::stringToNode(tree.as_ptr());
            walker(node.cast(), self.as_walked())
        }
    }

    /// The search as walkers are given it. They only read it.
    fn as_walked(&self) -> *mut c_void {
        let this: *const Self = self;
        this.cast_mut().cast()
    }

    /// Whether a call gives the name to one of our functions.
    ///
    /// # Safety
    ///
    /// A node of this type.
    unsafe fn is_call(&self, call: *const pg_sys::FuncExpr) -> bool {
        // SAFETY: the list's elements are expressions.
        unsafe {
            let taker = self.takers.iter().find(|t| t.function == (*call).funcid);
            let Some(taker) = taker else { return false };
            let arguments = pgrx::PgList::<pg_sys::Node>::from_pg((*call).args);
            arguments.iter_ptr().zip(0..).any(|(argument, place)| {
                // An argument that was given by name has its place in itself.
                let (argument, place) = match (*argument).type_ {
                    pg_sys::NodeTag::T_NamedArgExpr => {
                        let named = argument.cast::<pg_sys::NamedArgExpr>();
                        ((*named).arg.cast::<pg_sys::Node>(), (*named).argnumber)
                    }
                    _ => (argument, place),
                };
                taker.arguments.contains(&place) && visit_constants(argument, self.as_walked())
            })
        }
    }
}

type Walker = unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> bool;

/// The text of a constant, whatever its type: by the type's own output.
///
/// # Safety
///
/// A node of this type.
unsafe fn text_of(value: *const pg_sys::Const) -> Option<Vec<u8>> {
    // SAFETY: the value is of the type that the node tells.
    unsafe {
        if (*value).constisnull {
            return None;
        }
        let (mut output, mut is_varlena) = (pg_sys::InvalidOid, false);
        pg_sys::getTypeOutputInfo((*value).consttype, &mut output, &mut is_varlena);
        let text = pg_sys::OidOutputFunctionCall(output, (*value).constvalue);
        Some(CStr::from_ptr(text).to_bytes().to_vec())
    }
}

/// Visits a node and everything below it, until a constant is the name, or the default of a
/// column.
#[pg_guard]
unsafe extern "C-unwind" fn visit_constants(node: *mut pg_sys::Node, search: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: the server's walkers pass on the search that `as_walked` gave them.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_Query => {
                pg_sys::query_tree_walker(node.cast(), Some(visit_constants), search, 0)
            }
            pg_sys::NodeTag::T_Const => {
                text_of(node.cast()).as_deref() == Some((*search.cast::<Search>()).name)
            }
            pg_sys::NodeTag::T_Var => {
                let columns = &(*search.cast::<Search>()).columns;
                columns.contains(&(*node.cast::<pg_sys::Var>()).varattno)
            }
            _ => pg_sys::expression_tree_walker(node, Some(visit_constants), search),
        }
    }
}

/// Visits a node and everything below it, until a call is found.
#[pg_guard]
unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, search: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: the server's walkers pass on the search that `as_walked` gave them.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_Query => {
                pg_sys::query_tree_walker(node.cast(), Some(visit), search, 0)
            }
            pg_sys::NodeTag::T_FuncExpr if (*search.cast::<Search>()).is_call(node.cast()) => true,
            _ => pg_sys::expression_tree_walker(node, Some(visit), search),
        }
    }
}
