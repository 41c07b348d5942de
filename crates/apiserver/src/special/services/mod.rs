//! Addresses and node ports of Services: what a write needs is claimed before it is stored, given back when it is not, and
//! what a Service no longer has is freed when the write is acknowledged.
//!
//! What a Service needs and keeps is decided by `ferrokube_api::kinds::service`; here is what is free.
//! Source of the rules: `pkg/registry/core/service/storage`.

mod addresses;
pub mod cidr;
pub mod ports;
mod repair;

pub use cidr::Cidr;
pub use ports::follow as follow_ports;
pub use repair::run as repair;

use crate::local::OwnClient;
use crate::objects::{Loopback, Objects};
use crate::pipeline::Request;
use crate::write::prepare;
use addresses::{Addresses, Owner, Refused};
use ferrokube_api::field::{Errors, Path};
use ferrokube_api::kinds::service as rules;
use ferrokube_api::{Object, Status};
use futures_util::future::BoxFuture;
use ports::Ports;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// What the server was told, and the ports it has given away.
#[derive(Debug)]
pub struct Allocator {
    ranges: Vec<Cidr>,
    ports: Ports,
}

/// Below this offset of a range only what clients ask for by number is taken, while there is room above (KEP-3070, KEP-3668).
fn static_band(size: u128, divisor: u128, max: u128) -> u128 {
    if size < 16 { 0 } else { (size / divisor).clamp(16, max).min(size) }
}

impl Allocator {
    /// Over the cluster's ranges, knowing what the given Services have.
    pub fn new(ranges: Vec<Cidr>, ports: RangeInclusive<u16>, services: &[Arc<Object>]) -> Self {
        let allocator = Allocator { ranges, ports: Ports::new(ports) };
        for service in services {
            allocator.ports.learn(&service.uid, &service.decode::<Value>().map(|s| ports::of(&s)).unwrap_or_default());
        }
        allocator
    }

    /// The families that services may have, the default first.
    fn families(&self) -> Vec<&'static str> {
        let mut all: Vec<&'static str> = self.ranges.iter().map(|r| r.family()).collect();
        all.dedup();
        all
    }
}

/// Addresses of a Service.
fn addresses_of(service: &Value) -> HashSet<IpAddr> {
    let listed = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
    listed.chain([&service["spec"]["clusterIP"]]).filter_map(|ip| ip.as_str()?.parse().ok()).collect()
}

/// Addresses and node ports.
#[derive(Debug, Default)]
struct Holdings {
    /// Uid of the Service; empty for what is claimed for a write.
    uid: String,
    addresses: HashSet<IpAddr>,
    ports: HashSet<u16>,
}

impl Holdings {
    fn of(service: &Value) -> Self {
        Holdings { uid: prepare::text(service, "uid").to_owned(), addresses: addresses_of(service), ports: ports::of(service) }
    }

    fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.ports.is_empty()
    }

    /// Gives everything back.
    fn release(self, server: &Arc<crate::ApiServer>) -> BoxFuture<'static, ()> {
        server.services.ports.release(&self.ports, &self.uid);
        let own = OwnClient(server.clone());
        Box::pin(async move {
            for ip in self.addresses {
                if let Err(status) = own.delete(addresses::target(ip)).await
                    && status.code != 404
                {
                    tracing::warn!(%ip, %status, "a service address could not be freed; the repair loop will");
                }
            }
        })
    }
}

/// Claims made for one write. Dropped without [`Allocated::commit`], they are given back.
pub struct Allocated {
    server: Option<Arc<crate::ApiServer>>,
    new: Holdings,
    old: Holdings,
}

impl Allocated {
    /// Of writes that concern no Service.
    pub fn nothing() -> Self {
        Allocated { server: None, new: Holdings::default(), old: Holdings::default() }
    }

    /// The write is stored: what the Service had before and has no more is free.
    pub async fn commit(mut self) {
        self.new = Holdings::default();
        if let Some(server) = self.server.take() {
            std::mem::take(&mut self.old).release(&server).await;
        }
    }
}

impl Allocated {
    /// The write failed: what was claimed for it is free when this resolves.
    pub async fn give_back(mut self) {
        if let Some(server) = self.server.take() {
            std::mem::take(&mut self.new).release(&server).await;
        }
    }
}

impl Drop for Allocated {
    fn drop(&mut self) {
        let (Some(server), false) = (self.server.take(), self.new.is_empty()) else { return };
        let release = std::mem::take(&mut self.new).release(&server);
        // Without a runtime the process is ending, and the repair loop of the next start does it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(release);
        }
    }
}

/// A Service is gone: what it had is free.
pub async fn gone(request: &Request<'_>, service: &Value) {
    if request.entry.is("", "services") {
        Holdings::of(service).release(request.server).await;
    }
}

/// Claims what a new or changed Service needs, and writes it into the spec.
pub async fn begin(request: &Request<'_>, new: &mut Value, old: Option<&Value>, dry_run: bool) -> Result<Allocated, Status> {
    if !request.entry.is("", "services") || !new["spec"].is_object() {
        return Ok(Allocated::nothing());
    }
    let claims: BoxFuture<'_, Result<Allocated, Status>> = Box::pin(claim(request, new, old, dry_run));
    claims.await
}

async fn claim(request: &Request<'_>, new: &mut Value, old: Option<&Value>, dry_run: bool) -> Result<Allocated, Status> {
    match old {
        Some(old) => rules::carry_over(new, old),
        None => rules::pair_addresses(&mut new["spec"]),
    }
    let allocator = request.server.services.clone();
    let name = prepare::text(new, "name").to_owned();
    let mut errors = Errors::default();
    rules::settle_families(new, old, &allocator.families(), &mut errors);
    request.verdict(&name, errors)?;
    let had = old.map(Holdings::of).unwrap_or_default();
    let mut allocated = Allocated { server: Some(request.server.clone()), new: Holdings::default(), old: Holdings::default() };
    let objects: &dyn Objects = &*request.server.caches;
    let own = OwnClient(request.server.clone());
    let giver = Addresses { ranges: addresses::ranges(&allocator.ranges, objects), objects, loopback: &own, dry_run };
    let owner = Owner { namespace: request.namespace(), name: &name };
    claim_addresses(&giver, owner, new, &had.addresses, &mut allocated.new.addresses).await?;
    if dry_run {
        allocated.new.addresses.clear();
    }
    let mut errors = Errors::default();
    claim_ports(&allocator.ports, new, &had.ports, &mut allocated.new.ports, &mut errors);
    request.verdict(&name, errors)?;
    if !dry_run {
        // What is shown in a dry run is not kept, and nothing old is freed by it.
        let has = Holdings::of(new);
        allocated.old.addresses = had.addresses.difference(&has.addresses).copied().collect();
        allocated.old.ports = had.ports.difference(&has.ports).copied().collect();
        allocated.old.uid = had.uid;
    }
    Ok(allocated)
}

/// One address for each family of the Service that has none yet.
async fn claim_addresses(
    giver: &Addresses<'_>,
    owner: Owner<'_>,
    new: &mut Value,
    had: &HashSet<IpAddr>,
    claimed: &mut HashSet<IpAddr>,
) -> Result<(), Status> {
    let texts = |list: &Value| list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
    if !rules::has_address(&new["spec"]) || new["spec"]["clusterIP"] == "None" {
        return Ok(());
    }
    let (mut ips, families) = (texts(&new["spec"]["clusterIPs"]), texts(&new["spec"]["ipFamilies"]));
    let asked = ips.clone();
    for (i, family) in families.iter().enumerate() {
        match ips.get(i).map(|ip| ip.parse::<IpAddr>()) {
            Some(Ok(ip)) if had.contains(&ip) => {}
            Some(Ok(ip)) => match giver.take(ip, owner).await {
                Ok(()) => _ = claimed.insert(ip),
                Err(refused) => return Err(refusal(refused, owner.name, Some((ip, &asked)))),
            },
            // Validation says what is wrong with it.
            Some(Err(_)) => {}
            None => match giver.any(family, owner).await {
                Ok(ip) => {
                    claimed.insert(ip);
                    ips.push(ip.to_string());
                }
                Err(refused) => return Err(refusal(refused, owner.name, None)),
            },
        }
    }
    let spec = &mut new["spec"];
    if let Some(first) = ips.first() {
        spec["clusterIP"] = json!(first);
        spec["clusterIPs"] = json!(ips);
    }
    Ok(())
}

fn refusal(refused: Refused, service: &str, asked: Option<(IpAddr, &[String])>) -> Status {
    let why = match refused {
        Refused::Failed(status) => return status,
        Refused::Full => "range is full".to_owned(),
        Refused::Address(why) => why,
    };
    let Some((ip, all)) = asked else { return Status::internal(format!("failed to allocate a serviceIP: {why}")) };
    let mut errors = Errors::default();
    errors.invalid(&Path::new("spec").child("clusterIPs"), &json!(all), &format!("failed to allocate IP {ip}: {why}"));
    Status::invalid("", "Service", service, errors.into_causes())
}

/// Node ports and the port of health checks.
fn claim_ports(ports: &Ports, new: &mut Value, had: &HashSet<u16>, claimed: &mut HashSet<u16>, errors: &mut Errors) {
    let (wanted, health) = (rules::has_node_ports(&new["spec"]), rules::has_health_port(&new["spec"]));
    let path = Path::new("spec").child("ports");
    // A port number served over two protocols gets one node port.
    let mut by_port: Vec<(Value, u16)> = Vec::new();
    for (at, port) in new["spec"].get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten().enumerate() {
        let path = path.index(at).child("nodePort");
        let given = port["nodePort"].as_u64().unwrap_or(0);
        if !wanted {
            // Validation refuses a number that the type has no use for.
            continue;
        }
        let number = port["port"].clone();
        if given > 0 {
            if let Some(taken) = claim_port(ports, given, had, claimed, &path, errors) {
                by_port.push((number, taken));
            }
        } else if let Some((_, shared)) = by_port.iter().find(|(n, _)| *n == number) {
            port["nodePort"] = json!(shared);
        } else {
            match ports.any() {
                Ok(found) => {
                    claimed.insert(found);
                    by_port.push((number, found));
                    port["nodePort"] = json!(found);
                }
                Err(why) => errors.invalid(&path, &json!(0), &format!("failed to allocate a nodePort: {why}")),
            }
        }
    }
    if !health {
        return;
    }
    let path = Path::new("spec").child("healthCheckNodePort");
    match new["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0) {
        0 => match ports.any() {
            Ok(found) => {
                claimed.insert(found);
                new["spec"]["healthCheckNodePort"] = json!(found);
            }
            Err(why) => errors.invalid(&path, &json!(0), &format!("failed to allocate a HealthCheck NodePort: {why}")),
        },
        given => _ = claim_port(ports, given, had, claimed, &path, errors),
    }
}

fn claim_port(ports: &Ports, number: u64, had: &HashSet<u16>, claimed: &mut HashSet<u16>, path: &Path, errors: &mut Errors) -> Option<u16> {
    let port = u16::try_from(number).unwrap_or(0);
    if had.contains(&port) || claimed.contains(&port) {
        return Some(port);
    }
    match ports.take(port) {
        Ok(()) => {
            claimed.insert(port);
            Some(port)
        }
        Err(why) => {
            errors.invalid(path, &json!(number), &why);
            None
        }
    }
}
