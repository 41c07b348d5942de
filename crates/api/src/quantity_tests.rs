//! Canonical forms and arithmetic of quantities.
#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn an_amount_of_very_many_digits_prints_so_that_it_is_read_as_itself() {
    for text in ["2669018897389834033892233720348547751n", "1234567890123456789012345678901234567n"] {
        assert_eq!(Quantity::parse(text).map(|q| q.to_string()), Ok(text.to_owned()));
    }
    // What is below a billionth counts as one, once.
    let long = format!("1.{}", "1".repeat(60));
    assert_eq!(Quantity::parse(&long).map(|q| q.to_string()), Ok("1111111112n".to_owned()));
}

#[test]
fn canonical_form_is_the_largest_suffix_without_loss() {
    for (text, want) in [
        ("0", "0"),
        ("0Ki", "0"),
        ("1", "1"),
        ("1000m", "1"),
        ("0.1", "100m"),
        (".5", "500m"),
        ("1.", "1"),
        ("100m", "100m"),
        ("1024Ki", "1Mi"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("0.5Ki", "512"),
        ("1000Mi", "1000Mi"),
        ("1000000", "1M"),
        ("1024", "1024"),
        ("2k", "2k"),
        ("1e3", "1e3"),
        ("12e6", "12e6"),
        ("1E3", "1e3"),
        ("1E", "1E"),
        ("100E", "100E"),
        ("1e-3", "1e-3"),
        ("-1.5", "-1500m"),
        ("+5", "5"),
        ("0.0001m", "100n"),
        ("0.1n", "1n"),
        ("0.5Mi", "512Ki"),
        ("0.1Ki", "102400m"),
        ("9999999999Ei", "9223372036854775807"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
    ] {
        assert_eq!(Quantity::parse(text).unwrap().to_string(), want, "{text}");
    }
}

#[test]
fn what_is_no_quantity_says_why() {
    for (text, want) in [
        ("", NotAQuantity::Format),
        ("1 Gi", NotAQuantity::Format),
        ("1Gib", NotAQuantity::Format),
        ("1mm", NotAQuantity::Suffix),
        ("1ki", NotAQuantity::Suffix),
        ("1i", NotAQuantity::Suffix),
        ("abc", NotAQuantity::Format),
        ("1e", NotAQuantity::Suffix),
    ] {
        assert_eq!(Quantity::parse(text).unwrap_err(), want, "{text}");
    }
}

#[test]
fn amounts_compare_across_formats_and_round_up() {
    let q = |t| Quantity::parse(t).unwrap();
    assert_eq!(q("1Gi"), q("1073741824"));
    assert!(q("1G") < q("1Gi"));
    assert_eq!(q("1m") + q("1"), q("1001m"));
    assert_eq!((q("1Gi") - q("512Mi")).to_string(), "512Mi");
    assert_eq!(q("1500m").value(), 2);
    assert_eq!(q("-1500m").value(), -2);
    assert_eq!(q("1.0001").milli_value(), 1001);
    let mut fine = q("100u");
    assert!(!fine.round_up_to_milli());
    assert_eq!(fine.to_string(), "1m");
}

proptest::proptest! {
    #[test]
    fn canonical_form_reads_back_as_the_same_amount(n in proptest::num::i64::ANY, suffix in 0usize..16) {
        let suffix = DECIMAL.iter().chain(&BINARY).map(|s| s.0).nth(suffix).unwrap();
        let q = Quantity::parse(&format!("{}{suffix}", n / 4096)).unwrap();
        proptest::prop_assert_eq!(Quantity::parse(&q.to_string()).unwrap(), q);
    }

    #[test]
    fn nothing_panics(text in "[-+.0-9eEinumkKMGTP]{0,40}") {
        let _ = Quantity::parse(&text).map(|q| q.to_string());
    }
}
