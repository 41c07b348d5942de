//! What one node needs: volumes attached, detached, reported. Pure.
//!
//! Source: `pkg/controller/volume/attachdetach/reconciler`, `pkg/volume/csi/csi_attacher.go`.

use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// A volume that pods of the node use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Name of the PersistentVolume.
    pub volume: String,
    pub driver: String,
    pub handle: String,
    /// It may be attached to one node only.
    pub exclusive: bool,
}

/// A VolumeAttachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attachment {
    pub name: String,
    /// Name of the PersistentVolume.
    pub volume: String,
    /// How nodes call the volume.
    pub unique: String,
    pub node: String,
    pub attached: bool,
    pub deleting: bool,
}

/// What decides about detaching.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeFacts {
    /// The kubelet leaves attaching to us.
    pub managed: bool,
    /// Volumes that the node has mounted (`status.volumesInUse`).
    pub in_use: BTreeSet<String>,
    /// The node cannot be trusted to unmount, and has had its time to.
    pub given_up: bool,
}

/// What a node needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    pub attach: Vec<Wanted>,
    /// Attached to another node as well, and not allowed to be.
    pub refused: Vec<Wanted>,
    /// Names of attachments to delete.
    pub detach: Vec<String>,
    /// How many of them are still mounted.
    pub forced: usize,
    /// Volumes that are not wanted but still mounted.
    pub waiting: Vec<String>,
    /// `status.volumesAttached`.
    pub report: BTreeSet<String>,
}

/// How nodes call a CSI volume.
pub(super) fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// The name of an attachment: the same for the same volume on the same node, so that there are never two.
pub(super) fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    let digest = Sha256::digest(format!("{handle}{driver}{node}"));
    let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    format!("csi-{hex}")
}

/// Whether an attachment has a name that is given here. Others were made by somebody else, who has to delete them.
fn is_ours(name: &str) -> bool {
    name.strip_prefix("csi-").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// `here` are the attachments of the node, `elsewhere` those of the wanted volumes on other nodes.
pub(super) fn plan(node: &str, facts: &NodeFacts, wanted: &[Wanted], here: &[Attachment], elsewhere: &[Attachment]) -> Steps {
    let mut steps = Steps::default();
    let existing: BTreeMap<&str, &Attachment> = here.iter().map(|a| (a.name.as_str(), a)).collect();
    let mut needed = BTreeSet::new();
    for want in wanted.iter().filter(|_| facts.managed) {
        let name = attachment_name(&want.handle, &want.driver, node);
        let known = existing.get(name.as_str());
        needed.insert(name);
        if known.is_some() {
            continue;
        }
        let other = elsewhere.iter().any(|a| a.volume == want.volume && a.node != node);
        if want.exclusive && other { steps.refused.push(want.clone()) } else { steps.attach.push(want.clone()) }
    }
    for attachment in here.iter().filter(|a| is_ours(&a.name)) {
        if needed.contains(&attachment.name) || attachment.deleting {
            // One that is being deleted is not safe to use any more.
            if attachment.attached && !attachment.deleting {
                steps.report.insert(attachment.unique.clone());
            }
        } else if facts.in_use.contains(&attachment.unique) && !facts.given_up {
            steps.waiting.push(attachment.name.clone());
            steps.report.insert(attachment.unique.clone());
        } else {
            steps.forced += usize::from(facts.in_use.contains(&attachment.unique));
            steps.detach.push(attachment.name.clone());
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(handle: &str, exclusive: bool) -> Wanted {
        Wanted { volume: format!("pv-{handle}"), driver: "d".into(), handle: handle.into(), exclusive }
    }

    fn attachment(handle: &str, node: &str, attached: bool, deleting: bool) -> Attachment {
        Attachment {
            name: attachment_name(handle, "d", node),
            volume: format!("pv-{handle}"),
            unique: unique_name("d", handle),
            node: node.into(),
            attached,
            deleting,
        }
    }

    fn facts(in_use: &[&str], given_up: bool) -> NodeFacts {
        NodeFacts { managed: true, in_use: in_use.iter().map(|h| unique_name("d", h)).collect(), given_up }
    }

    #[test]
    fn a_wanted_volume_is_attached_once_and_reported_when_it_is() {
        let wanted = [want("a", true)];
        assert_eq!(plan("n", &facts(&[], false), &wanted, &[], &[]).attach, wanted);
        let pending = plan("n", &facts(&[], false), &wanted, &[attachment("a", "n", false, false)], &[]);
        assert_eq!(pending, Steps::default());
        let done = plan("n", &facts(&[], false), &wanted, &[attachment("a", "n", true, false)], &[]);
        assert_eq!(done.report.into_iter().collect::<Vec<_>>(), ["kubernetes.io/csi/d^a"]);
        assert_eq!(plan("n", &NodeFacts::default(), &wanted, &[], &[]), Steps::default(), "such a kubelet attaches itself");
    }

    #[test]
    fn an_attachment_that_somebody_else_made_is_left_alone() {
        let theirs = Attachment { name: "va-e2e".into(), ..attachment("a", "n", true, false) };
        assert_eq!(plan("n", &facts(&[], true), &[], &[theirs], &[]), Steps::default());
    }

    #[test]
    fn an_exclusive_volume_is_not_attached_to_a_second_node() {
        let elsewhere = [attachment("a", "m", true, true)];
        assert_eq!(plan("n", &facts(&[], false), &[want("a", true)], &[], &elsewhere).refused, [want("a", true)]);
        assert_eq!(plan("n", &facts(&[], false), &[want("a", false)], &[], &elsewhere).attach, [want("a", false)]);
    }

    #[test]
    fn a_mounted_volume_is_detached_only_when_the_node_is_given_up() {
        let here = [attachment("a", "n", true, false)];
        let name = attachment_name("a", "d", "n");
        let cases = [(facts(&["a"], false), false), (facts(&[], false), true), (facts(&["a"], true), true)];
        for (facts, detached) in cases {
            let steps = plan("n", &facts, &[], &here, &[]);
            assert_eq!(steps.detach.contains(&name), detached, "{facts:?}");
            assert_eq!(steps.waiting.contains(&name), !detached);
            assert_eq!(steps.report.is_empty(), detached, "what is being detached is not reported as attached");
        }
    }
}
