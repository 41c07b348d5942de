//! What a subscription delivers: the same whether it comes from the watch cache of this process or over the network.

use crate::Object;
use std::sync::Arc;

/// One step of a subscription to the objects of a kind.
#[derive(Clone, Debug)]
pub enum Change {
    /// A full listing begins (the first thing ever sent, and again after history was lost): objects that are not
    /// `Set` before the next `Synced` no longer exist.
    Restart,
    /// The object exists and looks like this now.
    Set(Arc<Object>),
    /// The object is gone (or no longer matches the selector); this is its last known state.
    Gone(Arc<Object>),
    /// The listing that `Restart` began is complete as of this revision.
    Synced(u64),
}

/// What to subscribe to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selection {
    /// API group; empty for core.
    pub group: String,
    /// Version; any served version of the resource.
    pub version: String,
    /// Plural resource name.
    pub resource: String,
    /// Only this namespace; empty: all.
    pub namespace: String,
    /// `labelSelector` as in a query; empty: all.
    pub labels: String,
    /// `fieldSelector` as in a query; empty: all.
    pub fields: String,
}
