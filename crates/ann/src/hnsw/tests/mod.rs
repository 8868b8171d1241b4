//! The graph algorithms over [`MemPages`]: recall against brute force, every
//! prefix of every insert and vacuum, damage, threads.
mod concurrency;
mod damage;
mod family;
mod fixture;
mod graph;
mod order;
mod replay;
pub mod told;
