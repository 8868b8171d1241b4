//! A process whose memory has a limit: a test without a harness, because all threads
//! share the limit.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};

use memory::{Allocator, check_available, is_short, refused, vec};

static ASKED_IN_VAIN: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Allocator = Allocator {
    last_resort: |bytes| _ = ASKED_IN_VAIN.fetch_add(bytes, Ordering::Relaxed),
};

/// Limits the memory of the process to what it has and so many bytes, if any.
fn limit(more: Option<u64>) {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    let most = libc::rlimit {
        rlim_cur: more.map_or(libc::RLIM_INFINITY, |more| 4096 * pages + more),
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: a limit of this process.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &most) }, 0);
}

/// On the first thread, whose memory is not set aside in large pieces.
fn main() {
    assert!(!is_short() && refused().is_none());
    limit(Some(1 << 20));

    // Who asks is told.
    let error = vec::filled(1_u8, 8 << 20, "a test").unwrap_err();
    assert_eq!(error.bytes, Some(8 << 20));
    let mut vec = Vec::new();
    let error = loop {
        if let Err(error) = vec::push(&mut vec, 1_u64, "a test") {
            break error;
        }
    };
    assert!(error.bytes > Some(8 * vec.len()));
    assert!(check_available(4 << 20, "a test").is_err());
    assert!(!is_short());

    // Who does not gets it from the reserve, which is reused.
    for _ in 0..10 {
        let mut boxes: Vec<Box<[u64; 100]>> = Vec::with_capacity(10_000);
        for i in 0..3500 {
            boxes.push(Box::new([i; 100]));
        }
        assert!(is_short());
        assert_eq!(refused(), Some(800));
        assert!(!is_short());
        assert!((0..).zip(&boxes).all(|(i, b)| b.iter().all(|&x| x == i)));
    }
    let mut grown: Vec<u32> = Vec::new();
    (0..50_000).for_each(|i| grown.push(i));
    let zeroed = vec![0_u8; 500_000];
    assert!((0..).zip(&grown).all(|(i, &x)| i == x) && zeroed.iter().all(|&x| x == 0));
    assert!(is_short());

    // When there is memory again, nothing was refused.
    limit(None);
    assert_eq!(refused(), None);
    drop((grown, zeroed, vec));
    limit(Some(1 << 20));
    // SAFETY: a layout of some bytes; null is an answer.
    let none = unsafe { std::alloc::alloc(std::alloc::Layout::new::<[u8; 64 << 20]>()) };
    assert!(std::hint::black_box(none).is_null());
    assert_eq!(ASKED_IN_VAIN.load(Ordering::Relaxed), 64 << 20);
    limit(None);
    println!("test what_the_system_refuses ... ok");
}
