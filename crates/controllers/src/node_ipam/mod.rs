//! Pod ranges of nodes: every node gets a share of the cluster's range, one of each family.
//!
//! Reads nodes; writes `spec.podCIDR` and `spec.podCIDRs` of those that have none. Owns which shares are taken, in
//! [`ranges::Ranges`]. One worker, so that two nodes never get the same share. Source: `pkg/controller/nodeipam` (RangeAllocator).

mod measure;
mod ranges;

use crate::Context;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType;
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error, Named, Object, Optional, Patch};
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
pub(crate) use ranges::Cidr;
use ranges::Ranges;
use serde_json::json;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// What is taken, and by whom it was when the node was last seen.
#[derive(Default)]
struct Taken {
    ranges: Vec<Ranges>,
    by_node: HashMap<String, Vec<String>>,
    /// Nodes for which there was nothing left, in the order in which they asked.
    waiting: VecDeque<Arc<str>>,
}

/// Runs the controller; without ranges it does nothing (`--allocate-node-cidrs=false`).
pub(crate) async fn run(context: Context) {
    let Some(config) = &context.config.node_cidrs else { return std::future::pending().await };
    let mut ranges = Vec::new();
    for text in &config.cluster {
        match Ranges::new(text, config.mask_ipv4, config.mask_ipv6, &context.metrics) {
            Ok(range) => ranges.push(range),
            Err(e) => {
                tracing::error!("nodes get no pod ranges: {e}");
                return std::future::pending().await;
            }
        }
    }
    config.services.iter().for_each(|services| ranges.iter_mut().for_each(|r| r.occupy(services)));
    let taken = Arc::new(Mutex::new(Taken { ranges, ..Taken::default() }));
    let nodes: Cache<Node> = context.caches.of();
    // What nodes have is known before the first share is given.
    nodes.synced().await;
    let queue: Queue<Arc<str>> = context.queue("cidrallocator_node");
    let (add, noted) = (queue.clone(), taken.clone());
    nodes.on_change(move |d| {
        let mut taken = noted.lock();
        match d.new {
            Some(node) => {
                let has = cidrs(node);
                if has.is_empty() {
                    add.add(d.key().name.clone());
                } else {
                    taken.occupy(&d.key().name, has);
                }
            }
            None => taken.release(&d.key().name),
        }
        // What came free is for those that wait, and whoever waits in vain asks again when the next share comes free.
        taken.next_in_turn().into_iter().for_each(|name| add.add(name));
    });
    let reconcile = |name: Arc<str>| {
        let (context, nodes, taken) = (&context, &nodes, &taken);
        async move {
            match nodes.read("", &name)? {
                Some(node) => assign(context, taken, &node).await,
                None => Ok(Next::Wait),
            }
        }
    };
    controller::run::<_, Error, _, _>("node-ipam", queue, 1, reconcile).await;
}

fn cidrs(node: &Object) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Outer {
        #[serde(default)]
        spec: Inner,
    }
    #[derive(serde::Deserialize, Default)]
    #[serde(rename_all = "camelCase")]
    struct Inner {
        #[serde(default, rename = "podCIDRs")]
        pod_cidrs: Vec<String>,
        #[serde(default, rename = "podCIDR")]
        pod_cidr: Option<String>,
    }
    let spec = node.decode::<Outer>().map(|o| o.spec).unwrap_or_default();
    if spec.pod_cidrs.is_empty() { spec.pod_cidr.into_iter().filter(|c| !c.is_empty()).collect() } else { spec.pod_cidrs }
}

async fn assign(context: &Context, taken: &Mutex<Taken>, node: &Node) -> Result<Next, Error> {
    let has = node.spec.as_ref().and_then(|s| s.pod_cidrs.as_ref()).is_some_and(|c| !c.is_empty());
    if has || node.metadata.deletion_timestamp.is_some() {
        return Ok(Next::Wait);
    }
    let Some(shares) = taken.lock().take(node.name()) else {
        context.recorder.about(
            node,
            EventType::Normal,
            "CIDRNotAvailable",
            format!("Node {} status is now: CIDRNotAvailable", node.name()),
        );
        return Ok(Next::Wait);
    };
    let patch = json!({"metadata": {"uid": node.uid()}, "spec": {"podCIDR": shares.first(), "podCIDRs": shares}});
    match context.client.patch::<Node>("", node.name(), &Patch::Strategic(patch)).await.optional() {
        Ok(Some(_)) => Ok(Next::Wait),
        Ok(None) => {
            taken.lock().release(node.name());
            Ok(Next::Wait)
        }
        Err(e) => {
            // A refusal gives the share back. Without an answer the write may have happened: the share stays this node's.
            if e.status().is_some() {
                taken.lock().release(node.name());
            }
            let message = format!("Node {} status is now: CIDRAssignmentFailed", node.name());
            context.recorder.about(node, EventType::Normal, "CIDRAssignmentFailed", message);
            Err(e)
        }
    }
}

impl Taken {
    fn occupy(&mut self, node: &str, cidrs: Vec<String>) {
        if self.by_node.get(node) == Some(&cidrs) {
            return;
        }
        self.release(node);
        cidrs.iter().for_each(|cidr| self.ranges.iter_mut().for_each(|r| r.occupy(cidr)));
        self.by_node.insert(node.to_owned(), cidrs);
    }

    fn release(&mut self, node: &str) {
        for cidr in self.by_node.remove(node).unwrap_or_default() {
            self.ranges.iter_mut().for_each(|r| r.release(&cidr));
        }
    }

    /// The node that has waited longest, when there is something for it.
    fn next_in_turn(&mut self) -> Option<Arc<str>> {
        self.ranges.iter().all(Ranges::has_free).then(|| self.waiting.pop_front()).flatten()
    }

    /// A share of every range, or none at all. A node that was given shares before keeps them.
    fn take(&mut self, node: &str) -> Option<Vec<String>> {
        if let Some(before) = self.by_node.get(node) {
            return Some(before.clone());
        }
        let mut shares = Vec::new();
        for range in &mut self.ranges {
            match range.take() {
                Some(share) => shares.push(share),
                None => {
                    shares.iter().for_each(|share| self.ranges.iter_mut().for_each(|r| r.release(share)));
                    self.waiting.push_back(node.into());
                    return None;
                }
            }
        }
        self.by_node.insert(node.to_owned(), shares.clone());
        Some(shares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrokube_client::metrics::Metrics;

    fn taken(ranges: &[&str]) -> Taken {
        let ranges = ranges.iter().map(|r| Ranges::new(r, 24, 64, &Metrics::default()).unwrap()).collect();
        Taken { ranges, ..Taken::default() }
    }

    #[test]
    fn a_node_gets_a_share_of_each_family_or_nothing() {
        let mut both = taken(&["10.244.0.0/23", "fd00::/64"]);
        assert_eq!(both.take("a"), Some(vec!["10.244.0.0/24".to_owned(), "fd00::/64".to_owned()]));
        assert_eq!(both.take("a").unwrap()[0], "10.244.0.0/24", "asked again, the same");
        assert_eq!(both.take("b"), None, "one family is used up");
        both.release("a");
        assert!(both.take("b").is_some(), "nothing was lost when there was not enough");
    }

    #[test]
    fn nodes_that_got_nothing_have_their_turn_when_shares_come_free() {
        let mut one = taken(&["10.244.0.0/24"]);
        assert!(one.take("a").is_some() && one.take("b").is_none() && one.take("c").is_none());
        assert_eq!(one.next_in_turn(), None);
        one.release("a");
        assert_eq!(one.next_in_turn().as_deref(), Some("b"));
        assert!(one.take("b").is_some());
        assert_eq!(one.next_in_turn(), None, "it is the only one");
        one.release("b");
        assert_eq!(one.next_in_turn().as_deref(), Some("c"));
    }

    #[test]
    fn what_nodes_have_is_not_given_again() {
        let mut one = taken(&["10.244.0.0/22"]);
        one.occupy("old", vec!["10.244.0.0/24".to_owned()]);
        assert_eq!(one.take("new").unwrap(), ["10.244.1.0/24"]);
    }
}
