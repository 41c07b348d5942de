//! The API server of a run. It ends and starts anew over the same store; whoever talks to it finds the next one, and meanwhile
//! nobody.

use crate::common;
use crate::history::{self, Change};
use crate::memory::Memory;
use bytes::Bytes;
use ferrokube_api::Selection;
use ferrokube_apiserver::{ApiServer, Config, Running};
use ferrokube_client::{Transport, TransportError};
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, BoxStream, StreamExt};
use http::{Request, Response};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};

/// The server that is there now, if one is.
type Current = watch::Receiver<Option<Arc<ApiServer>>>;

pub struct Server {
    store: Arc<Memory>,
    config: Config,
    running: Mutex<Option<Running>>,
    current: watch::Sender<Option<Arc<ApiServer>>>,
}

impl Server {
    pub async fn start() -> Self {
        let store = Arc::<Memory>::default();
        let mut config = common::config(store.clone());
        // What says every ten seconds or so that the server lives is at times that no seed knows.
        config.features = "APIServerIdentity=false".parse().unwrap();
        let server = Server { store, config, running: Mutex::default(), current: watch::channel(None).0 };
        server.up(&mut *server.running.lock().await).await;
        server
    }

    async fn up(&self, running: &mut Option<Running>) {
        let started = running.insert(ApiServer::start(self.config.clone()).await.unwrap());
        self.current.send_replace(Some(started.server.clone()));
    }

    /// Everything that was ever written.
    pub fn history(&self) -> Vec<Change> {
        history::read(self.store.log())
    }

    /// Ends, and for good.
    pub async fn stop(&self) {
        self.current.send_replace(None);
        let running = self.running.lock().await.take();
        running.unwrap().stop().await;
    }

    /// Ends, and is there again after a while. Requests that it has begun go on meanwhile, as those of another server would.
    pub async fn restart(&self, away: Duration) {
        self.stop().await;
        tokio::time::sleep(away).await;
        self.up(&mut *self.running.lock().await).await;
    }

    /// The way to it, as somebody.
    pub fn transport(&self, user: &str, groups: &[&str]) -> Arc<dyn Transport> {
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        Arc::new(Way { current: self.current.subscribe(), user: user.to_owned(), groups })
    }
}

#[derive(Clone)]
struct Way {
    current: Current,
    user: String,
    groups: Vec<String>,
}

impl Way {
    fn to(&self, server: &Arc<ApiServer>) -> Arc<dyn Transport> {
        let groups: Vec<&str> = self.groups.iter().map(String::as_str).collect();
        common::transport(server, &self.user, &groups)
    }
}

impl Transport for Way {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        let server = self.current.borrow().clone();
        async move {
            match server {
                Some(server) => self.to(&server).send(request).await,
                None => Err(TransportError::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused))),
            }
        }
        .boxed()
    }

    fn subscribe(&self, selection: Selection) -> BoxStream<'static, ferrokube_api::Change> {
        stream::unfold((self.clone(), None), move |(mut way, mut open): (Way, Option<BoxStream<'static, ferrokube_api::Change>>)| {
            let selection = selection.clone();
            async move {
                loop {
                    let Some(changes) = &mut open else {
                        let server = way.current.wait_for(Option::is_some).await.ok()?.clone()?;
                        open = Some(way.to(&server).subscribe(selection.clone()));
                        continue;
                    };
                    tokio::select! {
                        biased;
                        changed = way.current.changed() => {
                            changed.ok()?;
                            open = None;
                        }
                        change = changes.next() => match change {
                            Some(change) => return Some((change, (way, open))),
                            // It is stopping.
                            None => {
                                way.current.changed().await.ok()?;
                                open = None;
                            }
                        }
                    }
                }
            }
        })
        .boxed()
    }
}
