//! Asks kubelets what they know, through the API server, when somebody wants to know.
//!
//! An answer is good for a few seconds, and however many want it, a kubelet is asked once at a time. What it told before is kept
//! for a minute, for rates. Nothing runs while nobody asks. Must never: wait long for one kubelet, or fail because of one.

use crate::summary::{self, Reading};
use crate::usage::{self, Known};
use bytes::Bytes;
use ferrokube_client::{Client, percent_encoded};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, join_all};
use http::Method;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How long an answer is good for.
pub const FRESH: Duration = Duration::from_secs(10);
/// How long it is good for when something is missing in it that should be there, such as a pod that has just started.
pub const FRESH_IF_WANTING: Duration = Duration::from_secs(2);
/// How long a kubelet may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// After which time a kubelet that knew no rate yet is asked once more: runtimes need two looks themselves.
const AGAIN: Duration = Duration::from_secs(1);
/// How many kubelets are asked at a time.
const AT_ONCE: usize = 16;

/// Why a node is left out.
#[derive(Debug, thiserror::Error)]
enum ScrapeError {
    #[error(transparent)]
    Request(#[from] ferrokube_client::Error),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Late,
    #[error("the summary is not readable: {0}")]
    Summary(#[from] serde_json::Error),
}

/// What came of asking a node.
#[derive(Clone, Debug)]
struct Answer {
    at: Instant,
    /// None when it did not answer.
    known: Option<Arc<Known>>,
    /// What it told last, for rates.
    last: Option<Arc<Reading>>,
}

type Asking = Shared<BoxFuture<'static, Answer>>;

/// Asks nodes.
#[derive(Clone)]
pub struct Scraper(Arc<Inner>);

struct Inner {
    client: Client,
    seats: Semaphore,
    /// By node: an answer, or one that is on its way.
    asked: Mutex<HashMap<String, Asking>>,
    /// Nodes that did not answer when asked last: it is logged once.
    silent: Mutex<HashSet<String>>,
}

impl Scraper {
    /// Asks under the identity of this client.
    pub fn new(client: Client) -> Self {
        let seats = Semaphore::new(AT_ONCE);
        Scraper(Arc::new(Inner { client, seats, asked: Mutex::default(), silent: Mutex::default() }))
    }

    /// What these nodes and their pods use, as of not longer ago than `fresh`; nodes that do not answer are left out.
    pub async fn known(&self, nodes: impl IntoIterator<Item = &str>, fresh: Duration) -> HashMap<String, Arc<Known>> {
        let each = nodes.into_iter().map(|node| {
            let asking = self.asking(node, fresh);
            async move { Some((node.to_owned(), asking.await.known?)) }
        });
        join_all(each).await.into_iter().flatten().collect()
    }

    fn asking(&self, node: &str, fresh: Duration) -> Asking {
        let mut asked = self.0.asked.lock();
        // What is too old for rates is of no use to anybody.
        asked.retain(|_, asking| asking.peek().is_none_or(|answer| answer.at.elapsed() <= usage::LONGEST));
        let last = match asked.get(node) {
            Some(asking) => match asking.peek() {
                Some(answer) if answer.at.elapsed() >= fresh => answer.last.clone(),
                _ => return asking.clone(),
            },
            None => None,
        };
        let (inner, name) = (self.0.clone(), node.to_owned());
        let asking = async move { inner.ask(&name, last).await }.boxed().shared();
        asked.insert(node.to_owned(), asking.clone());
        asking
    }
}

impl Inner {
    async fn ask(&self, node: &str, before: Option<Arc<Reading>>) -> Answer {
        let looked = self.look(node, before.as_deref()).await;
        self.tell(node, looked.as_ref().err());
        let at = Instant::now();
        match looked {
            Ok((known, last)) => Answer { at, known: Some(Arc::new(known)), last: Some(Arc::new(last)) },
            Err(_) => Answer { at, known: None, last: before },
        }
    }

    /// One look, or two when the first tells no rates.
    async fn look(&self, node: &str, before: Option<&Reading>) -> Result<(Known, Reading), ScrapeError> {
        let first = self.fetch(node).await?;
        let mut known = Known::of(&first, before);
        if !usage::would_gain(&first, before) {
            return Ok((known, first));
        }
        tokio::time::sleep(AGAIN).await;
        // What the first look told is worth something without the second.
        let Ok(second) = self.fetch(node).await else { return Ok((known, first)) };
        known.fill(&Known::of(&second, Some(&first)));
        Ok((known, second))
    }

    async fn fetch(&self, node: &str) -> Result<Reading, ScrapeError> {
        let _seat = self.seats.acquire().await;
        let path = format!("/api/v1/nodes/{}/proxy/stats/summary", percent_encoded(node));
        let answer = tokio::time::timeout(PATIENCE, self.client.send(Method::GET, &path, None, Bytes::new()));
        let answer = answer.await.map_err(|_| ScrapeError::Late)??;
        Ok(summary::read(answer.body())?)
    }

    /// A node that falls silent is logged, and that it speaks again.
    fn tell(&self, node: &str, error: Option<&ScrapeError>) {
        let mut silent = self.silent.lock();
        match error {
            Some(error) if silent.insert(node.to_owned()) => {
                tracing::warn!(node, "the node does not tell what it uses and is left out: {error}");
            }
            None if silent.remove(node) => tracing::info!(node, "the node tells what it uses again"),
            _ => {}
        }
    }
}
