//! The option that says where Services of type LoadBalancer get their addresses.

use ferrokube_cloud::bare_metal::Addresses;
use ferrokube_cloud::pool::{NotARange, Range};
use std::str::FromStr;

/// Value of `--load-balancers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadBalancers {
    /// Somebody else gives addresses.
    None,
    /// Those of the nodes.
    Nodes,
    /// From these ranges.
    Pool(Vec<Range>),
}

impl FromStr for LoadBalancers {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Self, NotARange> {
        match text {
            "none" => Ok(LoadBalancers::None),
            "nodes" => Ok(LoadBalancers::Nodes),
            ranges => ranges.split(',').map(|r| r.trim().parse()).collect::<Result<_, _>>().map(LoadBalancers::Pool),
        }
    }
}

impl LoadBalancers {
    /// For the provider; `reserved` are TCP ports that nodes use themselves.
    pub fn addresses(&self, reserved: [u16; 4]) -> Option<Addresses> {
        match self {
            LoadBalancers::None => None,
            LoadBalancers::Nodes => Some(Addresses::Nodes { reserved: reserved.into() }),
            LoadBalancers::Pool(ranges) => Some(Addresses::Pool(ranges.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_from_nodes_from_ranges_or_from_elsewhere() {
        let parse = |text: &str| text.parse::<LoadBalancers>();
        assert_eq!(parse("none").unwrap().addresses([1; 4]), None);
        assert_eq!(parse("nodes").unwrap().addresses([1; 4]), Some(Addresses::Nodes { reserved: [1].into() }));
        let Ok(LoadBalancers::Pool(ranges)) = parse("192.0.2.0/28, 198.51.100.1-198.51.100.9") else { panic!("not a pool") };
        assert_eq!(ranges.len(), 2);
        assert!(parse("node").is_err() && parse("").is_err());
    }
}
