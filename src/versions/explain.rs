//! Where EXPLAIN asks for what [`crate::am::explain::Node`] tells.
//!
//! PostgreSQL 18 asks at each node of a plan. Before, there is no such hook, and what is
//! told of all nodes comes together, in the group `Vector Index Scans` behind the plan.
//! Three hooks make that. `ExplainOneQuery_hook` has the state of an EXPLAIN, notes it, and
//! goes on to what the server does. That ends the executor while the output of the query
//! is still open, just before its execution time: `ExecutorEnd_hook` writes there, if what
//! ends is the plan that is being explained. `EXPLAIN EXECUTE` passes the first hook by:
//! `ProcessUtility_hook` leads it there, see [`earlier::process_utility`].

#![allow(unsafe_code)]

use core::ffi::CStr;
use std::ffi::CString;

use pgrx::prelude::*;

/// Asks to be asked. To be called when the library is loaded, once.
pub fn init() {
    #[cfg(feature = "pg18")]
    later::init();
    #[cfg(not(feature = "pg18"))]
    earlier::init();
}

/// Whether there is anything to tell in an EXPLAIN: what indexes are like is of interest to
/// who wants details, and else it would be in the output that other programs compare.
///
/// # Safety
///
/// An EXPLAIN is under way.
unsafe fn is_wanted(es: *mut pg_sys::ExplainState) -> bool {
    // SAFETY: as the caller says.
    unsafe { (*es).analyze || (*es).verbose }
}

/// Where the present value of a setting comes from, as in `pg_settings.source`.
pub fn source_of(setting: &str) -> Option<String> {
    let name = CString::new(setting).ok()?;
    // SAFETY: the settings of the session, and the names of their sources, which live as
    // long as the process; a source is a number below theirs.
    unsafe {
        #[cfg(feature = "pg15")]
        let found = {
            let all = pg_sys::get_guc_variables();
            let count = pg_sys::GetNumConfigOptions() as usize;
            let mut all = std::slice::from_raw_parts(all, count).iter();
            all.find(|&&known| CStr::from_ptr((*known).name) == name.as_c_str())
                .copied()
        };
        #[cfg(not(feature = "pg15"))]
        let found = {
            let level = PgLogLevel::ERROR as i32;
            Some(pg_sys::find_option(name.as_ptr(), false, true, level))
        };
        let source = (*found.filter(|found| !found.is_null())?).source as usize;
        let names = (&raw const pg_sys::GucSource_Names).cast::<*const core::ffi::c_char>();
        Some(
            CStr::from_ptr(*names.add(source))
                .to_string_lossy()
                .into_owned(),
        )
    }
}

#[cfg(feature = "pg18")]
mod later {
    use std::sync::OnceLock;

    use pgrx::prelude::*;

    use super::is_wanted;
    use crate::am::explain::Node;

    static NEXT: OnceLock<pg_sys::explain_per_node_hook_type> = OnceLock::new();

    pub fn init() {
        // SAFETY: called from _PG_init, which runs alone.
        unsafe {
            NEXT.get_or_init(|| pg_sys::explain_per_node_hook);
            pg_sys::explain_per_node_hook = Some(explain_node);
        }
    }

    /// Called for each node, behind its own properties and before those below it. An ERROR
    /// of another extension's hook passes it as it is.
    unsafe extern "C-unwind" fn explain_node(
        state: *mut pg_sys::PlanState,
        ancestors: *mut pg_sys::List,
        relationship: *const core::ffi::c_char,
        plan_name: *const core::ffi::c_char,
        es: *mut pg_sys::ExplainState,
    ) {
        // SAFETY: passed on.
        unsafe {
            if let Some(&Some(next)) = NEXT.get() {
                next(state, ancestors, relationship, plan_name, es);
            }
            tell(state, es);
        }
    }

    #[pg_guard]
    unsafe extern "C-unwind" fn tell(state: *mut pg_sys::PlanState, es: *mut pg_sys::ExplainState) {
        // SAFETY: the server gives a node of a plan under way.
        unsafe {
            if is_wanted(es)
                && let Some(node) = Node::of(state)
            {
                node.show(es);
            }
        }
    }
}

#[cfg(not(feature = "pg18"))]
mod earlier {
    use core::ffi::{CStr, c_char, c_void};
    use std::ptr;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicPtr, Ordering};

    use cee_scape::call_with_sigsetjmp;
    use pgrx::PgList;
    use pgrx::prelude::*;

    use super::is_wanted;
    use crate::am::explain::Node;

    type ExplainOneQuery = unsafe extern "C-unwind" fn(
        *mut pg_sys::Query,
        i32,
        *mut pg_sys::IntoClause,
        *mut pg_sys::ExplainState,
        *const c_char,
        pg_sys::ParamListInfo,
        *mut pg_sys::QueryEnvironment,
    );
    type ExecutorEnd = unsafe extern "C-unwind" fn(*mut pg_sys::QueryDesc);
    type ProcessUtility = unsafe extern "C-unwind" fn(
        *mut pg_sys::PlannedStmt,
        *const c_char,
        bool,
        pg_sys::ProcessUtilityContext::Type,
        pg_sys::ParamListInfo,
        *mut pg_sys::QueryEnvironment,
        *mut pg_sys::DestReceiver,
        *mut pg_sys::QueryCompletion,
    );

    /// What was there before these hooks, or what the server does where nothing was.
    struct Next {
        explain_one_query: Option<ExplainOneQuery>,
        executor_end: ExecutorEnd,
        process_utility: ProcessUtility,
    }

    static NEXT: OnceLock<Next> = OnceLock::new();

    /// The innermost EXPLAIN under way; null if there is none, which is all that other
    /// statements pay.
    static EXPLAIN: AtomicPtr<pg_sys::ExplainState> = AtomicPtr::new(ptr::null_mut());

    /// The server's own functions without pgrx's wrappers. These cost about what ending a short
    /// query does; and an ERROR, which they make a panic of, loses what does not fit into that,
    /// such as the name of a constraint.
    mod unwrapped {
        use core::ffi::{c_char, c_int};

        use pgrx::pg_sys;

        unsafe extern "C-unwind" {
            pub fn pg_re_throw() -> !;
            pub fn ExplainExecuteQuery(
                statement: *mut pg_sys::ExecuteStmt,
                into: *mut pg_sys::IntoClause,
                es: *mut pg_sys::ExplainState,
                text: *const c_char,
                parameters: pg_sys::ParamListInfo,
                environment: *mut pg_sys::QueryEnvironment,
            );
            #[cfg(feature = "pg17")]
            pub fn standard_ExplainOneQuery(
                query: *mut pg_sys::Query,
                options: c_int,
                into: *mut pg_sys::IntoClause,
                es: *mut pg_sys::ExplainState,
                text: *const c_char,
                parameters: pg_sys::ParamListInfo,
                environment: *mut pg_sys::QueryEnvironment,
            );
            #[cfg(not(feature = "pg17"))]
            pub fn pg_plan_query(
                query: *mut pg_sys::Query,
                text: *const c_char,
                options: c_int,
                parameters: pg_sys::ParamListInfo,
            ) -> *mut pg_sys::PlannedStmt;
            #[cfg(not(feature = "pg17"))]
            pub fn ExplainOnePlan(
                plan: *mut pg_sys::PlannedStmt,
                into: *mut pg_sys::IntoClause,
                es: *mut pg_sys::ExplainState,
                text: *const c_char,
                parameters: pg_sys::ParamListInfo,
                environment: *mut pg_sys::QueryEnvironment,
                duration: *const pg_sys::instr_time,
                usage: *const pg_sys::BufferUsage,
            );
            pub fn standard_ExecutorEnd(query: *mut pg_sys::QueryDesc);
            pub fn standard_ProcessUtility(
                statement: *mut pg_sys::PlannedStmt,
                text: *const c_char,
                read_only: bool,
                context: pg_sys::ProcessUtilityContext::Type,
                parameters: pg_sys::ParamListInfo,
                environment: *mut pg_sys::QueryEnvironment,
                receiver: *mut pg_sys::DestReceiver,
                completion: *mut pg_sys::QueryCompletion,
            );
        }
    }

    pub fn init() {
        // SAFETY: called from _PG_init, which runs alone.
        unsafe {
            NEXT.get_or_init(|| Next {
                explain_one_query: pg_sys::ExplainOneQuery_hook,
                executor_end: pg_sys::ExecutorEnd_hook.unwrap_or(unwrapped::standard_ExecutorEnd),
                process_utility: pg_sys::ProcessUtility_hook
                    .unwrap_or(unwrapped::standard_ProcessUtility),
            });
            pg_sys::ExplainOneQuery_hook = Some(explain_one_query);
            pg_sys::ExecutorEnd_hook = Some(executor_end);
            pg_sys::ProcessUtility_hook = Some(process_utility);
        }
    }

    fn next() -> &'static Next {
        match NEXT.get() {
            Some(next) => next,
            None => unreachable!("the hooks are set behind it"),
        }
    }

    /// Does what the server or another extension does, and notes meanwhile which EXPLAIN is
    /// under way; there may be others within, as a function that the query calls may explain
    /// something. An ERROR goes on as it was raised (PG_TRY and PG_FINALLY of elog.h).
    ///
    /// # Safety
    ///
    /// `work` holds nothing to drop, and does not panic.
    unsafe fn under_way(es: *mut pg_sys::ExplainState, work: impl FnOnce()) {
        let outer = EXPLAIN.swap(es, Ordering::Relaxed);
        // SAFETY: the server's stack of handlers has this one for as long as `work` runs. An
        // ERROR comes back here past frames of the server, and this closure's.
        unsafe {
            let handler = pg_sys::PG_exception_stack;
            let context = pg_sys::error_context_stack;
            let is_error = call_with_sigsetjmp(false, |buffer| {
                pg_sys::PG_exception_stack = ptr::from_ref(buffer).cast_mut().cast();
                work();
                0
            });
            pg_sys::PG_exception_stack = handler;
            pg_sys::error_context_stack = context;
            EXPLAIN.store(outer, Ordering::Relaxed);
            if is_error != 0 {
                unwrapped::pg_re_throw();
            }
        }
    }

    /// Explains one query, as the server or the hook before this one does. No guard, for the
    /// sake of errors: see [`unwrapped`].
    unsafe extern "C-unwind" fn explain_one_query(
        query: *mut pg_sys::Query,
        options: i32,
        into: *mut pg_sys::IntoClause,
        es: *mut pg_sys::ExplainState,
        text: *const c_char,
        parameters: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
    ) {
        // SAFETY: the server gives a query and what to explain it with, which are passed on.
        unsafe {
            under_way(es, || {
                if let Some(execute) = led_here(query) {
                    use unwrapped::ExplainExecuteQuery as explain;
                    explain(execute, into, es, text, parameters, environment);
                } else {
                    let explain = next().explain_one_query.unwrap_or(default);
                    explain(query, options, into, es, text, parameters, environment);
                }
            });
        }
    }

    #[cfg(feature = "pg17")]
    use unwrapped::standard_ExplainOneQuery as default;

    /// What the server does where there is no hook (ExplainOneQuery in explain.c); from
    /// PostgreSQL 17 on, that is a function.
    #[cfg(not(feature = "pg17"))]
    unsafe extern "C-unwind" fn default(
        query: *mut pg_sys::Query,
        options: i32,
        into: *mut pg_sys::IntoClause,
        es: *mut pg_sys::ExplainState,
        text: *const c_char,
        parameters: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
    ) {
        // SAFETY: the server gave all this for that.
        unsafe {
            let before = pg_sys::pgBufferUsage;
            let started = std::time::Instant::now();
            let plan = unwrapped::pg_plan_query(query, text, options, parameters);
            let elapsed = started.elapsed();
            let mut duration = pg_sys::instr_time::default();
            #[cfg(feature = "pg15")]
            {
                duration.tv_sec = elapsed.as_secs() as i64;
                duration.tv_nsec = i64::from(elapsed.subsec_nanos());
            }
            #[cfg(feature = "pg16")]
            {
                // Of a nanosecond each, but on Windows (instr_time.h).
                duration.ticks = elapsed.as_nanos() as i64;
            }
            let mut usage = pg_sys::BufferUsage::default();
            let now = &raw const pg_sys::pgBufferUsage;
            pg_sys::BufferUsageAccumDiff(&mut usage, now, &before);
            let usage = match (*es).buffers {
                true => &raw const usage,
                false => ptr::null(),
            };
            unwrapped::ExplainOnePlan(
                plan,
                into,
                es,
                text,
                parameters,
                environment,
                &duration,
                usage,
            );
        }
    }

    /// Ends the executor. Every query comes through here, so what is not for an EXPLAIN does
    /// without pgrx's guard: an ERROR passes a frame that has nothing to drop.
    unsafe extern "C-unwind" fn executor_end(query: *mut pg_sys::QueryDesc) {
        if !EXPLAIN.load(Ordering::Relaxed).is_null() {
            // SAFETY: the server gives a query under way.
            unsafe { show_scans(query) };
        }
        // SAFETY: passed on.
        unsafe { (next().executor_end)(query) }
    }

    /// Tells of the scans of a query that ends, if it is the one that is being explained.
    #[pg_guard]
    unsafe extern "C-unwind" fn show_scans(query: *mut pg_sys::QueryDesc) {
        let es = EXPLAIN.load(Ordering::Relaxed);
        // SAFETY: the EXPLAIN is under way. The plan is what was printed last: not that of
        // something that planning or running the query has run, which ends before that.
        unsafe {
            if (*es).pstmt.is_null() || (*es).pstmt != (*query).plannedstmt || !is_wanted(es) {
                return;
            }
            let mut scans: Vec<*mut pg_sys::PlanState> = Vec::new();
            collect((*query).planstate, (&raw mut scans).cast());
            let mut is_open = false;
            let group = c"Vector Index Scans";
            for state in scans {
                let Some(node) = Node::of(state) else {
                    continue;
                };
                if !is_open {
                    pg_sys::ExplainOpenGroup(group.as_ptr(), group.as_ptr(), false, es);
                    is_open = true;
                }
                show_scan(state, node, es);
            }
            if is_open {
                pg_sys::ExplainCloseGroup(group.as_ptr(), group.as_ptr(), false, es);
            }
        }
    }

    /// Appends the index scans of a plan to a vector.
    #[pg_guard]
    unsafe extern "C-unwind" fn collect(state: *mut pg_sys::PlanState, scans: *mut c_void) -> bool {
        // SAFETY: the tag tells the type of a node; `show_scans` gives the vector.
        unsafe {
            if state.is_null() {
                return false;
            }
            if (*state).type_ == pg_sys::NodeTag::T_IndexScanState {
                (*scans.cast::<Vec<*mut pg_sys::PlanState>>()).push(state);
            }
            pg_sys::planstate_tree_walker(state, Some(collect), scans)
        }
    }

    /// Tells of a scan, and which it is: as the plan has it.
    unsafe fn show_scan(state: *mut pg_sys::PlanState, node: Node, es: *mut pg_sys::ExplainState) {
        // SAFETY: a scan has a table; the plan was printed, so its tables have names.
        unsafe {
            let index = pg_sys::get_rel_name((*(*state).plan.cast::<pg_sys::IndexScan>()).indexid);
            let table = (*state.cast::<pg_sys::IndexScanState>())
                .ss
                .ss_currentRelation;
            let table = (*(*table).rd_rel).relname.data.as_ptr();
            let place = (*(*state).plan.cast::<pg_sys::Scan>()).scanrelid as usize - 1;
            let names = PgList::<c_char>::from_pg((*es).rtable_names);
            let alias = names.get_ptr(place).filter(|name| !name.is_null());
            let alias = alias.map_or(table, <*mut c_char>::cast_const);
            if (*es).format == pg_sys::ExplainFormat::EXPLAIN_FORMAT_TEXT {
                let text = |text: *const c_char| pg_sys::appendStringInfoString((*es).str_, text);
                pg_sys::appendStringInfoSpaces((*es).str_, (*es).indent * 2);
                text(c"Index Scan using ".as_ptr());
                text(pg_sys::quote_identifier(index));
                text(c" on ".as_ptr());
                text(pg_sys::quote_identifier(table));
                if CStr::from_ptr(alias) != CStr::from_ptr(table) {
                    text(c" ".as_ptr());
                    text(pg_sys::quote_identifier(alias));
                }
                text(c":\n".as_ptr());
                (*es).indent += 1;
                node.show(es);
                (*es).indent -= 1;
            } else {
                let group = c"Vector Index Scan".as_ptr();
                pg_sys::ExplainOpenGroup(group, ptr::null(), true, es);
                pg_sys::ExplainPropertyText(c"Index Name".as_ptr(), index, es);
                pg_sys::ExplainPropertyText(c"Relation Name".as_ptr(), table, es);
                pg_sys::ExplainPropertyText(c"Alias".as_ptr(), alias, es);
                node.show(es);
                pg_sys::ExplainCloseGroup(group, ptr::null(), true, es);
            }
        }
    }

    /// Processes a statement that is no query.
    ///
    /// What `EXPLAIN EXECUTE` explains is a statement of that kind too, which the server
    /// explains by a function of its own, and no hook sees it. So the server gets copies of
    /// the EXPLAIN and of what is explained that call this a SELECT: that comes to
    /// [`explain_one_query`], which calls that function. Not so where another extension's
    /// hook comes first: it would take the SELECT for one.
    #[allow(clippy::too_many_arguments)] // PostgreSQL's signature
    unsafe extern "C-unwind" fn process_utility(
        mut statement: *mut pg_sys::PlannedStmt,
        text: *const c_char,
        read_only: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        parameters: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        receiver: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    ) {
        // SAFETY: the server gives a statement; the rest is passed on. No guard, for the
        // same reason as in `executor_end`.
        unsafe {
            if (*(*statement).utilityStmt).type_ == pg_sys::NodeTag::T_ExplainStmt {
                statement = lead(statement);
            }
            (next().process_utility)(
                statement,
                text,
                read_only,
                context,
                parameters,
                environment,
                receiver,
                completion,
            );
        }
    }

    /// A copy of an EXPLAIN of an EXECUTE, as [`process_utility`] says; any other one as it
    /// is.
    #[pg_guard]
    unsafe extern "C-unwind" fn lead(
        statement: *mut pg_sys::PlannedStmt,
    ) -> *mut pg_sys::PlannedStmt {
        // SAFETY: tags tell the types of nodes. Copies live as long as the statement is
        // processed; what they refer to is not changed.
        unsafe {
            let explain = (*statement).utilityStmt.cast::<pg_sys::ExplainStmt>();
            let is_first = pg_sys::ExplainOneQuery_hook
                .is_some_and(|hook| ptr::fn_addr_eq(hook, explain_one_query as ExplainOneQuery));
            if is_first && let Some(query) = as_select((*explain).query) {
                let (statement, explain) = (copy(statement), copy(explain));
                (*explain).query = query;
                (*statement).utilityStmt = explain.cast();
                return statement;
            }
            statement
        }
    }

    /// A copy of an EXECUTE, or of a CREATE TABLE AS EXECUTE, that calls the former a SELECT;
    /// `None` for anything else.
    ///
    /// # Safety
    ///
    /// A query as the parser has analyzed it, or null.
    unsafe fn as_select(query: *mut pg_sys::Node) -> Option<*mut pg_sys::Node> {
        use pg_sys::NodeTag::{T_CreateTableAsStmt, T_ExecuteStmt, T_Query};
        // SAFETY: tags tell the types of nodes; a query of this kind holds a statement.
        unsafe {
            if query.is_null() || (*query).type_ != T_Query {
                return None;
            }
            let query = query.cast::<pg_sys::Query>();
            let statement = (*query).utilityStmt;
            if statement.is_null() || (*query).commandType != pg_sys::CmdType::CMD_UTILITY {
                return None;
            }
            let query = match (*statement).type_ {
                T_ExecuteStmt => {
                    let query = copy(query);
                    (*query).commandType = pg_sys::CmdType::CMD_SELECT;
                    query
                }
                T_CreateTableAsStmt => {
                    let statement = statement.cast::<pg_sys::CreateTableAsStmt>();
                    let inner = as_select((*statement).query)?;
                    let (query, statement) = (copy(query), copy(statement));
                    (*statement).query = inner;
                    (*query).utilityStmt = statement.cast();
                    query
                }
                _ => return None,
            };
            Some(query.cast())
        }
    }

    /// The EXECUTE that [`lead`] has called a SELECT.
    unsafe fn led_here(query: *mut pg_sys::Query) -> Option<*mut pg_sys::ExecuteStmt> {
        // SAFETY: the server gives a query; that of a SELECT holds no statement.
        unsafe {
            let statement = (*query).utilityStmt;
            let is_led = (*query).commandType == pg_sys::CmdType::CMD_SELECT
                && !statement.is_null()
                && (*statement).type_ == pg_sys::NodeTag::T_ExecuteStmt;
            is_led.then_some(statement.cast())
        }
    }

    /// A copy of a node alone, in the current memory context.
    ///
    /// # Safety
    ///
    /// `node` is a whole node of its type.
    unsafe fn copy<T: Copy>(node: *mut T) -> *mut T {
        // SAFETY: the server allocates so much, aligned for any node, or raises an ERROR.
        unsafe {
            let copy = pg_sys::palloc(size_of::<T>()).cast::<T>();
            copy.write(*node);
            copy
        }
    }
}
