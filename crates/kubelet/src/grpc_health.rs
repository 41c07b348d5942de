//! The health-checking protocol of gRPC, client side: one call with one string in and one number out.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// Name of a `ServingStatus`.
pub fn name(status: u64) -> &'static str {
    match status {
        1 => "SERVING",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}

/// Calls `grpc.health.v1.Health/Check` at `host:port` and returns the `ServingStatus`.
pub async fn check(authority: &str, service: &str) -> Result<u64, String> {
    let stream = TcpStream::connect(authority).await.map_err(|e| format!("failed to connect service {authority:?}: {e}"))?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .header(http::header::USER_AGENT, "kube-probe/1.36")
        .body(Full::new(frame(service)))
        .map_err(|e| e.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let early = response.headers().get("grpc-status").cloned();
        let body = response.into_body().collect().await.map_err(|e| e.to_string())?;
        let late = body.trailers().and_then(|t| t.get("grpc-status")).cloned();
        let code = late.or(early).and_then(|v| v.to_str().ok().and_then(|s| s.parse::<u32>().ok())).unwrap_or(2);
        if code != 0 {
            return Err(format!("health rpc failed with grpc-status {code}"));
        }
        Ok(status_in(&body.to_bytes()))
    };
    let answer = answer.await;
    driver.abort();
    answer
}

/// The length-prefixed message `{1: service}`.
fn frame(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        put_varint(&mut message, service.len());
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(&message);
    framed.freeze()
}

fn put_varint(out: &mut BytesMut, mut n: usize) {
    while n >= 0x80 {
        out.put_u8(u8::try_from(n & 0x7f).unwrap_or(0) | 0x80);
        n >>= 7;
    }
    out.put_u8(u8::try_from(n).unwrap_or(0));
}

/// Field 1 of the answer; an absent field is 0, UNKNOWN.
fn status_in(body: &[u8]) -> u64 {
    let mut message = body.get(5..).unwrap_or_default();
    if message.len() < 2 || message.get_u8() != 0x08 {
        return 0;
    }
    u64::from(message.get_u8())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_health_request_is_framed_as_grpc_wants_it() {
        assert_eq!(&frame("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&frame("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
    }

    #[test]
    fn the_serving_status_is_read_from_the_answer() {
        assert_eq!(status_in(&[0, 0, 0, 0, 2, 0x08, 1]), 1);
        assert_eq!(status_in(&[0, 0, 0, 0, 0]), 0);
    }
}
