//! The options of list and watch, checked as `ValidateListOptions` does.

use super::continuation::Position;
use crate::cache::Interest;
use crate::registry::Entry;
use crate::request::{Query, RequestInfo};
use ferrokube_api::field::{Errors, Path};
use ferrokube_api::labels::{FieldSelector, ResolvedFields, Selector};
use ferrokube_api::{Object, Status};
use std::num::{IntErrorKind, ParseIntError};
use std::time::Duration;

/// `resourceVersionMatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// Not given.
    Unset,
    /// `Exact`.
    Exact,
    /// `NotOlderThan`.
    NotOlderThan,
}

/// Which revision of the objects is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Everything acknowledged before the request.
    Latest,
    /// Whatever is at hand.
    Any,
    /// At least this revision.
    NotOlderThan(u64),
    /// Exactly this revision.
    Exact(u64),
}

/// What to select.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Label selector.
    pub labels: Selector,
    /// Field selector, resolved against the row.
    pub fields: ResolvedFields,
    /// What of the field selector is true of objects in the version of the row only, which the cache does not hold
    /// ([`Custom::own_fields`](crate::registry::Custom::own_fields)): looked at after conversion.
    pub shown: ResolvedFields,
}

impl Selection {
    /// Reads `labelSelector` and `fieldSelector`.
    fn parse(query: &Query, entry: &Entry, info: &RequestInfo) -> Result<Self, Status> {
        let labels = Selector::parse(query.get("labelSelector")).map_err(Status::bad_request)?;
        let fields = FieldSelector::parse(query.get("fieldSelector")).map_err(Status::bad_request)?;
        let fields = fields.resolve(&entry.kind).map_err(Status::bad_request)?;
        one_name(info, &fields)?;
        let (fields, shown) = match &entry.custom {
            Some(custom) if custom.own_fields => fields.apart(),
            _ => (fields, ResolvedFields::default()),
        };
        Ok(Selection { labels, fields, shown })
    }

    /// Whether an object of the cache is selected, as far as the cache can tell.
    pub fn matches(&self, object: &Object) -> bool {
        self.labels.matches(object) && self.fields.matches(object)
    }

    /// Whether everything is selected.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything() && self.shown.is_everything()
    }

    /// As the cache's watchers are told.
    pub fn interest(self, namespace: &str, name: &str) -> Interest {
        let mut interest = Interest::all();
        interest.namespace =
            if namespace.is_empty() { self.fields.exact_namespace().unwrap_or_default().to_owned() } else { namespace.to_owned() };
        interest.name = if name.is_empty() { self.fields.exact_name().unwrap_or_default().to_owned() } else { name.to_owned() };
        interest.field = (0..16).find_map(|at| Some((at, self.fields.exact_field(at)?.to_owned())));
        if !self.is_everything() {
            interest.matches = Some(Box::new(move |object| self.matches(object)));
        }
        interest
    }
}

/// `metav1.ListOptions`.
#[derive(Clone, Debug)]
pub struct ListOptions {
    /// What to select.
    pub selection: Selection,
    /// Which revision.
    pub freshness: Freshness,
    /// Where to go on.
    pub position: Option<Position>,
    /// 0: all.
    pub limit: usize,
    /// How long the request may take.
    pub timeout: Option<Duration>,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// `sendInitialEvents`.
    pub initial_events: Option<bool>,
    /// `resourceVersion` as sent.
    pub version: String,
}

/// Reads a resource version of the query. Upstream reports what is none as the client's mistake to those who list, and to those who get
/// and watch as its own.
pub fn revision(text: &str, listing: bool) -> Result<u64, Status> {
    text.parse().map_err(|error: ParseIntError| {
        let why = if *error.kind() == IntErrorKind::PosOverflow { "value out of range" } else { "invalid syntax" };
        let message = format!("resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: {why}");
        match listing {
            true => Status::bad_request(format!("invalid resource version: {message}")),
            false => Status::untyped(message),
        }
    })
}

/// A path that names an object, and a selector that names another one.
fn one_name(info: &RequestInfo, fields: &ResolvedFields) -> Result<(), Status> {
    let agrees = info.name.is_empty() || fields.is_everything() || fields.exact_name() == Some(info.name.as_str());
    if agrees { Ok(()) } else { Err(Status::bad_request("fieldSelector metadata.name doesn't match requested name")) }
}

fn forbid(errors: &mut Errors, field: &str, why: &str) {
    errors.forbidden(&Path::new(field), why);
}

/// `ValidateListOptions`, its findings in its order.
fn check(query: &Query, watch: bool, initial: Option<bool>) -> Result<Match, Status> {
    let (version, matching) = (query.get("resourceVersion"), query.get("resourceVersionMatch"));
    let continues = !query.get("continue").is_empty();
    let mut errors = Errors::default();
    let found = match matching {
        "Exact" => Match::Exact,
        "NotOlderThan" => Match::NotOlderThan,
        _ => Match::Unset,
    };
    let unsupported =
        |errors: &mut Errors, known: &[&str]| errors.not_supported(&Path::new("resourceVersionMatch"), &matching.into(), known);
    if watch && initial.is_some() && found != Match::NotOlderThan {
        forbid(&mut errors, "resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if watch && !matching.is_empty() {
        if initial.is_none() {
            forbid(&mut errors, "resourceVersionMatch", "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        }
        if found != Match::NotOlderThan {
            unsupported(&mut errors, &["NotOlderThan"]);
        }
    }
    if !watch && !matching.is_empty() && version.is_empty() {
        forbid(&mut errors, "resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided");
    }
    if !matching.is_empty() && continues {
        forbid(&mut errors, "resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
    }
    if !watch && !matching.is_empty() && found == Match::Unset {
        unsupported(&mut errors, &["Exact", "NotOlderThan", ""]);
    }
    if !watch && found == Match::Exact && version == "0" {
        forbid(&mut errors, "resourceVersionMatch", "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
    }
    if !watch && initial.is_some() {
        forbid(&mut errors, "sendInitialEvents", "sendInitialEvents is forbidden for list");
    }
    if errors.is_empty() { Ok(found) } else { Err(Status::invalid("meta.k8s.io", "ListOptions", "", errors.into_causes())) }
}

impl ListOptions {
    /// How many objects of the cache make a page. All are looked at when it cannot tell which are selected.
    pub fn cached_limit(&self) -> usize {
        if self.selection.shown.is_everything() { self.limit } else { 0 }
    }

    /// Reads and checks the query.
    pub fn parse(query: &Query, entry: &Entry, info: &RequestInfo) -> Result<Self, Status> {
        let watch = info.verb == "watch";
        let limit = query.number("limit")?.unwrap_or(0);
        let seconds = query.number("timeoutSeconds")?.filter(|s| *s > 0);
        let initial = query.find("sendInitialEvents").map(|_| query.flag("sendInitialEvents"));
        let matching = check(query, watch, initial)?;
        let selection = Selection::parse(query, entry, info)?;
        let version = query.get("resourceVersion").to_owned();
        let position = match query.get("continue") {
            "" => None,
            _ if watch => None,
            _ if !matches!(version.as_str(), "" | "0") => {
                return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
            }
            token => Some(Position::decode(token)?),
        };
        let freshness = match (version.as_str(), matching) {
            ("", _) => Freshness::Latest,
            ("0", _) => Freshness::Any,
            (text, Match::Exact) => Freshness::Exact(revision(text, !watch)?),
            // The legacy meaning of a revision together with a limit.
            (text, Match::Unset) if limit > 0 && !watch => Freshness::Exact(revision(text, !watch)?),
            (text, _) => Freshness::NotOlderThan(revision(text, !watch)?),
        };
        Ok(ListOptions {
            selection,
            freshness,
            position,
            limit: usize::try_from(limit).unwrap_or(0),
            timeout: seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs),
            bookmarks: query.flag("allowWatchBookmarks"),
            initial_events: initial,
            version,
        })
    }
}
