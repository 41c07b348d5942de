//! CertificateSigningRequests: who may change what of a request.

use super::json::*;
use super::{HookContext, Hooks, View, check, common, meta};
use crate::field::{At, Errors};
use crate::names;
use crate::time;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

const SPEC: At<'static> = At::field("spec");
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub(super) const HOOKS: Hooks = Hooks {
    prepare_create: Some(common::reset_status),
    prepare_update: Some(|new, old, _| copy(new, old, "spec")),
    prepare_status: Some(prepare_status),
    validate_create: Some(validate),
    validate_update: Some(validate_update),
    validate_status: Some(validate_status),
    validate_name: Some(names::path_segment),
    views: &[View { name: "approval", prepare: prepare_approval, validate: validate_approval }],
    ..Hooks::NONE
};

fn is_decision(condition: &Value) -> bool {
    matches!(text(condition, "type"), "Approved" | "Denied")
}

fn conditions(o: &Value) -> &[Value] {
    list_at(o, &["status", "conditions"])
}

/// The status view signs; it does not decide.
fn prepare_status(new: &mut Value, old: &Value, context: &HookContext) {
    copy(new, old, "spec");
    let mut all: Vec<Value> = conditions(old).iter().filter(|c| is_decision(c)).cloned().collect();
    all.extend(conditions(new).iter().filter(|c| !is_decision(c)).cloned());
    stamp(&mut all, old, context);
    set_conditions(new, all);
}

/// The approval view decides; everything else stays.
fn prepare_approval(new: &mut Value, old: &Value, context: &HookContext) {
    let mut all = conditions(new).to_vec();
    let metadata = new.get("metadata").cloned().unwrap_or_default();
    *new = old.clone();
    for key in ["resourceVersion", "managedFields"] {
        copy(object(new, "metadata"), &metadata, key);
    }
    stamp(&mut all, old, context);
    set_conditions(new, all);
}

fn set_conditions(o: &mut Value, all: Vec<Value>) {
    let status = object(o, "status");
    if all.is_empty() {
        remove(status, "conditions");
    } else {
        set(status, "conditions", all);
    }
}

fn stamp(all: &mut [Value], old: &Value, context: &HookContext) {
    let now = time::format_time(context.now);
    for condition in all {
        fill_text(condition, "status", "True");
        let before = conditions(old).iter().find(|c| text(c, "type") == text(condition, "type"));
        let unchanged = before.filter(|b| text(b, "status") == text(condition, "status"));
        if !has(condition, "lastTransitionTime") {
            let at = unchanged.map_or(now.as_str(), |b| text(b, "lastTransitionTime")).to_owned();
            set(condition, "lastTransitionTime", at);
        }
        fill(condition, "lastUpdateTime", now.as_str());
    }
}

fn validate(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    request(spec, e);
    let usages = SPEC.child("usages");
    if list(spec, "usages").is_empty() {
        e.required(&usages, "usages must not be empty");
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, usage) in texts(spec, "usages").enumerate() {
        if !USAGES.contains(&usage) {
            e.not_supported(&usages.index(i), &usage.into(), &USAGES);
        }
        if seen.contains(&usage) {
            e.duplicate(&usages.index(i), &usage.into());
        }
        seen.push(usage);
    }
    let signer = text(spec, "signerName");
    let at = SPEC.child("signerName");
    match signer.split_once('/') {
        _ if signer.is_empty() => e.required(&at, ""),
        None => e.invalid(&at, &signer.into(), "must be a fully qualified domain and path of the form 'example.com/signer-name'"),
        Some((domain, path)) => {
            e.invalid_each(&at, signer, names::dns1123_subdomain(domain));
            if !domain.contains('.') {
                e.invalid(&at, &signer.into(), "should be a domain with at least two segments separated by dots");
            }
            e.invalid_each(&at, signer, names::dns1123_subdomain(path));
        }
    }
    if let Some(n) = int(spec, "expirationSeconds").filter(|n| *n < 600) {
        e.invalid(&SPEC.child("expirationSeconds"), &n.into(), "may not specify a duration less than 600 seconds (10 minutes)");
    }
}

fn request(spec: &Value, e: &mut Errors) {
    let at = SPEC.child("request");
    let pem = STANDARD.decode(text(spec, "request")).unwrap_or_default();
    let fine = |kind: &str| memchr::memmem::find(&pem, format!("-----BEGIN {kind}-----").as_bytes()).is_some();
    if !fine("CERTIFICATE REQUEST") && !fine("NEW CERTIFICATE REQUEST") {
        e.invalid(&at, &json!(text(spec, "request")), "PEM block type must be CERTIFICATE REQUEST");
    }
}

fn validate_update(new: &Value, old: &Value, e: &mut Errors) {
    meta::immutable_value(new.get("spec"), old.get("spec"), &SPEC, e);
    decisions(new, old, e);
}

fn validate_approval(new: &Value, old: &Value, e: &mut Errors) {
    validate_update(new, old, e);
}

/// A signer sets the certificate once; it is PEM and holds certificates only.
fn validate_status(new: &Value, old: &Value, e: &mut Errors) {
    validate_update(new, old, e);
    let path = At::field("status");
    let path = path.child("certificate");
    let (now, was) = (text_at(new, &["status", "certificate"]), text_at(old, &["status", "certificate"]));
    if now == was {
        return;
    }
    if now.is_empty() {
        return e.forbidden(&path, "update may not remove certificate content");
    }
    if !was.is_empty() {
        return e.forbidden(&path, "update may not modify existing certificate content");
    }
    let pem = STANDARD.decode(now).unwrap_or_default();
    let mut blocks = memchr::memmem::find_iter(&pem, b"-----BEGIN ").map(|at| &pem[at + 11..]).peekable();
    if blocks.peek().is_none() {
        return e.invalid(&path, &"<certificate data>".into(), "must contain at least one CERTIFICATE PEM block");
    }
    for block in blocks.filter(|block| !block.starts_with(b"CERTIFICATE-----")) {
        let end = memchr::memmem::find(block, b"-----").unwrap_or(block.len());
        let kind = String::from_utf8_lossy(&block[..end]).into_owned();
        let why = format!("only CERTIFICATE PEM blocks are allowed, found {kind:?}");
        e.invalid(&path, &"<certificate data>".into(), &why);
    }
}

/// A request is approved or denied, not both, and not undone.
fn decisions(new: &Value, old: &Value, e: &mut Errors) {
    let path = At::field("status");
    let path = path.child("conditions");
    let has = |o: &Value, kind: &str| conditions(o).iter().any(|c| text(c, "type") == kind);
    for kind in ["Approved", "Denied", "Failed"] {
        if has(old, kind) && !has(new, kind) {
            e.forbidden(&path, &format!("updates may not remove a condition of type {kind:?}"));
        }
    }
    if has(new, "Approved") && has(new, "Denied") {
        let i = conditions(new).iter().rposition(is_decision).unwrap_or_default();
        let kind = text(&conditions(new)[i], "type");
        e.invalid(&path.index(i).child("type"), &kind.into(), "Approved and Denied conditions are mutually exclusive");
    }
    for (i, condition) in conditions(new).iter().enumerate() {
        let at = path.index(i);
        check::required(condition, "type", &at, e);
        if is_decision(condition) && text(condition, "status") != "True" {
            e.not_supported(&at.child("status"), &text(condition, "status").into(), &["True"]);
        }
    }
}
