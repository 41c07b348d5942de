//! Requests that a server has answered, by its own count (`apiserver_request_total`).

use crate::connect::{Call, Server};
use std::collections::BTreeMap;

/// Requests by verb and resource, such as `POST pods/binding`.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests(BTreeMap<String, u64>);

impl Requests {
    /// Those so far.
    pub async fn read(server: &Server) -> anyhow::Result<Requests> {
        let text = server.ok(0, Call { accept: "text/plain", ..Call::get("/metrics") }).await?;
        Ok(Requests::parse(&String::from_utf8_lossy(&text)))
    }

    fn parse(text: &str) -> Requests {
        let mut counts = BTreeMap::new();
        for line in text.lines().filter_map(|l| l.strip_prefix("apiserver_request_total{")) {
            let Some((labels, value)) = line.rsplit_once("} ") else { continue };
            let label = |name: &str| {
                let (_, rest) = labels.split_once(&format!("{name}=\""))?;
                rest.split_once('"').map(|(value, _)| value)
            };
            let (Some(verb), Some(resource)) = (label("verb"), label("resource")) else { continue };
            let what = match label("subresource").unwrap_or_default() {
                "" => format!("{verb} {resource}"),
                sub => format!("{verb} {resource}/{sub}"),
            };
            *counts.entry(what).or_default() += value.parse::<f64>().unwrap_or(0.0) as u64;
        }
        Requests(counts)
    }

    /// Those that came after `before`, of which a measurement can tell something: no watches, no leases.
    pub fn since(&self, before: &Requests) -> Requests {
        let told = |what: &str| !what.starts_with("WATCH") && !what.contains("leases") && !what.ends_with(' ');
        let counts = self.0.iter().filter(|(what, _)| told(what)).filter_map(|(what, count)| {
            let more = count.saturating_sub(before.0.get(what).copied().unwrap_or(0));
            (more > 0).then(|| (what.clone(), more))
        });
        Requests(counts.collect())
    }

    /// How many.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// The most frequent ones first.
    pub fn spoken(&self) -> String {
        let mut counts: Vec<(&String, &u64)> = self.0.iter().collect();
        counts.sort_by(|a, b| b.1.cmp(a.1));
        counts.iter().take(8).map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_verb_and_resource_whatever_their_answer() {
        let text = |n: u32| {
            format!(
                "# HELP apiserver_request_total x\n\
                 apiserver_request_total{{code=\"201\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"binding\",verb=\"POST\",version=\"v1\"}} {n}\n\
                 apiserver_request_total{{code=\"404\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"binding\",verb=\"POST\",version=\"v1\"}} 1\n\
                 apiserver_request_total{{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"cluster\",subresource=\"\",verb=\"WATCH\",version=\"v1\"}} {n}\n"
            )
        };
        let more = Requests::parse(&text(9)).since(&Requests::parse(&text(4)));
        assert_eq!((more.total(), more.spoken().as_str()), (5, "POST pods/binding 5"));
    }
}
