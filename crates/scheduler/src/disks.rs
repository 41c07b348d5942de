//! Disks that pods name themselves, without a claim: two pods of a node must not both write to one. Pure.
//!
//! Only kinds of which this has always been checked; the others look after themselves. Source: `isVolumeConflict` of
//! upstream's VolumeRestrictions.

use serde::Deserialize;
use std::borrow::Cow;

/// A disk as a pod names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disk {
    /// `awsElasticBlockStore`: for one pod, even to read.
    Alone(Box<str>),
    /// `gcePersistentDisk` or `iscsi`, by its name or IQN.
    Shared {
        /// The field of the volume.
        kind: &'static str,
        /// Which one.
        name: Box<str>,
        /// For reading only.
        read_only: bool,
    },
    /// `rbd`.
    Image {
        /// Of which one is enough to be the same cluster.
        monitors: Box<[Box<str>]>,
        /// Pool and image.
        name: (Box<str>, Box<str>),
        /// For reading only.
        read_only: bool,
    },
}

impl Disk {
    /// Whether two pods of a node cannot both have their disks.
    pub fn conflicts(&self, other: &Disk) -> bool {
        match (self, other) {
            (Disk::Alone(a), Disk::Alone(b)) => a == b,
            (Disk::Shared { kind, name, read_only }, Disk::Shared { kind: k, name: n, read_only: r }) => {
                (kind, name) == (k, n) && !(*read_only && *r)
            }
            (Disk::Image { monitors, name, read_only }, Disk::Image { monitors: m, name: n, read_only: r }) => {
                name == n && monitors.iter().any(|one| m.contains(one)) && !(*read_only && *r)
            }
            _ => false,
        }
    }
}

/// Such a source of a volume, as it is written.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Source<'a> {
    /// What the disk is called, in each of the four.
    #[serde(borrow, alias = "pdName", alias = "volumeID", alias = "iqn", alias = "image")]
    name: Cow<'a, str>,
    #[serde(borrow)]
    pool: Option<Cow<'a, str>>,
    #[serde(borrow)]
    monitors: Option<Vec<Cow<'a, str>>>,
    read_only: bool,
}

impl Source<'_> {
    /// As `awsElasticBlockStore`.
    pub(crate) fn alone(&self) -> Disk {
        Disk::Alone((&*self.name).into())
    }

    /// As `gcePersistentDisk` or `iscsi`.
    pub(crate) fn shared(&self, kind: &'static str) -> Disk {
        Disk::Shared { kind, name: (&*self.name).into(), read_only: self.read_only }
    }

    /// As `rbd`.
    pub(crate) fn image(&self) -> Disk {
        Disk::Image {
            monitors: self.monitors.iter().flatten().map(|m| Box::from(&**m)).collect(),
            name: (self.pool.as_deref().unwrap_or("rbd").into(), (&*self.name).into()),
            read_only: self.read_only,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn source(value: &Value) -> Source<'_> {
        Source::deserialize(value).unwrap()
    }

    #[test]
    fn two_pods_must_not_both_write_to_a_disk() {
        let gce = |name: &str, read_only: bool| source(&json!({"pdName": name, "readOnly": read_only})).shared("gcePersistentDisk");
        let iscsi =
            |iqn: &str, read_only: bool| source(&json!({"iqn": iqn, "targetPortal": "p", "lun": 0, "readOnly": read_only})).shared("iscsi");
        let ebs = |id: &str| source(&json!({"volumeID": id, "readOnly": true})).alone();
        let rbd = |monitors: &[&str], image: &str, read_only: bool| {
            source(&json!({"monitors": monitors, "pool": "rbd", "image": image, "readOnly": read_only})).image()
        };
        let cases = [
            (gce("a", false), gce("a", true), true),
            (gce("a", true), gce("a", true), false),
            (gce("a", false), gce("b", false), false),
            (ebs("a"), ebs("a"), true),
            (ebs("a"), gce("a", false), false),
            (iscsi("a", false), iscsi("a", false), true),
            (iscsi("a", false), gce("a", false), false),
            (rbd(&["m1", "m2"], "i", false), rbd(&["m2"], "i", true), true),
            (rbd(&["m1"], "i", false), rbd(&["m2"], "i", false), false),
            (rbd(&["m1"], "i", true), rbd(&["m1"], "i", true), false),
            (rbd(&["m1"], "i", false), rbd(&["m1"], "j", false), false),
        ];
        for (a, b, expected) in cases {
            assert_eq!(a.conflicts(&b), expected, "{a:?} {b:?}");
            assert_eq!(b.conflicts(&a), expected, "{b:?} {a:?}");
        }
    }
}
