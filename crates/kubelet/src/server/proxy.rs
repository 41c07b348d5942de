//! Passing a streaming request on to the container runtime's streaming server and copying bytes both ways.

use super::{Answer, Body, full, text};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Sends the upgrade request to `url`; after the runtime has agreed, connects both ends.
pub async fn pass(mut request: Request<Incoming>, url: &str) -> Answer {
    match connect(&request, url).await {
        Ok((answer, _)) if answer.status() != StatusCode::SWITCHING_PROTOCOLS => refused(answer).await,
        Ok((mut answer, _keep)) => {
            let mut made = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
            for (name, value) in answer.headers() {
                made = made.header(name, value);
            }
            tokio::spawn(async move {
                let (client, runtime) = tokio::join!(hyper::upgrade::on(&mut request), hyper::upgrade::on(&mut answer));
                match (client, runtime) {
                    (Ok(client), Ok(runtime)) => {
                        let copied = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(runtime)).await;
                        if let Err(e) = copied {
                            tracing::debug!("stream ended: {e}");
                        }
                    }
                    (Err(e), _) | (_, Err(e)) => tracing::warn!("stream not upgraded: {e}"),
                }
            });
            made.body(full("")).unwrap_or_else(|e| text(500, e.to_string()))
        }
        Err(e) => text(502, format!("the container runtime's streaming server: {e}")),
    }
}

type Driver = tokio::task::JoinHandle<()>;

async fn connect(request: &Request<Incoming>, url: &str) -> Result<(Response<Incoming>, Driver), String> {
    let uri: Uri = url.parse().map_err(|e: http::uri::InvalidUri| e.to_string())?;
    let authority = uri.authority().ok_or("no address in the URL")?.to_string();
    let stream = TcpStream::connect(&authority).await.map_err(|e| format!("{authority}: {e}"))?;
    // Interactive streams: a key stroke must not wait for more.
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let driver = tokio::spawn(async move { drop(connection.with_upgrades().await) });
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut onward = Request::builder().method(request.method()).uri(path);
    for (name, value) in passed_on(request.headers()) {
        onward = onward.header(name, value);
    }
    let onward = onward.header(header::HOST, authority).body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let answer = sender.send_request(onward).await.map_err(|e| e.to_string())?;
    Ok((answer, driver))
}

/// Everything but who asked and for which host: credentials stay here.
fn passed_on(headers: &HeaderMap) -> impl Iterator<Item = (&header::HeaderName, &header::HeaderValue)> {
    headers.iter().filter(|(name, _)| **name != header::HOST && **name != header::AUTHORIZATION && **name != header::COOKIE)
}

async fn refused(answer: Response<Incoming>) -> Answer {
    let (parts, body) = answer.into_parts();
    let body: Body = body.map_err(std::io::Error::other).boxed_unsync();
    Response::from_parts(parts, body)
}
