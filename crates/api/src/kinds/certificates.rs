//! CertificateSigningRequests: who may change what of a request.

use super::json::*;
use super::{HookContext, Hooks, View, check, common};
use crate::field::{At, Errors};
use crate::names;
use crate::time;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

const SPEC: At<'static> = At::field("spec");
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
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

/// The status view signs; decisions that it repeats are those that were made, others are for validation to refuse.
fn prepare_status(new: &mut Value, old: &Value, context: &HookContext) {
    copy(new, old, "spec");
    let mut all = conditions(new).to_vec();
    for kind in ["Approved", "Denied"] {
        let made: Vec<&Value> = of_kind(old, kind).collect();
        let mut said: Vec<&mut Value> = all.iter_mut().filter(|c| text(c, "type") == kind).collect();
        if made.len() == said.len() {
            said.iter_mut().zip(made).for_each(|(said, made)| **said = made.clone());
        }
    }
    stamp(&mut all, old, context);
    set_conditions(new, all);
}

/// The approval view decides; what is asked for and what is signed stay. Metadata may change with it, as in any other view.
fn prepare_approval(new: &mut Value, old: &Value, context: &HookContext) {
    let mut all = conditions(new).to_vec();
    copy(new, old, "spec");
    copy(new, old, "status");
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
    whole(o, &NONE, e);
}

/// A request as a whole. What the stored one broke already may stay.
fn whole(o: &Value, old: &Value, e: &mut Errors) {
    let (spec, was) = (spec(o), spec(old));
    request(spec, e);
    usages(spec, was, e);
    let signer = text(spec, "signerName");
    if signer == LEGACY_SIGNER && text(was, "signerName") != LEGACY_SIGNER {
        e.invalid(&SPEC.child("signerName"), &signer.into(), "the legacy signerName is not allowed via this API version");
    } else {
        signer_name(signer, &SPEC.child("signerName"), e);
    }
    if let Some(n) = int(spec, "expirationSeconds").filter(|n| *n < 600) {
        e.invalid(&SPEC.child("expirationSeconds"), &n.into(), "may not specify a duration less than 600 seconds (10 minutes)");
    }
    decisions(o, old, e);
    let (now, before) = (certificate(o), certificate(old));
    if now != before && (before.is_empty() || pem_error(before).is_none()) {
        if let Some(why) = pem_error(now) {
            let path = At::field("status");
            e.invalid(&path.child("certificate"), &"<certificate data>".into(), &why);
        }
    }
}

fn usages(spec: &Value, was: &Value, e: &mut Errors) {
    let path = SPEC.child("usages");
    let all: Vec<&str> = texts(spec, "usages").collect();
    let repeated = |all: &[&str], i: usize| all[..i].contains(&all[i]);
    let before: Vec<&str> = texts(was, "usages").collect();
    if all.is_empty() {
        e.required(&path, "");
    }
    if before.iter().all(|usage| USAGES.contains(usage)) {
        for (i, usage) in all.iter().enumerate().filter(|(_, u)| !USAGES.contains(u)) {
            e.not_supported(&path.index(i), &(*usage).into(), &USAGES);
        }
    }
    if !(0..before.len()).any(|i| repeated(&before, i)) {
        for (i, usage) in all.iter().enumerate().filter(|(i, _)| repeated(&all, *i)) {
            e.duplicate(&path.index(i), &(*usage).into());
        }
    }
}

/// `example.com/signer-name`: a domain, and a path that can hold the name of an object (`ValidateSignerName`).
pub(super) fn signer_name(signer: &str, at: &At, e: &mut Errors) {
    const LONGEST_DOMAIN: usize = 253;
    const LONGEST: usize = LONGEST_DOMAIN + 1 + 253 + 1 + 63;
    if signer.is_empty() {
        return e.required(at, "");
    }
    let [domain, path] = signer.split('/').collect::<Vec<_>>()[..] else {
        return e.invalid(at, &signer.into(), "must be a fully qualified domain and path of the form 'example.com/signer-name'");
    };
    if domain.len() > LONGEST_DOMAIN {
        e.too_long(at, LONGEST_DOMAIN);
    }
    labels(domain, names::dns1123_label, at, e);
    if !domain.contains('.') {
        e.invalid(at, &domain.into(), "should be a domain with at least two segments separated by dots");
    }
    labels(path, names::dns1123_subdomain, at, e);
    if signer.len() > LONGEST {
        e.too_long(at, LONGEST);
    }
}

/// The first part between dots that has the wrong form.
fn labels(whole: &str, form: fn(&str) -> Vec<String>, at: &At, e: &mut Errors) {
    let wrong = |label: &str| Some((label.to_owned(), form(label))).filter(|(_, why)| !why.is_empty());
    if let Some((label, why)) = whole.split('.').find_map(wrong) {
        why.iter().for_each(|why| e.invalid(at, &whole.into(), &format!("validating label {label:?}: {why}")));
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
    update(new, old, e);
    kept_decisions(new, old, e);
    if certificate(new) != certificate(old) {
        let path = At::field("status");
        e.forbidden(&path.child("certificate"), "updates may not set certificate content");
    }
}

/// The approval view decides, and signs nothing.
fn validate_approval(new: &Value, old: &Value, e: &mut Errors) {
    update(new, old, e);
    if certificate(new) != certificate(old) {
        let path = At::field("status");
        e.forbidden(&path.child("certificate"), "updates may not set certificate content");
    }
}

/// The status view signs, once, and decides nothing.
fn validate_status(new: &Value, old: &Value, e: &mut Errors) {
    update(new, old, e);
    kept_decisions(new, old, e);
    if !certificate(old).is_empty() && certificate(new) != certificate(old) {
        let path = At::field("status");
        e.forbidden(&path.child("certificate"), "updates may not modify existing certificate content");
    }
}

fn certificate(o: &Value) -> &str {
    text_at(o, &["status", "certificate"])
}

/// What keeps a text from being certificates in PEM.
fn pem_error(certificate: &str) -> Option<String> {
    if certificate.is_empty() {
        return None;
    }
    let pem = STANDARD.decode(certificate).unwrap_or_default();
    let mut blocks = memchr::memmem::find_iter(&pem, b"-----BEGIN ").map(|at| &pem[at + 11..]).peekable();
    if blocks.peek().is_none() {
        return Some("must contain at least one CERTIFICATE PEM block".to_owned());
    }
    let block = blocks.find(|block| !block.starts_with(b"CERTIFICATE-----"))?;
    let end = memchr::memmem::find(block, b"-----").unwrap_or(block.len());
    Some(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", String::from_utf8_lossy(&block[..end])))
}

/// Every change: the request stays, and what was said of it too.
fn update(new: &Value, old: &Value, e: &mut Errors) {
    whole(new, old, e);
    for kind in ["Approved", "Denied", "Failed"] {
        if of_kind(new, kind).count() < of_kind(old, kind).count() {
            e.forbidden(&At::field("status").child("conditions"), &format!("updates may not remove a condition of type {kind:?}"));
        }
    }
}

fn of_kind<'a>(o: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    conditions(o).iter().filter(move |c| text(c, "type") == kind)
}

/// Only the approval view says whether a request is approved.
fn kept_decisions(new: &Value, old: &Value, e: &mut Errors) {
    let path = At::field("status");
    let path = path.child("conditions");
    for kind in ["Approved", "Denied"] {
        let (now, was): (Vec<&Value>, Vec<&Value>) = (of_kind(new, kind).collect(), of_kind(old, kind).collect());
        if now.len() > was.len() {
            e.forbidden(&path, &format!("updates may not add a condition of type {kind:?}"));
        } else if now.len() == was.len() && now != was {
            e.forbidden(&path, &format!("updates may not modify a condition of type {kind:?}"));
        }
    }
}

/// A request is approved or denied, not both; each is said once, and only `True` says it.
fn decisions(new: &Value, old: &Value, e: &mut Errors) {
    const STATES: [&str; 3] = ["False", "True", "Unknown"];
    let path = At::field("status");
    let path = path.child("conditions");
    let (all, before) = (conditions(new), conditions(old));
    let kind = |c: &Value| text(c, "type").to_owned();
    let repeated = |all: &[Value], i: usize| all[..i].iter().any(|c| kind(c) == kind(&all[i]));
    let unnamed = before.iter().any(|c| kind(c).is_empty());
    let both = ["Approved", "Denied"].iter().all(|wanted| before.iter().any(|c| kind(c) == *wanted));
    let twice = (0..before.len()).any(|i| repeated(before, i));
    for (i, condition) in all.iter().enumerate() {
        let (at, own) = (path.index(i), text(condition, "type"));
        if !unnamed {
            check::required(condition, "type", &at, e);
        }
        let allowed: &[&str] = if is_decision(condition) || own == "Failed" { &["True"] } else { &STATES };
        check::choice(condition, "status", allowed, &at, e);
        let other = if own == "Approved" { "Denied" } else { "Approved" };
        if !both && is_decision(condition) && all[..i].iter().any(|c| text(c, "type") == other) {
            e.invalid(&at.child("type"), &own.into(), "Approved and Denied conditions are mutually exclusive");
        }
        if !twice && repeated(all, i) {
            e.duplicate(&at.child("type"), &own.into());
        }
    }
}
