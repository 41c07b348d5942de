//! What an allocation takes of a device's capacity (consumable capacity): what is asked for, rounded up as the driver's
//! policy says, or else a default, or else all of it.

use super::qualified;
use super::views::{CapacityView, PolicyView, RangeView};
use ferrokube_api::quantity::Quantity;
use std::collections::BTreeMap;

/// Amounts by the qualified name of a capacity.
pub type Amounts = BTreeMap<Box<str>, Quantity>;

/// One capacity of a device.
#[derive(Clone, Debug)]
pub struct Capacity {
    /// As the driver writes it, with or without domain.
    pub name: Box<str>,
    /// All that there is.
    pub value: Quantity,
    policy: Option<Policy>,
}

#[derive(Clone, Debug)]
struct Policy {
    default: Option<Quantity>,
    valid: Valid,
}

#[derive(Clone, Debug)]
enum Valid {
    All,
    Values(Vec<Quantity>),
    /// The smallest, the largest, and the step between them.
    Range(Quantity, Option<Quantity>, Option<Quantity>),
}

/// The capacities of a device, by qualified name. Amounts that cannot be read are none.
pub(super) fn capacities(driver: &str, views: BTreeMap<Box<str>, CapacityView>) -> BTreeMap<Box<str>, Capacity> {
    let read = |(name, view): (Box<str>, CapacityView)| {
        let capacity = Capacity { value: Quantity::parse(&view.value).ok()?, policy: view.request_policy.map(policy), name };
        Some((qualified(driver, &capacity.name), capacity))
    };
    views.into_iter().filter_map(read).collect()
}

/// Amounts of a claim that are written with or without the driver's domain.
pub(super) fn amounts(driver: &str, written: &BTreeMap<Box<str>, String>) -> Amounts {
    written.iter().filter_map(|(name, text)| Some((qualified(driver, name), Quantity::parse(text).ok()?))).collect()
}

fn policy(view: PolicyView) -> Policy {
    let read = |text: Option<String>| text.and_then(|t| Quantity::parse(&t).ok());
    let mut values: Vec<Quantity> = view.valid_values.iter().filter_map(|t| Quantity::parse(t).ok()).collect();
    values.sort_unstable();
    let range = view.valid_range.and_then(|RangeView { min, max, step }| Some(Valid::Range(read(min)?, read(max), read(step))));
    let valid = range.unwrap_or(if values.is_empty() { Valid::All } else { Valid::Values(values) });
    Policy { default: read(view.default), valid }
}

impl Capacity {
    /// What an allocation takes that asks for so much; `None`: the policy does not allow it.
    fn taken(&self, asked: Option<Quantity>) -> Option<Quantity> {
        let Some(policy) = &self.policy else { return Some(asked.unwrap_or(self.value)) };
        let Some(asked) = asked.or(policy.default) else { return Some(self.value) };
        match &policy.valid {
            Valid::All => Some(asked),
            Valid::Values(values) => values.iter().copied().find(|v| *v >= asked),
            Valid::Range(min, max, step) => {
                let wanted = match step.map(|s| s.value()).filter(|s| *s > 0) {
                    Some(step) if asked > *min => {
                        let over = i128::from(asked.value()) - i128::from(min.value());
                        let steps = over.checked_add(i128::from(step) - 1)? / i128::from(step);
                        let rounded = i128::from(min.value()) + steps * i128::from(step);
                        Quantity::units(i64::try_from(rounded).ok()?, asked.format())
                    }
                    _ => asked.max(*min),
                };
                max.is_none_or(|max| wanted <= max).then_some(wanted)
            }
        }
    }
}

/// What an allocation takes of each capacity of a device, by the request's wishes and with what is in use; `None`: there
/// is not enough, or the device has no such capacity.
pub(super) fn share(capacities: &BTreeMap<Box<str>, Capacity>, asked: &Amounts, in_use: impl Fn(&str) -> Quantity) -> Option<Amounts> {
    if asked.keys().any(|name| !capacities.contains_key(name)) {
        return None;
    }
    let take = |(name, capacity): (&Box<str>, &Capacity)| {
        let taken = capacity.taken(asked.get(name).copied())?;
        (in_use(name) + taken <= capacity.value && !taken.is_negative()).then(|| (name.clone(), taken))
    };
    capacities.iter().map(take).collect()
}
