//! How a device that is allocated several times may be shared: which parts of a capacity can be asked for.

use super::each_once;
use crate::field::{At, Errors};
use crate::kinds::json::*;
use crate::quantity::Quantity;
use serde_json::Value;

const MOST_VALUES: usize = 10;

fn amount(v: &Value, key: &str) -> Option<Quantity> {
    get(v, key).and_then(|v| Quantity::from_json(v).ok())
}

/// One capacity of a device.
pub fn rules(capacity: &Value, shared: bool, at: &At, e: &mut Errors) {
    let Some(policy) = get(capacity, "requestPolicy") else { return };
    let at = at.child("requestPolicy");
    if !shared {
        return e.forbidden(&at, "allowMultipleAllocations must be true");
    }
    let whole = amount(capacity, "value").unwrap_or(Quantity::ZERO);
    let (values, range) = (list(policy, "validValues"), get(policy, "validRange"));
    match (values.is_empty(), range) {
        (true, None) => {}
        (false, Some(_)) => {
            let why = r#"exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time"#;
            e.forbidden(&at, why);
        }
        (false, None) => match amount(policy, "default") {
            None => e.required(&at.child("default"), "required when validValues is defined"),
            Some(default) => self::values(values, &default, &whole, &at.child("validValues"), e),
        },
        (true, Some(range)) => match amount(policy, "default") {
            None => e.required(&at.child("default"), "required when validRange is defined"),
            Some(default) => self::range(range, &default, &whole, &at.child("validRange"), e),
        },
    }
}

fn values(values: &[Value], default: &Quantity, whole: &Quantity, path: &At, e: &mut Errors) {
    let amounts: Vec<Quantity> = values.iter().map(|v| Quantity::from_json(v).unwrap_or(Quantity::ZERO)).collect();
    for (i, pair) in amounts.windows(2).enumerate().filter(|(_, pair)| pair[0] > pair[1]) {
        e.invalid(&path.index(i + 1), &pair[1].to_string().into(), "values must be sorted in ascending order");
    }
    // Twins are told by their whole numbers.
    let keys: Vec<Value> = amounts.iter().map(|amount| amount.value().to_string().into()).collect();
    each_once(&keys, Some(MOST_VALUES), path, e, super::itself, |_, _, _| {});
    if keys.len() <= MOST_VALUES {
        for (i, amount) in amounts.iter().enumerate().filter(|(_, amount)| *amount > whole) {
            let why = format!("option is larger than capacity value: {whole}");
            e.invalid(&path.index(i), &amount.to_string().into(), &why);
        }
    }
    if keys.len() > MOST_VALUES || !amounts.contains(default) {
        e.invalid(path, &default.to_string().into(), "default value is not valid according to the requestPolicy");
    }
}

fn range(range: &Value, default: &Quantity, whole: &Quantity, path: &At, e: &mut Errors) {
    let Some(min) = amount(range, "min") else { return e.required(&path.child("min"), "required when validRange is defined") };
    let max = amount(range, "max");
    let mut larger = |key: &str, a: &Quantity, b: &Quantity, quoted: &Quantity, why: String| {
        if a > b {
            e.invalid(&path.child(key), &quoted.to_string().into(), &why);
        }
    };
    larger("min", &min, whole, &min, format!("min is larger than capacity value: {whole}"));
    larger("min", &min, default, default, format!("default is less than min: {min}"));
    if let Some(max) = &max {
        larger("max", &min, max, &min, format!("min is larger than max: {max}"));
        larger("max", max, whole, max, format!("max is larger than capacity value: {whole}"));
        larger("max", default, max, default, format!("default is more than max: {max}"));
    }
    let Some(step) = amount(range, "step") else { return };
    let one = min.clone() + step.clone();
    larger("step", &one, whole, &step, format!("one step {one} is larger than capacity value: {whole}"));
    for value in [Some(default), max.as_ref()].into_iter().flatten() {
        // Who steps by less than one goes nowhere.
        let away = value.value().saturating_sub(min.value());
        if away.checked_rem(step.value()) != Some(0) {
            let why = format!("value is not a multiple of a given step ({step}) from ({min})");
            e.invalid(&path.child("step"), &value.to_string().into(), &why);
        }
    }
}
