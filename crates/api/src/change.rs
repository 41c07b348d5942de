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

/// What a subscription told, when each of its listings is put together first.
#[derive(Clone, Debug)]
pub enum News {
    /// The object looks like this now.
    Set(Arc<Object>),
    /// The object is gone.
    Gone(Arc<Object>),
    /// These are all there are, as of this revision.
    All(Vec<Arc<Object>>, u64),
}

/// Puts the listings of one subscription together, as `AtomicFIFO` of 1.36 does. Half of a second listing beside half of what
/// was known is a state that never was: who decides by that evicts two pods where one would do, refuses a pod for the sake of one
/// that is gone, or gives a port away that is in use. A listing that breaks off is never told.
#[derive(Debug, Default)]
pub struct Listings {
    under_way: Option<Vec<Arc<Object>>>,
}

impl Listings {
    /// What is to be taken in now; nothing while a listing comes.
    pub fn take(&mut self, change: Change) -> Option<News> {
        match (change, &mut self.under_way) {
            (Change::Restart, listing) => {
                *listing = Some(Vec::new());
                None
            }
            (Change::Set(object), Some(listed)) => {
                listed.push(object);
                None
            }
            (Change::Gone(object), Some(listed)) => {
                listed.retain(|o| o.key != object.key);
                None
            }
            (Change::Set(object), None) => Some(News::Set(object)),
            (Change::Gone(object), None) => Some(News::Gone(object)),
            (Change::Synced(revision), listing) => listing.take().map(|listed| News::All(listed, revision)),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str) -> Arc<Object> {
        let json = format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"a","uid":"{name}"}}}}"#);
        Arc::new(Object::from_json(json.into()).expect("an object"))
    }

    fn told(changes: Vec<Change>) -> Vec<String> {
        let mut listings = Listings::default();
        let news = changes.into_iter().filter_map(|change| listings.take(change));
        let words = news.map(|news| match news {
            News::Set(object) => format!("set {}", object.key.name),
            News::Gone(object) => format!("gone {}", object.key.name),
            News::All(all, at) => format!("{at}: {}", all.iter().map(|o| &*o.key.name).collect::<Vec<_>>().join(" ")),
        });
        words.collect()
    }

    #[test]
    fn a_listing_is_told_when_it_is_whole_and_one_that_breaks_off_never() {
        let set = |name: &str| Change::Set(object(name));
        let broken = vec![Change::Restart, set("x"), set("y")];
        let whole = vec![Change::Restart, set("a"), set("b"), Change::Gone(object("a")), set("c"), Change::Synced(7)];
        let after = vec![set("d"), Change::Gone(object("b")), Change::Restart, Change::Synced(9)];
        assert_eq!(told([broken, whole, after].concat()), ["7: b c", "set d", "gone b", "9: "]);
    }
}
