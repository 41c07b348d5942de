//! Rows that 1.36 serves only when it is told to: their version is switched on, and so is the feature they belong to
//! if there is one.
//!
//! They are known like any other row (their objects are read, their types described) but stand in no discovery, and no path leads
//! to them, until [`super::super::served`] gives them to a server.

use super::row::Group;
use super::{GroupVersion, columns, gv};
use crate::features::STORAGE_VERSION_MIGRATOR;
use crate::kinds::{Kind, cells, storage_migration, storage_version};
use std::sync::LazyLock;

/// A row with the feature that it needs.
#[derive(Clone, Debug)]
pub struct Optional {
    /// Name of the feature gate; some rows need none besides their version.
    pub feature: Option<&'static str>,
    /// The row.
    pub kind: Kind,
}

/// The groups and versions of optional rows, in the order of discovery. All of them come after those that are served by default.
pub const OPTIONAL_GROUP_VERSIONS: &[GroupVersion] =
    &[gv("internal.apiserver.k8s.io", "v1alpha1", 16000, 9), gv("storagemigration.k8s.io", "v1beta1", 15800, 9)];

const INTERNAL: Group = Group("internal.apiserver.k8s.io", "v1alpha1", "io.k8s.api.apiserverinternal.v1alpha1");
const STORAGE_MIGRATION: Group = Group("storagemigration.k8s.io", "v1beta1", "io.k8s.api.storagemigration.v1beta1");

fn rows() -> Vec<Optional> {
    let version = INTERNAL
        .cluster("StorageVersion", "storageversions")
        .status()
        .table(columns::STORAGE_VERSION, cells::storage_version)
        .hooks(storage_version::STORAGE_VERSION)
        .done();
    let migration = STORAGE_MIGRATION
        .cluster("StorageVersionMigration", "storageversionmigrations")
        .status()
        .table(columns::STORAGE_VERSION_MIGRATION, cells::storage_version_migration)
        .hooks(storage_migration::MIGRATION)
        .done();
    vec![Optional { feature: None, kind: version }, Optional { feature: Some(STORAGE_VERSION_MIGRATOR), kind: migration }]
}

static ROWS: LazyLock<Vec<Optional>> = LazyLock::new(rows);

/// Every optional row.
pub fn optional() -> &'static [Optional] {
    &ROWS
}
