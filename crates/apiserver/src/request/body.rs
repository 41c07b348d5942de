//! The body of a request, read at most once and never beyond the limit.

use bytes::{Bytes, BytesMut};
use ferrokube_api::{Reason, Status};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;

/// What a client may send at most (upstream: 3 MiB).
pub const LIMIT: usize = 3 * 1024 * 1024;

/// A body not yet read.
pub enum RequestBody {
    /// It is here.
    Full(Bytes),
    /// It comes from a connection.
    Stream(UnsyncBoxBody<Bytes, hyper::Error>),
}

impl std::fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RequestBody")
    }
}

fn too_large() -> Status {
    Status::failure(413, Reason::RequestEntityTooLarge, format!("Request entity too large: limit is {LIMIT}"))
}

impl RequestBody {
    /// All of it.
    pub async fn read(self) -> Result<Bytes, Status> {
        let mut body = match self {
            RequestBody::Full(bytes) if bytes.len() > LIMIT => return Err(too_large()),
            RequestBody::Full(bytes) => return Ok(bytes),
            RequestBody::Stream(body) => body,
        };
        let mut whole = BytesMut::new();
        let mut first: Option<Bytes> = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Status::bad_request("unable to read the request body"))?;
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + first.as_ref().map_or(0, Bytes::len) + data.len() > LIMIT {
                return Err(too_large());
            }
            match first.take() {
                None if whole.is_empty() => first = Some(data),
                Some(earlier) => {
                    whole.extend_from_slice(&earlier);
                    whole.extend_from_slice(&data);
                }
                None => whole.extend_from_slice(&data),
            }
        }
        Ok(first.unwrap_or_else(|| whole.freeze()))
    }
}
