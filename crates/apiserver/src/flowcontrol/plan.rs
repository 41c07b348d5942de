//! The schemas and levels of one moment. Levels outlive plans: seats taken under one plan are given back under the next.

use super::classify::{Schema, SchemaSpec};
use super::level::{Level, Queuing, Shape};
use super::metrics::Counts;
use crate::attributes::UserInfo;
use crate::request::RequestInfo;
use ferrokube_api::Object;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// `PriorityLevelConfigurationSpec`.
#[derive(Debug, Deserialize)]
struct LevelSpec {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    limited: Option<Limited>,
    #[serde(default)]
    exempt: Option<Exempt>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Limited {
    #[serde(default = "default_shares")]
    nominal_concurrency_shares: u32,
    #[serde(default)]
    lendable_percent: u32,
    #[serde(default)]
    borrowing_limit_percent: Option<u32>,
    limit_response: LimitResponse,
}

fn default_shares() -> u32 {
    30
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Exempt {
    nominal_concurrency_shares: u32,
    lendable_percent: u32,
}

#[derive(Debug, Deserialize)]
struct LimitResponse {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    queuing: Option<Queuing>,
}

/// A level as its object says.
struct Wanted {
    uid: String,
    shares: u32,
    lendable: u32,
    borrowing: Option<u32>,
    exempt: bool,
    queuing: Option<Queuing>,
}

impl From<(String, LevelSpec)> for Wanted {
    fn from((uid, spec): (String, LevelSpec)) -> Self {
        match (spec.kind.as_str(), spec.limited) {
            ("Limited", Some(limited)) => Wanted {
                uid,
                shares: limited.nominal_concurrency_shares,
                lendable: limited.lendable_percent.min(100),
                borrowing: limited.borrowing_limit_percent,
                exempt: false,
                queuing: (limited.limit_response.kind == "Queue").then(|| limited.limit_response.queuing.unwrap_or_default()),
            },
            _ => {
                let exempt = spec.exempt.unwrap_or_default();
                let (shares, lendable) = (exempt.nominal_concurrency_shares, exempt.lendable_percent.min(100));
                Wanted { uid, shares, lendable, borrowing: None, exempt: true, queuing: None }
            }
        }
    }
}

/// The configuration of one moment.
pub(super) struct Plan {
    /// In the order in which they are asked.
    pub schemas: Vec<Arc<Schema>>,
    pub levels: BTreeMap<String, Arc<Level>>,
    /// FlowSchemas whose level does not exist.
    pub dangling: Vec<String>,
    counts: BTreeMap<String, Arc<Counts>>,
    last: Arc<Schema>,
}

#[derive(Deserialize)]
struct Spec<T> {
    spec: T,
}

fn decoded<T: serde::de::DeserializeOwned>(object: &Object) -> Option<(String, String, T)> {
    let spec = object.decode::<Spec<T>>();
    let spec = spec.inspect_err(|error| tracing::error!(%error, name = %object.key.name, "an object of flow control is not understood"));
    Some((object.key.name.to_string(), object.uid.to_string(), spec.ok()?.spec))
}

impl Plan {
    /// What must exist: the exempt level and the last resort.
    pub fn mandatory(seats: u32) -> Self {
        Self::build(&[], &[], None, seats)
    }

    /// From objects. Levels that were there before keep what goes on in them.
    pub fn build(schemas: &[Arc<Object>], levels: &[Arc<Object>], before: Option<&Plan>, seats: u32) -> Self {
        let mut wanted: BTreeMap<String, Wanted> =
            levels.iter().filter_map(|o| decoded::<LevelSpec>(o)).map(|(name, uid, spec)| (name, Wanted::from((uid, spec)))).collect();
        let fixed = |shares, exempt| Wanted { uid: String::new(), shares, lendable: 0, borrowing: None, exempt, queuing: None };
        wanted.entry("exempt".to_owned()).or_insert_with(|| fixed(0, true));
        wanted.entry("catch-all".to_owned()).or_insert_with(|| fixed(5, false));
        let total: u32 = wanted.values().map(|w| w.shares).sum::<u32>().max(1);
        let levels: BTreeMap<String, Arc<Level>> = wanted
            .into_iter()
            .map(|(name, wanted)| {
                let known = before.and_then(|p| p.levels.get(&name)).cloned();
                let level = known.unwrap_or_else(|| Arc::new(Level::new(&name)));
                level.reshape(shape(&wanted, total, seats));
                (name, level)
            })
            .collect();
        let mut plan = Plan { schemas: Vec::new(), dangling: Vec::new(), counts: BTreeMap::new(), last: last_resort(&levels), levels };
        for (name, uid, spec) in schemas.iter().filter_map(|o| decoded::<SchemaSpec>(o)) {
            plan.add(name, &uid, spec, before);
        }
        plan.last = plan.schemas.iter().find(|s| s.name == "catch-all").unwrap_or(&plan.last).clone();
        if plan.schemas.iter().all(|s| s.name != "exempt") {
            let counts = plan.counted("exempt", before);
            plan.schemas.push(Arc::new(Schema::new(
                "exempt".to_owned(),
                "",
                mandatory_spec("exempt"),
                plan.levels["exempt"].clone(),
                counts,
            )));
        }
        plan.schemas.sort_by(|a, b| a.order().cmp(&b.order()));
        plan
    }

    fn counted(&mut self, name: &str, before: Option<&Plan>) -> Arc<Counts> {
        let counts = before.and_then(|p| p.counts.get(name)).cloned().unwrap_or_default();
        self.counts.insert(name.to_owned(), counts.clone());
        counts
    }

    fn add(&mut self, name: String, uid: &str, spec: SchemaSpec, before: Option<&Plan>) {
        match self.levels.get(&spec.priority_level_configuration.name).cloned() {
            None => self.dangling.push(name),
            Some(level) => {
                let counts = self.counted(&name, before);
                self.schemas.push(Arc::new(Schema::new(name, uid, spec, level, counts)));
            }
        }
    }

    /// The first schema that matches.
    pub fn classify(&self, info: &RequestInfo, user: &UserInfo) -> Arc<Schema> {
        self.schemas.iter().find(|s| s.matches(info, user)).unwrap_or(&self.last).clone()
    }
}

/// Seats of a level: its share of all, what of it may be lent, and how far it may borrow.
fn shape(wanted: &Wanted, shares: u32, seats: u32) -> Shape {
    let nominal = (u64::from(seats) * u64::from(wanted.shares)).div_ceil(u64::from(shares)) as u32;
    let percent = |of: u32, percent: u32| (f64::from(of) * f64::from(percent) / 100.0).round() as u32;
    let max = wanted.borrowing.map_or(seats, |p| nominal.saturating_add(percent(nominal, p)));
    Shape {
        uid: http::HeaderValue::from_str(&wanted.uid).unwrap_or(http::HeaderValue::from_static("")),
        exempt: wanted.exempt,
        nominal,
        min: nominal - percent(nominal, wanted.lendable),
        max: max.max(nominal),
        queuing: wanted.queuing.clone(),
    }
}

fn mandatory_spec(name: &str) -> SchemaSpec {
    let spec = ferrokube_api::kinds::mandatory_schema(name).unwrap_or_default();
    serde_json::from_value(spec).expect("a literal that fits its type")
}

fn last_resort(levels: &BTreeMap<String, Arc<Level>>) -> Arc<Schema> {
    const NAME: &str = "catch-all";
    Arc::new(Schema::new(NAME.to_owned(), "", mandatory_spec(NAME), levels[NAME].clone(), Arc::default()))
}
