//! `bench api`: requests to an API server, kind by kind and verb by verb, in a namespace of its own.

use crate::admission::{self, Gate};
use crate::connect::{Call, Server, Target};
use crate::load::{self, Until};
use crate::objects::Subject;
use crate::process::Meter;
use crate::table::Table;
use crate::{churn, list, many, watch};
use anyhow::{Context, bail};
use bytes::Bytes;
use http::Method;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Options of `bench api`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Workers, one measurement for each number
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    concurrency: Vec<usize>,
    /// Length of one measurement in seconds
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Process of the server, to show its CPU time and memory (several: etcd besides an API server)
    #[arg(long, value_delimiter = ',', value_name = "PID")]
    server_pid: Vec<u32>,
    /// Pods that are listed, and deleted at once
    #[arg(long, default_value_t = 10_000)]
    objects: usize,
    /// Watchers, one measurement for each number
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 1000])]
    watchers: Vec<usize>,
    /// So many objects besides: created, read page by page, watched from the start
    #[arg(long, default_value_t = 0)]
    many: usize,
    /// What there are many of
    #[arg(long, value_enum, default_value = "small-config-map")]
    many_of: Subject,
    /// Leaves what --many made where it is, to see how the server starts with it
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    admission: admission::Options,
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Part>,
}

/// What can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Create,
    Get,
    Update,
    Patch,
    Apply,
    Lease,
    Delete,
    Churn,
    List,
    Watch,
    Many,
}

/// One kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Get,
    Update,
    MergePatch,
    StrategicPatch,
    Apply,
    Delete,
}

/// The rows that are closed loops of one request.
const ROWS: [(Part, Step, Subject, &str); 12] = [
    (Part::Create, Step::Create, Subject::ConfigMap, "create ConfigMap of 1 KiB"),
    (Part::Create, Step::Create, Subject::Pod, "create Pod of 1.5 KB"),
    (Part::Get, Step::Get, Subject::ConfigMap, "get ConfigMap"),
    (Part::Get, Step::Get, Subject::Pod, "get Pod"),
    (Part::Update, Step::Update, Subject::ConfigMap, "update ConfigMap"),
    (Part::Update, Step::Update, Subject::Pod, "update Pod"),
    (Part::Patch, Step::MergePatch, Subject::ConfigMap, "merge patch ConfigMap"),
    (Part::Patch, Step::StrategicPatch, Subject::Pod, "strategic merge patch Pod"),
    (Part::Apply, Step::Apply, Subject::ConfigMap, "server-side apply ConfigMap"),
    (Part::Lease, Step::Update, Subject::Lease, "renew Lease (PUT)"),
    (Part::Delete, Step::Delete, Subject::ConfigMap, "delete ConfigMap"),
    (Part::Delete, Step::Delete, Subject::Pod, "delete Pod"),
];

/// A namespace that belongs to this run.
#[derive(Clone)]
pub(crate) struct Room {
    pub server: Server,
    pub namespace: Arc<str>,
    pub meter: Meter,
}

/// Measures.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    if args.concurrency.contains(&0) || args.watchers.contains(&0) || args.seconds == 0 {
        bail!("--concurrency, --watchers and --seconds must be at least 1");
    }
    let room = Room::new(args.target.server()?, Meter::new(args.server_pid.clone())?).await?;
    let mut gate = Gate::default();
    let work = async {
        gate.set_up(&args.admission, &room).await?;
        measure(&args, &room).await
    };
    let result = tokio::select! {
        result = work => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    let result = result.and(gate.leave(&room.server).await);
    if args.keep && result.is_ok() {
        println!("\nWhat is left is in the namespace {}.", room.namespace);
        return Ok(());
    }
    // Whatever happened, nothing is left behind.
    let cleared = room.leave().await;
    result.and(cleared)
}

async fn measure(args: &Args, room: &Room) -> anyhow::Result<()> {
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    let table = Table::new(&load::COLUMNS);
    for (part, step, subject, name) in ROWS {
        if !wanted(part) {
            continue;
        }
        for workers in &args.concurrency {
            row(room, step, subject, *workers, Duration::from_secs(args.seconds)).await?.show(&table, name, *workers);
            room.clear(subject).await?;
        }
    }
    if wanted(Part::Churn) {
        for workers in &args.concurrency {
            churn::measure(room, &table, *workers, Duration::from_secs(args.seconds)).await?;
            room.clear(Subject::ConfigMap).await?;
        }
    }
    if wanted(Part::List) {
        list::measure(room, &table, args.objects, Duration::from_secs(args.seconds)).await?;
    }
    if wanted(Part::Watch) {
        watch::measure(room, &args.watchers, Duration::from_secs(args.seconds)).await?;
    }
    if args.many > 0 && wanted(Part::Many) {
        many::measure(room, args.many_of, args.many).await?;
    }
    Ok(())
}

/// One closed loop.
async fn row(room: &Room, step: Step, subject: Subject, workers: usize, time: Duration) -> anyhow::Result<load::Outcome> {
    // Deletes need something to delete: as much as is deleted in about the time, judging by the time to create it.
    let (objects, until) = match step {
        Step::Create | Step::Apply => (0, Until::Elapsed(time)),
        Step::Delete => {
            let count = stock(room, subject, workers, time).await?;
            (0, Until::Count(count))
        }
        Step::Get | Step::Update | Step::MergePatch | Step::StrategicPatch => (workers, Until::Elapsed(time)),
    };
    let mut last = Vec::new();
    for n in 0..objects {
        last.push(Mutex::new(room.server.ok(n, create(room, subject, &format!("w-{n}"))).await?));
    }
    let (last, room) = (Arc::new(last), room.clone());
    let meter = room.meter.clone();
    let operation = move |worker: usize, serial: usize| {
        let (room, last) = (room.clone(), Arc::clone(&last));
        async move {
            let call = request(&room, step, subject, worker, serial, &last)?;
            let body = room.server.ok(worker, call).await?;
            let len = body.len();
            if step == Step::Update {
                *last[worker].lock().unwrap_or_else(PoisonError::into_inner) = body;
            }
            Ok(len)
        }
    };
    Ok(load::run(workers, until, &meter, operation).await)
}

/// The request of a step. `last` holds what the server last answered to each worker about its own object.
fn request(room: &Room, step: Step, subject: Subject, worker: usize, serial: usize, last: &[Mutex<Bytes>]) -> anyhow::Result<Call> {
    let object = |name: &str| format!("{}/{name}", subject.path(&room.namespace));
    let own = format!("w-{worker}");
    Ok(match step {
        Step::Create => create(room, subject, &format!("o-{serial}")),
        Step::Get => Call::get(object(&own)),
        Step::Delete => Call::new(Method::DELETE, object(&format!("o-{serial}")), Bytes::new()),
        Step::Update => {
            // As controllers do: with the revision that was read, so that nothing written meanwhile is lost.
            let read = last[worker].lock().unwrap_or_else(PoisonError::into_inner).clone();
            let body = subject.changed(&room.namespace, &own, &read, serial).context("an answer without resourceVersion")?;
            Call::new(Method::PUT, object(&own), body)
        }
        Step::MergePatch | Step::StrategicPatch => {
            let kind = if step == Step::MergePatch { "merge-patch" } else { "strategic-merge-patch" };
            let content_type =
                if kind == "merge-patch" { "application/merge-patch+json" } else { "application/strategic-merge-patch+json" };
            Call { content_type, ..Call::new(Method::PATCH, object(&own), subject.patch(serial)) }
        }
        Step::Apply => {
            let path = object(&own) + "?fieldManager=ferrokube-bench&force=true";
            // JSON is YAML.
            let body = subject.body(&room.namespace, &own, "", serial);
            Call { content_type: "application/apply-patch+yaml", ..Call::new(Method::PATCH, path, body) }
        }
    })
}

fn create(room: &Room, subject: Subject, name: &str) -> Call {
    Call::new(Method::POST, subject.path(&room.namespace), subject.body(&room.namespace, name, "", 0))
}

/// Creates objects `o-0`, `o-1`... for `time`; returns how many there are.
async fn stock(room: &Room, subject: Subject, workers: usize, time: Duration) -> anyhow::Result<usize> {
    let operation = {
        let room = room.clone();
        move |worker: usize, serial: usize| {
            let room = room.clone();
            async move { room.server.ok(worker, create(&room, subject, &format!("o-{serial}"))).await.map(|b| b.len()) }
        }
    };
    let made = load::run(workers, Until::Elapsed(time), &Meter::default(), operation).await;
    made.complain("creating objects to delete");
    Ok(made.took.len())
}

/// Creates exactly `count` objects.
pub(crate) async fn fill(room: &Room, subject: Subject, count: usize) -> anyhow::Result<load::Outcome> {
    let operation = {
        let room = room.clone();
        move |worker: usize, serial: usize| {
            let room = room.clone();
            // One in a hundred bears a mark that a selector can ask for.
            let body = subject.body(&room.namespace, &format!("o-{serial}"), "", serial % 100);
            let call = Call::new(Method::POST, subject.path(&room.namespace), body);
            async move { room.server.ok(worker, call).await.map(|b| b.len()) }
        }
    };
    let made = load::run(64, Until::Count(count), &room.meter, operation).await;
    match &made.first_error {
        None => Ok(made),
        Some(error) => bail!("creating {count} objects: {} failed, the first one: {error}", made.errors),
    }
}

impl Room {
    /// Makes the namespace, and the service account that pods need, in case no controller makes it.
    pub async fn new(server: Server, meter: Meter) -> anyhow::Result<Room> {
        let namespace = format!("ferrokube-bench-{}", std::process::id());
        let body = format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{namespace}"}}}}"#);
        server.ok(0, Call::new(Method::POST, "/api/v1/namespaces", body)).await?;
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        let body = r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#;
        // The controller may have been faster.
        let (status, _) = server.call(0, Call::new(Method::POST, path, body)).await?;
        if !status.is_success() && status != http::StatusCode::CONFLICT {
            bail!("making the service account: {status}");
        }
        Ok(Room { server, namespace: namespace.into(), meter })
    }

    /// Deletes all objects of a kind that were made here; controllers have some of their own in every namespace.
    pub async fn clear(&self, subject: Subject) -> anyhow::Result<()> {
        let path = subject.path(&self.namespace) + "?labelSelector=app%3Dbench";
        // A slow server may not finish a large collection within one request.
        for _ in 0..20 {
            let deleted = self.server.ok(0, Call::new(Method::DELETE, path.as_str(), Bytes::new())).await;
            let page = self.server.ok(0, Call::get(format!("{path}&limit=1"))).await?;
            let page: serde_json::Value = serde_json::from_slice(&page)?;
            if page["items"].as_array().is_none_or(Vec::is_empty) {
                return Ok(());
            }
            if let Err(error) = deleted {
                eprintln!("deleting all: {error:#}; once more");
            }
        }
        bail!("{} objects of {} can't be deleted", subject.name(), self.namespace)
    }

    /// Deletes everything and the namespace.
    pub async fn leave(&self) -> anyhow::Result<()> {
        for subject in [Subject::ConfigMap, Subject::Pod, Subject::Lease] {
            self.clear(subject).await?;
        }
        let path = format!("/api/v1/namespaces/{}", self.namespace);
        self.server.ok(0, Call::new(Method::DELETE, path, Bytes::new())).await.map(drop)
    }
}
