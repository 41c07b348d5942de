//! Selectors and quantities.

use ferrokube_api::labels::{FieldSelector, Operator, Selector};
use ferrokube_api::quantity::Quantity;
use ferrokube_testkit::fuzz::{Random, damage, run, text};
use std::collections::BTreeMap;

fn damaged(random: &mut Random, text: String) -> String {
    let mut bytes = text.into_bytes();
    damage(random, &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

const KEYS: [&str; 4] = ["a", "b", "x.y/z", "app"];
const VALUES: [&str; 5] = ["1", "2", "v", "10", ""];

/// A term and what it means.
fn term(random: &mut Random) -> (String, Box<dyn Fn(&BTreeMap<&str, &str>) -> bool>) {
    let key = *random.one(&KEYS);
    let values: Vec<&'static str> = (0..1 + random.below(3)).map(|_| *random.one(&VALUES[..4])).collect();
    let space = *random.one(&["", " ", "  "]);
    let first = values[0];
    let list = values.join(&format!("{space},"));
    match random.below(8) {
        0 => (format!("{key}{space}={space}{first}"), Box::new(move |l| l.get(key) == Some(&first))),
        1 => (format!("{key}{space}=={first}"), Box::new(move |l| l.get(key) == Some(&first))),
        2 => (format!("{key}!={space}{first}"), Box::new(move |l| l.get(key) != Some(&first))),
        3 => (format!("{key} in{space} ({list})"), Box::new(move |l| l.get(key).is_some_and(|v| values.contains(v)))),
        4 => (format!("{key} notin ({list})"), Box::new(move |l| l.get(key).is_none_or(|v| !values.contains(v)))),
        5 => (format!("{space}{key}"), Box::new(move |l| l.contains_key(key))),
        6 => (format!("!{space}{key}"), Box::new(move |l| !l.contains_key(key))),
        _ => {
            let bound = random.below(12) as i64;
            let greater = random.chance(50);
            let holds = move |l: &BTreeMap<&str, &str>| {
                let number = l.get(key).and_then(|v| v.parse::<i64>().ok());
                number.is_some_and(|n| if greater { n > bound } else { n < bound })
            };
            (format!("{key}{space}{}{bound}", if greater { ">" } else { "<" }), Box::new(holds))
        }
    }
}

#[test]
fn a_label_selector_selects_what_its_words_say() {
    run("labels", 5000, |random| {
        let (texts, holds): (Vec<_>, Vec<_>) = (0..1 + random.below(3)).map(|_| term(random)).unzip();
        let source = texts.join(if random.chance(50) { "," } else { " , " });
        let selector = Selector::parse(&source).unwrap_or_else(|e| panic!("{source:?}: {e}"));
        let labels: BTreeMap<&str, &str> = (0..random.below(4)).map(|_| (*random.one(&KEYS), *random.one(&VALUES))).collect();
        let expected = holds.iter().all(|h| h(&labels));
        assert_eq!(selector.matches_with(|k| labels.get(k).copied()), expected, "{source:?} {labels:?}");
        let broken = damaged(random, source);
        for text in [broken, text(random)] {
            if let Ok(read) = Selector::parse(&text) {
                let again = Selector::parse(&read.to_string()).unwrap_or_else(|e| panic!("{text:?} as {read}: {e}"));
                assert_eq!(again.to_string(), read.to_string(), "{text:?}");
                assert!(read.requirements().iter().all(|r| r.operator != Operator::In || !r.values.is_empty()));
            }
        }
    });
}

#[test]
fn a_field_selector_keeps_its_terms() {
    run("fields", 5000, |random| {
        let escape = |t: &str| t.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
        let fields = ["metadata.name", "spec.nodeName", "status.phase"];
        let terms: Vec<(&str, bool, String)> =
            (0..1 + random.below(3)).map(|_| (*random.one(&fields), random.chance(50), text(random))).collect();
        let source: Vec<String> = terms.iter().map(|(f, eq, v)| format!("{f}{}{}", if *eq { "=" } else { "!=" }, escape(v))).collect();
        let source = source.join(",");
        let read = FieldSelector::parse(&source).unwrap_or_else(|e| panic!("{source:?}: {e}"));
        let found: Vec<_> = read.requirements.iter().map(|r| (&*r.field, r.equal, r.value.to_string())).collect();
        assert_eq!(found, terms, "{source:?}");
        let _ = FieldSelector::parse(&damaged(random, source));
    });
}

/// Digits, maybe a point, a suffix; and the amount in billionths, if it is a whole number of them that fits.
fn amount(random: &mut Random) -> (String, Option<i128>) {
    let whole = match random.below(3) {
        0 => random.below(10) as i128,
        1 => random.below(100_000) as i128,
        _ => (random.next() >> 2) as i128,
    };
    let decimals = random.below(4) as u32;
    let fraction = random.below(10usize.pow(decimals)) as i128;
    let (suffix, base, exponent) = *random.one(&[
        ("", 10i128, 0u32),
        ("k", 10, 3),
        ("M", 10, 6),
        ("G", 10, 9),
        ("E", 10, 18),
        ("Ki", 2, 10),
        ("Mi", 2, 20),
        ("Gi", 2, 30),
        ("Ei", 2, 60),
        ("e3", 10, 3),
        ("E2", 10, 2),
        ("e0", 10, 0),
    ]);
    let text =
        if decimals == 0 { format!("{whole}{suffix}") } else { format!("{whole}.{fraction:0width$}{suffix}", width = decimals as usize) };
    let scale = 10i128.pow(decimals);
    let nanos = (whole * scale + fraction).checked_mul(1_000_000_000).and_then(|n| n.checked_mul(base.pow(exponent)));
    let nanos = nanos.filter(|n| n % scale == 0).map(|n| n / scale).filter(|n| *n <= i128::from(i64::MAX) * 1_000_000_000);
    (text, nanos)
}

#[test]
fn a_quantity_is_its_amount_and_prints_so_that_it_is_read_as_itself() {
    run("quantities", 5000, |random| {
        let (source, nanos) = amount(random);
        let read = Quantity::parse(&source).unwrap_or_else(|e| panic!("{source}: {e}"));
        if let Some(nanos) = nanos {
            let up = |unit: i128| i64::try_from((nanos + unit - 1) / unit).unwrap_or(i64::MAX);
            assert_eq!(read.value(), up(1_000_000_000), "{source}");
            assert_eq!(read.milli_value(), up(1_000_000), "{source}");
        }
        let broken = damaged(random, source.clone());
        for text in [source, broken, text(random)] {
            let Ok(read) = Quantity::parse(&text) else { continue };
            let shown = read.to_string();
            let again = Quantity::parse(&shown).unwrap_or_else(|e| panic!("{text:?} as {shown}: {e}"));
            // An amount of bytes that is no multiple of 1024 is shown without a suffix, and read as a decimal one, upstream as well.
            assert_eq!((again - read).to_string(), "0", "{text:?} as {shown}");
            assert_eq!(Quantity::parse(&again.to_string()).ok(), Some(again), "{text:?} as {shown}");
            let _ = (read.value(), read.milli_value(), read + again, read - again, -read, read.as_f64());
        }
    });
}
