//! `/debug/pprof`: which code the processor's time goes to, in the format of Go's `pprof`. Off unless `--profiling` says otherwise:
//! a profile interrupts every thread a hundred times a second, and shows what runs here.
//!
//! Frames are addresses in the files that are mapped; `pprof` finds the names in a binary that still has them, a stripped one does not.
//! What Go's runtime has besides (goroutines, its heap, its locks) has no likeness here and is an unknown profile.

use super::answer::{self, PLAIN};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_DISPOSITION, HeaderValue, LOCATION};
use http::{Response, StatusCode};
use pprof::{ProfilerGuardBuilder, UnresolvedReport};
use prost::Message;
use std::collections::HashMap;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, UNIX_EPOCH};

/// Samples a second of processor time, as in Go.
const FREQUENCY: i32 = 100;
const NANOSECONDS: i64 = 1_000_000_000;
const DEFAULT: Duration = Duration::from_secs(30);
/// Code that must not be interrupted by a look at the stack, because that look takes the same locks.
const UNINTERRUPTED: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// There is one profile at a time.
    #[error("cpu profiling already in use")]
    InUse,
    /// The timer or the handler of its signal could not be set up.
    #[error("{0}")]
    Sampling(#[source] pprof::Error),
}

impl From<pprof::Error> for ProfileError {
    fn from(error: pprof::Error) -> Self {
        match error {
            pprof::Error::Running => ProfileError::InUse,
            other => ProfileError::Sampling(other),
        }
    }
}

/// Whether a path belongs here.
pub fn is_ours(path: &str) -> bool {
    path.strip_prefix("/debug/pprof").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The page of a path for which [`is_ours`] holds. `seconds` is that of the query.
pub async fn page<B: From<Bytes>>(path: &str, seconds: &str) -> Response<B> {
    match path.strip_prefix("/debug/pprof").unwrap_or_default() {
        "" => {
            let mut response = answer::page(StatusCode::MOVED_PERMANENTLY, PLAIN, "");
            response.headers_mut().insert(LOCATION, HeaderValue::from_static("/debug/pprof/"));
            response
        }
        "/" => answer::page(StatusCode::OK, "text/html; charset=utf-8", INDEX),
        "/cmdline" => answer::page(StatusCode::OK, PLAIN, arguments()),
        "/profile" => {
            let asked = seconds.parse().ok().filter(|s| *s > 0).map(Duration::from_secs);
            match processor(asked.unwrap_or(DEFAULT)).await {
                Ok(profile) => {
                    let mut response = answer::page(StatusCode::OK, "application/octet-stream", profile);
                    response.headers_mut().insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"profile\""));
                    response
                }
                Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, &format!("Could not enable CPU profiling: {error}")),
            }
        }
        _ => refused(StatusCode::NOT_FOUND, "Unknown profile"),
    }
}

/// The header tells Go's `pprof` that the text is worth showing.
fn refused<B: From<Bytes>>(code: StatusCode, why: &str) -> Response<B> {
    let mut response = answer::refusal(code, why);
    response.headers_mut().insert("x-go-pprof", HeaderValue::from_static("1"));
    response
}

const INDEX: &str = "<html>
<head><title>/debug/pprof/</title></head>
<body>
<p>/debug/pprof/</p>
<ul>
<li><a href=\"cmdline\">cmdline</a>: the command line of this process</li>
<li><a href=\"profile?seconds=30\">profile</a>: processor time; seconds says for how long</li>
</ul>
</body>
</html>
";

fn arguments() -> Vec<u8> {
    let arguments: Vec<_> = std::env::args_os().map(OsStringExt::into_vec).collect();
    arguments.join(&0)
}

/// Watches this process for so long. Ends early, and with nothing left behind, when nobody waits for it any more.
async fn processor(time: Duration) -> Result<Vec<u8>, ProfileError> {
    let guard = ProfilerGuardBuilder::default().frequency(FREQUENCY).blocklist(&UNINTERRUPTED).build()?;
    tokio::time::sleep(time).await;
    let report = guard.report().build_unresolved()?;
    drop(guard);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let profile = profile(&report, &maps).encode_to_vec();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing into memory does not fail.
    let _ = gzip.write_all(&profile);
    Ok(gzip.finish().unwrap_or_default())
}

fn profile(report: &UnresolvedReport, maps: &str) -> Profile {
    let mut strings = Strings::default();
    let (samples, count) = (strings.index("samples"), strings.index("count"));
    let (cpu, nanoseconds) = (strings.index("cpu"), strings.index("nanoseconds"));
    let thread = strings.index("thread");
    let period = NANOSECONDS / i64::from(FREQUENCY);
    let mappings = mappings(maps, &mut strings);
    let mut places = Places { mappings: &mappings, ids: HashMap::new(), locations: Vec::new() };
    let mut sample = Vec::with_capacity(report.data.len());
    for (stack, times) in &report.data {
        let name = stack.thread_name.get(..stack.thread_name_length).unwrap_or_default();
        sample.push(Sample {
            location_id: stack.frames.iter().map(|frame| places.id(frame.ip() as u64)).collect(),
            value: vec![*times as i64, *times as i64 * period],
            label: vec![Label { key: thread, str: strings.index(&String::from_utf8_lossy(name)) }],
        });
    }
    let location = places.locations;
    let time = ValueType { kind: cpu, unit: nanoseconds };
    Profile {
        sample_type: vec![ValueType { kind: samples, unit: count }, time],
        sample,
        mapping: mappings,
        location,
        time_nanos: report.timing.start_time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i64,
        duration_nanos: report.timing.duration.as_nanos() as i64,
        period_type: Some(time),
        period,
        string_table: strings.all,
    }
}

/// Where code comes from, from the kernel's list of what is mapped.
fn mappings(maps: &str, strings: &mut Strings) -> Vec<Mapping> {
    let mut mappings = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(allowed), Some(offset)) = (words.next(), words.next(), words.next()) else { continue };
        let Some((start, end)) = range.split_once('-').filter(|_| allowed.contains('x')) else { continue };
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let (Some(memory_start), Some(memory_limit), Some(file_offset)) = (number(start), number(end), number(offset)) else { continue };
        let file = strings.index(words.nth(2).unwrap_or_default());
        mappings.push(Mapping { id: mappings.len() as u64 + 1, memory_start, memory_limit, file_offset, filename: file });
    }
    mappings
}

/// The texts of a profile; the first one is empty.
struct Strings {
    all: Vec<String>,
    known: HashMap<String, i64>,
}

impl Default for Strings {
    fn default() -> Self {
        Strings { all: vec![String::new()], known: HashMap::from([(String::new(), 0)]) }
    }
}

impl Strings {
    fn index(&mut self, text: &str) -> i64 {
        if let Some(index) = self.known.get(text) {
            return *index;
        }
        let index = self.all.len() as i64;
        self.all.push(text.to_owned());
        self.known.insert(text.to_owned(), index);
        index
    }
}

/// The addresses that were met.
struct Places<'a> {
    mappings: &'a [Mapping],
    ids: HashMap<u64, u64>,
    locations: Vec<Location>,
}

impl Places<'_> {
    fn id(&mut self, address: u64) -> u64 {
        *self.ids.entry(address).or_insert_with(|| {
            let mapping = self.mappings.iter().find(|m| (m.memory_start..m.memory_limit).contains(&address));
            let id = self.locations.len() as u64 + 1;
            self.locations.push(Location { id, mapping_id: mapping.map_or(0, |m| m.id), address });
            id
        })
    }
}

// perftools.profiles.Profile, as far as it is used here. Texts are places in `string_table`.

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    memory_start: u64,
    #[prost(uint64, tag = "3")]
    memory_limit: u64,
    #[prost(uint64, tag = "4")]
    file_offset: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::io::Read;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// The profiler belongs to the whole process, so one test shows all of it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_profile_shows_who_worked_and_there_is_one_at_a_time() {
        let over = Arc::new(AtomicBool::new(false));
        let ends = over.clone();
        let busy = std::thread::Builder::new().name("works".into()).spawn(move || {
            let mut sum = 0_u64;
            while !ends.load(Ordering::Relaxed) {
                sum = std::hint::black_box(sum.wrapping_mul(31) + 7);
            }
        });
        // The first one has begun before the second is looked at.
        let (first, second) = tokio::join!(page::<Bytes>("/debug/pprof/profile", "2"), page::<Bytes>("/debug/pprof/profile", "2"));
        over.store(true, Ordering::Relaxed);
        busy.expect("a thread").join().expect("no panic");
        assert_eq!(second.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(&**second.body(), b"Could not enable CPU profiling: cpu profiling already in use\n");
        assert_eq!(first.status(), StatusCode::OK);
        let mut plain = Vec::new();
        GzDecoder::new(&**first.body()).read_to_end(&mut plain).expect("gzip");
        let profile = Profile::decode(&*plain).expect("a profile");
        let said = |index: i64| profile.string_table[index as usize].as_str();
        let works = profile.sample.iter().filter(|s| said(s.label[0].str) == "works");
        let (times, deepest) = works.fold((0, 0), |(times, deep), s| (times + s.value[0], deep.max(s.location_id.len())));
        assert!(times > 0 && deepest > 1, "{times} times, at most {deepest} frames");
        assert_eq!(profile.period, 10_000_000);
        let own = std::env::current_exe().expect("a path");
        let own = profile.mapping.iter().find(|m| said(m.filename) == own.to_string_lossy()).expect("its code is mapped");
        assert!(profile.location.iter().any(|l| l.mapping_id == own.id && (own.memory_start..own.memory_limit).contains(&l.address)));
    }

    #[tokio::test]
    async fn pages_are_those_of_upstream() {
        assert!(is_ours("/debug/pprof") && is_ours("/debug/pprof/") && !is_ours("/debug/pprofs") && !is_ours("/debug"));
        assert_eq!(page::<Bytes>("/debug/pprof", "").await.headers()[LOCATION], "/debug/pprof/");
        assert!(page::<Bytes>("/debug/pprof/", "").await.body().starts_with(b"<html>"));
        let own = std::env::args().next().expect("a name");
        assert!(page::<Bytes>("/debug/pprof/cmdline", "").await.body().starts_with(own.as_bytes()));
        let heap = page::<Bytes>("/debug/pprof/heap", "").await;
        assert_eq!((heap.status(), &**heap.body()), (StatusCode::NOT_FOUND, b"Unknown profile\n".as_slice()));
    }
}
