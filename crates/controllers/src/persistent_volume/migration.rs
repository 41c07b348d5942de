//! Volumes of plugins that were once part of Kubernetes: drivers outside have taken over, under names of their own. Pure.
//!
//! Everything that still speaks of such a plugin (classes, claims, volumes) is handed to its driver, and marked so that the
//! driver knows. Source: `k8s.io/csi-translation-lib`, `updateMigrationAnnotations` of `pv_controller_base.go`.

use k8s_openapi::api::core::v1::PersistentVolumeSpec;
use std::collections::BTreeMap;

/// The driver that takes care of an object in the place of its plugin.
pub(crate) const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";

/// Plugins and their drivers in 1.36.
const DRIVERS: [(&str, &str); 7] = [
    ("kubernetes.io/aws-ebs", "ebs.csi.aws.com"),
    ("kubernetes.io/azure-disk", "disk.csi.azure.com"),
    ("kubernetes.io/azure-file", "file.csi.azure.com"),
    ("kubernetes.io/cinder", "cinder.csi.openstack.org"),
    ("kubernetes.io/gce-pd", "pd.csi.storage.gke.io"),
    ("kubernetes.io/portworx-volume", "pxd.portworx.com"),
    ("kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com"),
];

/// The driver of a plugin that is gone.
pub(crate) fn driver_of(plugin: &str) -> Option<&'static str> {
    DRIVERS.iter().find(|(name, _)| *name == plugin).map(|(_, driver)| *driver)
}

/// The plugin whose volume this was.
pub(crate) fn plugin_of(spec: &PersistentVolumeSpec) -> Option<&'static str> {
    let sources = [
        (spec.aws_elastic_block_store.is_some(), "kubernetes.io/aws-ebs"),
        (spec.azure_disk.is_some(), "kubernetes.io/azure-disk"),
        (spec.azure_file.is_some(), "kubernetes.io/azure-file"),
        (spec.cinder.is_some(), "kubernetes.io/cinder"),
        (spec.gce_persistent_disk.is_some(), "kubernetes.io/gce-pd"),
        (spec.portworx_volume.is_some(), "kubernetes.io/portworx-volume"),
        (spec.vsphere_volume.is_some(), "kubernetes.io/vsphere-volume"),
    ];
    sources.iter().find(|(has, _)| *has).map(|(_, plugin)| *plugin)
}

/// The annotations as they should be, by the first of these keys that is there; `None` when they are so already.
pub(super) fn marked(annotations: Option<&BTreeMap<String, String>>, keys: &[&str]) -> Option<BTreeMap<String, String>> {
    let annotations = annotations?;
    let provisioner = keys.iter().find_map(|key| annotations.get(*key))?;
    let (driver, current) = (driver_of(provisioner), annotations.get(MIGRATED_TO).map(String::as_str));
    if driver.unwrap_or_default() == current.unwrap_or_default() {
        return None;
    }
    let mut changed = annotations.clone();
    match driver {
        Some(driver) => drop(changed.insert(MIGRATED_TO.into(), driver.into())),
        None => drop(changed.remove(MIGRATED_TO)),
    }
    Some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_of_a_plugin_is_marked_with_its_driver_and_no_other_is() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>();
        let (ebs, mark) = (("by", "kubernetes.io/aws-ebs"), (MIGRATED_TO, "ebs.csi.aws.com"));
        let other = ("by", "x/p");
        let cases = [
            (map(&[]), None),
            (map(&[other]), None),
            (map(&[ebs]), Some(map(&[ebs, mark]))),
            (map(&[ebs, mark]), None),
            (map(&[("older", ebs.1)]), Some(map(&[("older", ebs.1), mark]))),
            (map(&[other, mark]), Some(map(&[other]))),
        ];
        for (before, after) in cases {
            assert_eq!(marked(Some(&before), &["by", "older"]), after, "{before:?}");
        }
    }
}
