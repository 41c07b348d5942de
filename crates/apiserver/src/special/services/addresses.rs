//! Cluster addresses of services. An IPAddress object is the claim on an address: whoever creates it has it, whichever API
//! server they ask. Ranges come from ServiceCIDR objects and from the server's flags.
//!
//! Source: `pkg/registry/core/service/ipallocator` (`MetaAllocator`).

use super::cidr::{Cidr, family};
use crate::objects::{Loopback, Objects, Target};
use ferrokube_api::{Reason, Status};
use serde_json::{Value, json};
use std::net::IpAddr;

/// Group of addresses and ranges.
pub const GROUP: &str = "networking.k8s.io";
/// Random tries before a range is searched in order.
const RANDOM_TRIES: usize = 16;

/// Why there is no address, in the words of the allocator.
pub enum Refused {
    /// The address that was asked for cannot be had.
    Address(String),
    /// No address can be had.
    Full,
    /// The claim could not be written.
    Failed(Status),
}

/// For whom an address is claimed.
#[derive(Clone, Copy)]
pub struct Owner<'a> {
    /// Namespace of the service.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
}

/// The object that claims `ip` for a service.
pub fn claim(ip: IpAddr, owner: Owner<'_>) -> Value {
    json!({
        "kind": "IPAddress", "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": ip.to_string(), "labels": {
            "ipaddress.kubernetes.io/ip-family": family(ip), "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
        }},
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": owner.namespace, "name": owner.name}},
    })
}

/// Where the claim on an address stands.
pub fn target(ip: IpAddr) -> Target {
    Target {
        group: GROUP.to_owned(),
        version: "v1".to_owned(),
        resource: "ipaddresses".to_owned(),
        name: ip.to_string(),
        ..Target::default()
    }
}

/// Whether a ServiceCIDR takes part: it is not going, and nobody said that it is not ready.
fn is_ready(cidr: &Value) -> bool {
    let conditions = cidr["status"]["conditions"].as_array();
    let said_no = conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] != "True");
    cidr["metadata"]["deletionTimestamp"].is_null() && !said_no
}

/// The ranges of now: those of the flags first, then those that ServiceCIDR objects add.
pub fn ranges(own: &[Cidr], objects: &dyn Objects) -> Vec<Cidr> {
    let mut all = own.to_vec();
    for object in objects.list(GROUP, "servicecidrs", "") {
        let Ok(value) = object.decode::<Value>() else { continue };
        let texts = value["spec"]["cidrs"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for cidr in texts.filter_map(Cidr::parse).filter(|_| is_ready(&value)) {
            if !all.contains(&cidr) {
                all.push(cidr);
            }
        }
    }
    all
}

/// Hands out addresses.
pub struct Addresses<'a> {
    /// The ranges of now.
    pub ranges: Vec<Cidr>,
    /// What is claimed already.
    pub objects: &'a dyn Objects,
    /// Where claims are written.
    pub loopback: &'a dyn Loopback,
    /// Nothing is claimed; answers are what could be had.
    pub dry_run: bool,
}

impl Addresses<'_> {
    fn is_taken(&self, ip: IpAddr) -> bool {
        self.objects.get(GROUP, "ipaddresses", "", &ip.to_string()).is_some()
    }

    /// Claims the address; `false` when somebody else has it.
    async fn write(&self, ip: IpAddr, owner: Owner<'_>) -> Result<bool, Refused> {
        if self.dry_run {
            return Ok(!self.is_taken(ip));
        }
        match self.loopback.create(target(ip), claim(ip, owner)).await {
            Ok(_) => Ok(true),
            Err(status) if status.is(Reason::AlreadyExists) => Ok(false),
            Err(status) => Err(Refused::Failed(status)),
        }
    }

    /// Claims this address.
    pub async fn take(&self, ip: IpAddr, owner: Owner<'_>) -> Result<(), Refused> {
        let covering: Vec<Cidr> = self.ranges.iter().copied().filter(|r| r.covers(ip)).collect();
        let Some(first) = covering.first() else {
            return Err(Refused::Address("the provided network does not match the current range".to_owned()));
        };
        if !covering.iter().any(|r| r.contains(ip)) {
            return Err(Refused::Address(format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {first}")));
        }
        match self.write(ip, owner).await? {
            true => Ok(()),
            false => Err(Refused::Address("provided IP is already allocated".to_owned())),
        }
    }

    /// Claims any address of a family.
    pub async fn any(&self, wanted: &str, owner: Owner<'_>) -> Result<IpAddr, Refused> {
        for range in &self.ranges {
            if range.family() != wanted {
                continue;
            }
            let (size, band) = (range.size(), range.static_band());
            for _ in 0..RANDOM_TRIES.min(usize::try_from(size - band).unwrap_or(RANDOM_TRIES)) {
                let ip = range.nth(rand::random_range(band..size));
                if !self.is_taken(ip) && self.write(ip, owner).await? {
                    return Ok(ip);
                }
            }
            for n in 0..size {
                let ip = range.nth((n + band) % size);
                if !self.is_taken(ip) && self.write(ip, owner).await? {
                    return Ok(ip);
                }
            }
        }
        Err(Refused::Full)
    }
}
