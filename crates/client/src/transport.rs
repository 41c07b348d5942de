//! The one seam between a component and an API server.

use bytes::Bytes;
use ferrokube_api::{Change, Selection};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

/// The API server was not reached, or the connection broke.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TransportError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

impl TransportError {
    /// From anything that is an error.
    pub fn new(e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        TransportError(e.into())
    }
}

/// Carries requests to an API server under one identity. Two implementations: in-process (made where the binary is
/// wired, a plain call into the request pipeline) and [`crate::http::HttpTransport`].
pub trait Transport: Send + Sync + 'static {
    /// Sends one request (path and query in the URI, no host needed) and collects the answer.
    fn send(&self, request: ::http::Request<Bytes>) -> BoxFuture<'_, Result<::http::Response<Bytes>, TransportError>>;

    /// Everything that happens to the selected objects, for as long as the stream is held. Starts with
    /// [`Change::Restart`]; survives lost connections and lost history by itself (a new `Restart`). While access is
    /// refused or the server is away it retries with backoff and logs why.
    fn subscribe(&self, selection: Selection) -> BoxStream<'static, Change>;
}
