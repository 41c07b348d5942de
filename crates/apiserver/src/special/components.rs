//! ComponentStatus (deprecated): whether the store, the scheduler and the controllers are well.
//!
//! A component of this process says so itself. Of one that runs elsewhere upstream knows no more than its port on this machine, and asks
//! there; so does this.

use crate::ApiServer;
use crate::connect::kubelet::unverified;
use crate::connect::passage::{Destination, Passenger};
use crate::output::list::Many;
use crate::pipeline::Request;
use crate::verbs::Answer;
use ferrokube_api::{Object, Status};
use futures_util::future::join_all;
use http::{HeaderMap, Method};
use parking_lot::Mutex;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Name of the store, whatever it is.
const STORE: &str = "etcd-0";
/// The others, with the port where each tells its health.
const OTHERS: [(&str, u16); 2] = [("controller-manager", 10257), ("scheduler", 10259)];
/// How long one may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a component says of itself: `Err` is what ails it.
type Says = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The components of this process.
#[derive(Default)]
pub struct Components {
    own: Mutex<Vec<(String, Says)>>,
}

impl ApiServer {
    /// Tells of a component of this process how it can be asked for its health. `name` is as in ComponentStatus.
    pub fn serve_health_of(&self, name: &str, says: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.components.own.lock().push((name.to_owned(), Arc::new(says)));
    }

    async fn health_of(&self, name: &str, port: u16) -> Result<(), String> {
        let own = self.components.own.lock().iter().find(|(own, _)| own == name).map(|(_, says)| says.clone());
        match own {
            Some(says) => says(),
            None => probe(port).await,
        }
    }
}

async fn probe(port: u16) -> Result<(), String> {
    let url = format!("https://127.0.0.1:{port}/healthz");
    let to = Destination { host: "127.0.0.1".to_owned(), port, tls: true, path: "/healthz".to_owned(), name: None };
    let passenger = Passenger {
        method: Method::GET,
        headers: HeaderMap::new(),
        body: None,
        upgrade: None,
        stopping: Default::default(),
        trail: Default::default(),
    };
    let asked = tokio::time::timeout(PATIENCE, passenger.pass(unverified(), &to, false)).await;
    match asked {
        Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
        Ok(Ok(answer)) => Err(format!("HTTP probe failed with statuscode: {}", answer.status().as_u16())),
        Ok(Err(why)) => Err(format!("Get {url:?}: {why}")),
        Err(_) => Err(format!("Get {url:?}: context deadline exceeded")),
    }
}

impl Request<'_> {
    fn component_status(&self, name: &str, health: Result<(), String>) -> Result<Arc<Object>, Status> {
        let (status, message) = match health {
            Ok(()) => ("True", "ok".to_owned()),
            Err(why) => ("False", why),
        };
        let condition = json!({"type": "Healthy", "status": status, "message": message});
        let rest = json!({"metadata": {"name": name}, "conditions": [condition]}).to_string();
        Ok(Object::from_json(format!("{}{}", self.entry.head, &rest[1..]).into()).map_err(Status::internal)?.into())
    }

    /// GET of one or all.
    pub async fn component_statuses(&self) -> Result<Answer, Status> {
        let server = self.server;
        let store = async { server.store.revision().await.map(drop).map_err(|e| e.to_string()) };
        if self.info.verb == "get" {
            let health = match OTHERS.into_iter().find(|(name, _)| *name == self.info.name) {
                _ if self.info.name == STORE => store.await,
                Some((name, port)) => server.health_of(name, port).await,
                None => return Err(self.not_found()),
            };
            return Ok(Answer::One(200, self.component_status(&self.info.name, health)?));
        }
        let (store, others) = tokio::join!(store, join_all(OTHERS.map(|(name, port)| server.health_of(name, port))));
        let all = OTHERS.into_iter().map(|(name, _)| name).zip(others);
        let objects = std::iter::once((STORE, store)).chain(all).map(|(name, health)| self.component_status(name, health));
        Ok(Answer::Many(Many { objects: objects.collect::<Result<_, _>>()?, revision: 0, token: String::new(), remaining: None }))
    }
}
