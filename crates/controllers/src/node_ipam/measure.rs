//! What is counted about pod ranges (`node_ipam_controller_cidrset_*`), by the cluster's range.

use ferrokube_client::metrics::{Desc, Kind, Metrics, Series};

macro_rules! desc {
    ($name:ident $metric:literal $help:literal $kind:expr) => {
        static $name: Desc = Desc {
            name: concat!("node_ipam_controller_", $metric),
            help: concat!("[ALPHA] ", $help),
            kind: $kind,
            labels: &["clusterCIDR"],
        };
    };
}

desc!(GIVEN "cidrset_cidrs_allocations_total" "Counter measuring total number of CIDR allocations." Kind::Counter);
desc!(RELEASED "cidrset_cidrs_releases_total" "Counter measuring total number of CIDR releases." Kind::Counter);
// Upstream's spelling.
desc!(MOST "cirdset_max_cidrs" "Maximum number of CIDRs that can be allocated." Kind::Gauge);
desc!(USAGE "cidrset_usage_cidrs" "Gauge measuring percentage of allocated CIDRs." Kind::Gauge);
desc!(TRIES "cidrset_allocation_tries_per_request" "Number of endpoints added on each Service sync" Kind::Histogram(&[1.0, 5.0, 25.0, 125.0, 625.0]));

/// The series of one range.
#[derive(Debug)]
pub(super) struct Measures {
    given: Series,
    released: Series,
    usage: Series,
    tries: Series,
    all: f64,
}

#[allow(clippy::cast_precision_loss, reason = "a range has at most 65,536 shares")]
impl Measures {
    pub fn new(metrics: &Metrics, range: &str, all: usize) -> Self {
        let of = |desc| metrics.series(desc, &[range]);
        of(&MOST).set(all as f64);
        Measures { given: of(&GIVEN), released: of(&RELEASED), usage: of(&USAGE), tries: of(&TRIES), all: all as f64 }
    }

    /// So many shares have got an owner or lost it; so many have none.
    pub fn marked(&self, given: usize, released: usize, free: usize) {
        self.given.add(given as f64);
        self.released.add(released as f64);
        self.usage.set((self.all - free as f64) / self.all);
    }

    /// A share was found after looking at so many others.
    pub fn found(&self, after: usize) {
        self.tries.observe(after as f64);
    }
}
