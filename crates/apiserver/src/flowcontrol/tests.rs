//! Levels under load: who gets in, in which order, and who does not.

use super::*;
use crate::objects::testing::Map;
use crate::request::Query;
use http::Method;
use serde_json::{Value, json};

fn info(method: &str, uri: &str) -> RequestInfo {
    let (path, query) = uri.split_once('?').map_or((uri, None), |(p, q)| (p, Some(q)));
    RequestInfo::of(&Method::from_bytes(method.as_bytes()).expect("a method"), path, &Query::parse(query))
}

fn schema(name: &str, level: &str, precedence: u32, subject: Value) -> Value {
    json!({ "metadata": { "name": name }, "spec": {
        "priorityLevelConfiguration": { "name": level }, "matchingPrecedence": precedence,
        "distinguisherMethod": { "type": "ByUser" },
        "rules": [{ "subjects": [subject],
            "resourceRules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true }],
            "nonResourceRules": [{ "verbs": ["get"], "nonResourceURLs": ["/healthz", "/debug/*"] }] }],
    }})
}

fn level(name: &str, shares: u32, lendable: u32, response: Value) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "type": "Limited", "limited": {
        "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response } } })
}

fn queue(queues: u32, hand: u32, length: u32) -> Value {
    json!({ "type": "Queue", "queuing": { "queues": queues, "handSize": hand, "queueLengthLimit": length } })
}

fn everybody() -> Value {
    json!({ "kind": "Group", "group": { "name": "system:authenticated" } })
}

/// Levels `work` (queues) and `strict` (refuses), 95 and 5 parts beside catch-all's 5.
fn control(seats: usize, wait: Duration) -> Arc<FlowControl> {
    let map = Map::default();
    let schemas = [
        map.put("", "s", schema("all", "work", 9000, everybody())),
        map.put("", "s", schema("few", "strict", 100, json!({ "kind": "User", "user": { "name": "impatient" } }))),
        map.put("", "s", schema("lost", "nowhere", 1, everybody())),
    ];
    let levels =
        [map.put("", "l", level("work", 90, 50, queue(64, 6, 50))), map.put("", "l", level("strict", 5, 0, json!({ "type": "Reject" })))];
    let control = FlowControl::new(seats, wait * 4);
    let plan = Plan::build(&schemas, &levels, Some(&control.plan.load()), control.seats);
    assert_eq!(plan.dangling, ["lost"]);
    control.plan.store(Arc::new(plan));
    Arc::new(control)
}

fn user(name: &str) -> UserInfo {
    UserInfo::component(name, &[])
}

async fn enter(control: &FlowControl, name: &str, width: Width) -> Result<Ticket, Status> {
    let (user, info) = (user(name), info("GET", "/api/v1/namespaces/a/pods/p"));
    let schema = control.classify(&info, &user);
    control.enter(&schema, &info, &user, width).await
}

#[test]
fn the_first_schema_that_matches_counts() {
    let control = control(100, Duration::from_secs(1));
    let named = |name: &str, method: &str, uri: &str| control.classify(&info(method, uri), &user(name)).name.clone();
    assert_eq!(named("impatient", "GET", "/api/v1/pods"), "few");
    assert_eq!(named("jane", "GET", "/api/v1/pods"), "all");
    assert_eq!(named("jane", "GET", "/healthz"), "all");
    assert_eq!(named("jane", "GET", "/debug/x"), "all");
    assert_eq!(named("jane", "GET", "/metrics"), "catch-all", "no rule names the path");
    let admin = UserInfo::component("root", &["system:masters"]);
    assert_eq!(control.classify(&info("GET", "/api/v1/pods"), &admin).name, "exempt");
    let nominal = |name: &str| control.plan.load().levels[name].shape().nominal;
    assert_eq!((nominal("work"), nominal("strict"), nominal("catch-all"), nominal("exempt")), (90, 5, 5, 0));
}

#[tokio::test]
async fn a_level_without_queues_refuses_what_finds_no_seat() {
    let control = control(20, Duration::from_secs(1));
    let held = enter(&control, "impatient", Width::ONE).await.expect("the only seat");
    let refused = enter(&control, "impatient", Width::ONE).await.expect_err("no seat");
    assert_eq!((refused.code, refused.details.map(|d| d.retry_after_seconds)), (429, Some(1)));
    let other = enter(&control, "jane", Width::ONE).await;
    assert!(other.is_ok(), "another level is another matter");
    drop(held);
    assert!(enter(&control, "impatient", Width::ONE).await.is_ok());
}

#[tokio::test]
async fn who_waits_too_long_is_refused_and_leaves_nothing_behind() {
    let control = control(1, Duration::from_millis(20));
    let held = enter(&control, "jane", Width::ONE).await.expect("a seat");
    assert_eq!(enter(&control, "jane", Width::ONE).await.expect_err("nobody leaves").code, 429);
    let level = control.plan.load().levels["work"].clone();
    assert_eq!(level.current(), (1, 1, 0));
    drop(held);
    assert_eq!(level.current(), (0, 0, 0));
    assert!(enter(&control, "jane", Width::ONE).await.is_ok());
}

#[tokio::test]
async fn one_heavy_client_does_not_starve_another() {
    let control = control(1, Duration::from_secs(60));
    let first = enter(&control, "heavy", Width::ONE).await.expect("a seat");
    let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    let mut start = |name: &'static str| {
        let (control, order) = (control.clone(), order.clone());
        tasks.spawn(async move {
            let ticket = enter(&control, name, Width::ONE).await;
            order.lock().push((name, ticket.is_ok()));
        });
    };
    (0..400).for_each(|_| start("heavy"));
    tokio::task::yield_now().await;
    start("light");
    let level = control.plan.load().levels["work"].clone();
    // Whoever is refused at once (its queues are full) has been told; the others wait.
    while level.current().2 + order.lock().len() as u32 != 401 {
        tokio::task::yield_now().await;
    }
    let refused = order.lock().len();
    assert!(refused >= 100, "six queues of fifty hold no more than three hundred of one client: {refused}");
    assert!(order.lock().iter().all(|(name, in_)| *name == "heavy" && !in_));
    drop(first);
    while tasks.join_next().await.is_some() {}
    let order = order.lock();
    let place = order.iter().skip(refused).position(|(name, _)| *name == "light").expect("it got in");
    assert!(place <= 6, "at most one of each of the heavy client's queues goes before it: {place}");
}

#[tokio::test]
async fn a_wide_request_takes_many_seats_and_the_widest_waits_until_it_is_alone() {
    let control = control(10, Duration::from_millis(20));
    let level = control.plan.load().levels["work"].clone();
    let (count, bytes) = (1000, 500_000);
    let list = enter(&control, "jane", Width::list(count, count, bytes)).await.expect("room");
    assert_eq!(level.current(), (1, 5, 0));
    assert_eq!(Width::list(100, count, bytes).seats(), 1, "a page is not the whole");
    let huge = Width::list(count, count, 1 << 30);
    assert_eq!(huge.seats(), 100);
    assert_eq!(enter(&control, "jane", huge).await.expect_err("somebody is in").code, 429);
    drop(list);
    let alone = enter(&control, "jane", huge).await.expect("it is alone");
    assert_eq!(level.current().1, level.limit(), "it has all seats of the level and no more");
    drop(alone);
}

#[test]
fn a_write_costs_what_its_watchers_cost() {
    assert_eq!(Width::write(9), Width::ONE);
    let ten = Width::write(100);
    assert_eq!((ten.seats(), ten.after()), (10, Some(Duration::from_millis(5))));
    let many = Width::write(1000);
    assert_eq!((many.seats(), many.after()), (10, Some(Duration::from_millis(50))), "fewer seats for longer");
    assert_eq!(many.capped(5).after(), Some(Duration::from_millis(100)));
}

#[tokio::test]
async fn seats_that_a_level_does_not_need_are_lent() {
    let control = control(100, Duration::from_secs(60));
    let strict = control.plan.load().levels["strict"].clone();
    let work = control.plan.load().levels["work"].clone();
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(enter(&control, "impatient", Width::ONE).await.expect("its own seats"));
    }
    assert!(enter(&control, "impatient", Width::ONE).await.is_err());
    (0..10).for_each(|_| strict.demand.lock().sample(strict.demand_now()));
    borrow::adjust(&control);
    assert!(strict.limit() > 5, "it borrows what `work` lends: {}", strict.limit());
    assert!(work.limit() >= 45, "which keeps half: {}", work.limit());
    assert!(enter(&control, "impatient", Width::ONE).await.is_ok());
    drop(held);
}

#[test]
fn the_dumps_name_levels_and_queues() {
    let control = control(10, Duration::from_secs(1));
    let levels = control.dump("dump_priority_levels").expect("a dump");
    assert!(levels.starts_with("PriorityLevelName,") && levels.contains("\nwork,"), "{levels}");
    assert_eq!(control.dump("dump_queues").expect("a dump").lines().count(), 65);
    assert!(control.dump("other").is_none());
}
