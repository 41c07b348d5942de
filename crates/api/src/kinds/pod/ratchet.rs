//! What may stay wrong in an object that was written before a rule came.
//!
//! An update is checked as a new object is. Only when something is wrong is the stored object looked at: the rules below
//! that it breaks itself are then no reason to refuse. So a good update pays nothing for old sins.

use crate::field::Errors;
use crate::status::Cause;
use serde_json::Value;

/// A rule that came late, known by what it says and where.
struct Late {
    /// All of these are part of the field's path.
    path: &'static [&'static str],
    /// How the message goes on somewhere.
    says: &'static str,
}

const fn late(path: &'static [&'static str], says: &'static str) -> Late {
    Late { path, says }
}

const LATE: [Late; 12] = [
    late(&[".resources"], " is not positive integer multiple of hugepages-"),
    late(&["podAffinity", "elector.matchExpressions", ".values["], ""),
    late(&["podAntiAffinity", "elector.matchExpressions", ".values["], ""),
    late(&["nodeAffinity.required", ".values["], "must "),
    late(&["topologySpreadConstraints", ".labelSelector"], ""),
    late(&["topologySpreadConstraints"], "exists in both matchLabelKeys and labelSelector"),
    late(&[".projected.path"], "Invalid value"),
    late(&[".sysctls"], "may not be specified when 'host"),
    late(&[".resizePolicy"], "for non-sidecar initContainers"),
    late(&[".volumeDevices"], "when `hostUsers` is false"),
    late(&[".image.reference"], "Required value"),
    late(&["pod-deletion-cost"], "must be a 32bit integer"),
];

impl Late {
    fn is(&self, cause: &Cause) -> bool {
        self.path.iter().all(|part| cause.field.contains(part)) && cause.message.contains(self.says)
    }
}

/// Checks a changed object whose pod or template may be older than some rules.
pub fn checked(new: &Value, old: &Value, validate: impl Fn(&Value, &mut Errors), e: &mut Errors) {
    let before = e.len();
    validate(new, e);
    if e.len() == before {
        return;
    }
    let mut was = Errors::default();
    validate(old, &mut was);
    let broken: Vec<&Late> = LATE.iter().filter(|rule| was.causes().iter().any(|cause| rule.is(cause))).collect();
    e.retain_since(before, |cause| !broken.iter().any(|rule| rule.is(cause)));
}
