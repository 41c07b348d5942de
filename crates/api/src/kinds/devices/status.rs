//! What was allocated for a claim, and who may use it.

use super::{MOST, at_most};
use crate::field::{At, Errors};
use crate::kinds::json::*;
use crate::kinds::{check, meta, pod};
use serde_json::Value;

const MOST_USERS: usize = 256;
const STATUS: At<'static> = At::field("status");

/// A change of the status.
pub fn update(new: &Value, old: &Value, e: &mut Errors) {
    let deleted = at(new, &["metadata", "deletionTimestamp"]).is_some();
    let (new, old) = (new.get("status").unwrap_or(&NONE), old.get("status").unwrap_or(&NONE));
    if let Some(allocation) = get(new, "allocation") {
        self::allocation(allocation, &STATUS.child("allocation"), e);
    }
    users(new, e);
    let path = STATUS.child("reservedFor");
    if !list(new, "reservedFor").is_empty() {
        if !has(new, "allocation") {
            e.forbidden(&path, "may not be specified when `allocated` is not set");
        }
        let known = |user: &Value| list(old, "reservedFor").iter().any(|o| text(o, "uid") == text(user, "uid"));
        if deleted && !list(new, "reservedFor").iter().all(known) {
            e.forbidden(&path, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set");
        }
    }
    if has(old, "allocation") && has(new, "allocation") {
        meta::immutable_value(new.get("allocation"), old.get("allocation"), &STATUS.child("allocation"), e);
    }
    let path = STATUS.child("devices");
    for (i, device) in list(new, "devices").iter().enumerate() {
        let at = path.index(i);
        pod::volumes::driver_name(text(device, "driver"), &at.child("driver"), e);
        check::required(device, "pool", &at, e);
        check::required(device, "device", &at, e);
        check::conditions(device, &at, e);
    }
}

fn users(status: &Value, e: &mut Errors) {
    let path = STATUS.child("reservedFor");
    let all = list(status, "reservedFor");
    at_most(all.len(), MOST_USERS, &path, e);
    for (i, user) in all.iter().enumerate() {
        let at = path.index(i);
        ["resource", "name", "uid"].iter().for_each(|key| check::required(user, key, &at, e));
        if all[..i].iter().any(|u| text(u, "uid") == text(user, "uid")) {
            e.duplicate(&at.child("uid"), &text(user, "uid").into());
        }
    }
}

fn allocation(allocation: &Value, path: &At, e: &mut Errors) {
    let results = list_at(allocation, &["devices", "results"]);
    let devices = path.child("devices");
    let list_path = devices.child("results");
    at_most(results.len(), MOST, &list_path, e);
    for (i, result) in results.iter().enumerate() {
        let at = list_path.index(i);
        check::required(result, "request", &at, e);
        pod::volumes::driver_name(text(result, "driver"), &at.child("driver"), e);
        check::required(result, "pool", &at, e);
        check::required(result, "device", &at, e);
    }
    if let Some(selector) = get(allocation, "nodeSelector") {
        pod::placement::node_selector(selector, &path.child("nodeSelector"), e);
    }
}
