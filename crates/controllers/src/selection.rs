//! `--controllers`: which loops run. Every name and older name of kube-controller-manager 1.36 is known, also of those that
//! it does not start because their gate is off, so that a command line written for it is taken.

use crate::CONTROLLERS;

/// Names of 1.36 that start nothing here: their gates are off, or they do nothing without an in-tree cloud.
const NOT_STARTED: &[&str] = &[
    "podcertificaterequest-cleaner-controller",
    "podgroup-protection-controller",
    "kube-apiserver-serving-clustertrustbundle-publisher-controller",
    "resourcepoolstatusrequest-controller",
    "selinux-warning-controller",
    "service-lb-controller",
    "node-route-controller",
    "cloud-node-lifecycle-controller",
];

/// Older names, besides the name without `-controller`.
const ALIASES: &[(&str, &str)] = &[
    ("attachdetach", "persistentvolume-attach-detach-controller"),
    ("bootstrapsigner", "bootstrap-signer-controller"),
    ("csrapproving", "certificatesigningrequest-approving-controller"),
    ("csrcleaner", "certificatesigningrequest-cleaner-controller"),
    ("csrsigning", "certificatesigningrequest-signing-controller"),
    ("endpoint", "endpoints-controller"),
    ("endpointslicemirroring", "endpointslice-mirroring-controller"),
    ("garbagecollector", "garbage-collector-controller"),
    ("horizontalpodautoscaling", "horizontal-pod-autoscaler-controller"),
    ("legacy-service-account-token-cleaner", "legacy-serviceaccount-token-cleaner-controller"),
    ("nodeipam", "node-ipam-controller"),
    ("nodelifecycle", "node-lifecycle-controller"),
    ("persistentvolume-binder", "persistentvolume-binder-controller"),
    ("persistentvolume-expander", "persistentvolume-expander-controller"),
    ("podgc", "pod-garbage-collector-controller"),
    ("pv-protection", "persistentvolume-protection-controller"),
    ("pvc-protection", "persistentvolumeclaim-protection-controller"),
    ("resource-claim-controller", "resourceclaim-controller"),
    ("root-ca-cert-publisher", "root-ca-certificate-publisher-controller"),
    ("route", "node-route-controller"),
    ("service", "service-lb-controller"),
    ("storage-version-gc", "storageversion-garbage-collector-controller"),
    ("svm", "storage-version-migrator-controller"),
    ("tokencleaner", "token-cleaner-controller"),
];

/// A word of `--controllers` that names no controller.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not in the list of known controllers")]
pub struct UnknownController(pub String);

fn names(text: &str, name: &str) -> bool {
    text == name || name.strip_suffix("-controller") == Some(text) || ALIASES.contains(&(text, name))
}

/// Whether a selection starts a controller (`--controllers` of kube-controller-manager).
pub fn selected(selection: &[String], name: &str, default: bool) -> bool {
    if selection.iter().any(|s| s.strip_prefix('-').is_some_and(|s| names(s, name))) {
        return false;
    }
    selection.iter().any(|s| names(s, name)) || (default && selection.iter().any(|s| s == "*"))
}

/// Refuses a selection with a word that names no controller of 1.36.
pub fn check(selection: &[String]) -> Result<(), UnknownController> {
    let known = || CONTROLLERS.iter().map(|c| c.name).chain(NOT_STARTED.iter().copied());
    let unknown = selection.iter().map(|s| s.strip_prefix('-').unwrap_or(s)).find(|s| *s != "*" && !known().any(|name| names(s, name)));
    unknown.map_or(Ok(()), |s| Err(UnknownController(s.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controllers_flag_selects_as_upstream() {
        let cases =
            [("*", true, true), ("*", false, false), ("*,x", false, true), ("*,-x", true, false), ("y", true, false), ("x", false, true)];
        for (flag, default, expected) in cases {
            let selection: Vec<String> = flag.split(',').map(str::to_owned).collect();
            assert_eq!(selected(&selection, "x", default), expected, "{flag} {default}");
        }
        let older = |name: &str| selected(&[name.to_owned()], "garbage-collector-controller", true);
        assert!(older("garbagecollector") && older("garbage-collector") && older("garbage-collector-controller") && !older("garbage"));
    }

    #[test]
    fn a_word_that_names_no_controller_is_refused() {
        let words = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(check(&words("*,-selinux-warning-controller,job,svm")), Ok(()));
        let refused = check(&words("*,-jobs")).unwrap_err();
        assert_eq!(refused.to_string(), "\"jobs\" is not in the list of known controllers");
    }
}
