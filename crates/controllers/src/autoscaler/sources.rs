//! Where metrics come from: `metrics.k8s.io`, `custom.metrics.k8s.io` and `external.metrics.k8s.io`, which extension API
//! servers serve. Reads only.

use super::calculate::{Sample, Samples};
use ferrokube_api::quantity::Quantity;
use ferrokube_client::{Client, Target};
use http::Method;
use jiff::Timestamp;
use serde_json::Value;

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn milli(value: &Value) -> Option<i64> {
    Quantity::from_json(value).ok().map(|q| q.milli_value())
}

fn query(pairs: &[(&str, &str)]) -> String {
    let given = pairs.iter().filter(|(_, v)| !v.is_empty());
    given.map(|(k, v)| format!("{k}={}", ferrokube_client::percent_encoded(v))).collect::<Vec<_>>().join("&")
}

async fn items(client: &Client, group: &str, version: &str, path: &str, query: &str) -> Result<Vec<Value>, String> {
    let target = Target { group: group.into(), version: version.into(), resource: path.into(), ..Target::default() };
    let answer = client.request(Method::GET, &target, query, None).await.map_err(|e| match e.status().is_some_and(|s| s.code == 404) {
        true => format!("{e} (get {}.{group})", path.rsplit('/').next().unwrap_or_default()),
        false => e.to_string(),
    })?;
    Ok(answer["items"].as_array().cloned().unwrap_or_default())
}

/// CPU or memory of pods, or of one container of each. Pods of which not every container is known are left out.
pub(super) async fn resource(
    client: &Client,
    namespace: &str,
    selector: &str,
    name: &str,
    container: Option<&str>,
) -> Result<Samples, String> {
    let what = format!("namespaces/{namespace}/pods");
    let pods = items(client, "metrics.k8s.io", "v1beta1", &what, &query(&[("labelSelector", selector)])).await;
    let pods =
        pods.map_err(|e| format!("unable to get metrics for resource {name}: unable to fetch metrics from resource metrics API: {e}"))?;
    if pods.is_empty() {
        return Err(format!("unable to get metrics for resource {name}: no metrics returned from resource metrics API"));
    }
    if let Some(wanted) = container
        && let Some(without) = pods.iter().find(|p| !p["containers"].as_array().into_iter().flatten().any(|c| text(c, "name") == wanted))
    {
        let pod = format!("{namespace}/{}", text(&without["metadata"], "name"));
        return Err(format!(
            "unable to get metrics for resource {name}: failed to get container metrics: container {wanted} not present in metrics for pod {pod}"
        ));
    }
    let sample = |pod: &Value| {
        let containers = pod["containers"].as_array()?.iter().filter(|c| container.is_none_or(|name| text(c, "name") == name));
        let used: Option<Vec<i64>> = containers.map(|c| milli(&c["usage"][name])).collect();
        let used = used.filter(|u| !u.is_empty())?;
        let window = text(pod, "window").parse::<jiff::SignedDuration>().map_or(60, |w| w.as_secs());
        let at = text(pod, "timestamp").parse().unwrap_or(Timestamp::UNIX_EPOCH);
        let value = used.iter().fold(0, |sum: i64, used| sum.saturating_add(*used));
        Some((text(&pod["metadata"], "name").to_owned(), Sample { value, at, window }))
    };
    Ok(pods.iter().filter_map(sample).collect())
}

/// A metric that each pod has.
pub(super) async fn pods(client: &Client, namespace: &str, selector: &str, metric: &str, labels: &str) -> Result<Samples, String> {
    let what = format!("namespaces/{namespace}/pods/*/{metric}");
    let wanted = query(&[("labelSelector", selector), ("metricLabelSelector", labels)]);
    let found = items(client, "custom.metrics.k8s.io", "v1beta2", &what, &wanted).await;
    let found = found.map_err(|e| format!("unable to get metric {metric}: unable to fetch metrics from custom metrics API: {e}"))?;
    if found.is_empty() {
        return Err(format!("unable to get metric {metric}: no metrics returned from custom metrics API"));
    }
    let sample = |item: &Value| {
        let at = text(item, "timestamp").parse().unwrap_or(Timestamp::UNIX_EPOCH);
        let window = item["windowSeconds"].as_i64().unwrap_or(60);
        Some((text(&item["describedObject"], "name").to_owned(), Sample { value: milli(&item["value"])?, at, window }))
    };
    Ok(found.iter().filter_map(sample).collect())
}

/// A metric of one object; `resource` as `resource.group`.
pub(super) async fn object(
    client: &Client,
    namespace: &str,
    resource: &str,
    name: &str,
    metric: &str,
    labels: &str,
) -> Result<i64, String> {
    let what = match resource {
        "namespaces" => format!("namespaces/{name}/metrics/{metric}"),
        _ => format!("namespaces/{namespace}/{resource}/{name}/{metric}"),
    };
    let found = items(client, "custom.metrics.k8s.io", "v1beta2", &what, &query(&[("metricLabelSelector", labels)])).await;
    let found = found.map_err(|e| format!("unable to fetch metrics from custom metrics API: {e}"))?;
    found.first().and_then(|item| milli(&item["value"])).ok_or_else(|| "no metrics returned from custom metrics API".into())
}

/// A metric of something outside the cluster: the sum of its series.
pub(super) async fn external(client: &Client, namespace: &str, metric: &str, labels: &str) -> Result<i64, String> {
    let what = format!("namespaces/{namespace}/{metric}");
    let found = items(client, "external.metrics.k8s.io", "v1beta1", &what, &query(&[("labelSelector", labels)])).await;
    let found = found.map_err(|e| format!("unable to fetch metrics from external metrics API: {e}"))?;
    if found.is_empty() {
        return Err("no metrics returned from external metrics API".into());
    }
    Ok(found.iter().filter_map(|item| milli(&item["value"])).fold(0, i64::saturating_add))
}
