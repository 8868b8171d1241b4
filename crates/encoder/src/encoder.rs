//! A model in memory: tokenizer and ONNX Runtime session.
//!
//! What enters is texts; what leaves is one row of `f32` per text. How a row is
//! kept from depending on anything but its text is told in the crate's
//! documentation; here are the batches and the run.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use memory::vec;
use ort::ep::CUDA;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{RunOptions, Session, SessionInputValue};
use ort::value::{TensorElementType, TensorRef, ValueType};

use crate::chunk::{self, Chunk};
use crate::compile::INPUTS;
use crate::error::Error;
use crate::evaluation::cosine;
use crate::gpu::for_gpu;
use crate::operators;
use crate::pooling::pool;
use crate::runtime;
use crate::settings::{Pooling, Precision, Settings};
use crate::threads::{self, SignalsBlocked};
use crate::tokenizer::{MAX_TEXT_BYTES, TextTokenizer, Tokens};
use crate::watchdog::Watchdog;

/// Where padding has no part in any result, it is cheaper to pad by fewer tokens in
/// all than to begin another run of the model.
const TOKENS_OF_A_RUN: usize = 12;

/// The same on a GPU, where a run takes as long with so many tokens as with one.
const TOKENS_OF_A_GPU_RUN: usize = 512;

/// Lengths on a GPU are multiples of this, as its matrix units want them.
const GPU_LENGTH_STEP: usize = 8;

/// On a processor, a run has so many tokens for each thread: what is computed of them
/// stays in its caches from one node of the graph to the next.
const TOKENS_OF_A_THREAD: usize = 1_024;

/// And at most so many in all. More would need more memory without being faster.
const TOKENS_ON_A_PROCESSOR: usize = 4_096;

/// After a call with a batch of more tokens the memory it took is given back to
/// the system. Up to here it is kept for the next call, which would spend some
/// 5 % of its time on getting it again.
const KEEP_MEMORY_TOKENS: usize = 4_096;

/// After a call with more tokens in all, which hardly notices it, too.
const LARGE_CALL_TOKENS: usize = 16_384;

/// Text that is worth another thread for its tokens: they take some 0.5 µs a byte, and
/// beginning a thread some 50 µs.
const BYTES_OF_A_THREAD: usize = 4_096;

/// What memory is asked for.
const TOKENS: &str = "the tokens of the texts";

/// Where a model computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// On the processor.
    Cpu,
    /// On an NVIDIA GPU, or not at all.
    Cuda,
    /// On an NVIDIA GPU if one can be used, else on the processor.
    Auto,
}

/// How an encoder works; nothing of it changes a result, but for the provider: a GPU
/// rounds the last digits otherwise, and not always alike.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Where the model computes.
    pub provider: Provider,
    /// Threads that compute, the caller's included; at least 1.
    pub threads: usize,
    /// The most tokens, padding included, in one run of the model. Memory grows
    /// with it. A text that is longer runs alone. On a processor runs may be shorter.
    pub batch_tokens: usize,
    /// Whether the caller wants to stop. It is asked between texts and, every 10 ms
    /// while the model runs, on any thread: it must do no more than look at a flag.
    pub interrupted: fn() -> bool,
}

/// A loaded model.
///
/// It may be used from one thread after another, by one at a time.
pub struct Encoder {
    // Fields drop in this order: no run option is raised when they are gone.
    watchdog: Watchdog,
    session: Session,
    /// Leaves the session its memory.
    keeping: Arc<RunOptions>,
    /// Gives memory back at the end of the run.
    shrinking: Arc<RunOptions>,
    inputs: Vec<Input>,
    tokenizer: TextTokenizer,
    /// Of the graph that runs.
    settings: Settings,
    options: Options,
    on_gpu: bool,
    /// Texts may be padded at the cost of the last digits: on a GPU, if there is a mask.
    may_pad: bool,
    fallback: Option<String>,
}

/// An input of the graph.
struct Input {
    name: String,
    role: Role,
    /// int64 rather than int32.
    wide: bool,
}

#[derive(Clone, Copy)]
enum Role {
    Ids,
    Mask,
    Types,
}

/// An input's values, texts times padded length.
enum Elements {
    Int32(Vec<i32>),
    Int64(Vec<i64>),
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("settings", &self.settings)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Encoder {
    /// Makes a session from what [`crate::compile()`] gave.
    ///
    /// The graph is trusted to be one that `compile` has let through.
    ///
    /// # Errors
    /// [`Error::RuntimeNotLoaded`] before [`crate::load_runtime`];
    /// [`Error::Provider`] if the model can't run where it is to;
    /// [`Error::Graph`], [`Error::Settings`], [`Error::Malformed`] or
    /// [`Error::Unsupported`] if the parts don't make a model.
    pub fn new(
        graph: &[u8],
        tokenizer: &[u8],
        settings: Settings,
        options: Options,
    ) -> Result<Self, Error> {
        settings.check()?;
        let environment = runtime::environment()?;
        let tokenizer = TextTokenizer::new(tokenizer, &settings)?;
        let opened = {
            // The session brings its threads along.
            let _signals = SignalsBlocked::new()?;
            // ONNX Runtime waits for ever where it gets some of them only.
            threads::check_available(options.threads, "opening the model")?;
            Opened::new(&environment, graph, settings, options)?
        };
        let Opened {
            session,
            settings,
            on_gpu,
            fallback,
        } = opened;
        let batch_tokens = match on_gpu {
            true => options.batch_tokens,
            false => (options.batch_tokens)
                .min(TOKENS_OF_A_THREAD * options.threads.max(1))
                .min(TOKENS_ON_A_PROCESSOR),
        };
        let inputs = session
            .inputs()
            .iter()
            .map(|outlet| Input::new(outlet.name(), outlet.dtype()))
            .collect::<Result<Vec<Input>, Error>>()?;
        if !session
            .outputs()
            .iter()
            .any(|outlet| outlet.name() == settings.output)
        {
            return Err(Error::Graph {
                reason: format!("it has no output \"{}\"", settings.output),
            });
        }
        let may_pad = on_gpu && inputs.iter().any(|input| matches!(input.role, Role::Mask));
        let keeping = Arc::new(RunOptions::new().map_err(Error::inference)?);
        let mut shrinking = RunOptions::new().map_err(Error::inference)?;
        let arenas = if on_gpu { "cpu:0;gpu:0" } else { "cpu:0" };
        shrinking
            .set("memory.enable_memory_arena_shrinkage", arenas)
            .map_err(Error::inference)?;
        let shrinking = Arc::new(shrinking);
        let watchdog = {
            let runs = [Arc::clone(&keeping), Arc::clone(&shrinking)];
            Watchdog::new(options.interrupted, move || {
                for run in &runs {
                    // Raising a flag does not fail; the run would only end later.
                    let _ = run.terminate();
                }
            })
        };
        Ok(Encoder {
            watchdog,
            session,
            keeping,
            shrinking,
            inputs,
            tokenizer,
            settings,
            options: Options {
                batch_tokens,
                ..options
            },
            on_gpu,
            may_pad,
            fallback,
        })
    }

    /// Why the model runs on the processor though [`Provider::Auto`] would have
    /// preferred a GPU.
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Threads that compute, the caller's included.
    pub fn threads(&self) -> usize {
        self.options.threads.max(1)
    }

    /// Dimensions of a vector.
    pub fn dimension(&self) -> usize {
        self.settings.dimension
    }

    /// The settings that the encoder was made with; on a GPU, the graph may pool.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How many tokens a text has, special tokens included, before it is cut off
    /// at [`Settings::max_tokens`].
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn count_tokens(&self, text: &str) -> Result<usize, Error> {
        self.tokenizer.count(text)
    }

    /// Cuts a text into pieces of at most `max_tokens` tokens, at the ends of sentences
    /// where it can. The special tokens are counted, and those of
    /// [`Settings::passage_prefix`], which the pieces are to be embedded with. Up to
    /// `overlap` tokens of each piece come again at the beginning of the next one.
    ///
    /// # Errors
    /// [`Error::Argument`] unless 0 ≤ `overlap` < `max_tokens` − special tokens and
    /// prefix; [`Error::Interrupted`]; [`Error::Tokenizer`].
    pub fn chunk<'t>(
        &self,
        text: &'t str,
        max_tokens: usize,
        overlap: usize,
    ) -> Result<Vec<Chunk<'t>>, Error> {
        let fail = |reason: String| Err(Error::Argument { reason });
        let of_prefix = self.tokenizer.places(&self.settings.passage_prefix)?.len();
        let given = self.tokenizer.special_tokens() + of_prefix;
        let Some(most) = max_tokens.checked_sub(given).filter(|&most| most > 0) else {
            return fail(format!(
                "max_tokens is {max_tokens}, but {given} of them are special tokens{}",
                if of_prefix > 0 {
                    " and the model's prefix"
                } else {
                    ""
                }
            ));
        };
        if overlap >= most {
            return fail(format!(
                "overlap is {overlap}, but must be less than the {most} tokens of a piece"
            ));
        }
        chunk::chunks(text, most, overlap, |part| {
            if (self.options.interrupted)() {
                return Err(Error::Interrupted);
            }
            self.tokenizer.places(part)
        })
    }

    /// The vectors of texts, row by row: `texts.len()` times [`Self::dimension`] values.
    ///
    /// White space around a text is ignored. Of a text with more than
    /// [`Settings::max_tokens`] tokens, or [`crate::MAX_TEXT_BYTES`] bytes, the
    /// beginning counts. Every value is finite.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when [`Options::interrupted`] says so, after which the
    /// encoder is as good as before; [`Error::Tokenizer`], [`Error::Inference`] or
    /// [`Error::Resource`].
    pub fn embed(&mut self, texts: &[&str]) -> Result<Vec<f32>, Error> {
        let dimension = self.settings.dimension;
        let size = texts.len().saturating_mul(dimension);
        let mut vectors = vec::filled(0.0, size, "the vectors of the texts")?;

        let tokens = self.tokenize(texts)?;
        let lengths = tokens.iter().map(|tokens| match self.may_pad {
            true => gpu_length(tokens.ids.len(), self.settings.max_tokens),
            // A text without any token has one of padding.
            false => tokens.ids.len().max(1),
        });
        let lengths = vec::collect(lengths, TOKENS)?;
        let mut order = vec::collect(0..texts.len(), TOKENS)?;
        order.sort_unstable_by_key(|&text| (lengths[text], text));
        let batches = self.batches(&order, &lengths)?;
        let mut is_large = false;
        let done = self.run_all(&tokens, &lengths, &batches, &mut vectors, &mut is_large);
        if done.is_err() && is_large {
            // Another run, of the shortest text, gives back what the others took.
            let text = order[0];
            _ = self.run(&[&tokens[text]], lengths[text], true, |_, _, _, _| true);
        }
        done.map(|()| vectors)
    }

    /// Runs all batches. The last one gives the memory of a large call back, of which
    /// `is_large` tells.
    fn run_all(
        &mut self,
        tokens: &[Tokens],
        lengths: &[usize],
        batches: &[&[usize]],
        vectors: &mut [f32],
        is_large: &mut bool,
    ) -> Result<(), Error> {
        let (dimension, width) = (self.settings.dimension, self.settings.width());
        let mut sums = Vec::new();
        let (mut most, mut total) = (0, 0);
        for (index, &batch) in batches.iter().enumerate() {
            if (self.options.interrupted)() {
                return Err(Error::Interrupted);
            }
            // The last one is the longest.
            let length = batch.last().map_or(1, |&text| lengths[text]);
            most = most.max(batch.len() * length);
            total += batch.len() * length;
            *is_large = most > KEEP_MEMORY_TOKENS || total > LARGE_CALL_TOKENS;
            let shrink = index + 1 == batches.len() && *is_large;
            let members: Vec<&Tokens> = batch.iter().map(|&text| &tokens[text]).collect();
            self.run(
                &members,
                length,
                shrink,
                |row, values, pooling, normalize| {
                    let start = batch[row] * dimension;
                    let vector = &mut vectors[start..start + dimension];
                    pool(pooling, normalize, values, width, &mut sums, vector);
                    vector.iter().all(|value| value.is_finite())
                },
            )?;
        }
        Ok(())
    }

    /// Finds out whether the model keeps its promises: it runs, gives finite
    /// vectors of the promised dimension, and the same ones in any company: to the bit
    /// on a processor, about the same on a GPU.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if a vector depends on its batch; else as [`Self::embed`].
    pub fn probe(&mut self) -> Result<(), Error> {
        // The first two have as many tokens, so that they share a run.
        let texts = [
            "A stone bridge crosses the river.",
            "The river crosses A stone bridge.",
            "Prices fell in March, and rose in May.",
            "insitu",
        ];
        let together = self.embed(&texts)?;
        for (&text, expected) in texts.iter().zip(together.chunks_exact(self.dimension())) {
            let alone = self.embed(&[text])?;
            let same = match self.on_gpu {
                true => cosine(&alone, expected) >= 0.999,
                false => alone
                    .iter()
                    .zip(expected)
                    .all(|(a, b)| a.to_bits() == b.to_bits()),
            };
            if !same {
                return Err(Error::unsupported(
                    "it gives a text another vector when other texts run with it",
                ));
            }
        }
        Ok(())
    }

    /// The tokens of each text. Long calls share the texts out among threads.
    fn tokenize(&self, texts: &[&str]) -> Result<Vec<Tokens>, Error> {
        let bytes: usize = texts
            .iter()
            .map(|text| text.len().min(MAX_TEXT_BYTES))
            .sum();
        let threads = self.options.threads.min(bytes / BYTES_OF_A_THREAD).max(1);
        let parts = threads::on_each(threads, |first| {
            let own = texts.iter().skip(first).step_by(threads);
            let mut tokens = Vec::new();
            for text in own {
                let of_text = self.tokenizer.tokens(text, self.options.interrupted)?;
                vec::push(&mut tokens, of_text, TOKENS)?;
            }
            Ok(tokens)
        })?;
        let parts: Result<Vec<Vec<Tokens>>, Error> = parts.into_iter().collect();
        let mut parts: Vec<_> = parts?.into_iter().map(Vec::into_iter).collect();
        let in_turns = (0..texts.len()).filter_map(|text| parts[text % threads].next());
        Ok(vec::collect(in_turns, TOKENS)?)
    }

    /// Cuts texts, ordered by their lengths, into those of one run each.
    fn batches<'o>(
        &self,
        order: &'o [usize],
        lengths: &[usize],
    ) -> Result<Vec<&'o [usize]>, Error> {
        // By how many tokens a run may be padded for the next longer text.
        let slack = match (self.may_pad, self.settings.padding_free) {
            (true, _) => TOKENS_OF_A_GPU_RUN,
            (false, true) => TOKENS_OF_A_RUN,
            (false, false) => 0,
        };
        let mut batches = Vec::new();
        let mut first = 0;
        for i in 1..order.len() {
            let (count, length) = (i - first, lengths[order[i]]);
            // All texts so far would be padded more.
            let fits = count * (length - lengths[order[i - 1]]) <= slack;
            let has_room = (count + 1) * length <= self.options.batch_tokens;
            if self.settings.one_by_one || !has_room || !fits {
                vec::push(&mut batches, &order[first..i], TOKENS)?;
                first = i;
            }
        }
        if first < order.len() {
            vec::push(&mut batches, &order[first..], TOKENS)?;
        }
        Ok(batches)
    }

    /// Runs the model on texts, padded to one length, and hands on, per text, the
    /// rows of its real tokens (or its one row). `keep` says whether it got a
    /// finite vector out of them.
    fn run(
        &mut self,
        texts: &[&Tokens],
        length: usize,
        shrink: bool,
        mut keep: impl FnMut(usize, &[f32], Pooling, bool) -> bool,
    ) -> Result<(), Error> {
        let Encoder {
            watchdog,
            session,
            keeping,
            shrinking,
            inputs,
            settings,
            ..
        } = self;
        let (output, pooling) = (&settings.output, settings.pooling);
        let run_options: &RunOptions = if shrink { shrinking } else { keeping };
        run_options.unterminate().map_err(Error::inference)?;

        let elements: Vec<Elements> = inputs
            .iter()
            .map(|input| input.fill(texts, length, settings.pad_token_id))
            .collect();
        let shape = [texts.len(), length];
        let mut values: Vec<(Cow<'_, str>, SessionInputValue<'_>)> =
            Vec::with_capacity(inputs.len());
        for (input, elements) in inputs.iter().zip(&elements) {
            let value: SessionInputValue<'_> = match elements {
                Elements::Int32(numbers) => TensorRef::from_array_view((shape, numbers.as_slice()))
                    .map_err(Error::inference)?
                    .into(),
                Elements::Int64(numbers) => TensorRef::from_array_view((shape, numbers.as_slice()))
                    .map_err(Error::inference)?
                    .into(),
            };
            values.push((Cow::Borrowed(input.name.as_str()), value));
        }

        let outputs = watchdog
            .watch(move || session.run_with_options(values, run_options))?
            .map_err(Error::inference)?;
        let value = outputs
            .get(output)
            .ok_or_else(|| Error::inference(format!("the graph gave no \"{output}\"")))?;
        let (found, rows) = value
            .try_extract_tensor::<f32>()
            .map_err(Error::inference)?;
        let width = settings.width();
        let per_text = if pooling == Pooling::None { 1 } else { length };
        let expected: Vec<usize> = if pooling == Pooling::None {
            vec![texts.len(), width]
        } else {
            vec![texts.len(), length, width]
        };
        let fits = found.len() == expected.len()
            && found
                .iter()
                .zip(&expected)
                .all(|(&found, &expected)| usize::try_from(found) == Ok(expected));
        if !fits {
            return Err(Error::inference(format!(
                "the graph gave \"{output}\" with the shape {found}, expected was {expected:?}"
            )));
        }
        for (index, (tokens, rows)) in texts
            .iter()
            .zip(rows.chunks_exact(per_text * width))
            .enumerate()
        {
            // A text without any token has one of padding, see `Input::fill`.
            let real = tokens.ids.len().clamp(1, per_text);
            let finite = keep(index, &rows[..real * width], pooling, settings.normalize);
            if !finite {
                return Err(Error::inference(
                    "the vector has a value that is not finite",
                ));
            }
        }
        Ok(())
    }
}

/// A session where the options want it.
struct Opened {
    session: Session,
    /// Of the graph that it runs.
    settings: Settings,
    on_gpu: bool,
    fallback: Option<String>,
}

impl Opened {
    fn new(
        environment: &ort::environment::Environment,
        graph: &[u8],
        settings: Settings,
        options: Options,
    ) -> Result<Self, Error> {
        let open =
            |graph: &[u8], cuda| open_session(environment, graph, options.threads.max(1), cuda);
        let on_cpu = |fallback| {
            let opened = open(graph, false).map_err(|error| {
                let otherwise = |reason| Error::Graph { reason };
                Error::of_runtime("opening the model", error, otherwise)
            });
            Ok(Opened {
                session: opened?,
                settings: settings.clone(),
                on_gpu: false,
                fallback,
            })
        };
        let on_gpu = || {
            let fail = |reason| Err(Error::Provider { reason });
            if matches!(settings.precision, Precision::Int8 | Precision::Int4) {
                return fail("models of int8 and int4 run on the processor".to_owned());
            }
            let (graph, settings) = for_gpu(graph, &settings)?;
            match open(&graph, true) {
                Ok(session) => Ok(Opened {
                    session,
                    settings,
                    on_gpu: true,
                    fallback: None,
                }),
                Err(error) => Err(Error::of_runtime("opening the model", error, |reason| {
                    Error::Provider { reason }
                })),
            }
        };
        match options.provider {
            Provider::Cpu => on_cpu(None),
            Provider::Cuda => on_gpu(),
            Provider::Auto => on_gpu().or_else(|error| on_cpu(Some(error.to_string()))),
        }
    }
}

/// The length that a text is padded to for a GPU; none is longer than the model takes.
fn gpu_length(tokens: usize, max_tokens: usize) -> usize {
    let padded = tokens.max(1).next_multiple_of(GPU_LENGTH_STEP);
    padded.min(max_tokens).max(tokens)
}

fn open_session(
    environment: &ort::environment::Environment,
    graph: &[u8],
    threads: usize,
    cuda: bool,
) -> ort::Result<Session> {
    // ONNX Runtime looks whether the process knows a domain and then adds it, and
    // fails where two threads do so at the same time.
    static OPENING: Mutex<()> = Mutex::new(());
    let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut builder = Session::builder(environment)?
        .with_operators(operators::domain(threads)?)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        // A database has other work for its cores than waiting loudly.
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?
        // Plans of memory for one shape are of no use when every batch has another.
        .with_memory_pattern(false)?
        .with_deterministic_compute(true)?
        .with_log_level(ort::logging::LogLevel::Error)?
        // The scanned bytes are ONNX: they must not be taken for the other format.
        .with_config_entry("session.load_model_format", "ONNX")?;
    if cuda {
        // This loads CUDA's libraries. A model of floats keeps their precision.
        let provider = CUDA::default().with_tf32(false).build();
        builder = builder.with_execution_providers([provider.error_on_failure()])?;
    }
    builder.commit_from_memory(graph)
}

impl Input {
    fn new(name: &str, value_type: &ValueType) -> Result<Self, Error> {
        let refuse = |what: &str| {
            Err(Error::Graph {
                reason: format!("its input \"{name}\" is {value_type}, {what}"),
            })
        };
        let role = match INPUTS.iter().position(|&known| known == name) {
            Some(0) => Role::Ids,
            Some(1) => Role::Mask,
            Some(_) => Role::Types,
            None => return refuse("which nothing is known to fill"),
        };
        let ValueType::Tensor { ty, shape, .. } = value_type else {
            return refuse("expected was a tensor");
        };
        let wide = match ty {
            TensorElementType::Int32 => false,
            TensorElementType::Int64 => true,
            _ => return refuse("expected was int32 or int64"),
        };
        if shape.len() != 2 || shape.iter().any(|&size| size >= 0) {
            return refuse("expected was any number of texts of any number of tokens");
        }
        Ok(Input {
            name: name.to_owned(),
            role,
            wide,
        })
    }

    /// This input's values for texts that are padded on the right.
    fn fill(&self, texts: &[&Tokens], length: usize, pad: u32) -> Elements {
        let numbers = texts.iter().flat_map(|tokens| {
            let real = tokens.ids.len();
            (0..length).map(move |position| match self.role {
                Role::Ids => tokens.ids.get(position).copied().unwrap_or(pad),
                Role::Types => tokens.types.get(position).copied().unwrap_or(0),
                // Without a single real token a row of the attention would be
                // undefined: one token of padding counts then.
                Role::Mask => u32::from(position < real.max(1)),
            })
        });
        let mut wide = Vec::with_capacity(texts.len() * length);
        wide.extend(numbers.map(i64::from));
        if self.wide {
            Elements::Int64(wide)
        } else {
            // An id that is too large for int32 is too large for any table: -1,
            // which ONNX Runtime refuses as it would have refused the id.
            let narrow = wide.iter().map(|&id| i32::try_from(id).unwrap_or(-1));
            Elements::Int32(narrow.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::gpu_length;

    #[test]
    fn lengths_on_a_gpu_are_those_that_the_model_takes() {
        let of = |tokens| gpu_length(tokens, 130);
        assert_eq!(
            [0, 1, 8, 9, 128, 129, 130].map(of),
            [8, 8, 8, 16, 128, 130, 130]
        );
        assert_eq!(gpu_length(3, 3), 3);
    }
}
