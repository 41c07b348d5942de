//! The format of a request's body, and decoding by it.

use crate::output::negotiate;
use bytes::Bytes;
use ferrokube_api::decode::{self, ContentType, Decoded, Strictness};
use ferrokube_api::schema::{Gvk, Schema};
use ferrokube_api::{Status, protobuf};
use http::HeaderMap;
use http::header::CONTENT_TYPE;

const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// What a client may send an object as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl Content {
    /// Reads `Content-Type`; nothing said means JSON.
    pub fn of(headers: &HeaderMap) -> Result<Self, Status> {
        let Some(media) = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()) else { return Ok(Content::Json) };
        match media.split(';').next().unwrap_or_default().trim() {
            "application/json" | "*/*" | "application/*" | "" => Ok(Content::Json),
            "application/yaml" => Ok(Content::Yaml),
            "application/vnd.kubernetes.protobuf" => Ok(Content::Protobuf),
            _ => Err(negotiate::unsupported(ACCEPTED)),
        }
    }

    /// Decodes an object of a kind.
    pub fn decode(self, body: &Bytes, schema: &Schema, kind: &Gvk, strictness: Strictness) -> Result<Decoded, Status> {
        match self {
            Content::Json => decode::decode_as(body, ContentType::Json, schema, kind, strictness),
            Content::Yaml => decode::decode_as(body, ContentType::Yaml, schema, kind, strictness),
            Content::Protobuf => {
                let read = protobuf::read(body, schema);
                let value = read.map_err(|e| {
                    Status::bad_request(format!("the object provided is unrecognized (must be of type {}): {e}", kind.kind))
                })?;
                // What Go's generated code always writes is dropped on the way through the decoder; unknown fields cannot be told.
                decode::decode_as(value.to_string().as_bytes(), ContentType::Json, schema, kind, Strictness::Ignore)
            }
        }
    }
}
