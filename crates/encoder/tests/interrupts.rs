//! A wish to stop is heard in every phase, and nothing is lost by it.

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Bert, Random, Shape, minilm, open, options, text, words};
use encoder::{Error, ErrorKind, Options};
use safetensors::Dtype;

#[test]
fn any_poll_can_stop_the_work() {
    /// Polls that are still to be answered with no.
    static LEFT: AtomicUsize = AtomicUsize::new(0);
    fn interrupted() -> bool {
        LEFT.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(1)
        })
        .is_err()
    }
    let bert = Bert::random(8, Shape::SMALL, Dtype::F32);
    let mut random = Random::new(8);
    let texts: Vec<String> = (1..12)
        .map(|count| text(&words(&mut random, count * 4, Shape::SMALL.vocabulary)))
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut encoder = open(
        &bert.compile(),
        Options {
            batch_tokens: 16,
            interrupted,
            ..options()
        },
    );
    LEFT.store(usize::MAX, Ordering::SeqCst);
    let expected = encoder.embed(&texts).expect("undisturbed");
    let mut stopped = 0;
    for polls in 0..40 {
        LEFT.store(polls, Ordering::SeqCst);
        match encoder.embed(&texts) {
            Ok(vectors) => assert_eq!(vectors, expected),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Interrupted);
                stopped += 1;
            }
        }
        LEFT.store(usize::MAX, Ordering::SeqCst);
        assert_eq!(encoder.embed(&texts).expect("afterwards"), expected);
    }
    assert!(stopped >= 20, "{stopped} of 40");
}

#[test]
fn a_long_run_is_stopped_in_the_middle() {
    static WISH: AtomicBool = AtomicBool::new(false);
    let mut encoder = open(
        &minilm(),
        Options {
            provider: encoder::Provider::Cpu,
            threads: 2,
            batch_tokens: 1 << 20,
            interrupted: || WISH.load(Ordering::SeqCst),
        },
    );
    let long = "a stone bridge crosses the river ".repeat(60);
    let texts = vec![long.as_str(); 48];
    let start = Instant::now();
    let expected = encoder.embed(&texts).expect("undisturbed");
    let undisturbed = start.elapsed();

    // Raised in the second quarter of the one long run.
    let timer = std::thread::spawn(move || {
        std::thread::sleep(undisturbed / 4);
        WISH.store(true, Ordering::SeqCst);
    });
    let start = Instant::now();
    let result = encoder.embed(&texts);
    let stopped = start.elapsed();
    timer.join().expect("timer");
    assert!(
        matches!(result, Err(Error::Interrupted)),
        "{:?}",
        result.map(|_| ())
    );
    // It may end the operator it is in: a thirtieth of the whole.
    assert!(
        stopped < undisturbed * 9 / 10 + Duration::from_millis(200),
        "{stopped:?} of {undisturbed:?}"
    );
    WISH.store(false, Ordering::SeqCst);
    assert_eq!(encoder.embed(&texts).expect("afterwards"), expected);
}
