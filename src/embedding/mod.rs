//! Tables that keep themselves embedded, and tables that are embedded in bulk.
//!
//! `insitu.auto_embed` (`auto`) makes a trigger that runs `insitu.embed_row`
//! (`trigger`); `insitu.embed_table` (`bulk`) embeds what is there, and `progress`
//! tells how far such calls are. `columns` looks at what is to be embedded, `present`
//! at vectors that are there already, and `statement` runs SQL for all of them. It runs
//! with the caller's rights and `search_path`, so every function, operator and type in
//! it is written with its schema.
//!
//! Names come from the server's catalogs and go into statements, so they stay
//! strings of C in the database's encoding; only messages make strings of Rust.

mod auto;
mod bulk;
mod columns;
mod present;
mod progress;
mod statement;
mod trigger;
