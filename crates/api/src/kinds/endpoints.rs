//! Endpoints and EndpointSlices.

use super::json::*;
use super::{Hooks, check, meta, warnings};
use crate::field::{At, Errors};
use crate::names;
use serde_json::Value;

pub(super) const ENDPOINTS: Hooks = Hooks {
    default: Some(default_endpoints),
    validate_create: Some(endpoints),
    validate_update: Some(endpoints_update),
    warnings: Some(warnings::endpoints),
    update_warnings: Some(|new, _| warnings::endpoints(new)),
    ..Hooks::NONE
};
pub(super) const SLICE: Hooks = Hooks {
    default: Some(default_slice),
    validate_create: Some(slice),
    validate_update: Some(slice_update),
    warnings: Some(warnings::slice),
    update_warnings: Some(|new, _| warnings::slice(new)),
    ..Hooks::NONE
};

const MOST_ENDPOINTS: usize = 1000;
const MOST_LABELS: usize = 16;
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

fn default_endpoints(o: &mut Value) {
    for subset in each_mut(o, "subsets") {
        each_mut(subset, "ports").for_each(|p| fill_text(p, "protocol", "TCP"));
    }
}

fn default_slice(o: &mut Value) {
    for port in each_mut(o, "ports") {
        fill(port, "name", "");
        fill_text(port, "protocol", "TCP");
    }
    fill(o, "endpoints", Vec::<Value>::new());
}

fn endpoints(o: &Value, e: &mut Errors) {
    let path = At::field("subsets");
    for (i, subset) in list(o, "subsets").iter().enumerate() {
        let at = path.index(i);
        if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
            e.required(&at, "must specify `addresses` or `notReadyAddresses`");
        }
        for key in ["addresses", "notReadyAddresses"] {
            let lists = at.child(key);
            for (j, address) in list(subset, key).iter().enumerate() {
                endpoint_address(address, &lists.index(j), e);
            }
        }
        let ports = at.child("ports");
        let many = list(subset, "ports").len() > 1;
        for (j, port) in list(subset, "ports").iter().enumerate() {
            let at = ports.index(j);
            match text(port, "name") {
                "" if many => e.required(&at.child("name"), ""),
                "" => {}
                name => e.invalid_each(&at.child("name"), name, names::dns1123_label(name)),
            }
            let n = int(port, "port").unwrap_or_default();
            e.invalid_each(&at.child("port"), n, names::port_number(n));
            check::choice(port, "protocol", &PROTOCOLS, &at, e);
            check::form(port, "appProtocol", names::qualified_name, &at, e);
        }
    }
}

/// Subsets that stay as they are have been accepted.
fn endpoints_update(new: &Value, old: &Value, e: &mut Errors) {
    if !same(new.get("subsets"), old.get("subsets")) {
        endpoints(new, e);
    }
}

fn endpoint_address(address: &Value, at: &At, e: &mut Errors) {
    let ip = text(address, "ip");
    e.invalid_each(&at.child("ip"), ip, names::ip_address(ip));
    check::form(address, "hostname", names::dns1123_label, at, e);
    check::form(address, "nodeName", names::dns1123_subdomain, at, e);
    special_address(ip, &at.child("ip"), e);
}

/// Addresses that no traffic can be sent to.
pub(super) fn special_address(ip: &str, at: &At, e: &mut Errors) {
    let Some(parsed) = names::lenient_ip(ip) else {
        return e.invalid(at, &ip.into(), "must be a valid IP address");
    };
    let (link_local, link_multicast) = match parsed {
        std::net::IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        std::net::IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.is_multicast() && v6.octets()[1] & 0x0f == 2),
    };
    let why = if parsed.is_unspecified() {
        format!("may not be unspecified ({ip})")
    } else if parsed.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()
    } else if link_local {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()
    } else if link_multicast {
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()
    } else {
        return;
    };
    e.invalid(at, &ip.into(), &why);
}

fn slice(o: &Value, e: &mut Errors) {
    let family = text(o, "addressType");
    let kinds = ["FQDN", "IPv4", "IPv6"];
    if family.is_empty() {
        e.required(&At::field("addressType"), "");
    } else if !kinds.contains(&family) {
        e.not_supported(&At::field("addressType"), &family.into(), &kinds);
    }
    let endpoints = list(o, "endpoints");
    let path = At::field("endpoints");
    if endpoints.len() > MOST_ENDPOINTS {
        e.too_many(&path, endpoints.len(), MOST_ENDPOINTS);
    } else {
        for (i, endpoint) in endpoints.iter().enumerate() {
            slice_endpoint(endpoint, family, &path.index(i), e);
        }
    }
    slice_ports(o, e);
}

fn slice_endpoint(endpoint: &Value, family: &str, at: &At, e: &mut Errors) {
    let path = at.child("addresses");
    let addresses = list(endpoint, "addresses");
    if addresses.is_empty() {
        e.required(&path, "must contain at least 1 address");
    } else if addresses.len() > 100 {
        e.too_many(&path, addresses.len(), 100);
    }
    for (i, address) in texts(endpoint, "addresses").enumerate() {
        let at = path.index(i);
        match family {
            "FQDN" if address.is_empty() => e.required(&at, ""),
            "FQDN" => {
                if let Err((part, why)) = names::fully_qualified_domain(address) {
                    e.invalid(&at, &part.into(), &why);
                }
            }
            "IPv4" | "IPv6" => {
                // One that hides an IPv4 address counts as that.
                let right = |ip: std::net::IpAddr| ip.to_canonical().is_ipv4() == (family == "IPv4");
                if !names::lenient_ip(address).is_some_and(right) {
                    e.invalid(&at, &address.into(), &format!("must be a valid {family} address"));
                }
                special_address(address, &at, e);
            }
            _ => {}
        }
    }
    form_if_set(endpoint, "nodeName", names::dns1123_subdomain, at, e);
    let labels = entries(endpoint, "deprecatedTopology").count();
    if labels > MOST_LABELS {
        e.too_many(&at.child("deprecatedTopology"), labels, MOST_LABELS);
    }
    check::labels(endpoint, "deprecatedTopology", at, e);
    form_if_set(endpoint, "hostname", names::dns1123_label, at, e);
    hints(endpoint.get("hints").unwrap_or(&NONE), &at.child("hints"), e);
}

/// A text in some form, which an empty one lacks.
fn form_if_set(v: &Value, key: &str, check: fn(&str) -> Vec<String>, at: &At, e: &mut Errors) {
    if let Some(value) = get(v, key).and_then(Value::as_str) {
        e.invalid_each(&at.child(key), value, check(value));
    }
}

/// Zones and nodes that an endpoint is for: a few of each, none twice.
fn hints(hints: &Value, at: &At, e: &mut Errors) {
    const MOST: usize = 8;
    for (key, form) in [("forZones", names::label_value as fn(&str) -> Vec<String>), ("forNodes", names::dns1123_subdomain)] {
        let path = at.child(key);
        let all: Vec<&str> = list(hints, key).iter().map(|h| text(h, "name")).collect();
        if all.len() > MOST {
            return e.too_many(&path, all.len(), MOST);
        }
        for (i, name) in all.iter().enumerate() {
            let at = path.index(i);
            if all[..i].contains(name) {
                e.duplicate(&at.child("name"), &(*name).into());
            }
            e.invalid_each(&at.child("name"), *name, form(name));
        }
    }
}

fn slice_ports(o: &Value, e: &mut Errors) {
    let path = At::field("ports");
    let ports = list(o, "ports");
    if ports.len() > 20_000 {
        return e.too_many(&path, ports.len(), 20_000);
    }
    for (i, port) in ports.iter().enumerate() {
        let (at, name) = (path.index(i), text(port, "name"));
        if !name.is_empty() {
            e.invalid_each(&at.child("name"), name, names::dns1123_label(name));
        }
        if ports[..i].iter().any(|p| text(p, "name") == name) {
            e.duplicate(&at.child("name"), &name.into());
        }
        check::choice(port, "protocol", &PROTOCOLS, &at, e);
        check::form(port, "appProtocol", names::qualified_name, &at, e);
    }
}

fn slice_update(new: &Value, old: &Value, e: &mut Errors) {
    slice(new, e);
    meta::immutable_value(new.get("addressType"), old.get("addressType"), &At::field("addressType"), e);
}
