//! `/health`, `/ready` and `/metrics`: a line or a page of text, then the connection is closed. Too little for a library.

use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const MAX_REQUEST: usize = 8 << 10;
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);

/// Serves pages until dropped: `page` gives status and text for a path, or `None`.
pub async fn serve(listener: TcpListener, page: impl Fn(&str) -> Option<(bool, String)> + Clone + Send + Sync + 'static) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let page = page.clone();
                tokio::spawn(with_patience(async move { one_request(stream, page).await }));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await, // Out of descriptors.
        }
    }
}

async fn with_patience(work: impl Future<Output = io::Result<()>>) {
    // A client that is slow or gone is no concern of ours.
    let _ = tokio::time::timeout(CLIENT_PATIENCE, work).await;
}

async fn one_request(mut stream: TcpStream, page: impl Fn(&str) -> Option<(bool, String)>) -> io::Result<()> {
    let mut request = Vec::with_capacity(512);
    while !request.windows(4).any(|w| w == b"\r\n\r\n") && request.len() < MAX_REQUEST {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let line = String::from_utf8_lossy(request.split(|b| *b == b'\r').next().unwrap_or(&[])).into_owned();
    let path = line.split(' ').nth(1).unwrap_or_default();
    let (status, body) = match page(path.split('?').next().unwrap_or_default()) {
        Some((true, body)) => ("200 OK", body),
        Some((false, body)) => ("503 Service Unavailable", body),
        None => ("404 Not Found", "404 page not found\n".into()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}
