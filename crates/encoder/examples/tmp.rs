use encoder::*;
use std::path::PathBuf;
use std::time::Instant;
fn main() {
    let var = |n: &str| PathBuf::from(std::env::var_os(n).unwrap());
    load_runtime(&var("INSITU_ONNXRUNTIME")).unwrap();
    let model = compile(&ModelFiles::read_directory(&var("INSITU_MINILM")).unwrap()).unwrap();
    let threads: usize = std::env::var("T").map_or(2, |t| t.parse().unwrap());
    let options = Options {
        threads,
        batch_tokens: 4096,
        interrupted: || false,
    };
    let texts: Vec<String> = std::fs::read_to_string("/tmp/texts.txt")
        .unwrap()
        .lines()
        .map(String::from)
        .take(2000)
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let words = ["stone", "bridge", "river", "city"];
    let text = |n: usize| {
        words
            .iter()
            .cycle()
            .take(n - 2)
            .copied()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let long = vec![text(128); 32];
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    let short = text(16);
    let mut reference: Vec<f32> = vec![];
    let cases: Vec<(Precision, &str)> = vec![
        (Precision::Fp32, "{}"),
        (Precision::Int8, "{}"),
        (Precision::Int8, "{\"block\":128}"),
        (Precision::Int4, "{}"),
        (Precision::Int4, "{\"block\":64}"),
        (Precision::Int4, "{\"scheme\":\"affine\"}"),
        (Precision::Int4, "{\"scheme\":\"kmeans\"}"),
        (Precision::Fp16, "{}"),
    ];
    let only = std::env::var("ONLY")
        .ok()
        .map(|o| o.parse::<usize>().unwrap());
    for (i, (p, o)) in cases.into_iter().enumerate() {
        if only.is_some_and(|o| o != i) {
            continue;
        }
        let t = Instant::now();
        let m = if p == Precision::Fp32 {
            model.clone()
        } else {
            quantize(
                &model,
                p,
                &QuantizeOptions::from_json(o).unwrap(),
                &mut |_, _| true,
            )
            .unwrap()
        };
        let q = t.elapsed();
        let mut e = Encoder::new(&m.graph, &m.tokenizer, m.settings.clone(), options).unwrap();
        e.probe().unwrap();
        let v = e.embed(&texts).unwrap();
        if reference.is_empty() {
            reference = v.clone();
        }
        let mut cos: Vec<f64> = v
            .chunks(384)
            .zip(reference.chunks(384))
            .map(|(a, b)| a.iter().zip(b).map(|(x, y)| *x as f64 * *y as f64).sum())
            .collect();
        cos.sort_by(f64::total_cmp);
        let mut best = f64::MAX;
        for _ in 0..12 {
            let t = Instant::now();
            e.embed(&long).unwrap();
            best = best.min(t.elapsed().as_secs_f64());
        }
        let mut one = f64::MAX;
        for _ in 0..200 {
            let t = Instant::now();
            e.embed(&[&short]).unwrap();
            one = one.min(t.elapsed().as_secs_f64());
        }
        println!(
            "{p:?} {o} bytes {:.3} cos mean {:.5} p1 {:.5} {:.0} tok/s, one {:.3} ms, quantized in {q:?}",
            m.graph.len() as f64 / model.graph.len() as f64,
            cos.iter().sum::<f64>() / cos.len() as f64,
            cos[cos.len() / 100],
            4096.0 / best,
            one * 1e3
        );
    }
}
