//! A range cut into equal shares, and which of them are taken. No I/O.

use super::measure::Measures;
use ferrokube_client::metrics::Metrics;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A range may have at most two to the power of this shares (`maxCIDRSubnetDiff`).
const MOST_BITS: u8 = 16;

/// Why a range cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RangeError {
    #[error("{0:?} is not a range of addresses")]
    Unreadable(String),
    #[error("{range}: a share of /{mask} does not fit, or there would be more than 65536")]
    Mask {
        /// The whole.
        range: String,
        /// Of a share.
        mask: u8,
    },
}

/// A range of addresses as numbers; IPv4 in the low 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr {
    first: u128,
    prefix: u8,
    bits: u8,
}

impl Cidr {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let (number, bits) = match address.parse().ok()? {
            IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32),
            IpAddr::V6(ip) => (u128::from(ip), 128),
        };
        let prefix: u8 = prefix.parse().ok().filter(|p| *p <= bits)?;
        let cidr = Cidr { first: 0, prefix, bits };
        Some(Cidr { first: number & !(cidr.size() - 1), ..cidr })
    }

    /// The range of one address.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(ip) => Cidr { first: u128::from(u32::from(ip)), prefix: 32, bits: 32 },
            IpAddr::V6(ip) => Cidr { first: u128::from(ip), prefix: 128, bits: 128 },
        }
    }

    /// Number of addresses; the whole of IPv6 counts as one less, which makes no difference here.
    fn size(self) -> u128 {
        1_u128.checked_shl(u32::from(self.bits - self.prefix)).unwrap_or(u128::MAX)
    }

    fn last(self) -> u128 {
        self.first + (self.size() - 1)
    }

    /// Whether every address of the other is in this one.
    pub(crate) fn contains(self, other: Cidr) -> bool {
        self.bits == other.bits && self.first <= other.first && other.last() <= self.last()
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.bits {
            32 => write!(f, "{}/{}", Ipv4Addr::from(self.first as u32), self.prefix),
            _ => write!(f, "{}/{}", Ipv6Addr::from(self.first), self.prefix),
        }
    }
}

/// The shares of a range.
#[derive(Debug)]
pub(super) struct Ranges {
    whole: Cidr,
    mask: u8,
    taken: Vec<bool>,
    free: usize,
    /// Where to look next: a share that was given back is not given out again at once.
    next: usize,
    measures: Measures,
}

impl Ranges {
    /// Shares with the mask of the range's family.
    pub(super) fn new(text: &str, mask_ipv4: u8, mask_ipv6: u8, metrics: &Metrics) -> Result<Self, RangeError> {
        let whole = Cidr::parse(text).ok_or_else(|| RangeError::Unreadable(text.to_owned()))?;
        let mask = if whole.bits == 32 { mask_ipv4 } else { mask_ipv6 };
        if mask < whole.prefix || mask > whole.bits || mask - whole.prefix > MOST_BITS {
            return Err(RangeError::Mask { range: text.to_owned(), mask });
        }
        let count = 1 << (mask - whole.prefix);
        let measures = Measures::new(metrics, &whole.to_string(), count);
        Ok(Ranges { whole, mask, taken: vec![false; count], free: count, next: 0, measures })
    }

    fn share(&self, n: usize) -> Cidr {
        let share = Cidr { first: 0, prefix: self.mask, bits: self.whole.bits };
        Cidr { first: self.whole.first + share.size() * n as u128, ..share }
    }

    /// The shares that overlap a range.
    fn overlapping(&self, text: &str) -> std::ops::Range<usize> {
        let Some(other) = Cidr::parse(text).filter(|o| o.bits == self.whole.bits) else { return 0..0 };
        let (from, to) = (other.first.max(self.whole.first), other.last().min(self.whole.last()));
        if from > to {
            return 0..0;
        }
        let size = self.share(0).size();
        let at = |address: u128| ((address - self.whole.first) / size) as usize;
        at(from)..at(to) + 1
    }

    pub(super) fn occupy(&mut self, text: &str) {
        self.overlapping(text).for_each(|n| self.mark(n, true));
    }

    pub(super) fn release(&mut self, text: &str) {
        self.overlapping(text).for_each(|n| self.mark(n, false));
    }

    fn mark(&mut self, share: usize, taken: bool) {
        match (std::mem::replace(&mut self.taken[share], taken), taken) {
            (false, true) => {
                self.free -= 1;
                self.measures.marked(1, 0, self.free);
            }
            (true, false) => {
                self.free += 1;
                self.measures.marked(0, 1, self.free);
            }
            _ => {}
        }
    }

    /// Whether something is left. Of ten thousand nodes too many each must not look at every share.
    pub(super) fn has_free(&self) -> bool {
        self.free > 0
    }

    /// The next free share.
    pub(super) fn take(&mut self) -> Option<String> {
        if !self.has_free() {
            return None;
        }
        let count = self.taken.len();
        let (passed, free) = (0..count).map(|n| (self.next + n) % count).enumerate().find(|(_, n)| !self.taken[*n])?;
        self.measures.found(passed);
        self.mark(free, true);
        self.next = (free + 1) % count;
        Some(self.share(free).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(text: &str) -> Result<Ranges, RangeError> {
        Ranges::new(text, 24, 64, &Metrics::default())
    }

    #[test]
    fn shares_come_one_after_the_other_and_around() {
        let mut shares = ranges("10.1.0.0/22").unwrap();
        let mut all: Vec<String> = std::iter::from_fn(|| shares.take()).collect();
        assert_eq!(all, ["10.1.0.0/24", "10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24"]);
        shares.release(&all.remove(2));
        assert_eq!(shares.take().unwrap(), "10.1.2.0/24");
    }

    #[test]
    fn what_overlaps_is_not_given_however_large_or_small() {
        let mut shares = ranges("10.0.0.0/8").unwrap();
        shares.occupy("10.0.0.0/16");
        shares.occupy("10.1.0.128/25");
        shares.occupy("192.168.0.0/16");
        assert_eq!(shares.take().unwrap(), "10.1.1.0/24");
    }

    #[test]
    fn ranges_that_cannot_be_cut_are_refused() {
        assert!(ranges("10.0.0.0/25").is_err());
        assert!(ranges("fd00::/32").is_err());
        assert!(ranges("nonsense").is_err());
        assert_eq!(ranges("fd00:1::/48").unwrap().take().unwrap(), "fd00:1::/64");
    }
}
