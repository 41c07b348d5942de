//! `kubectl logs`: reads a container's log file in the CRI format, selects, and follows it while it grows.
//!
//! Source: `pkg/kubelet/kuberuntime/logs`. Following waits for inotify; only the end of the container is looked for once a second.

use super::routes::Query;
use super::{Answer, text};
use crate::inotify::{Of, Watch};
use crate::node::Shared;
use crate::runtime::{Container, Observed};
use bytes::Bytes;
use ferrokube_cri::v1::ContainerState;
use futures_util::StreamExt;
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::Timestamp;
use std::io::SeekFrom;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncSeekExt, BufReader};
use tokio::sync::mpsc;

/// What of the log is wanted (`PodLogOptions`).
#[derive(Clone, Debug, Default)]
struct Wanted {
    follow: bool,
    timestamps: bool,
    tail: Option<usize>,
    since: Option<Timestamp>,
    limit: Option<u64>,
    stream: Option<String>,
}

impl Wanted {
    fn of(query: &Query) -> Result<Self, String> {
        let number = |key: &str| query.get(key).map(|v| v.parse::<i64>().map_err(|_| format!("invalid {key}: {v:?}"))).transpose();
        let seconds = number("sinceSeconds")?.and_then(|s| Timestamp::from_second(Timestamp::now().as_second() - s).ok());
        let time = query.get("sinceTime").map(|t| t.parse::<Timestamp>().map_err(|e| format!("invalid sinceTime: {e}"))).transpose()?;
        let stream = query.get("stream").filter(|s| !s.is_empty() && *s != "All").map(str::to_lowercase);
        Ok(Wanted {
            follow: query.flag(&["follow"]),
            timestamps: query.flag(&["timestamps"]),
            tail: number("tailLines")?.and_then(|n| usize::try_from(n).ok()),
            since: time.or(seconds),
            limit: number("limitBytes")?.and_then(|n| u64::try_from(n).ok()),
            stream,
        })
    }
}

/// Answers with the log of a container of a pod of this node.
pub async fn serve(node: &Arc<Shared>, namespace: &str, pod: &str, container: &str, query: &Query) -> Answer {
    let wanted = match Wanted::of(query) {
        Ok(wanted) => wanted,
        Err(e) => return text(400, e),
    };
    let Some(found) = node.pod(namespace, pod) else { return text(404, format!("pod {pod:?} does not exist")) };
    let specs = crate::pod::spec::containers_of(&found);
    if !specs.iter().any(|s| s.name == container) {
        return text(404, format!("container {container:?} not found in pod {pod:?}"));
    }
    let uid = found.metadata.uid.clone().unwrap_or_default();
    let observed = match node.cri.observe(&uid).await {
        Ok(observed) => observed,
        Err(e) => return text(500, e.message().to_owned()),
    };
    let previous = query.flag(&["previous"]);
    let instance = match choose(&observed, container, previous) {
        Some(instance) => instance.clone(),
        None if previous => return text(400, format!("previous terminated container {container:?} in pod {pod:?} not found")),
        None => {
            return text(400, format!("container {container:?} in pod {pod:?} is waiting to start: {}", waiting_reason(&found, container)));
        }
    };
    stream(node.clone(), uid, instance, wanted)
}

fn choose<'a>(observed: &'a Observed, container: &str, previous: bool) -> Option<&'a Container> {
    let mut instances = observed.containers.iter().filter(|c| c.name == container && c.state() != ContainerState::ContainerCreated);
    let newest = instances.next();
    match previous {
        false => newest,
        // A container that waits for its restart has its last run as the newest instance; that is the previous one too.
        true => instances.next().or(newest.filter(|c| c.state() == ContainerState::ContainerExited)),
    }
}

fn waiting_reason(pod: &k8s_openapi::api::core::v1::Pod, container: &str) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let lists = [status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses];
    let found = lists.into_iter().flatten().flatten().find(|c| c.name == container);
    let waiting = found.and_then(|c| c.state).and_then(|s| s.waiting).and_then(|w| w.reason);
    waiting.unwrap_or_else(|| "ContainerCreating".into())
}

fn stream(node: Arc<Shared>, uid: String, instance: Container, wanted: Wanted) -> Answer {
    let (chunks, inbox) = mpsc::channel::<Result<Bytes, std::io::Error>>(16);
    tokio::spawn(async move {
        let mut reader = Reader { node, uid, instance, left: wanted.limit, wanted, chunks: chunks.clone(), partial: false };
        if let Err(e) = reader.run().await {
            // The client went, or the file did.
            let _ = chunks.send(Err(e)).await;
        }
    });
    let frames = futures_util::stream::unfold(inbox, |mut inbox| async move { inbox.recv().await.map(|c| (c, inbox)) });
    let body = StreamBody::new(frames.map(|c| c.map(Frame::data))).boxed_unsync();
    let answer = Response::builder().header(http::header::CONTENT_TYPE, "text/plain").body(body);
    answer.expect("constant headers are valid")
}

struct Reader {
    node: Arc<Shared>,
    uid: String,
    instance: Container,
    wanted: Wanted,
    left: Option<u64>,
    chunks: mpsc::Sender<Result<Bytes, std::io::Error>>,
    partial: bool,
}

impl Reader {
    fn path(&self) -> PathBuf {
        PathBuf::from(&self.instance.status.log_path)
    }

    async fn run(&mut self) -> std::io::Result<()> {
        let path = self.path();
        // The watch is there before the first read, so that nothing written in between is missed.
        let watch = if self.wanted.follow { Some(watch(&path)?) } else { None };
        let mut file = BufReader::with_capacity(64 << 10, File::open(&path).await?);
        if let Some(lines) = self.wanted.tail {
            let from = tail_position(&path, lines)?;
            file.seek(SeekFrom::Start(from)).await?;
        }
        let mut line = Vec::new();
        let mut batch = Vec::new();
        loop {
            let read = file.read_until(b'\n', &mut line).await?;
            if read > 0 && line.ends_with(b"\n") {
                self.take(&line, &mut batch);
                line.clear();
                if batch.len() >= 32 << 10 && !self.flush(&mut batch).await {
                    return Ok(());
                }
                if self.left == Some(0) {
                    break;
                }
                continue;
            }
            if !self.flush(&mut batch).await {
                return Ok(());
            }
            let Some(watch) = &watch else { break };
            if read == 0 && rotated(&path, &file).await {
                file = BufReader::with_capacity(64 << 10, File::open(&path).await?);
                continue;
            }
            if !self.alive().await {
                // Whatever was written before the end is read before we stop.
                if file.read_until(b'\n', &mut line).await? == 0 {
                    break;
                }
                if line.ends_with(b"\n") {
                    self.take(&line, &mut batch);
                    line.clear();
                }
                continue;
            }
            tokio::select! {
                changed = watch.changed() => changed?,
                () = self.chunks.closed() => return Ok(()),
                // A container's end writes nothing to the file; its directory tells nothing either.
                () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {}
            }
        }
        self.flush(&mut batch).await;
        Ok(())
    }

    async fn alive(&self) -> bool {
        match self.node.cri.observe(&self.uid).await {
            Ok(observed) => observed.containers.iter().any(|c| c.status.id == self.instance.status.id && c.running()),
            Err(_) => true,
        }
    }

    async fn flush(&self, batch: &mut Vec<u8>) -> bool {
        if batch.is_empty() {
            return true;
        }
        self.chunks.send(Ok(Bytes::from(std::mem::take(batch)))).await.is_ok()
    }

    /// `<time> <stream> <tags> <text>\n`; a partial line (`P`) has no line end of its own.
    fn take(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let (Some(time), Some(stream), Some(tags), Some(text)) = (parts.next(), parts.next(), parts.next(), parts.next()) else { return };
        if self.wanted.stream.as_deref().is_some_and(|s| s.as_bytes() != stream) {
            return;
        }
        if let Some(since) = self.wanted.since {
            let at = std::str::from_utf8(time).ok().and_then(|t| t.parse::<Timestamp>().ok());
            if at.is_some_and(|at| at < since) {
                return;
            }
        }
        let begins = !self.partial;
        self.partial = tags.starts_with(b"P");
        let text = if self.partial { text.strip_suffix(b"\n").unwrap_or(text) } else { text };
        let mut piece = Vec::with_capacity(text.len() + 40);
        if self.wanted.timestamps && begins {
            piece.extend_from_slice(time);
            piece.push(b' ');
        }
        piece.extend_from_slice(text);
        if let Some(left) = &mut self.left {
            piece.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= piece.len() as u64;
        }
        out.extend_from_slice(&piece);
    }
}

/// The log was rotated: the name now stands for another file.
async fn rotated(path: &std::path::Path, file: &BufReader<File>) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(named), Ok(open)) = (tokio::fs::metadata(path).await, file.get_ref().metadata().await) else { return false };
    named.ino() != open.ino()
}

/// Where the last `lines` lines begin; read backwards in blocks.
fn tail_position(path: &std::path::Path, lines: usize) -> std::io::Result<u64> {
    use std::io::{Read, Seek};
    const BLOCK: u64 = 64 << 10;
    let mut file = std::fs::File::open(path)?;
    let end = file.metadata()?.len();
    if lines == 0 {
        return Ok(end);
    }
    let (mut at, mut wanted) = (end, lines);
    while at > 0 {
        let size = BLOCK.min(at);
        at -= size;
        file.seek(SeekFrom::Start(at))?;
        let mut block = vec![0; usize::try_from(size).unwrap_or(0)];
        file.read_exact(&mut block)?;
        for (i, byte) in block.iter().enumerate().rev() {
            let position = at + i as u64;
            if *byte == b'\n' && position + 1 != end {
                wanted -= 1;
                if wanted == 0 {
                    return Ok(position + 1);
                }
            }
        }
    }
    Ok(0)
}

/// Tells when the log may have grown. Rotation makes a new file of the same name.
fn watch(path: &std::path::Path) -> std::io::Result<Watch> {
    let parent = path.parent().unwrap_or(std::path::Path::new("/"));
    Watch::new(&[(path, Of::IN_MODIFY), (parent, Of::IN_CREATE | Of::IN_MOVED_TO | Of::IN_MODIFY)])
}
