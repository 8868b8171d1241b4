//! ONNX Runtime's shared library: loaded once per process, from a path that the
//! caller names.
//!
//! The library stays loaded until the process ends, with the one environment
//! that ONNX Runtime allows per process. Loading creates no thread.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memory::check_available;
use nix::libc;
use ort::LoadDynamicError;
use ort::environment::Environment;
use ort::ep::{CUDA, ExecutionProvider};
use ort::logging::LogLevel;

use crate::error::{Error, system_reason};
use crate::library;
use crate::threads::SignalsBlocked;

/// Bytes that the library takes beside its own.
const LEAST_MEMORY: usize = 16 << 20;

struct Loaded {
    path: PathBuf,
    /// Absent if the library is in, but did not give an environment.
    environment: Option<Environment>,
}

static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

fn lock() -> MutexGuard<'static, Option<Loaded>> {
    // The value is only ever replaced as a whole.
    LOADED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Loads ONNX Runtime's shared library from an absolute path.
///
/// A second call with the same path does nothing. A process can hold one ONNX
/// Runtime only, so a call with another path fails and says which one is
/// loaded. After a failure another path may be tried.
///
/// # Errors
/// [`Error::Runtime`] if the file is missing, is not ONNX Runtime or is older
/// than version 1.17, or if another one is loaded; [`Error::DamagedRuntime`] if it is
/// not whole, or not what an installation has recorded in `PATH.sha256`: its bytes and
/// their SHA-256.
pub fn load_runtime(path: &Path) -> Result<(), Error> {
    let fail = |reason: String| Error::Runtime {
        path: path.to_owned(),
        reason,
    };
    let mut loaded = lock();
    if let Some(loaded) = loaded.as_ref() {
        if loaded.path != path {
            return Err(fail(format!(
                "this process has already loaded \"{}\" and can't hold two",
                loaded.path.display()
            )));
        }
        if loaded.environment.is_some() {
            return Ok(());
        }
    }
    // A relative path would be searched beside the executable, and a bare name
    // all over the system: neither is what the person who set it thinks of.
    if !path.is_absolute() {
        return Err(fail("the path is not absolute".to_owned()));
    }
    let metadata = std::fs::metadata(path).map_err(|error| fail(system_reason(&error)))?;
    if !metadata.is_file() {
        return Err(fail("it is not a regular file".to_owned()));
    }
    // Its segments, and what it makes of itself at first.
    let needed = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    check_available(
        needed.saturating_add(LEAST_MEMORY),
        "ONNX Runtime's library",
    )?;
    library::check(path).map_err(|reason| Error::DamagedRuntime {
        path: path.display().to_string(),
        reason,
    })?;

    let _signals = SignalsBlocked::new()?;
    without_telemetry();
    let builder = ort::init_from(path).map_err(|error| {
        fail(match error {
            LoadDynamicError::Dlopen { error, .. } => error.to_string(),
            LoadDynamicError::MissingApi { .. } => {
                "the library does not export OrtGetApiBase, so it is not ONNX Runtime".to_owned()
            }
            LoadDynamicError::InvalidVersionString => {
                "the library does not tell its version".to_owned()
            }
            LoadDynamicError::BadVersion { version_str, .. } => format!(
                "its version is {version_str}, but 1.{} or later is needed",
                ort::MINOR_VERSION
            ),
        })
    })?;
    *loaded = Some(Loaded {
        path: path.to_owned(),
        environment: None,
    });
    let environment = builder
        .with_name("insitu")
        .with_telemetry(false)
        // Errors come back as errors; nothing of it belongs on standard error.
        .with_logger(Arc::new(
            |_: LogLevel, _: &str, _: &str, _: &str, _: &str| {},
        ))
        .build()
        .map_err(|error| Error::of_runtime("starting ONNX Runtime", error, fail))?;
    // With a logger of its own an environment starts out verbose, and formats
    // messages by the thousand only for us to drop them.
    environment.set_log_level(LogLevel::Error);
    *loaded = Some(Loaded {
        path: path.to_owned(),
        environment: Some(environment),
    });
    Ok(())
}

/// Keeps ONNX Runtime from starting a thread that reports to its makers. Asked later, by
/// its interface, it reports nothing, but has the thread, which wakes up every few seconds
/// and ends the process with a segmentation fault where there is no memory for it.
#[allow(unsafe_code)]
fn without_telemetry() {
    // SAFETY: the library is loaded once, before this crate has a thread, and a database's
    // process has none beside its first before.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") }
}

/// The version of the loaded ONNX Runtime, such as `1.23.2`.
///
/// # Errors
/// [`Error::RuntimeNotLoaded`] before a successful [`load_runtime`], and where the
/// library does not tell.
#[allow(unsafe_code)]
pub fn runtime_version() -> Result<String, Error> {
    let path = match lock().as_ref() {
        Some(loaded) if loaded.environment.is_some() => loaded.path.clone(),
        _ => return Err(Error::RuntimeNotLoaded),
    };
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::RuntimeNotLoaded)?;
    // SAFETY: the library is loaded and stays, so this finds it and leaves it as it is. It
    // has the function, of this type, because `ort` has called it; the version is a string
    // with a closing zero that lives as long as the library.
    unsafe {
        let library = libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if library.is_null() {
            return Err(Error::RuntimeNotLoaded);
        }
        let function = libc::dlsym(library, c"OrtGetApiBase".as_ptr());
        let version = std::mem::transmute::<
            *mut libc::c_void,
            Option<unsafe extern "C" fn() -> *const ort::sys::OrtApiBase>,
        >(function)
        .map(|base| {
            let version = ((*base()).GetVersionString)();
            CStr::from_ptr(version).to_string_lossy().into_owned()
        });
        libc::dlclose(library);
        version.ok_or(Error::RuntimeNotLoaded)
    }
}

/// Where models can run, by the names of the setting: what the loaded ONNX Runtime has
/// been built for, of what this crate uses. Whether there is a device shows when a
/// model is loaded.
///
/// # Errors
/// [`Error::RuntimeNotLoaded`] before a successful [`load_runtime`].
pub fn runtime_providers() -> Result<Vec<&'static str>, Error> {
    environment()?;
    let mut providers = vec!["cpu"];
    // A library that cannot say has none.
    if CUDA::is_available().unwrap_or(false) {
        providers.push("cuda");
    }
    Ok(providers)
}

pub(crate) fn environment() -> Result<Environment, Error> {
    lock()
        .as_ref()
        .and_then(|loaded| loaded.environment.clone())
        .ok_or(Error::RuntimeNotLoaded)
}
