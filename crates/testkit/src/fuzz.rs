//! Long runs of generated input, without coverage feedback: what comes in is grown from a shape and then damaged.
//!
//! A target is a function from a seed to nothing that panics where an invariant is broken. In the normal tests it runs a
//! fixed number of seeds, the same each time. With `FERROKUBE_FUZZ_SECONDS` it runs fresh seeds for so long, and says which
//! one was slowest; with `FERROKUBE_FUZZ_SEED` it runs that one alone.

use serde_json::{Map, Value};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant, SystemTime};

/// Pseudo-random numbers, the same everywhere and for ever (splitmix64): a seed in a bug report stays good.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 when that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// True so often in a hundred times.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of several.
    pub fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Runs a target for its seeds; see the module.
pub fn run(target: &str, cases: u64, check: impl Fn(&mut Random)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    if let Some(seed) = number("FERROKUBE_FUZZ_SEED") {
        return check(&mut Random::new(seed));
    }
    let seconds = number("FERROKUBE_FUZZ_SECONDS");
    let fresh = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos() as u64);
    let mut seeds = Random::new(if seconds.is_some() { fresh } else { 0 });
    let (began, mut done, mut slowest) = (Instant::now(), 0u64, (Duration::ZERO, 0));
    loop {
        match seconds {
            Some(seconds) if began.elapsed() >= Duration::from_secs(seconds) => break,
            None if done >= cases => break,
            _ => {}
        }
        let (seed, at) = (seeds.next(), Instant::now());
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&mut Random::new(seed)))) {
            eprintln!("{target}: broken by FERROKUBE_FUZZ_SEED={seed}, case {done}");
            resume_unwind(panic);
        }
        slowest = slowest.max((at.elapsed(), seed));
        done += 1;
    }
    if seconds.is_some() {
        eprintln!("{target}: {done} cases, the slowest took {:?} (seed {})", slowest.0, slowest.1);
    }
}

/// Bytes that decide something in one of the syntaxes that are read.
const PIECES: [&[u8]; 36] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"true",
    b"1e999",
    b"-0",
    b"0.1",
    b"9223372036854775808",
    b"\x00",
    b"\xff",
    b"\xc3\x28",
    b"\xe2\x80\xa8",
    b"\n",
    b" ",
    b"\t",
    b"- ",
    b"&a ",
    b"*a",
    b"<<: ",
    b"|\n",
    b"!!binary ",
    b"#",
    b"---\n",
    b"...",
    b"$patch",
    b"k8s\x00",
    b"/",
    b"~1",
];

/// Damages bytes in a few places.
pub fn damage(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..1 + random.below(4) {
        let (at, other) = (random.below(bytes.len() + 1), random.below(bytes.len() + 1));
        let (from, to) = (at.min(other), at.max(other).min(at.min(other) + 64));
        match random.below(7) {
            0 => drop(bytes.drain(from..to)),
            1 => {
                let piece = bytes[from..to].to_vec();
                bytes.splice(other..other, piece);
            }
            2 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            3 if at < bytes.len() => bytes[at] = random.next() as u8,
            4 => bytes.truncate(at),
            _ => {
                let piece = *random.one(&PIECES);
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
}

/// A scalar, often one at an edge.
pub fn scalar(random: &mut Random) -> Value {
    match random.below(16) {
        0 => Value::Null,
        1 => true.into(),
        2 => false.into(),
        3 => 0.into(),
        4 => (-1).into(),
        5 => i64::MAX.into(),
        6 => i64::MIN.into(),
        7 => u64::MAX.into(),
        8 => 2_147_483_648i64.into(),
        9 => 1.5.into(),
        10 => 1e300.into(),
        _ => text(random).into(),
    }
}

const TEXTS: [&str; 24] = [
    "",
    "a",
    "b",
    "name",
    "A",
    "0",
    "1",
    "-1",
    "x.y/z",
    "a/b",
    "100m",
    "1Gi",
    "1.5",
    "true",
    "null",
    "2026-01-02T03:04:05Z",
    "TCP",
    "Always",
    "YQ==",
    "10.0.0.1",
    "50%",
    "\u{0}",
    "é\u{1f600}",
    "a very long text that goes on for longer than a name of sixty three characters may be",
];

/// A text, often one that means something somewhere.
pub fn text(random: &mut Random) -> String {
    match random.below(8) {
        0 => (0..random.below(6)).map(|_| char::from_u32(random.below(0x11_0000) as u32).unwrap_or('?')).collect(),
        1 => (0..random.below(8)).map(|_| *random.one(&['a', 'b', '-', '.', '/', '0', '9', 'Z', '_', ' ', ',', '=', '!'])).collect(),
        _ => (*random.one(&TEXTS)).to_owned(),
    }
}

/// Any value, not deep.
pub fn value(random: &mut Random, depth: usize) -> Value {
    match random.below(if depth == 0 { 4 } else { 8 }) {
        4 | 5 => (0..random.below(4)).map(|_| value(random, depth - 1)).collect(),
        6 | 7 => {
            let entries = (0..random.below(4)).map(|_| (text(random), value(random, depth - 1)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
        _ => scalar(random),
    }
}

/// Changes a value in one place, and only seldom at its root.
pub fn change(random: &mut Random, at: &mut Value) {
    match at {
        Value::Object(map) if !map.is_empty() && random.chance(92) => {
            let key = map.keys().nth(random.below(map.len())).cloned().unwrap_or_default();
            match random.below(12) {
                0 => drop(map.remove(&key)),
                1 => drop(map.insert(text(random), value(random, 2))),
                2 => {
                    let moved = map.remove(&key).unwrap_or_default();
                    map.insert(text(random), moved);
                }
                _ => map.get_mut(&key).into_iter().for_each(|v| change(random, v)),
            }
        }
        Value::Array(list) if !list.is_empty() && random.chance(92) => {
            let (at, other) = (random.below(list.len()), random.below(list.len()));
            match random.below(8) {
                0 => drop(list.remove(at)),
                1 => list.push(list[at].clone()),
                2 => list.swap(at, other),
                3 => list.insert(at, value(random, 2)),
                _ => change(random, &mut list[at]),
            }
        }
        other => *other = value(random, 2),
    }
}

/// Panics with the first place where two values differ.
#[track_caller]
pub fn assert_same(found: &Value, expected: &Value, what: &str) {
    if let Some((path, found, expected)) = difference(found, expected, String::new()) {
        panic!("{what}: at {path:?} there is {found}, not {expected}");
    }
}

fn difference(found: &Value, expected: &Value, path: String) -> Option<(String, Value, Value)> {
    let null = Value::Null;
    match (found, expected) {
        (Value::Object(a), Value::Object(b)) => {
            if let Some(key) = a.keys().chain(b.keys()).find(|k| a.contains_key(*k) != b.contains_key(*k)) {
                let shown = |m: &Map<String, Value>| m.get(key).cloned().unwrap_or_else(|| "(nothing)".into());
                return Some((format!("{path}/{key}"), shown(a), shown(b)));
            }
            a.iter().find_map(|(k, v)| difference(v, b.get(k).unwrap_or(&null), format!("{path}/{k}")))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| difference(a, b, format!("{path}/{i}")))
        }
        _ => (found != expected).then(|| (path, found.clone(), expected.clone())),
    }
}
