//! The loop around the plan: takes in what happened, decides about one pod after the other, and lets others write.
//!
//! One task owns everything. Between two decisions all changes that have arrived are taken in; bindings run beside, and
//! the next decision already sees the pod in its place. It must never wait for a write.

mod extenders;
mod inputs;
mod outputs;

use crate::Config;
use crate::config::Configuration;
use crate::devices::Reservation;
use crate::extender::Extender;
use crate::feeds::{self, FEEDS, Feed, Follower};
use crate::metrics::Metrics;
use crate::node::PodId;
use crate::plan::Planner;
use crate::profile::DefaultSpread;
use crate::queue::Queue;
use crate::state::State;
use crate::storage::Step;
use crate::writes::Subject;
use bytes::Bytes;
use ferrokube_api::{Change, ObjectKey};
use ferrokube_client::events::Recorder;
use ferrokube_client::{Client, Error};
use futures_util::stream::{self, BoxStream, SelectAll};
use futures_util::{FutureExt, StreamExt};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Bindings under way at once. More would only wait in the API server, and what does not fit into its queues is refused: the
/// level of system components has about a hundred seats of the default six hundred.
const MOST_BINDINGS: usize = 128;
/// After so long without rest, other tasks of the runtime get their turn.
const SLICE: Duration = Duration::from_micros(500);
/// Sizes are counted no more often than this.
const SIZES_EVERY: Duration = Duration::from_secs(1);

/// A write that is done.
enum Done {
    /// Volumes are told about their claims, and claims about their node.
    Prepared(PodId, Subject, Result<(), Error>),
    /// The pod is bound to the node.
    Bound(Subject, Box<str>, Result<(), Refused>),
}

/// Why a binding did not come about.
enum Refused {
    /// The pod is gone.
    Gone,
    /// In the words of who refused.
    Because(String),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        if error.is_not_found() { Refused::Gone } else { Refused::Because(error.to_string()) }
    }
}

enum Input {
    Told(Feed, Change),
    Done(Done),
    Time,
}

/// A pod that has its place and waits for its volumes and devices.
struct Preparing {
    pod: Subject,
    node: Box<str>,
    steps: Vec<Step>,
    reservations: Vec<Reservation>,
    /// Claims whose devices must be made ready.
    awaited: Vec<ObjectKey>,
    deadline: Instant,
    /// The writes are done; what is left is up to others.
    written: bool,
    /// Claims that were seen with the node that was chosen for them.
    selected: Vec<bool>,
}

/// See the module.
pub struct Engine {
    client: Client,
    configuration: Configuration,
    metrics: Metrics,
    /// By profile.
    recorders: Vec<Recorder>,
    state: State,
    queue: Queue,
    planner: Planner,
    followers: HashMap<Feed, Follower>,
    changes: SelectAll<BoxStream<'static, (Feed, Change)>>,
    done: mpsc::UnboundedReceiver<Done>,
    done_sender: mpsc::UnboundedSender<Done>,
    binding: usize,
    preparing: HashMap<PodId, Preparing>,
    gated: usize,
    /// When the pods that are being bound were decided about.
    began: HashMap<PodId, Instant>,
    sizes_told: Instant,
    extenders: Arc<[Arc<Extender>]>,
    /// The objects that extenders want to see; empty without extenders.
    raw_pods: HashMap<PodId, Bytes>,
    raw_nodes: HashMap<Box<str>, Bytes>,
    /// Writes under way end with the engine: the next scheduler must not be surprised by them.
    life: watch::Sender<()>,
}

impl Engine {
    /// An engine that has subscribed to what it needs.
    pub fn new(client: Client, config: Config) -> Self {
        let Config { configuration, seed, metrics, .. } = config;
        let subscribe = |(feed, group, version, resource): &(Feed, &str, &str, &str)| {
            let feed = *feed;
            let changes = client.subscribe(feeds::selection(feed, group, version, resource));
            changes.map(move |change| (feed, change)).boxed()
        };
        let changes = stream::select_all(FEEDS.iter().map(subscribe));
        let (done_sender, done) = mpsc::unbounded_channel();
        let mut state = State::new();
        for profile in configuration.profiles.iter() {
            if let DefaultSpread::List(list) = &profile.spread {
                list.iter().for_each(|s| state.know_topology(&s.key));
            }
        }
        let extenders = configuration.extenders.clone();
        Engine {
            recorders: configuration.profiles.iter().map(|p| Recorder::of_series(client.clone(), &p.name)).collect(),
            queue: Queue::new(configuration.backoff, configuration.longest_wait),
            planner: Planner::new(seed.unwrap_or_else(rand::random), configuration.profiles.clone()),
            client,
            configuration,
            metrics,
            state,
            followers: FEEDS.iter().map(|(feed, ..)| (*feed, Follower::default())).collect(),
            changes,
            done,
            done_sender,
            binding: 0,
            preparing: HashMap::new(),
            gated: 0,
            began: HashMap::new(),
            sizes_told: Instant::now(),
            extenders,
            raw_pods: HashMap::new(),
            raw_nodes: HashMap::new(),
            life: watch::Sender::new(()),
        }
    }

    /// Runs until the subscriptions end, which they do when the process stops.
    pub async fn run(mut self) {
        let mut synced = false;
        let mut slice = Instant::now();
        loop {
            while let Some(Some((feed, change))) = self.changes.next().now_or_never() {
                self.told(feed, change);
            }
            while let Ok(done) = self.done.try_recv() {
                self.is_done(done);
            }
            self.time_passes(Instant::now());
            if !synced && self.followers.values().all(|f| f.synced) {
                synced = true;
                tracing::info!(nodes = self.state.order().len(), pods = self.state.pod_count(), "scheduling");
            }
            if synced && self.binding < MOST_BINDINGS && self.queue.has_next() {
                match self.extenders.is_empty() {
                    true => self.place_next(),
                    false => self.place_next_with_extenders().await,
                }
                if slice.elapsed() >= SLICE {
                    tokio::task::yield_now().await;
                    slice = Instant::now();
                }
                continue;
            }
            match self.input().await {
                Some(Input::Told(feed, change)) => self.told(feed, change),
                Some(Input::Done(done)) => self.is_done(done),
                Some(Input::Time) => {}
                None => return,
            }
            slice = Instant::now();
        }
    }

    async fn input(&mut self) -> Option<Input> {
        let volumes = self.preparing.values().map(|p| p.deadline).min();
        let due = self.queue.due().into_iter().chain(volumes).min();
        let time = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            change = self.changes.next() => change.map(|(feed, change)| Input::Told(feed, change)),
            done = self.done.recv() => done.map(Input::Done),
            () = time => Some(Input::Time),
        }
    }

    fn time_passes(&mut self, now: Instant) {
        let (backed_off, late) = self.queue.tick(now);
        self.metrics.queued("BackoffComplete", "active", backed_off);
        self.metrics.moved("UnschedulableTimeout", late);
        if !self.preparing.is_empty() {
            self.give_up_on_late_ones(now);
        }
        if now.duration_since(self.sizes_told) >= SIZES_EVERY {
            self.sizes_told = now;
            let cached = [self.state.order().len(), self.state.pod_count(), self.began.len()];
            let mut pending = self.queue.pending();
            pending.gated += self.gated;
            self.metrics.sizes(pending, self.binding, cached);
            for (counted, profile) in self.planner.take_evaluations().iter().zip(self.configuration.profiles.iter()) {
                self.metrics.evaluated(&profile.name, counted);
            }
        }
    }

    /// Runs a write beside, for as long as there is an engine.
    fn beside(&self, write: impl Future<Output = ()> + Send + 'static) {
        let mut life = self.life.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                () = write => {}
                // Nothing is ever sent: this is the sender's end.
                _ = life.changed() => {}
            }
        });
    }

    /// The recorder of the profile that a pod is placed by.
    fn recorder(&self, profile: u16) -> &Recorder {
        &self.recorders[usize::from(profile)]
    }

    /// The name of a profile.
    fn name(&self, profile: u16) -> &str {
        &self.configuration.profiles[usize::from(profile)].name
    }
}
