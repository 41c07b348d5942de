//! Answers that are whole from the beginning, whatever body a port sends: this server's own, and those of the components.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Response, StatusCode};

/// The type of plain words.
pub const PLAIN: &str = "text/plain; charset=utf-8";

/// A whole answer with its type.
pub fn whole<B: From<Bytes>>(media: &'static str, body: impl Into<Bytes>) -> Response<B> {
    let mut response = Response::new(body.into().into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// One that browsers must take for what it says it is.
pub fn page<B: From<Bytes>>(code: StatusCode, media: &'static str, body: impl Into<Bytes>) -> Response<B> {
    let mut response = whole(media, body);
    *response.status_mut() = code;
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A refusal as Go's HTTP library writes it (`http.Error`).
pub fn refusal<B: From<Bytes>>(code: StatusCode, text: &str) -> Response<B> {
    page(code, PLAIN, format!("{text}\n"))
}

/// What Go's HTTP library says of a path that nothing serves.
pub fn not_found_page<B: From<Bytes>>() -> Response<B> {
    refusal(StatusCode::NOT_FOUND, "404 page not found")
}
