//! At how little of what a node counts as short: the hard eviction thresholds and how they are written.
//!
//! Source: `pkg/kubelet/eviction/helpers.go` (`ParseThresholdConfig`) and the kubelet's default `evictionHard`.

use ferrokube_api::quantity::Quantity;
use std::fmt;
use std::str::FromStr;

/// One threshold: an amount, or a share of what there is in all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// Bytes or inodes.
    Amount(u64),
    /// Percent of the capacity.
    Percent(f64),
}

impl Threshold {
    /// The amount that it stands for, of this capacity.
    pub fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Amount(amount) => amount,
            // Exact far beyond any disk: 2^53 bytes are 9 PB.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a share of a size")]
            Self::Percent(percent) => (capacity as f64 * percent / 100.0) as u64,
        }
    }
}

/// The thresholds of a node. `None` never counts as short.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// `memory.available`
    pub memory: Option<Threshold>,
    /// `nodefs.available`
    pub nodefs: Option<Threshold>,
    /// `nodefs.inodesFree`
    pub nodefs_inodes: Option<Threshold>,
    /// `imagefs.available`
    pub imagefs: Option<Threshold>,
    /// `imagefs.inodesFree`
    pub imagefs_inodes: Option<Threshold>,
}

impl Default for Thresholds {
    /// What the kubelet has unless it is told otherwise.
    fn default() -> Self {
        Self {
            memory: Some(Threshold::Amount(100 << 20)),
            nodefs: Some(Threshold::Percent(10.0)),
            nodefs_inodes: Some(Threshold::Percent(5.0)),
            imagefs: Some(Threshold::Percent(15.0)),
            imagefs_inodes: Some(Threshold::Percent(5.0)),
        }
    }
}

/// Thresholds that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadThreshold {
    /// Not `signal<value`.
    #[error("invalid eviction threshold syntax {0}, expected <signal><operator><value>")]
    Syntax(String),
    /// No such signal.
    #[error("unsupported eviction signal {0}")]
    Signal(String),
    /// The value is neither a quantity nor a percentage between 0 and 100.
    #[error("eviction threshold {0} must be a positive quantity or a percentage of at most 100%")]
    Value(String),
    /// A signal stands twice.
    #[error("found duplicate eviction threshold for signal {0}")]
    Twice(String),
}

impl FromStr for Thresholds {
    type Err = BadThreshold;

    /// `memory.available<100Mi,nodefs.available<10%`. What is not named never counts as short, as with the kubelet's flag.
    fn from_str(text: &str) -> Result<Self, BadThreshold> {
        let mut all = Self { memory: None, nodefs: None, nodefs_inodes: None, imagefs: None, imagefs_inodes: None };
        for one in text.split(',').map(str::trim).filter(|one| !one.is_empty()) {
            let (signal, value) = one.split_once('<').ok_or_else(|| BadThreshold::Syntax(one.to_owned()))?;
            let slot = match signal {
                "memory.available" => &mut all.memory,
                "nodefs.available" => &mut all.nodefs,
                "nodefs.inodesFree" => &mut all.nodefs_inodes,
                "imagefs.available" => &mut all.imagefs,
                "imagefs.inodesFree" => &mut all.imagefs_inodes,
                _ => return Err(BadThreshold::Signal(signal.to_owned())),
            };
            let threshold = value_of(value).ok_or_else(|| BadThreshold::Value(one.to_owned()))?;
            if slot.replace(threshold).is_some() {
                return Err(BadThreshold::Twice(signal.to_owned()));
            }
        }
        Ok(all)
    }
}

fn value_of(text: &str) -> Option<Threshold> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent: f64 = percent.parse().ok()?;
        return (0.0..=100.0).contains(&percent).then_some(Threshold::Percent(percent));
    }
    Some(Threshold::Amount(u64::try_from(Quantity::parse(text).ok()?.value()).ok()?))
}

impl fmt::Display for Thresholds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [
            ("memory.available", self.memory),
            ("nodefs.available", self.nodefs),
            ("nodefs.inodesFree", self.nodefs_inodes),
            ("imagefs.available", self.imagefs),
            ("imagefs.inodesFree", self.imagefs_inodes),
        ];
        let mut comma = "";
        for (signal, threshold) in named {
            match threshold {
                Some(Threshold::Amount(amount)) => write!(f, "{comma}{signal}<{amount}")?,
                Some(Threshold::Percent(percent)) => write!(f, "{comma}{signal}<{percent}%")?,
                None => continue,
            }
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_written_as_the_kubelets_flag_has_them() {
        let read: Thresholds = "memory.available<10Mi,nodefs.available<2.5%".parse().unwrap();
        assert_eq!((read.memory, read.nodefs), (Some(Threshold::Amount(10 << 20)), Some(Threshold::Percent(2.5))));
        assert_eq!((read.imagefs, read.nodefs_inodes, read.imagefs_inodes), (None, None, None), "what is not named is off");
        let usual = Thresholds::default();
        assert_eq!(usual.to_string().parse(), Ok(usual));
        assert_eq!("".parse::<Thresholds>().unwrap().to_string(), "");
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_the_kubelets_words() {
        let table = [
            ("memory.available>1Gi", "invalid eviction threshold syntax memory.available>1Gi, expected <signal><operator><value>"),
            ("pid.wanted<1", "unsupported eviction signal pid.wanted"),
            (
                "nodefs.available<110%",
                "eviction threshold nodefs.available<110% must be a positive quantity or a percentage of at most 100%",
            ),
            (
                "memory.available<lots",
                "eviction threshold memory.available<lots must be a positive quantity or a percentage of at most 100%",
            ),
            ("memory.available<1,memory.available<2", "found duplicate eviction threshold for signal memory.available"),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<Thresholds>().unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_share_is_of_the_capacity() {
        assert_eq!(Threshold::Percent(15.0).of(1000), 150);
        assert_eq!(Threshold::Amount(7).of(1000), 7);
    }
}
