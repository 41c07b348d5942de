//! Where a value of encoded JSON ends, without looking at what is in it: sixty-four bytes at a time, by bit masks of quotes and
//! brackets. Managed fields are half of many objects, and every reader of an object steps over them.
//!
//! The bytes are ones that we encoded: that they are well-formed is not checked. Bytes that end early are found out, and nothing
//! here ever panics.

use wide::u8x16;

/// Bytes looked at in one step.
const BLOCK: usize = 64;
const LANES: usize = 16;

fn lanes(bytes: &[u8], at: usize) -> u8x16 {
    bytes.get(at..at + LANES).and_then(|b| b.try_into().ok()).map_or(u8x16::ZERO, u8x16::new)
}

/// Which of sixteen bytes end a run of plain text.
#[inline]
fn text_marks(lanes: u8x16) -> u32 {
    (lanes.simd_eq(u8x16::splat(b'"')) | lanes.simd_eq(u8x16::splat(b'\\'))).to_bitmask()
}

/// Where in `rest` a text ends or an escape stands.
#[inline]
pub(crate) fn text_end(rest: &[u8]) -> Option<usize> {
    if let Some(first) = rest.first_chunk::<LANES>() {
        let marks = text_marks(u8x16::new(*first));
        if marks != 0 {
            return Some(marks.trailing_zeros() as usize);
        }
        return memchr::memchr2(b'"', b'\\', &rest[LANES..]).map(|at| at + LANES);
    }
    rest.iter().position(|b| matches!(b, b'"' | b'\\'))
}

/// Where a string ends whose opening quote is behind; its closing quote included.
#[inline]
fn string_end(json: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += text_end(json.get(at..)?)? + 1;
        if json[at - 1] == b'"' {
            return Some(at);
        }
        at += 1; // what the backslash escapes
    }
}

/// Where the value that starts at `at` ends; `None` when the bytes end first.
pub fn value_end(json: &[u8], at: usize) -> Option<usize> {
    match json.get(at)? {
        b'{' | b'[' => nested_end(json, at),
        b'"' => string_end(json, at + 1),
        _ => {
            let rest = &json[at..];
            Some(at + rest.iter().position(|b| matches!(b, b',' | b'}' | b']' | b' ' | b'\n' | b'\t' | b'\r')).unwrap_or(rest.len()))
        }
    }
}

/// Where in a block stands what matters, a bit for each byte.
struct Marks {
    quote: u64,
    backslash: u64,
    open: u64,
    close: u64,
}

impl Marks {
    fn of(block: &[u8; BLOCK]) -> Self {
        let mut marks = Marks { quote: 0, backslash: 0, open: 0, close: 0 };
        for at in (0..BLOCK).step_by(LANES) {
            let bytes = lanes(block, at);
            // `[` and `{` differ in one bit only, as do `]` and `}`.
            let folded = bytes | u8x16::splat(0x20);
            let bits = |lanes: u8x16| u64::from(lanes.to_bitmask()) << at;
            marks.quote |= bits(bytes.simd_eq(u8x16::splat(b'"')));
            marks.backslash |= bits(bytes.simd_eq(u8x16::splat(b'\\')));
            marks.open |= bits(folded.simd_eq(u8x16::splat(b'{')));
            marks.close |= bits(folded.simd_eq(u8x16::splat(b'}')));
        }
        marks
    }
}

/// The state between blocks.
#[derive(Default)]
struct Nesting {
    depth: usize,
    /// All ones inside a string.
    in_string: u64,
    /// The first byte of the block is escaped.
    escaped: bool,
}

impl Nesting {
    /// Drops quotes that a backslash takes away. Backslashes are rare: they are gone through one by one.
    fn unescaped(&mut self, marks: &Marks) -> u64 {
        let (mut escaped, mut rest) = (u64::from(self.escaped), marks.backslash);
        self.escaped = false;
        while rest != 0 {
            let at = rest.trailing_zeros();
            rest &= rest - 1;
            if escaped >> at & 1 == 1 {
                continue;
            }
            if at == 63 { self.escaped = true } else { escaped |= 2 << at }
        }
        marks.quote & !escaped
    }

    /// Goes on by a block; where in it the value ends, if it does.
    fn step(&mut self, block: &[u8; BLOCK]) -> Option<usize> {
        let marks = Marks::of(block);
        let quote = if marks.backslash != 0 || self.escaped { self.unescaped(&marks) } else { marks.quote };
        let string = inside(quote) ^ self.in_string;
        self.in_string = if string >> 63 == 1 { u64::MAX } else { 0 };
        let (mut open, mut close) = (marks.open & !string, marks.close & !string);
        // What opens and closes at once, as most of managed fields does, changes nothing, except at the start of the value.
        if self.depth > 0 {
            let empty = open & close >> 1;
            (open, close) = (open & !empty, close & !(empty << 1));
        }
        if self.depth > close.count_ones() as usize {
            self.depth = self.depth + open.count_ones() as usize - close.count_ones() as usize;
            return None;
        }
        let mut brackets = open | close;
        while brackets != 0 {
            let at = brackets.trailing_zeros();
            brackets &= brackets - 1;
            if open >> at & 1 == 1 {
                self.depth += 1;
            } else if self.depth <= 1 {
                return Some(at as usize + 1);
            } else {
                self.depth -= 1;
            }
        }
        None
    }
}

/// From each quote up to the next one: the opening quote is inside, the closing one is not.
fn inside(quotes: u64) -> u64 {
    [1, 2, 4, 8, 16, 32].into_iter().fold(quotes, |bits, shift| bits ^ bits << shift)
}

fn nested_end(json: &[u8], start: usize) -> Option<usize> {
    let (mut nesting, mut at) = (Nesting::default(), start);
    let (blocks, rest) = json[start..].as_chunks::<BLOCK>();
    for block in blocks {
        if let Some(end) = nesting.step(block) {
            return Some(at + end);
        }
        at += BLOCK;
    }
    let mut last = [0; BLOCK];
    last[..rest.len()].copy_from_slice(rest);
    nesting.step(&last).map(|end| at + end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// The end by going byte for byte.
    fn slow_end(json: &[u8]) -> Option<usize> {
        let (mut depth, mut string, mut escaped) = (0_usize, false, false);
        for (at, byte) in json.iter().enumerate() {
            match (string, *byte) {
                _ if escaped => escaped = false,
                (true, b'\\') => escaped = true,
                (_, b'"') => string = !string,
                (false, b'{' | b'[') => depth += 1,
                (false, b'}' | b']') => depth -= 1,
                _ => {}
            }
            if depth == 0 && !string {
                return Some(at + 1);
            }
        }
        None
    }

    fn values() -> impl Strategy<Value = Value> {
        let text = || prop_oneof![r#"[a-z{}\[\]"\\,:]{0,20}"#, r"[a-z]{0,90}"];
        let leaf = prop_oneof![
            Just(json!({})),
            Just(json!([])),
            Just(json!(true)),
            any::<i32>().prop_map(Value::from),
            text().prop_map(Value::from)
        ];
        leaf.prop_recursive(6, 80, 8, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::btree_map(text(), inner, 0..8).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_value_ends_where_going_byte_for_byte_ends(value in values(), before in 0..70_usize, rest in r#"[,}\]"\\{]{0,70}"#) {
            prop_assume!(!value.is_number() && !value.is_boolean());
            let text = value.to_string();
            let json = [&b" ".repeat(before)[..], text.as_bytes(), rest.as_bytes()].concat();
            prop_assert_eq!(slow_end(text.as_bytes()), Some(text.len()));
            prop_assert_eq!(value_end(&json, before), Some(before + text.len()));
            for cut in 0..text.len() {
                prop_assert_eq!(value_end(&json[before..before + cut], 0), None, "cut at {}", cut);
            }
        }

        #[test]
        fn a_text_ends_at_the_first_quote_or_backslash(plain in "[a-z]{0,70}", rest in r#"["\\][a-z"\\]{0,40}"#) {
            prop_assert_eq!(text_end((plain.clone() + &rest).as_bytes()), Some(plain.len()));
            prop_assert_eq!(text_end(plain.as_bytes()), None);
        }
    }

    #[test]
    fn backslashes_at_the_border_of_blocks_escape_what_follows() {
        for filling in 50..70 {
            for slashes in 0..6 {
                let json = json!({"k": "x".repeat(filling) + &"\\".repeat(slashes) + "\"}", "next": [{}]}).to_string();
                assert_eq!(value_end((json.clone() + "}}").as_bytes(), 0), Some(json.len()), "{json}");
            }
        }
    }
}
