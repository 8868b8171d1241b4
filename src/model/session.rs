//! The encoders of this backend, and what it knows of the catalog.
//!
//! An encoder is known by its model's SHA-256. Which model a name means, and
//! that a role may use it, is remembered until the tables of models or the
//! roles change: a trigger on the tables and the server's own caches tell.
//!
//! Everything here is Rust memory in a static, so that no destructor runs when
//! the process ends.

#![allow(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, OsStr, OsString, c_void};
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use ::memory::{OutOfMemory, vec};
use encoder::{CompiledModel, Encoder, Error, Options, Provider, Settings};
use lru::LruCache;
use pgrx::prelude::*;

use super::catalog::StoredFile;
use super::{access, catalog, memory, message_of, transaction, unwrap_model};
use crate::allocator;
use crate::errors::{notice, quoted_bytes, raise_with_detail_and_hint, raise_with_hint};
use crate::release;
use crate::settings::{EXECUTION_PROVIDER, ExecutionProvider, ONNXRUNTIME_PATH, THREADS};
use crate::threads;

/// The most tokens in one run of a model, on a GPU; on a processor there are fewer.
const BATCH_TOKENS: usize = 32_768;
/// What memory is asked for.
const TEXTS: &str = "the texts to embed";
const VECTORS: &str = "the vectors of the texts";

/// Embeddings of single texts that are remembered, per model.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Longer texts are not remembered.
const MAX_REMEMBERED_TEXT: usize = 4096;
/// A call with more bytes of text leaves so much freed memory behind that it is
/// given back.
const LARGE_CALL: usize = 65_536;

/// A call with up to so many bytes of text is short: on one core it takes milliseconds.
const SHORT_CALL: usize = 2048;

struct Loaded {
    encoder: Encoder,
    remembered: LruCache<String, Vec<f32>>,
}

#[derive(Default)]
struct Session {
    /// Encoders by their model's SHA-256.
    loaded: HashMap<String, Loaded>,
    /// What each name means.
    names: HashMap<String, Known>,
    /// Models may have gone since the encoders were looked over.
    models_changed: bool,
}

/// What decides the vectors of a model, and where it is stored.
struct Content {
    sha256: String,
    settings: Settings,
    graph: StoredFile,
    tokenizer: StoredFile,
}

struct Known {
    content: Arc<Content>,
    /// Roles that were found to be allowed to use it.
    users: HashSet<u32>,
}

static SESSION: Mutex<Option<Session>> = Mutex::new(None);

/// The table whose changes make the session forget what it knows.
static MODEL_TABLE: AtomicU32 = AtomicU32::new(0);

/// Works on the session. `work` must not call the server: an ERROR would leave
/// it half-way.
fn with_session<R>(work: impl FnOnce(&mut Session) -> R) -> R {
    let mut session = match SESSION.lock() {
        Ok(session) => session,
        Err(poisoned) => poisoned.into_inner(),
    };
    work(session.get_or_insert_default())
}

fn forget_names() {
    if allocator::is_ending() {
        // The session may be locked by what is under way.
        return;
    }
    with_session(|session| session.names.clear());
}

/// Gives back the encoders of models that are gone.
fn drop_unknown_encoders() {
    let is_due = |session: &mut Session| session.models_changed && !session.loaded.is_empty();
    if !with_session(is_due) {
        return;
    }
    let known = catalog::all_sha256();
    let has_dropped = with_session(|session| {
        session.models_changed = false;
        let before = session.loaded.len();
        session.loaded.retain(|sha256, _| known.contains(sha256));
        session.loaded.len() < before
    });
    if has_dropped {
        memory::give_back_at_end();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_relation_change(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    if relation == pg_sys::InvalidOid || relation.to_u32() == MODEL_TABLE.load(Ordering::Relaxed) {
        forget_names();
        if !allocator::is_ending() {
            with_session(|session| session.models_changed = true);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_role_change(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    forget_names();
}

/// In a transaction with one snapshot for all statements, the catalog may have
/// been read as it was before a message that said it had changed: what such a
/// transaction knows holds for itself alone.
fn forget_names_of_one_snapshot() {
    // SAFETY: reads a setting of the transaction.
    let one_snapshot = unsafe { pg_sys::XactIsoLevel } >= pg_sys::XACT_REPEATABLE_READ as i32;
    if one_snapshot {
        forget_names();
    }
}

/// Asks the server to tell when the tables of models or the roles change.
fn watch_catalog() {
    let table = catalog::model_table().to_u32();
    if MODEL_TABLE.swap(table, Ordering::Relaxed) != 0 {
        return;
    }
    transaction::at_each_end(forget_names_of_one_snapshot);
    // SAFETY: registered once in a process, for as long as it lives.
    unsafe {
        let none = pg_sys::Datum::from(0_usize);
        pg_sys::CacheRegisterRelcacheCallback(Some(on_relation_change), none);
        for cache in [
            pg_sys::SysCacheIdentifier::AUTHOID,
            pg_sys::SysCacheIdentifier::AUTHMEMROLEMEM,
        ] {
            pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(on_role_change), none);
        }
    }
}

/// Tells all sessions that the tables of models have changed: the trigger
/// function of these tables. It returns a null pointer, not SQL's NULL, as a
/// trigger after a statement or a row must.
#[pg_extern(
    schema = "insitu",
    sql = "
CREATE FUNCTION insitu.model_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"
)]
fn model_changed(_fcinfo: pg_sys::FunctionCallInfo) -> i64 {
    catalog::announce_change();
    0
}

/// Whether a model is to stop. ONNX Runtime's watchdog calls it from its own thread: it
/// only reads.
///
/// Work aside goes on until it is told to stop: the main thread serves interrupts
/// meanwhile. On the main thread any interrupt of the server stops a model; it is served,
/// and then the model runs aside.
pub fn interrupted() -> bool {
    // What ran out of memory is to end, too.
    if allocator::is_short() {
        return true;
    }
    if threads::is_at_work() {
        return threads::is_stopped();
    }
    // SAFETY: aligned integers of the process, which the backend's thread writes and
    // its signal handlers, as a whole each.
    unsafe {
        let is_zero = |count| AtomicU32::from_ptr(count).load(Ordering::Relaxed) == 0;
        AtomicI32::from_ptr(&raw mut pg_sys::InterruptPending).load(Ordering::Relaxed) != 0
            && is_zero(&raw mut pg_sys::InterruptHoldoffCount)
            && is_zero(&raw mut pg_sys::CritSectionCount)
    }
}

/// The file that the setting names as ONNX Runtime's library. The name of a file is bytes,
/// whatever encoding a database has.
fn runtime_path() -> PathBuf {
    let setting = ONNXRUNTIME_PATH.get().unwrap_or_default();
    let path = match setting.to_bytes().strip_prefix(b"$libdir") {
        Some(rest) => [&library_directory(), rest].concat(),
        None => setting.into_bytes(),
    };
    PathBuf::from(OsString::from_vec(path))
}

/// The directory that this library was loaded from. It is the server's own, or another one in
/// its `dynamic_library_path`, as where the extension is an image that is mounted beside it.
fn library_directory() -> Vec<u8> {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: the address is in this library; the structure of pointers is written where it is found, and is all null before.
    let info = unsafe {
        libc::dladdr(library_directory as *const c_void, info.as_mut_ptr());
        info.assume_init()
    };
    if !info.dli_fname.is_null() {
        // SAFETY: a string with a closing zero, which stays as long as the library does.
        let file = unsafe { CStr::from_ptr(info.dli_fname) };
        if let Some(directory) = Path::new(OsStr::from_bytes(file.to_bytes())).parent() {
            return directory.as_os_str().as_bytes().to_vec();
        }
    }
    // SAFETY: the server's library directory, a string with a closing zero.
    let server = unsafe { CStr::from_ptr((&raw const pg_sys::pkglib_path).cast()) };
    server.to_bytes().to_vec()
}

/// Loads ONNX Runtime, once in a session.
fn load_runtime() {
    unwrap_model(encoder::load_runtime(&runtime_path()));
}

/// What is known of ONNX Runtime.
#[derive(Default)]
pub struct RuntimeReport {
    pub version: Option<String>,
    /// For roles that may see all settings.
    pub path: Option<String>,
    /// Why it cannot be loaded.
    pub error: Option<String>,
    pub providers: Vec<String>,
}

/// Loads ONNX Runtime, where that can be done, and asks it what it is.
pub fn runtime_report() -> RuntimeReport {
    let path = runtime_path();
    let mut report = RuntimeReport::default();
    let told = encoder::load_runtime(&path)
        .and_then(|()| Ok((encoder::runtime_version()?, encoder::runtime_providers()?)));
    let may_see = access::may_see_settings();
    match told {
        Ok((version, providers)) => {
            report.version = Some(version);
            report.providers = providers.into_iter().map(str::to_owned).collect();
        }
        Err(error) => {
            let message = "ONNX Runtime cannot be loaded".to_owned();
            report.error = Some(if may_see { message_of(&error) } else { message });
        }
    }
    report.path = may_see.then(|| quoted_bytes(path.as_os_str().as_bytes()));
    report
}

fn options() -> Options {
    Options {
        provider: match EXECUTION_PROVIDER.get() {
            ExecutionProvider::Cpu => Provider::Cpu,
            ExecutionProvider::Cuda => Provider::Cuda,
            ExecutionProvider::Auto => Provider::Auto,
        },
        threads: THREADS.get() as usize,
        batch_tokens: BATCH_TOKENS,
        interrupted,
    }
}

/// Does work of models, which calls nothing of the server, while the server's interrupts
/// are served.
pub fn uninterrupted<T: Send>(operation: impl FnMut() -> Result<T, Error> + Send) -> T {
    uninterrupted_with(operation, || ())
}

/// As [`uninterrupted`]; `tick` is called meanwhile.
pub fn uninterrupted_with<T: Send>(
    mut operation: impl FnMut() -> Result<T, Error> + Send,
    mut tick: impl FnMut(),
) -> T {
    until_done(|| threads::aside(&mut operation, &mut tick))
}

/// Does work of models on the thread for that.
fn until_done<T>(mut aside: impl FnMut() -> Result<T, Error>) -> T {
    allocator::check();
    // On the main thread, it would wait for other threads without looking whether there is
    // memory for them to go on.
    if THREADS.get() > 1 && !allocator::unwrap(threads::begin_aside()) {
        unwrap_model(Err(Error::NoThreads {
            what: "the work of a model",
            reason: "the system has none".to_owned(),
        }))
    }
    loop {
        match aside() {
            // Where there is no other thread, any interrupt stops it.
            Err(Error::Interrupted) => {
                pgrx::check_for_interrupts!();
                // It would run out of memory again, even if there is some now that it ended.
                allocator::check_stopped();
            }
            result => return unwrap_model(result),
        }
    }
}

/// Makes an encoder where the settings say. ONNX Runtime cannot be stopped while it opens a
/// model, for seconds if that is large: a statement that is cancelled leaves it to itself.
fn new_encoder(model: &Arc<CompiledModel>) -> Encoder {
    static TOLD: AtomicBool = AtomicBool::new(false);
    load_runtime();
    let options = options();
    memory::give_back_at_end();
    let encoder = until_done(|| {
        let model = Arc::clone(model);
        let open = move || {
            let settings = model.settings.clone();
            Encoder::new(&model.graph, &model.tokenizer, settings, options)
        };
        threads::aside_or_left(open, || ())
    });
    if let Some(reason) = encoder.fallback()
        && !TOLD.swap(true, Ordering::Relaxed)
    {
        let message = "models of this session run on the processor";
        notice(message, Some(reason.to_owned()), None);
    }
    encoder
}

/// Makes an encoder of a model that is about to be stored, and checks that it
/// keeps its promises. The encoder stays for later use.
pub fn try_out(model: &Arc<CompiledModel>) {
    let mut encoder = new_encoder(model);
    let sha256 = uninterrupted(|| {
        encoder.probe()?;
        Ok(model.sha256())
    });
    keep(sha256, encoder);
}

fn keep(sha256: String, encoder: Encoder) {
    let remembered = LruCache::new(REMEMBERED);
    let loaded = Loaded {
        encoder,
        remembered,
    };
    with_session(|session| session.loaded.insert(sha256, loaded));
}

/// The dimensions of a model's vectors. The current role must be allowed to use it.
pub fn dimension(name: &str) -> usize {
    resolve(name).settings.dimension
}

/// The model that a name means, if the current role may use it; else an ERROR.
fn resolve(name: &str) -> Arc<Content> {
    watch_catalog();
    let user = access::current_user();
    let known = with_session(|session| {
        let known = session.names.get(name)?;
        let allowed = known.users.contains(&user.to_u32());
        allowed.then(|| known.content.clone())
    });
    if let Some(known) = known {
        return known;
    }
    release::check();
    drop_unknown_encoders();
    let model = access::existing(name);
    access::check_use(user, name, &model);
    let content = Arc::new(Content {
        settings: model.settings(name),
        sha256: model.sha256,
        graph: model.graph,
        tokenizer: model.tokenizer,
    });
    with_session(|session| {
        let known = session.names.entry(name.to_owned()).or_insert(Known {
            content: content.clone(),
            users: HashSet::new(),
        });
        known.users.insert(user.to_u32());
    });
    content
}

/// What a text is to its model, which may want another prefix before it.
#[derive(Clone, Copy)]
pub enum Role {
    /// Something that is found.
    Passage,
    /// Something that is asked.
    Query,
}

/// A model as it is stored. The current role must be allowed to use it.
pub fn stored(name: &str) -> CompiledModel {
    read(name, &resolve(name))
}

/// The bytes of a model that was resolved.
fn read(name: &str, content: &Content) -> CompiledModel {
    let file = |what: &str, file: &StoredFile| match catalog::read_file(file) {
        Ok(bytes) => bytes,
        Err(part) => raise_missing(name, content, &format!("Part {part} of its {what}")),
    };
    let model = CompiledModel {
        graph: file("graph", &content.graph),
        tokenizer: file("tokenizer", &content.tokenizer),
        settings: content.settings.clone(),
    };
    if uninterrupted(|| Ok(model.sha256())) != content.sha256 {
        raise_with_hint(
            PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            format!("the stored bytes of model \"{name}\" are not those that were loaded"),
            catalog::LOAD_AGAIN,
        );
    }
    model
}

/// Raises the ERROR of a model whose bytes are not there.
fn raise_missing(name: &str, content: &Content, what: &str) -> ! {
    // Another session may have dropped it since it was looked up.
    forget_names();
    if resolve(name).sha256 != content.sha256 {
        raise_with_hint(
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            format!("model \"{name}\" was replaced while it was read"),
            "Try again.",
        );
    }
    raise_with_detail_and_hint(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("the bytes of model \"{name}\" are not there, or not yet"),
        format!("{what} is missing in insitu.model_part."),
        format!(
            "{} If no restore is at work: {}",
            access::RESTORE_FIRST,
            catalog::LOAD_AGAIN
        ),
    );
}

/// An encoder that is at work. The session has it back at the end, also after an ERROR.
struct Taken(Option<(String, Loaded)>);

impl Taken {
    fn loaded(&mut self) -> Result<&mut Loaded, Error> {
        let taken = self.0.as_mut().ok_or(Error::RuntimeNotLoaded)?;
        Ok(&mut taken.1)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some((sha256, loaded)) = self.0.take() {
            with_session(|session| session.loaded.insert(sha256, loaded));
        }
    }
}

/// Works with the encoder of a model that was resolved, which is made now if this
/// session has none. Short work is done here, unless an interrupt comes or the encoder has
/// more threads than this: handing it over to another thread would take a noticeable part
/// of its time.
fn with_encoder<T: Send>(
    name: &str,
    content: &Content,
    is_short: bool,
    mut work: impl FnMut(&mut Loaded) -> Result<T, Error> + Send,
) -> T {
    if !with_session(|session| session.loaded.contains_key(&content.sha256)) {
        let model = Arc::new(read(name, content));
        keep(content.sha256.clone(), new_encoder(&model));
    }
    // An interrupt may end the process, and then the session must not be locked.
    let mut taken = Taken(with_session(|session| {
        session.loaded.remove_entry(&content.sha256)
    }));
    let is_alone = |loaded: &mut Loaded| loaded.encoder.threads() == 1;
    if is_short && taken.loaded().is_ok_and(is_alone) {
        match taken.loaded().and_then(&mut work) {
            Err(Error::Interrupted) => {
                pgrx::check_for_interrupts!();
            }
            result => return unwrap_model(result),
        }
    }
    uninterrupted(|| taken.loaded().and_then(&mut work))
}

/// The vectors of texts, in their order: rows of as many components as the
/// model has dimensions.
pub fn embed(name: &str, texts: &[&str], role: Role) -> Vec<Vec<f32>> {
    let content = resolve(name);
    let prefix = match role {
        Role::Passage => &content.settings.passage_prefix,
        Role::Query => &content.settings.query_prefix,
    };
    let prefixed: Vec<String> = match prefix.as_str() {
        "" => Vec::new(),
        prefix => {
            let prefixed = texts.iter().map(|text| joined(prefix, text));
            allocator::unwrap(prefixed.collect())
        }
    };
    let prefixed = allocator::unwrap(vec::collect(prefixed.iter().map(String::as_str), TEXTS));
    let texts = if prefix.is_empty() { texts } else { &prefixed };
    let bytes: usize = texts.iter().map(|text| text.len()).sum();
    if bytes > LARGE_CALL {
        memory::give_back_at_end();
    }
    with_encoder(name, &content, bytes <= SHORT_CALL, |loaded| {
        loaded.embed(texts)
    })
}

/// A prefix and a text.
fn joined(prefix: &str, text: &str) -> Result<String, OutOfMemory> {
    let mut bytes = Vec::new();
    vec::reserve(&mut bytes, prefix.len() + text.len(), TEXTS)?;
    let mut joined = String::from_utf8(bytes).unwrap_or_default();
    joined.push_str(prefix);
    joined.push_str(text);
    Ok(joined)
}

/// The pieces of a text: characters before each, and its characters.
pub fn chunk(name: &str, text: &str, max_tokens: usize, overlap: usize) -> Vec<(usize, usize)> {
    with_encoder(name, &resolve(name), text.len() <= SHORT_CALL, |loaded| {
        let chunks = loaded.encoder.chunk(text, max_tokens, overlap)?;
        let places = chunks.iter().map(|chunk| (chunk.start, chunk.length));
        Ok(vec::collect(places, TEXTS)?)
    })
}

/// How many tokens of texts count.
pub fn count_tokens(name: &str, texts: &[&str]) -> usize {
    with_encoder(name, &resolve(name), false, |loaded| {
        let most = loaded.encoder.settings().max_tokens;
        let counts = texts.iter().map(|text| match interrupted() {
            true => Err(Error::Interrupted),
            false => loaded.encoder.count_tokens(text),
        });
        counts.map(|count| count.map(|count| count.min(most))).sum()
    })
}

impl Loaded {
    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Error> {
        // A query may ask for the embedding of the same text for every row.
        let single = match texts {
            [text] if text.len() <= MAX_REMEMBERED_TEXT => Some(*text),
            _ => None,
        };
        if let Some(vector) = single.and_then(|text| self.remembered.get(text)) {
            return Ok(vec![vector.clone()]);
        }
        let dimension = self.encoder.dimension();
        let values = self.encoder.embed(texts)?;
        let vectors = values.chunks(dimension);
        let vectors = vectors.map(|vector| vec::copied(vector, VECTORS));
        let vectors: Vec<Vec<f32>> = vectors.collect::<Result<_, _>>()?;
        if let (Some(text), [vector]) = (single, &vectors[..]) {
            self.remembered.put(text.to_owned(), vector.clone());
        }
        Ok(vectors)
    }
}
