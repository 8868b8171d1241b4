//! Whether a shared library is whole.
//!
//! The system maps a library's file into memory without reading it, and a process that
//! then touches what is not there gets a SIGBUS. So a file that is shorter than its own
//! header says, as a copy that was interrupted leaves it, must not be loaded. Where an
//! installation has left a record beside it, `NAME.sha256` with the file's bytes and
//! SHA-256, the file has to be what was installed.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::compile::hex;

/// Bytes that are hashed at a time.
const PART: usize = 1 << 16;

/// Finds out whether a file is a whole library.
///
/// # Errors
/// What contradicts what, with values.
pub(crate) fn check(path: &Path) -> Result<(), String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let size = file.metadata().map_err(|error| error.to_string())?.len();
    let mut header = [0; 64];
    match file.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            return Err(format!("it has {size} bytes, too few for a library"));
        }
        Err(error) => return Err(error.to_string()),
    }
    if let Some(end) = end_of_sections(&header)
        && size < end
    {
        return Err(format!(
            "it has {size} bytes, but its header says {end}: the copy is not complete"
        ));
    }
    match recorded(path)? {
        None => Ok(()),
        Some((of_record, _)) if size != of_record => Err(format!(
            "it has {size} bytes, but {of_record} were installed"
        )),
        Some((_, sha256)) => match sha256_of(path).map_err(|error| error.to_string())? {
            found if found == sha256 => Ok(()),
            _ => Err("it has other content than what was installed".to_owned()),
        },
    }
}

/// Where the table of sections ends, which linkers put last; `None` if the file is not
/// for a 64-bit little-endian machine (ELF-64 Object File Format, version 1.5).
fn end_of_sections(header: &[u8; 64]) -> Option<u64> {
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let number = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let mut offset = [0; 8];
    offset.copy_from_slice(&header[40..48]);
    let size = u64::from(number(58)) * u64::from(number(60));
    Some(u64::from_le_bytes(offset).saturating_add(size))
}

/// The bytes and the SHA-256 that an installation has recorded, if it has.
fn recorded(path: &Path) -> Result<Option<(u64, String)>, String> {
    let mut record = path.as_os_str().to_owned();
    record.push(".sha256");
    let text = match fs::read_to_string(&record) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("its record can't be read: {error}")),
    };
    let mut words = text.split_ascii_whitespace();
    let size = words.next().and_then(|size| size.parse().ok());
    match (size, words.next()) {
        (Some(size), Some(sha256)) => Ok(Some((size, sha256.to_owned()))),
        _ => Err("its record has no size and SHA-256".to_owned()),
    }
}

fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut part = vec![0; PART];
    loop {
        match file.read(&mut part)? {
            0 => return Ok(hex(&hasher.finalize())),
            count => hasher.update(&part[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{check, end_of_sections};

    /// A library whose header says that it has so many bytes.
    fn library(len: usize) -> Vec<u8> {
        let mut bytes = vec![7; len];
        bytes[..64].fill(0);
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[40..48].copy_from_slice(&(len as u64 - 3 * 64).to_le_bytes());
        bytes[58..60].copy_from_slice(&64_u16.to_le_bytes());
        bytes[60..62].copy_from_slice(&3_u16.to_le_bytes());
        bytes
    }

    #[test]
    fn a_copy_that_is_not_complete_is_found_by_its_header() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("library.so");
        let whole = library(5000);
        for len in [0, 63, 64, 1000, 4999] {
            fs::write(&path, &whole[..len]).expect("write");
            assert!(check(&path).is_err(), "{len}");
        }
        fs::write(&path, &whole).expect("write");
        assert_eq!(check(&path), Ok(()));
        // What is no library is for the loader to refuse.
        fs::write(&path, [1; 100]).expect("write");
        assert_eq!(check(&path), Ok(()));
        assert_eq!(end_of_sections(&[0xff; 64]), None);
    }

    #[test]
    fn what_was_recorded_has_to_be_there() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("library.so");
        let record = |text: &str| fs::write(path.with_extension("so.sha256"), text).expect("write");
        let mut bytes = library(300);
        fs::write(&path, &bytes).expect("write");
        let sha256 = super::sha256_of(&path).expect("hash");
        record(&format!("300 {sha256}\n"));
        assert_eq!(check(&path), Ok(()));
        bytes[200] ^= 1;
        fs::write(&path, &bytes).expect("write");
        assert!(check(&path).expect_err("other content").contains("content"));
        record(&format!("299 {sha256}\n"));
        let reason = check(&path).expect_err("another size");
        assert_eq!(reason, "it has 300 bytes, but 299 were installed");
        for text in ["", "many bytes", "300"] {
            record(text);
            assert!(check(&path).is_err(), "{text}");
        }
    }
}
