//! A transport on which everything goes wrong that can: requests that do not arrive, answers that do not, refusals,
//! delays, a webhook that hangs, watches that lag behind, fall silent or break, a server that is away, a controller manager that ends at that very
//! moment, and one that stands still while another takes its place. What happens follows from the seed.

use bytes::Bytes;
use ferrokube_api::{Change, Selection};
use ferrokube_client::{Transport, TransportError};
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, BoxStream, StreamExt};
use http::{Method, Request, Response};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// What goes wrong, for all clients of one run.
pub struct Faults {
    dice: Mutex<StdRng>,
    on: AtomicBool,
    away: AtomicBool,
    /// Until when no watch says anything.
    silent: Mutex<Instant>,
    hanging: Mutex<Option<Hanging>>,
    /// Pods whose creation the controller could not know of: the request was lost on the way back, or the controller ended.
    pub unknown_creations: AtomicUsize,
    /// Likewise deletions.
    pub unknown_deletions: AtomicUsize,
    /// Replica sets written by a leader that was one no more.
    pub late_scales: AtomicUsize,
    /// Told when the controllers are to end and to start anew.
    pub crash: Notify,
    /// Told when the controllers are to stand still and others to take their place.
    pub hand_over: Notify,
    /// How often they did.
    pub hand_overs: AtomicUsize,
    trace: Mutex<Trace>,
    began: Instant,
}

/// What was asked and what came of it, and when: two runs of a seed have the same.
#[derive(Default)]
pub struct Trace {
    hash: DefaultHasher,
    requests: usize,
}

/// A webhook that is asked about new pods of one app, and never answers.
struct Hanging {
    until: Instant,
    /// `failurePolicy: Fail`.
    refuses: bool,
    /// Known when the first one is made.
    app: Option<String>,
}

/// How long any request takes. If it took no time, two leaders, one of them with an old view of things, could undo each other's work
/// forever in the same instant, and the time would never come when the old one learns that it leads no more.
const WAY: Duration = Duration::from_millis(20);
/// How long a webhook is waited for (`timeoutSeconds`).
const HOOK: Duration = Duration::from_secs(10);

enum Fault {
    None,
    /// The request does not arrive.
    Lost,
    /// The server does it, and the answer does not arrive.
    AnswerLost,
    /// The server refuses.
    Refused(u16),
    /// Both ways take this long.
    Slow(Duration),
    /// The server does it, and whoever asked is no more.
    Crash,
}

/// Whether the run is to be shown: what is asked, what watches say, and at the end what was written.
pub fn is_traced() -> bool {
    std::env::var_os("SIMULATION_TRACE").is_some()
}

impl Faults {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Faults {
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
            on: AtomicBool::new(true),
            away: AtomicBool::new(false),
            silent: Mutex::new(Instant::now()),
            hanging: Mutex::default(),
            unknown_creations: AtomicUsize::default(),
            unknown_deletions: AtomicUsize::default(),
            late_scales: AtomicUsize::default(),
            crash: Notify::new(),
            hand_over: Notify::new(),
            hand_overs: AtomicUsize::default(),
            trace: Mutex::default(),
            began: Instant::now(),
        })
    }

    /// The trace so far, in short.
    pub fn trace(&self) -> String {
        let trace = self.trace.lock();
        format!("{:016x} of {} requests", trace.hash.finish(), trace.requests)
    }

    fn note(&self, request: &Request<Bytes>, fault: &Fault) {
        let fault = match fault {
            Fault::None => "",
            Fault::Lost => "lost",
            Fault::AnswerLost => "answer lost",
            Fault::Refused(_) => "refused",
            Fault::Slow(_) => "slow",
            Fault::Crash => "crash",
        };
        let what = (self.began.elapsed().as_millis(), request.method().as_str(), request.uri().path(), fault);
        if is_traced() {
            println!("{what:?} {}", String::from_utf8_lossy(request.body()));
        }
        let mut trace = self.trace.lock();
        what.hash(&mut trace.hash);
        request.body().hash(&mut trace.hash);
        trace.requests += 1;
    }

    /// From now on everything works.
    pub fn heal(&self) {
        self.on.store(false, Ordering::Relaxed);
        self.away.store(false, Ordering::Relaxed);
        *self.hanging.lock() = None;
        *self.silent.lock() = Instant::now();
    }

    /// No watch says anything for a while, and none breaks.
    pub fn silence(&self, time: Duration) {
        let mut until = self.silent.lock();
        // Not anew before the last one is over: together they could last for longer than controllers wait for news.
        if *until <= Instant::now() {
            *until = Instant::now() + time;
        }
    }

    /// A webhook hangs for a while; in the end it refuses, or is left aside.
    pub fn hang(&self, time: Duration, refuses: bool) {
        *self.hanging.lock() = Some(Hanging { until: Instant::now() + time, refuses, app: None });
    }

    /// Whether a webhook that hangs is asked about this request, and what then becomes of it.
    fn hangs(&self, request: &Request<Bytes>) -> Option<bool> {
        let mut hanging = self.hanging.lock();
        let hook = hanging.as_mut().filter(|h| h.until > Instant::now())?;
        if *request.method() != Method::POST || !request.uri().path().ends_with("/pods") {
            return None;
        }
        let pod: serde_json::Value = serde_json::from_slice(request.body()).ok()?;
        let app = pod["metadata"]["labels"]["app"].as_str()?;
        (hook.app.get_or_insert_with(|| app.to_owned()) == app).then_some(hook.refuses)
    }

    /// The server goes away, or comes back.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
    }

    /// Returns when watches say something.
    async fn spoken(&self) {
        loop {
            let until = *self.silent.lock();
            if until <= Instant::now() {
                return;
            }
            // Healing ends it sooner.
            tokio::time::sleep_until(until.min(Instant::now() + Duration::from_secs(5))).await;
        }
    }

    fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// Whether something goes wrong that does so this often.
    pub fn chance(&self, percent: u32) -> bool {
        self.on.load(Ordering::Relaxed) && self.dice.lock().random_range(0..100) < percent
    }

    /// One of a list with dots between; none when nothing goes wrong any more.
    pub fn pick<'l>(&self, list: &'l str) -> Option<&'l str> {
        let all: Vec<&str> = list.split('.').collect();
        self.on.load(Ordering::Relaxed).then(|| all[self.dice.lock().random_range(0..all.len())])
    }

    pub fn pause(&self, most: Duration) -> Duration {
        most.mul_f64(self.dice.lock().random::<f64>())
    }

    fn draw(&self) -> Fault {
        if self.is_away() {
            return Fault::Lost;
        }
        if !self.on.load(Ordering::Relaxed) {
            return Fault::None;
        }
        let slow = self.pause(Duration::from_secs(5));
        match self.dice.lock().random_range(0..1000) {
            0..60 => Fault::Lost,
            60..120 => Fault::AnswerLost,
            120..160 => Fault::Refused(500),
            160..180 => Fault::Refused(503),
            180..200 => Fault::Refused(429),
            200..350 => Fault::Slow(slow),
            350..355 => Fault::Crash,
            _ => Fault::None,
        }
    }
}

/// The time in office of one controller manager.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Term {
    Leads,
    /// Stands still, as a process that is given no time, and another one leads.
    Frozen,
    /// Goes on, as it does not know yet.
    Late,
}

/// A transport with faults.
pub struct Faulty {
    pub inner: Arc<dyn Transport>,
    pub faults: Arc<Faults>,
    pub term: watch::Receiver<Term>,
}

/// Returns when who asks is given time.
async fn thawed(term: &mut watch::Receiver<Term>) {
    // It lasts as long as its transports do, or there is nobody who would thaw it.
    if term.wait_for(|t| *t != Term::Frozen).await.is_err() {
        std::future::pending().await
    }
}

/// A write on its way: if the controller ends meanwhile, or is not the one that leads any more, the one that does will not know.
struct OnItsWay<'f> {
    counter: Option<&'f AtomicUsize>,
    term: &'f watch::Receiver<Term>,
    /// It counts only if the leader has changed.
    only_late: bool,
}

impl<'f> OnItsWay<'f> {
    fn of(faulty: &'f Faulty, request: &Request<Bytes>) -> Self {
        let (path, faults) = (request.uri().path(), &faulty.faults);
        let only_late = path.contains("/replicasets") && !path.ends_with("/status");
        let counter = match *request.method() {
            Method::POST if path.ends_with("/pods") => Some(&faults.unknown_creations),
            Method::DELETE if path.contains("/pods/") => Some(&faults.unknown_deletions),
            Method::POST | Method::PUT if only_late => Some(&faults.late_scales),
            _ => None,
        };
        OnItsWay { counter, term: &faulty.term, only_late }
    }

    /// The leader knows what came of it, or nothing did.
    fn arrived(mut self) {
        self.counter = None;
    }

    /// Whoever asked knows what came of it.
    fn answered(mut self, changed: bool) {
        if !changed || *self.term.borrow() == Term::Leads {
            self.counter = None;
        }
    }
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        if let Some(counter) = self.counter.filter(|_| !self.only_late || *self.term.borrow() != Term::Leads) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn broken(why: &str) -> TransportError {
    TransportError::new(std::io::Error::other(why.to_owned()))
}

fn refusal(code: u16) -> Response<Bytes> {
    let reason = match code {
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    let body = serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": "injected"});
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response
}

impl Transport for Faulty {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        async move {
            tokio::time::sleep(WAY).await;
            thawed(&mut self.term.clone()).await;
            if let Some(refuses) = self.faults.hangs(&request) {
                tokio::time::sleep(HOOK).await;
                if refuses {
                    return Ok(refusal(500));
                }
                thawed(&mut self.term.clone()).await;
            }
            let on_its_way = OnItsWay::of(self, &request);
            let fault = self.faults.draw();
            self.faults.note(&request, &fault);
            match fault {
                Fault::Lost => {
                    on_its_way.arrived();
                    Err(broken("the request was lost"))
                }
                Fault::Refused(code) => {
                    on_its_way.arrived();
                    Ok(refusal(code))
                }
                Fault::AnswerLost => {
                    if !self.inner.send(request).await?.status().is_success() {
                        on_its_way.arrived();
                    }
                    Err(broken("the answer was lost"))
                }
                Fault::Crash => {
                    if !self.inner.send(request).await?.status().is_success() {
                        on_its_way.arrived();
                    }
                    self.faults.crash.notify_one();
                    std::future::pending().await
                }
                Fault::Slow(time) => {
                    tokio::time::sleep(time).await;
                    let answer = self.inner.send(request).await;
                    tokio::time::sleep(time).await;
                    on_its_way.answered(answer.as_ref().is_ok_and(|a| a.status().is_success()));
                    answer
                }
                Fault::None => {
                    let answer = self.inner.send(request).await;
                    on_its_way.answered(answer.as_ref().is_ok_and(|a| a.status().is_success()));
                    answer
                }
            }
        }
        .boxed()
    }

    fn subscribe(&self, selection: Selection) -> BoxStream<'static, Change> {
        let (inner, faults, term) = (self.inner.clone(), self.faults.clone(), self.term.clone());
        let open = inner.subscribe(selection.clone());
        let next = move |open| {
            let (inner, faults, selection, mut term) = (inner.clone(), faults.clone(), selection.clone(), term.clone());
            async move {
                let resource = selection.resource.clone();
                let next = next(inner, &faults, selection, open).await;
                thawed(&mut term).await;
                faults.spoken().await;
                if let Some((change, _)) = next.as_ref().filter(|_| is_traced()) {
                    println!("({}, {resource:?}, {change:?})", faults.began.elapsed().as_millis());
                }
                next
            }
        };
        stream::unfold(Some(open), next).boxed()
    }
}

/// The next change: late, or from a new watch because the old one broke.
async fn next(
    inner: Arc<dyn Transport>,
    faults: &Faults,
    selection: Selection,
    open: Option<BoxStream<'static, Change>>,
) -> Option<(Change, Option<BoxStream<'static, Change>>)> {
    let mut open = open?;
    if faults.is_away() || faults.chance(2) {
        drop(open);
        tokio::time::sleep(faults.pause(Duration::from_secs(10))).await;
        while faults.is_away() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        open = inner.subscribe(selection);
    }
    let change = open.next().await?;
    if faults.chance(10) {
        tokio::time::sleep(faults.pause(Duration::from_secs(8))).await;
    }
    Some((change, Some(open)))
}
