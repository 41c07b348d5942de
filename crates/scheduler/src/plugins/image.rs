//! ImageLocality: nodes that already hold the large images of a pod are better.

use crate::class::Class;
use crate::node::Node;
use crate::state::State;

const SMALLEST: i64 = 23 * 1024 * 1024;
const LARGEST_PER_CONTAINER: i64 = 1000 * 1024 * 1024;

/// The sizes of the images that are there, each scaled by the share of nodes that hold it, from 0 to 100.
pub fn score(state: &State, class: &Class, node: &Node) -> i64 {
    let total = state.order().len().max(1) as f64;
    let scaled = |name: &str| {
        let size = node.image(name).unwrap_or(0);
        (size as f64 * (f64::from(state.nodes_with_image(name)) / total)) as i64
    };
    let sum: i64 = class.images.iter().map(|name| scaled(name)).sum();
    let largest = LARGEST_PER_CONTAINER * class.images.len().max(1) as i64;
    100 * (sum.clamp(SMALLEST, largest) - SMALLEST) / (largest - SMALLEST)
}
