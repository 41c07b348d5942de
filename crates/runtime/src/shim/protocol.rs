//! What the CRI server and a pod's shim say to each other.
//!
//! A shim outlives the server that started it, so both ends may be of different releases: the first frame of every connection is a
//! [`Request::Hello`] with the version, fields are only ever added, and unknown fields are ignored. A frame is its length (u32, big endian)
//! and a JSON document; file descriptors travel beside the first byte of a frame.
//!
//! A connection carries one request at a time. Two requests change its nature: after [`Request::Subscribe`] it carries only [`Event`]s to
//! the server, and after [`Request::Exec`] it carries the exit of the process that was started, once.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The version that this build speaks. A shim answers a version that it does not know with an error that names its own.
pub const VERSION: u32 = 1;

/// No frame is longer: a longer one is a broken peer, not a message.
pub const MAX_FRAME: usize = 4 << 20;

/// From the server to the shim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Opens a connection.
    Hello {
        /// The version that the server speaks.
        version: u32,
    },
    /// Creates and starts a container from its bundle. Answered with [`Reply::Started`] once its process runs, or with the reason why not.
    Start(Box<StartContainer>),
    /// Starts a process in a running container. Answered with [`Reply::Started`] and its descriptors (`[stdin], stdout, stderr`, or the
    /// terminal), later with [`Reply::Exited`] on the same connection.
    Exec(Box<ExecProcess>),
    /// Sends a signal to the first process of a container, or to all of them.
    Signal {
        /// Container id.
        id: String,
        /// Signal number.
        signal: i32,
        /// To every process of the container.
        all: bool,
    },
    /// Sends a signal to a process started by [`Request::Exec`].
    SignalExec {
        /// The exec's id.
        exec_id: String,
        /// Signal number.
        signal: i32,
    },
    /// Copies the output of a container to the descriptors that come along (stdout, then stderr unless the container has a terminal).
    /// Answered with [`Reply::Done`], with the container's stdin (or terminal) alongside when `stdin` is set.
    Attach {
        /// Container id.
        id: String,
        /// Hand out the container's stdin.
        stdin: bool,
        /// A descriptor for stdout comes along.
        stdout: bool,
        /// A descriptor for stderr comes along, after that for stdout.
        stderr: bool,
    },
    /// The client that fed stdin is gone; closes the container's stdin when the container asked for that (`stdin_once`).
    CloseStdin {
        /// Container id.
        id: String,
    },
    /// Sets the size of a container's terminal.
    Resize {
        /// Container id.
        id: String,
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// Opens the log file anew, after it was moved away.
    ReopenLog {
        /// Container id.
        id: String,
    },
    /// Forgets a container that has exited.
    Forget {
        /// Container id.
        id: String,
    },
    /// What the shim holds; answered with [`Reply::State`].
    State,
    /// From now on this connection carries [`Event`]s. Answered with [`Reply::State`] first, so that nothing falls in between.
    Subscribe,
    /// Kills what is left and exits.
    Shutdown,
}

/// All that a shim must know to start a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartContainer {
    /// Container id.
    pub id: String,
    /// Directory with `config.json` and `security.json`.
    pub bundle: PathBuf,
    /// CRI log file; none when the pod has no log directory.
    pub log_path: Option<PathBuf>,
    /// Where the exit is recorded durably.
    pub exit_path: PathBuf,
    /// Cgroup path below each hierarchy, for looking up out-of-memory kills and leftovers.
    pub cgroup: String,
    /// The container wants a stdin that can be attached to.
    pub stdin: bool,
    /// Its stdin ends with the first client.
    pub stdin_once: bool,
    /// It has a terminal.
    pub tty: bool,
    /// Best effort: lowering it needs a privilege that may be missing.
    pub oom_score_adj: Option<i32>,
    /// Its PID namespace is its own, so the kernel ends everything in it with its first process.
    pub own_pid_namespace: bool,
}

/// All that a shim must know to start a process in a running container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecProcess {
    /// Container id.
    pub id: String,
    /// Id for [`Request::SignalExec`].
    pub exec_id: String,
    /// The OCI `process` object.
    pub process: serde_json::Value,
    /// With a terminal: one descriptor comes back.
    pub tty: bool,
    /// With a stdin.
    pub stdin: bool,
    /// Best effort, as for the container.
    pub oom_score_adj: Option<i32>,
}

/// From the shim to the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// The answer to [`Request::Hello`].
    Hello {
        /// The version that the shim speaks.
        version: u32,
        /// Its process id.
        pid: u32,
        /// The process that holds the pod's PID namespace, when it has one.
        pod_init: Option<u32>,
    },
    /// Done, nothing to say.
    Done,
    /// A process runs.
    Started {
        /// Its process id on the node.
        pid: u32,
        /// When, in nanoseconds since the epoch.
        started_at: i64,
    },
    /// A process started by exec has ended.
    Exited {
        /// Exit code; 128 + n after signal n.
        exit_code: i32,
    },
    /// What the shim holds.
    State {
        /// All containers that were started and not forgotten.
        containers: Vec<ContainerState>,
    },
    /// The request failed.
    Error {
        /// What a user gets to see.
        message: String,
        /// The thing that was asked for does not exist.
        #[serde(default)]
        not_found: bool,
    },
}

/// A container as its shim sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Container id.
    pub id: String,
    /// Its first process, also after it has ended.
    pub pid: u32,
    /// Nanoseconds since the epoch.
    pub started_at: i64,
    /// How it ended, when it has.
    pub exit: Option<Exit>,
}

/// How a container ended. Also the content of its `exit.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + n after signal n.
    pub exit_code: i32,
    /// Nanoseconds since the epoch; 0 when it never started.
    pub started_at: i64,
    /// Nanoseconds since the epoch.
    pub finished_at: i64,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, or `Unknown`.
    pub reason: String,
    /// Why it could not start, when it could not.
    #[serde(default)]
    pub message: String,
}

/// Pushed to subscribers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A container runs. Whoever asked for it has the answer already; a server that came up since has not.
    Started {
        /// Container id.
        id: String,
        /// Its first process.
        pid: u32,
        /// Nanoseconds since the epoch.
        started_at: i64,
    },
    /// A container has ended, its output is in its log, its exit is on disk.
    Exited {
        /// Container id.
        id: String,
        /// How.
        exit: Exit,
    },
}

/// Appends one frame to a buffer.
pub fn encode<T: Serialize>(message: &T, out: &mut Vec<u8>) -> serde_json::Result<()> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    serde_json::to_writer(&mut *out, message)?;
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// Takes the first whole frame off a buffer.
///
/// Returns none while it is incomplete, and an error when it is longer than [`MAX_FRAME`] or not the expected document.
pub fn decode<T: for<'de> Deserialize<'de>>(buffer: &mut Vec<u8>) -> std::io::Result<Option<T>> {
    let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*head) as usize;
    if length > MAX_FRAME {
        return Err(std::io::Error::other(format!("a frame of {length} bytes from the shim's socket")));
    }
    let Some(body) = buffer.get(4..4 + length) else { return Ok(None) };
    let message = serde_json::from_slice(body).map_err(std::io::Error::other)?;
    buffer.drain(..4 + length);
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_split() {
        let messages = [Request::State, Request::Signal { id: "a".into(), signal: 15, all: true }, Request::Hello { version: 1 }];
        let mut wire = Vec::new();
        for message in &messages {
            encode(message, &mut wire).expect("plain data");
        }
        let (mut buffer, mut seen) = (Vec::new(), Vec::new());
        for byte in wire {
            buffer.push(byte);
            while let Some(message) = decode::<Request>(&mut buffer).expect("our own frame") {
                seen.push(message);
            }
        }
        assert_eq!(seen, messages);
        assert!(buffer.is_empty());
    }

    #[test]
    fn an_oversized_or_foreign_frame_is_an_error() {
        assert!(decode::<Request>(&mut vec![0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(decode::<Request>(&mut vec![0, 0, 0, 2, b'{', b'}']).is_err());
    }
}
