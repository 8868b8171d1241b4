//! What can be wrong with an index or with a request to it.

use crate::page::Block;

/// An error of an index operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A page does not hold what the index format says it must.
    #[error("index is corrupted at block {block}: {reason}")]
    Corrupted {
        /// The block that holds the contradiction.
        block: Block,
        /// What was found, in words.
        reason: String,
    },
    /// A page is not one of the list that was to have it. On a server that replays the log
    /// of another, it may have been used anew while it was read.
    #[error("index is corrupted at block {block}: it is not a page of list {list}")]
    NotOfList {
        /// The page's block.
        block: Block,
        /// The list's number.
        list: u32,
    },
    /// The index was written by a version with another page format.
    #[error("index has format version {found}, this version reads format {supported}")]
    Version {
        /// The version in the metapage.
        found: u32,
        /// The version that this code reads and writes.
        supported: u32,
    },
    /// The system has no memory for it.
    #[error(transparent)]
    OutOfMemory(#[from] memory::OutOfMemory),
    /// The index has used up its vertex numbers.
    #[error("index is full: it already has {vertices} vertices")]
    Full {
        /// Vertices in the index.
        vertices: u32,
    },
}

impl Error {
    pub(crate) fn corrupted(block: Block, reason: impl Into<String>) -> Self {
        Error::Corrupted {
            block,
            reason: reason.into(),
        }
    }

    pub(crate) fn not_of_list(block: Block, list: u32) -> Self {
        Error::NotOfList { block, list }
    }
}
