//! What can go wrong with images, in the words kubelet users know, and the gRPC code that goes with each.

use super::reference::{Digest, Reference};
use std::io;
use std::sync::Arc;

/// Result of image operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An image operation that failed. Cheap to clone, because the waiters of a shared pull all get it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The reference does not parse.
    #[error("failed to parse image reference {reference:?}: {why}")]
    InvalidReference {
        /// As given.
        reference: String,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// A digest that does not parse or has an algorithm we do not take.
    #[error("{why}: {digest:?}")]
    InvalidDigest {
        /// As given.
        digest: String,
        /// Which rule it breaks.
        why: String,
    },
    /// An identifier (container id) that cannot name a directory.
    #[error("invalid identifier {0:?}: must be 1 to 200 characters out of [A-Za-z0-9_.-] and start with a letter or digit")]
    InvalidId(String),
    /// No such image, manifest or blob.
    #[error("{0}: not found")]
    NotFound(String),
    /// The registry wants other credentials, or hides that the repository does not exist.
    #[error("pull access denied, repository does not exist or may require authorization: {0}")]
    Denied(String),
    /// The registry could not be reached at all.
    #[error("failed to do request: {method} {url:?}: {why}")]
    Unreachable {
        /// HTTP method.
        method: &'static str,
        /// What was asked.
        url: String,
        /// What the transport said.
        why: String,
    },
    /// The registry answered something unexpected.
    #[error("unexpected status from {method} request to {url}: {status}{}", .body.as_deref().map(|b| format!(": {b}")).unwrap_or_default())]
    Status {
        /// HTTP method.
        method: &'static str,
        /// What was asked.
        url: String,
        /// Status line.
        status: String,
        /// The registry's own message, shortened.
        body: Option<String>,
    },
    /// Content does not hash to what it should.
    #[error("unexpected digest {actual}, expected {expected}: failed precondition")]
    DigestMismatch {
        /// What was asked for.
        expected: Digest,
        /// What the bytes hash to.
        actual: Digest,
    },
    /// Content is shorter or longer than its descriptor says.
    #[error("unexpected size {actual} of {digest}, expected {expected}: failed precondition")]
    SizeMismatch {
        /// Which content.
        digest: Digest,
        /// Size of the descriptor, in bytes.
        expected: u64,
        /// Size found, in bytes.
        actual: u64,
    },
    /// A layer's uncompressed content is not what the image config promises.
    #[error("wrong diff id calculated on extraction {actual:?}, expected {expected:?}")]
    DiffIdMismatch {
        /// `rootfs.diff_ids` of the config.
        expected: Digest,
        /// What came out.
        actual: Digest,
    },
    /// The image has nothing for this machine.
    #[error("no match for platform in manifest: {platform} (available: {available}): not found")]
    NoPlatform {
        /// This machine's platform.
        platform: String,
        /// Those the index lists.
        available: String,
    },
    /// Manifest, config or archive is not what its format says.
    #[error("{0}")]
    Invalid(String),
    /// A layer holds something that must not be applied.
    #[error("invalid layer entry {path:?}: {why}")]
    InvalidEntry {
        /// Path inside the layer.
        path: String,
        /// Which rule it breaks.
        why: String,
    },
    /// The image is still used.
    #[error("{0}")]
    InUse(String),
    /// The disk or the kernel said no.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The kernel's answer.
        source: Arc<io::Error>,
    },
    /// A step of a larger operation failed.
    #[error("{context}: {source}")]
    Context {
        /// The operation.
        context: String,
        /// Why.
        source: Box<Error>,
    },
}

impl Error {
    /// Wraps an I/O error with what was being done.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source: Arc::new(source) }
    }

    /// Puts the operation in front of its cause.
    #[must_use]
    pub fn context(self, context: impl Into<String>) -> Self {
        Self::Context { context: context.into(), source: Box::new(self) }
    }

    /// The error under all contexts.
    pub fn root(&self) -> &Self {
        match self {
            Self::Context { source, .. } => source.root(),
            other => other,
        }
    }

    /// Whether trying again later may help, without anybody changing anything.
    pub(super) fn is_transient(&self) -> bool {
        match self.root() {
            Self::Unreachable { .. } => true,
            Self::Status { status, .. } => status.starts_with('5') || status.starts_with("429") || status.starts_with("408"),
            _ => false,
        }
    }

    /// The gRPC status of the error. Unclassified errors are `Unknown`, which is what other CRI servers answer.
    pub fn to_status(&self) -> tonic::Status {
        use tonic::Code;
        let code = match self.root() {
            Self::InvalidReference { .. } | Self::InvalidDigest { .. } | Self::InvalidId(_) => Code::InvalidArgument,
            Self::NotFound(_) | Self::NoPlatform { .. } => Code::NotFound,
            Self::DigestMismatch { .. } | Self::SizeMismatch { .. } => Code::FailedPrecondition,
            Self::InUse(_) => Code::FailedPrecondition,
            Self::Io { source, .. } if is_no_space(source) => Code::ResourceExhausted,
            Self::Unreachable { .. } => Code::Unavailable,
            Self::Status { status, .. } if status.starts_with("503") || status.starts_with("502") => Code::Unavailable,
            _ => Code::Unknown,
        };
        tonic::Status::new(code, self.to_string())
    }
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Adds what was being done to I/O results.
pub(super) trait IoContext<T> {
    /// `what` describes the operation; it is only built on failure.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::io(what(), e))
    }
}

impl<T> IoContext<T> for rustix::io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::io(what(), e.into()))
    }
}

/// `failed to pull and unpack image "...": ...`, the sentence every kubelet user has met.
pub(super) fn pull_failed(reference: &Reference, error: Error) -> Error {
    error.context(format!("failed to pull and unpack image \"{reference}\""))
}

/// `failed to resolve reference "...": ...`.
pub(super) fn resolve_failed(reference: &Reference, error: Error) -> Error {
    error.context(format!("failed to resolve reference \"{reference}\""))
}
