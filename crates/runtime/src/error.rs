//! Errors of the CRI server, and the codes by which the kubelet tells them apart.

use tonic::{Code, Status};

use crate::shim::client::ShimError;
use crate::spec::SpecError;

/// What went wrong, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The thing named does not exist.
    #[error("{0}")]
    NotFound(String),
    /// It exists already.
    #[error("{0}")]
    AlreadyExists(String),
    /// The request makes no sense.
    #[error("{0}")]
    InvalidArgument(String),
    /// It makes sense, but not in the present state.
    #[error("{0}")]
    FailedPrecondition(String),
    /// It took longer than it may.
    #[error("{0}")]
    DeadlineExceeded(String),
    /// This runtime does not do that.
    #[error("{0}")]
    Unimplemented(String),
    /// Everything else, with what was being done.
    #[error("{0}")]
    Internal(String),
    /// Something on the node failed.
    #[error("{0}: {1}")]
    Io(String, #[source] std::io::Error),
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what was being done when an I/O error came up.
pub trait IoContext<T> {
    /// Adds the words.
    fn context(self, what: impl Into<String>) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|error| Error::Io(what.into(), error))
    }
}

impl From<SpecError> for Error {
    fn from(error: SpecError) -> Self {
        match error {
            SpecError::Invalid(message) => Self::InvalidArgument(message),
            SpecError::Unsupported(message) => Self::Unimplemented(message),
            SpecError::Io(what, error) => Self::Io(what, error),
        }
    }
}

impl From<ShimError> for Error {
    fn from(error: ShimError) -> Self {
        match error {
            ShimError::NotFound(message) => Self::NotFound(message),
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::NotFound(_) => Code::NotFound,
            Error::AlreadyExists(_) => Code::AlreadyExists,
            Error::InvalidArgument(_) => Code::InvalidArgument,
            Error::FailedPrecondition(_) => Code::FailedPrecondition,
            Error::DeadlineExceeded(_) => Code::DeadlineExceeded,
            Error::Unimplemented(_) => Code::Unimplemented,
            // Unknown, like other runtimes: the kubelet shows the text and tries again.
            Error::Internal(_) | Error::Io(..) => Code::Unknown,
        };
        Self::new(code, error.to_string())
    }
}
