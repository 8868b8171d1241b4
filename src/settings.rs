//! The extension's settings (GUCs).

use std::ffi::CString;

use ann::ivf::layout::{MAX_LISTS, default_probes};
use pgrx::prelude::*;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

use crate::am::counters::Width;

/// What an index scan does when its first `hnsw.ef_search` rows are used up.
#[derive(PostgresGucEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum IterativeScan {
    /// It ends.
    #[name = c"off"]
    Off,
    /// It goes on; later rows may be nearer than earlier ones.
    #[name = c"relaxed_order"]
    RelaxedOrder,
    /// It goes on, and leaves out rows that would come out of order.
    #[name = c"strict_order"]
    StrictOrder,
}

impl IterativeScan {
    /// As in SQL.
    pub fn name(self) -> &'static str {
        match self {
            IterativeScan::Off => "off",
            IterativeScan::RelaxedOrder => "relaxed_order",
            IterativeScan::StrictOrder => "strict_order",
        }
    }
}

/// Whether a scan of lists goes on when its first lists are used up.
#[derive(PostgresGucEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum IvfIterativeScan {
    /// It ends.
    #[name = c"off"]
    Off,
    /// It takes further lists; later rows may be nearer than earlier ones.
    #[name = c"relaxed_order"]
    RelaxedOrder,
}

impl IvfIterativeScan {
    /// As in SQL.
    pub fn name(self) -> &'static str {
        match self {
            IvfIterativeScan::Off => "off",
            IvfIterativeScan::RelaxedOrder => "relaxed_order",
        }
    }
}

/// Where models run.
#[derive(PostgresGucEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExecutionProvider {
    /// On the processor.
    #[name = c"cpu"]
    Cpu,
    /// On an NVIDIA GPU, or not at all.
    #[name = c"cuda"]
    Cuda,
    /// On an NVIDIA GPU if one can be used, else on the processor.
    #[name = c"auto"]
    Auto,
}

/// The settings of scans of lists.
pub struct IvfSettings {
    probes: GucSetting<i32>,
    iterative_scan: GucSetting<IvfIterativeScan>,
    max_probes: GucSetting<i32>,
}

impl IvfSettings {
    const fn new(probes: i32) -> Self {
        IvfSettings {
            probes: GucSetting::<i32>::new(probes),
            iterative_scan: GucSetting::<IvfIterativeScan>::new(IvfIterativeScan::Off),
            max_probes: GucSetting::<i32>::new(MAX_LISTS as i32),
        }
    }

    /// Lists that a scan takes at a time, of an index with so many.
    pub fn probes(&self, lists: u32) -> u32 {
        match self.probes.get() {
            0 => default_probes(lists),
            probes => probes as u32,
        }
    }

    /// How far a scan of an index with so many lists goes.
    pub fn width(&self, lists: u32) -> Width {
        Width {
            width: self.probes(lists),
            setting: self.probes.get(),
            iterative_scan: self.iterative_scan.get().name(),
        }
    }

    /// Lists that it takes in all.
    pub fn most_probes(&self, probes: u32) -> u32 {
        match self.iterative_scan.get() {
            IvfIterativeScan::Off => probes,
            IvfIterativeScan::RelaxedOrder => (self.max_probes.get() as u32).max(probes),
        }
    }
}

/// Of the access method `ivf`: as many lists as are good for the index.
pub static IVF: IvfSettings = IvfSettings::new(0);
/// Of the access method `ivfflat`: as in pgvector.
pub static IVFFLAT: IvfSettings = IvfSettings::new(1);
pub static EF_SEARCH: GucSetting<i32> = GucSetting::<i32>::new(40);
pub static ITERATIVE_SCAN: GucSetting<IterativeScan> =
    GucSetting::<IterativeScan>::new(IterativeScan::Off);
pub static MAX_SCAN_TUPLES: GucSetting<i32> = GucSetting::<i32>::new(20_000);
pub static SCAN_MEM_MULTIPLIER: GucSetting<f64> = GucSetting::<f64>::new(1.0);
pub static ONNXRUNTIME_PATH: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"$libdir/insitu-onnxruntime.so"));
/// Read by the script of CREATE EXTENSION.
static REPLACE_PGVECTOR: GucSetting<bool> = GucSetting::<bool>::new(false);
pub static EXECUTION_PROVIDER: GucSetting<ExecutionProvider> =
    GucSetting::<ExecutionProvider>::new(ExecutionProvider::Cpu);
pub static THREADS: GucSetting<i32> = GucSetting::<i32>::new(1);

/// Registers the settings. EXPLAIN (SETTINGS) tells of those that searches depend on.
pub fn init() {
    GucRegistry::define_int_guc(
        c"hnsw.ef_search",
        c"Sets the size of the dynamic candidate list for search",
        c"Valid range is 1..1000.",
        &EF_SEARCH,
        1,
        1000,
        GucContext::Userset,
        GucFlags::EXPLAIN,
    );
    GucRegistry::define_enum_guc(
        c"hnsw.iterative_scan",
        c"Sets the mode for iterative scans",
        c"off, relaxed_order or strict_order.",
        &ITERATIVE_SCAN,
        GucContext::Userset,
        GucFlags::EXPLAIN,
    );
    GucRegistry::define_int_guc(
        c"hnsw.max_scan_tuples",
        c"Sets the max number of tuples to visit for iterative scans",
        c"Approximate; it does not affect the first hnsw.ef_search rows.",
        &MAX_SCAN_TUPLES,
        1,
        i32::MAX,
        GucContext::Userset,
        GucFlags::EXPLAIN,
    );
    GucRegistry::define_float_guc(
        c"hnsw.scan_mem_multiplier",
        c"Sets the multiple of work_mem to use for iterative scans",
        c"Valid range is 1..1000.",
        &SCAN_MEM_MULTIPLIER,
        1.0,
        1000.0,
        GucContext::Userset,
        GucFlags::EXPLAIN,
    );
    let names = [
        (c"ivf.probes", c"ivf.iterative_scan", c"ivf.max_probes"),
        (
            c"ivfflat.probes",
            c"ivfflat.iterative_scan",
            c"ivfflat.max_probes",
        ),
    ];
    for ((probes, iterative_scan, max_probes), (settings, least)) in
        names.into_iter().zip([(&IVF, 0), (&IVFFLAT, 1)])
    {
        GucRegistry::define_int_guc(
            probes,
            c"Sets the number of probes",
            match least {
                0 => c"0 takes as many lists as are good for the index.",
                _ => c"Valid range is 1..lists.",
            },
            &settings.probes,
            least,
            MAX_LISTS as i32,
            GucContext::Userset,
            GucFlags::EXPLAIN,
        );
        GucRegistry::define_enum_guc(
            iterative_scan,
            c"Sets the mode for iterative scans",
            c"off or relaxed_order.",
            &settings.iterative_scan,
            GucContext::Userset,
            GucFlags::EXPLAIN,
        );
        GucRegistry::define_int_guc(
            max_probes,
            c"Sets the max number of probes for iterative scans",
            c"It is not below the number of probes.",
            &settings.max_probes,
            1,
            MAX_LISTS as i32,
            GucContext::Userset,
            GucFlags::EXPLAIN,
        );
    }
    GucRegistry::define_string_guc(
        c"insitu.onnxruntime_path",
        c"Sets the ONNX Runtime shared library that runs models",
        c"$libdir stands for the directory that has the library of insitu itself.",
        &ONNXRUNTIME_PATH,
        GucContext::Suset,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_enum_guc(
        c"insitu.execution_provider",
        c"Sets where models run",
        c"It counts when a session loads a model. cuda is an error where no GPU can be used; auto takes the processor then.",
        &EXECUTION_PROVIDER,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"insitu.replace_pgvector",
        c"Makes CREATE EXTENSION insitu take the place of pgvector",
        c"Its types and operators stay, its functions are replaced and its indexes rebuilt.",
        &REPLACE_PGVECTOR,
        GucContext::Suset,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_int_guc(
        c"insitu.threads",
        c"Sets the number of threads that run a model in a session",
        c"It takes effect when a session next loads a model.",
        &THREADS,
        1,
        256,
        GucContext::Userset,
        GucFlags::default(),
    );
    for prefix in [c"hnsw", c"ivf", c"ivfflat", c"insitu"] {
        // SAFETY: called from _PG_init, with a constant string.
        #[allow(unsafe_code)]
        unsafe {
            pg_sys::MarkGUCPrefixReserved(prefix.as_ptr());
        }
    }
}
