//! `resource.Quantity`: fixed-point amounts such as `500m`, `1.5Gi`, `12e6`.
//!
//! An amount is kept as a whole number of billionths, which is the smallest amount that Kubernetes knows; nothing here
//! ever passes through floating point. A quantity remembers which family of suffixes it came with and prints itself in
//! canonical form in that family. Source of the rules: apimachinery `api/resource`.

use serde_json::Value;
use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};

/// The family of suffixes a quantity is printed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// `12e6`.
    DecimalExponent,
    /// `12Mi`.
    BinarySI,
    /// `12M`.
    #[default]
    DecimalSI,
}

/// Why a text is not a quantity; the words are those of apimachinery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAQuantity {
    /// The text is not shaped like a quantity.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number before the suffix is not one.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An amount. Equality and order look at the amount only, not at the format.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

const NANO: i128 = 1_000_000_000;
/// Amounts in binary format, and amounts that do not fit, are capped here (2^63-1).
const CAP: i128 = i64::MAX as i128 * NANO;
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [(&str, i32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// Base (2 or 10), exponent and format of a suffix.
fn interpret(suffix: &str) -> Option<(i128, i32, Format)> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Some((10, *exponent, Format::DecimalSI));
    }
    if let Some((_, exponent)) = BINARY.iter().find(|(s, _)| *s == suffix) {
        return Some((2, *exponent, Format::BinarySI));
    }
    let number = suffix.strip_prefix(['e', 'E'])?;
    Some((10, number.parse().ok()?, Format::DecimalExponent))
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// `mantissa × base^exponent / 10^decimals` in billionths, rounded away from zero; `None` when it does not fit.
fn scaled(mantissa: i128, decimals: i32, base: i128, exponent: i32) -> Option<i128> {
    if mantissa == 0 {
        return Some(0);
    }
    let (binary, tens) = if base == 2 { (exponent, 9 - decimals) } else { (0, exponent + 9 - decimals) };
    let grown = mantissa.checked_mul(1i128.checked_shl(binary as u32)?)?;
    if tens >= 0 {
        return grown.checked_mul(10i128.checked_pow(tens as u32)?);
    }
    let Some(divisor) = 10i128.checked_pow(tens.unsigned_abs()) else { return Some(1) };
    Some(grown / divisor + i128::from(grown % divisor != 0))
}

impl Quantity {
    /// Zero, decimal.
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSI };

    /// Whole units.
    pub const fn units(n: i64, format: Format) -> Self {
        Quantity { nanos: n as i128 * NANO, format }
    }

    /// Thousandths, decimal: `Quantity::milli(500)` is `500m`.
    pub const fn milli(n: i64) -> Self {
        Quantity { nanos: n as i128 * 1_000_000, format: Format::DecimalSI }
    }

    /// Bytes, printed with binary suffixes.
    pub const fn bytes(n: i64) -> Self {
        Self::units(n, Format::BinarySI)
    }

    /// Reads a quantity. Amounts below a billionth are rounded up to it; amounts that do not fit are capped.
    pub fn parse(text: &str) -> Result<Self, NotAQuantity> {
        if text.is_empty() {
            return Err(NotAQuantity::Format);
        }
        let (negative, rest) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, rest) = rest.split_at(digits(rest));
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(digits(rest)),
            None => ("", rest),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(if suffix.is_empty() { NotAQuantity::Numeric } else { NotAQuantity::Format });
        }
        check_suffix_shape(suffix)?;
        let (base, exponent, mut format) = interpret(suffix).ok_or(NotAQuantity::Suffix)?;
        let amount = magnitude(whole, fraction, base, exponent);
        let capped = match amount {
            Some(n) if format != Format::BinarySI => n,
            Some(n) => n.min(CAP),
            None => CAP,
        };
        if format == Format::BinarySI && capped > 0 && capped < NANO {
            format = Format::DecimalSI;
        }
        Ok(Quantity { nanos: if negative { -capped } else { capped }, format })
    }

    /// Reads a JSON string or number; `null` is zero.
    pub fn from_json(value: &Value) -> Result<Self, NotAQuantity> {
        match value {
            Value::String(s) => Self::parse(s.trim()),
            Value::Number(n) => Self::parse(&n.to_string()),
            Value::Null => Ok(Self::ZERO),
            _ => Err(NotAQuantity::Format),
        }
    }

    /// The format it prints in.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The same amount in another format.
    pub fn with_format(self, format: Format) -> Self {
        Quantity { format, ..self }
    }

    /// Whole units, rounded away from zero (`Quantity.Value`).
    pub fn value(&self) -> i64 {
        self.in_units_of(NANO)
    }

    /// Thousandths, rounded away from zero (`Quantity.MilliValue`).
    pub fn milli_value(&self) -> i64 {
        self.in_units_of(1_000_000)
    }

    fn in_units_of(&self, unit: i128) -> i64 {
        let whole = self.nanos / unit + (self.nanos % unit).signum();
        whole.clamp(i64::MIN as i128, i64::MAX as i128) as i64
    }

    /// Whether the amount is a whole number of units.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANO == 0
    }

    /// Rounds up to thousandths, as defaulting does with every amount of resources. Says whether nothing was lost.
    pub fn round_up_to_milli(&mut self) -> bool {
        let exact = self.nanos % 1_000_000 == 0;
        if !exact {
            self.nanos = (self.nanos / 1_000_000 + self.nanos.signum()) * 1_000_000;
        }
        exact
    }

    /// Whether the amount is zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whether the amount is below zero.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// As a floating-point number, for metrics and scores only.
    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / NANO as f64
    }
}

/// What may follow the number: suffix letters, a sign, digits; anything else is no quantity at all.
fn check_suffix_shape(suffix: &str) -> Result<(), NotAQuantity> {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    if rest.bytes().all(|b| b.is_ascii_digit()) { Ok(()) } else { Err(NotAQuantity::Format) }
}

fn magnitude(whole: &str, fraction: &str, base: i128, exponent: i32) -> Option<i128> {
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    if whole.len() + fraction.len() > 36 {
        // More digits than fit: what is below a billionth only decides the rounding, so one digit stands for all the rest.
        let kept = fraction.get(..fraction.len().min(36usize.saturating_sub(whole.len())))?;
        let rest = if kept.len() < fraction.len() { "1" } else { "" };
        let mantissa: i128 = format!("0{whole}{kept}{rest}").parse().ok()?;
        return scaled(mantissa, (kept.len() + rest.len()) as i32, base, exponent);
    }
    let mantissa: i128 = format!("0{whole}{fraction}").parse().ok()?;
    scaled(mantissa, fraction.len() as i32, base, exponent)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let units = self.nanos / NANO;
        if self.format == Format::BinarySI && self.is_whole() && units.abs() >= 1024 {
            let (mut number, mut step) = (units, 0);
            while number % 1024 == 0 && step < BINARY.len() {
                (number, step) = (number / 1024, step + 1);
            }
            let suffix = if step == 0 { "" } else { BINARY[step - 1].0 };
            return write!(f, "{number}{suffix}");
        }
        let (mut number, mut step) = (self.nanos, 0);
        while number % 1000 == 0 && (self.format == Format::DecimalExponent || step + 1 < DECIMAL.len()) {
            (number, step) = (number / 1000, step + 1);
        }
        match (self.format, step as i32 * 3 - 9) {
            (Format::DecimalExponent, 0) => write!(f, "{number}"),
            (Format::DecimalExponent, exponent) => write!(f, "{number}e{exponent}"),
            _ => write!(f, "{number}{}", DECIMAL[step].0),
        }
    }
}

impl std::str::FromStr for Quantity {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        Self::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// The format of a sum is that of the first term, unless that term is zero.
impl Add for Quantity {
    type Output = Quantity;

    fn add(self, other: Quantity) -> Quantity {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}

impl Neg for Quantity {
    type Output = Quantity;

    fn neg(self) -> Quantity {
        Quantity { nanos: -self.nanos, ..self }
    }
}

impl Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Quantity) -> Quantity {
        self + -other
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Quantity) {
        *self = *self - other;
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Quantity>>(items: I) -> Quantity {
        items.fold(Quantity::ZERO, Add::add)
    }
}

#[cfg(test)]
#[path = "quantity_tests.rs"]
mod tests;
