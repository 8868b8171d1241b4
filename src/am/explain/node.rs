//! What EXPLAIN tells of an index scan: the index, how far its searches went and by which
//! setting, what they looked at, and why they ended.
//!
//! In the text format that is four lines, in the others one group, `Vector Index`. What
//! searches did is the sum of all of this process's; those of parallel workers are theirs.

#![allow(unsafe_code)]

use core::ffi::CStr;
use std::ffi::CString;
use std::fmt::Write;

use pgrx::prelude::*;

use crate::am::counters::{Ended, Totals, Width};
use crate::am::method::{About, Method};
use crate::am::open;
use crate::versions::explain::source_of;

/// An index scan of a plan, whose index is open.
pub struct Node {
    index: pg_sys::Relation,
    /// To be closed.
    is_mine: bool,
    method: &'static Method,
    scan: pg_sys::IndexScanDesc,
}

impl Node {
    /// A node of a plan, if it is a scan of an index of this extension's.
    ///
    /// # Safety
    ///
    /// `state` is a node of a plan that the executor has begun and not ended.
    pub unsafe fn of(state: *mut pg_sys::PlanState) -> Option<Self> {
        // SAFETY: the tag tells the type of a node. Without ANALYZE, the executor opens no
        // index, but the planner has locked it; one that does not exist was thought up.
        unsafe {
            if (*state).type_ != pg_sys::NodeTag::T_IndexScanState {
                return None;
            }
            let state = &*state.cast::<pg_sys::IndexScanState>();
            let (mut index, is_mine) = (state.iss_RelationDesc, state.iss_RelationDesc.is_null());
            if is_mine {
                let plan = state.ss.ps.plan.cast::<pg_sys::IndexScan>();
                let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
                index = pg_sys::try_index_open((*plan).indexid, lock);
            }
            if index.is_null() {
                return None;
            }
            let Some(method) = Method::of(index) else {
                close(index, is_mine);
                return None;
            };
            Some(Node {
                index,
                is_mine,
                method,
                scan: state.iss_ScanDesc,
            })
        }
    }

    /// Writes what there is to tell. With ANALYZE, that is also what searches did.
    ///
    /// # Safety
    ///
    /// An EXPLAIN is under way, at a place where properties may come.
    pub unsafe fn show(self, es: *mut pg_sys::ExplainState) {
        // SAFETY: the index is open, and its scan, if it was begun, has not ended.
        unsafe {
            let about = (self.method.about)(self.index);
            let (totals, last_width) = match self.scan.is_null() {
                true => (Totals::default(), None),
                false => (self.method.done)(self.scan),
            };
            let settings = Settings::new(self.index, about.as_ref(), last_width);
            let totals = (*es).analyze.then_some(totals);
            let output = Output(es);
            if (*es).format == pg_sys::ExplainFormat::EXPLAIN_FORMAT_TEXT {
                self.show_text(&output, about, &settings, totals);
            } else {
                let group = c"Vector Index";
                pg_sys::ExplainOpenGroup(group.as_ptr(), group.as_ptr(), true, es);
                self.show_group(&output, about, &settings, totals);
                pg_sys::ExplainCloseGroup(group.as_ptr(), group.as_ptr(), true, es);
            }
            close(self.index, self.is_mine);
        }
    }

    /// # Safety
    ///
    /// As [`Node::show`].
    unsafe fn show_text(
        &self,
        output: &Output,
        about: Option<About>,
        settings: &Settings,
        totals: Option<Totals>,
    ) {
        let mut line = settings.method.clone();
        let mut lists = None;
        if let Some(about) = about {
            line += &format!("  Storage: {}", about.storage);
            lists = about.lists;
        }
        output.text(c"Vector Index", &line);
        if let Some(width) = settings.width {
            let mut line = width.width.to_string();
            if let Some(lists) = lists {
                line += &format!(" of {lists} lists");
            }
            line += &format!(" ({}", settings.width_setting);
            if i64::from(width.setting) != i64::from(width.width) {
                line += &format!(" = {}", width.setting);
            }
            if let Some(source) = &settings.width_source {
                line += &format!(", {source}");
            }
            line += &format!(")  Iterative Scan: {}", width.iterative_scan);
            if let Some(source) = &settings.iterative_source {
                line += &format!(" ({source})");
            }
            output.text(c"Search Width", &line);
        }
        let Some(totals) = totals else { return };
        let mut line = totals.searches.to_string();
        for (name, number) in self.numbers(&totals) {
            let _ = write!(line, "  {}: {number}", name.to_string_lossy());
        }
        output.text(c"Searches", &line);
        let ended = settings.ended(&totals, self.method.is_graph);
        let reasons: Vec<String> = (ended.iter())
            .map(|(reason, count)| match totals.searches {
                1 => reason.clone(),
                _ => format!("{reason}: {count}"),
            })
            .collect();
        if !reasons.is_empty() {
            output.text(c"Search Ended", &reasons.join(", "));
        }
    }

    /// # Safety
    ///
    /// As [`Node::show`].
    unsafe fn show_group(
        &self,
        output: &Output,
        about: Option<About>,
        settings: &Settings,
        totals: Option<Totals>,
    ) {
        output.text(c"Access Method", &settings.method);
        if let Some(about) = about {
            output.text(c"Storage", about.storage);
            if let Some(lists) = about.lists {
                output.number(c"Lists", u64::from(lists));
            }
        }
        if let Some(width) = settings.width {
            output.number(c"Search Width", u64::from(width.width));
            output.text(c"Width Setting", &settings.width_setting);
            output.number(c"Width Setting Value", width.setting as u64);
            if let Some(source) = &settings.width_source {
                output.text(c"Width Source", source);
            }
            output.text(c"Iterative Scan", width.iterative_scan);
            if let Some(source) = &settings.iterative_source {
                output.text(c"Iterative Scan Source", source);
            }
        }
        let Some(totals) = totals else { return };
        output.number(c"Searches", totals.searches);
        for (name, number) in self.numbers(&totals) {
            output.number(name, number);
        }
        let list = c"Search Ended";
        // SAFETY: the caller says so.
        unsafe { pg_sys::ExplainOpenGroup(list.as_ptr(), list.as_ptr(), false, output.0) };
        for (reason, count) in settings.ended(&totals, self.method.is_graph) {
            // SAFETY: as above.
            unsafe { pg_sys::ExplainOpenGroup(c"End".as_ptr(), std::ptr::null(), true, output.0) };
            output.text(c"Reason", &reason);
            output.number(c"Searches", count);
            // SAFETY: as above.
            unsafe { pg_sys::ExplainCloseGroup(c"End".as_ptr(), std::ptr::null(), true, output.0) };
        }
        // SAFETY: as above.
        unsafe { pg_sys::ExplainCloseGroup(list.as_ptr(), list.as_ptr(), false, output.0) };
    }

    /// What searches did, by name.
    fn numbers(&self, totals: &Totals) -> Vec<(&'static CStr, u64)> {
        let of_method = match self.method.is_graph {
            true => vec![
                (c"Vertices Visited", totals.vertices.visited),
                (c"Neighbours Estimated", totals.vertices.estimated),
            ],
            false => vec![
                (c"Lists Read", totals.lists),
                (c"Centroids Estimated", totals.centroids.estimated),
                (c"Rows Estimated", totals.vertices.estimated),
                (c"Rows Compared", totals.vertices.visited),
            ],
        };
        let mut all = vec![(c"Rounds", totals.rounds)];
        all.extend(of_method);
        all.push((c"Rows Returned", totals.rows));
        all
    }
}

/// # Safety
///
/// The index is open; where it is not `is_mine`, somebody else closes it.
unsafe fn close(index: pg_sys::Relation, is_mine: bool) {
    if is_mine {
        // SAFETY: opened in `Node::of`, with this lock.
        unsafe { pg_sys::index_close(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE) }
    }
}

/// The settings of the last search, or of the next one.
struct Settings {
    /// The access method.
    method: String,
    width: Option<Width>,
    /// The setting of the width, and by which of its values it is what it is, as in
    /// `pg_settings.source`; `None` if it has changed since.
    width_setting: String,
    width_source: Option<String>,
    /// The same of the iterative scan.
    iterative_source: Option<String>,
}

impl Settings {
    /// # Safety
    ///
    /// `index` is an open index of this extension's, and `about` is about it.
    unsafe fn new(index: pg_sys::Relation, about: Option<&About>, last: Option<Width>) -> Self {
        // SAFETY: passed on.
        let method = unsafe { open::method(index) };
        let now = about.map(|about| about.width);
        let width = last.or(now);
        let is_still =
            |of: fn(Width) -> (i32, &'static str)| last.is_none() || last.map(of) == now.map(of);
        let width_setting = match &*method {
            "hnsw" => "hnsw.ef_search".to_owned(),
            _ => format!("{method}.probes"),
        };
        Settings {
            width,
            width_source: is_still(|width| (width.setting, ""))
                .then(|| source_of(&width_setting))
                .flatten(),
            iterative_source: is_still(|width| (0, width.iterative_scan))
                .then(|| source_of(&format!("{method}.iterative_scan")))
                .flatten(),
            width_setting,
            method,
        }
    }

    /// Why searches ended, and how many for each reason.
    fn ended(&self, totals: &Totals, is_graph: bool) -> Vec<(String, u64)> {
        let reason = |ended| match (ended, is_graph) {
            (Ended::NotAsked, _) => "no more rows asked for".to_owned(),
            (Ended::Width, _) => format!("{} reached", self.width_setting),
            (Ended::Most, true) => "hnsw.max_scan_tuples reached".to_owned(),
            (Ended::Most, false) => format!("{}.max_probes reached", self.method),
            (Ended::Memory, _) => "work_mem * hnsw.scan_mem_multiplier reached".to_owned(),
            (Ended::Everything, true) => "whole graph searched".to_owned(),
            (Ended::Everything, false) => "all lists read".to_owned(),
        };
        (Ended::ALL.into_iter().zip(totals.ended))
            .filter(|&(_, count)| count > 0)
            .map(|(ended, count)| (reason(ended), count))
            .collect()
    }
}

/// The properties of an EXPLAIN under way.
struct Output(*mut pg_sys::ExplainState);

impl Output {
    fn text(&self, name: &CStr, value: &str) {
        // Names of settings and access methods have no zero within.
        let value = CString::new(value).unwrap_or_default();
        // SAFETY: an EXPLAIN is under way; the strings have a closing zero.
        unsafe { pg_sys::ExplainPropertyText(name.as_ptr(), value.as_ptr(), self.0) }
    }

    fn number(&self, name: &CStr, value: u64) {
        // SAFETY: as above.
        unsafe {
            pg_sys::ExplainPropertyUInteger(name.as_ptr(), std::ptr::null(), value, self.0);
        }
    }
}
