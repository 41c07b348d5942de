//! What was allocated for a claim, who may use it, and what drivers say of the devices.

use super::claim::{names_requests, request_name};
use super::{MOST, binding_conditions, configuration, each, each_once, itself, label, pool_name, raw, uid};
use crate::field::{At, Errors};
use crate::kinds::json::*;
use crate::kinds::{check, meta, pod};
use crate::names;
use serde_json::Value;
use std::collections::HashSet;

const MOST_USERS: usize = 256;
const MOST_CONDITIONS: usize = 8;
const MOST_ADDRESSES: usize = 16;
const STATUS: At<'static> = At::field("status");

fn of(o: &Value) -> &Value {
    o.get("status").unwrap_or(&NONE)
}

/// Driver, pool and device, and the share of it if it is shared.
fn device_id(v: &Value) -> String {
    let share = text(v, "shareID");
    let id = ["driver", "pool", "device"].map(|key| text(v, key)).join("/");
    if share.is_empty() { id } else { format!("{id}/{share}") }
}

fn allocated(status: &Value) -> HashSet<String> {
    list_at(status, &["allocation", "devices", "results"]).iter().map(device_id).collect()
}

/// What is said of devices that the claim no longer has is forgotten with them.
pub fn forget_released(new: &mut Value, old: &Value) {
    let still = allocated(of(new));
    let released: HashSet<String> = allocated(of(old)).difference(&still).cloned().collect();
    let Some(status) = get_mut(new, "status").filter(|_| !released.is_empty()) else { return };
    let Some(Value::Array(devices)) = get_mut(status, "devices") else { return };
    devices.retain(|device| !released.contains(&device_id(device)));
    if devices.is_empty() {
        remove(status, "devices");
    }
}

/// A change of the status.
pub fn update(new: &Value, old: &Value, e: &mut Errors) {
    let deleted = at(new, &["metadata", "deletionTimestamp"]).is_some();
    let requests = list_at(new, &["spec", "devices", "requests"]);
    let (new, old) = (of(new), of(old));
    let path = STATUS.child("reservedFor");
    let users = list(new, "reservedFor");
    each_once(
        users,
        Some(MOST_USERS),
        &path,
        e,
        |user| text(user, "uid"),
        |user, at, e| {
            ["resource", "name", "uid"].iter().for_each(|key| check::required(user, key, at, e));
        },
    );
    devices(new, e);
    if !users.is_empty() {
        if !has(new, "allocation") {
            e.forbidden(&path, "may not be specified when `allocated` is not set");
        } else if deleted && !users.iter().all(|user| list(old, "reservedFor").iter().any(|known| same(Some(known), Some(user)))) {
            e.forbidden(&path, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set");
        }
    }
    let path = STATUS.child("allocation");
    match (get(new, "allocation"), get(old, "allocation")) {
        (Some(now), Some(was)) => meta::immutable_value(Some(now), Some(was), &path, e),
        (Some(now), None) => allocation(now, requests, &path, e),
        (None, _) => {}
    }
}

fn devices(status: &Value, e: &mut Errors) {
    let path = STATUS.child("devices");
    let (all, allocated) = (list(status, "devices"), allocated(status));
    each(all, None, &path, e, |device, at, e| device_status(device, &allocated, at, e));
    let mut known = HashSet::new();
    for (i, id) in all.iter().map(device_id).enumerate() {
        if known.contains(&id) {
            e.duplicate_shown(&path.index(i), &id);
        }
        known.insert(id);
    }
}

fn device_status(device: &Value, allocated: &HashSet<String>, at: &At, e: &mut Errors) {
    pod::volumes::driver_name(text(device, "driver"), &at.child("driver"), e);
    pool_name(text(device, "pool"), &at.child("pool"), e);
    label(device, "device", at, e);
    uid(device, "shareID", at, e);
    let id = device_id(device);
    if !allocated.contains(&id) {
        e.invalid_shown(at, &id, "must be an allocated device in the claim");
    }
    let conditions = list(device, "conditions").len();
    if conditions > MOST_CONDITIONS {
        e.too_many(&at.child("conditions"), conditions, MOST_CONDITIONS);
    }
    check::conditions(device, at, e);
    if has(device, "data") {
        raw(get(device, "data"), false, &at.child("data"), e);
    }
    if let Some(network) = get(device, "networkData") {
        network_data(network, &at.child("networkData"), e);
    }
}

fn network_data(network: &Value, at: &At, e: &mut Errors) {
    for (key, most) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if text(network, key).len() > most {
            e.too_long(&at.child(key), most);
        }
    }
    each_once(list(network, "ips"), Some(MOST_ADDRESSES), &at.child("ips"), e, itself, |address, at, e| {
        let address = itself(address);
        e.invalid_each(at, address, names::interface_address(address));
    });
}

fn allocation(allocation: &Value, requests: &[Value], path: &At, e: &mut Errors) {
    let devices = path.child("devices");
    each(list_at(allocation, &["devices", "results"]), Some(MOST), &devices.child("results"), e, |result, at, e| {
        request_name(text(result, "request"), requests, &at.child("request"), e);
        pod::volumes::driver_name(text(result, "driver"), &at.child("driver"), e);
        pool_name(text(result, "pool"), &at.child("pool"), e);
        label(result, "device", at, e);
        binding_conditions(result, at, e);
        uid(result, "shareID", at, e);
    });
    each(list_at(allocation, &["devices", "config"]), Some(2 * MOST), &devices.child("config"), e, |config, at, e| {
        check::choice(config, "source", &["FromClaim", "FromClass"], at, e);
        names_requests(config, requests, at, e);
        configuration(config, false, at, e);
    });
    if let Some(selector) = get(allocation, "nodeSelector") {
        pod::placement::node_selector(selector, &path.child("nodeSelector"), e);
    }
}
