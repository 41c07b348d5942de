//! What went wrong with a request to another server, in the words of Go's network, TLS and HTTP libraries and of client-go.
//!
//! Who has a broken webhook reads them in the answer to his write and searches for them. They are made of what is known here and
//! never say more; what has no words of its own keeps those of the library underneath.

use super::OutboundError;
use bytes::Bytes;
use ferrokube_api::Status;
use http::StatusCode;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{CertificateError, InvalidMessage};
use serde::Deserialize;
use std::io::{self, ErrorKind};

/// Bytes of an answer without a `Status` that are shown at most.
const MOST_SHOWN: usize = 2048;

/// An answer as a whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub code: StatusCode,
    /// `Content-Type`.
    pub media: String,
    pub body: Bytes,
}

impl Answer {
    /// What of it is text for a person: whatever does not say that it is something else.
    fn text(&self) -> String {
        if !self.media.is_empty() && !self.media.starts_with("text/") {
            return "unknown".to_owned();
        }
        String::from_utf8_lossy(&self.body[..self.body.len().min(MOST_SHOWN)]).trim().to_owned()
    }

    /// The failure in the body, when there is one.
    fn told(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Head {
            kind: String,
        }
        let head: Head = serde_json::from_slice(&self.body).ok()?;
        let status: Status = serde_json::from_slice(&self.body).ok()?;
        (head.kind == "Status" && status.status == "Failure").then_some(status.message)
    }

    /// The body of a success.
    pub fn success(self) -> Result<Bytes, OutboundError> {
        match self.code.is_success() {
            true => Ok(self.body),
            false => Err(OutboundError::Refused { code: self.code, text: self.refusal() }),
        }
    }

    /// What an answer that is no success means (`errors.NewGenericServerResponse`).
    pub fn refusal(&self) -> String {
        if let Some(message) = self.told() {
            return message;
        }
        match self.code.as_u16() {
            400 => "the server rejected our request for an unknown reason".to_owned(),
            401 => "the server has asked for the client to provide credentials".to_owned(),
            403 | 415 => self.text(),
            404 => "the server could not find the requested resource".to_owned(),
            405 => "the server does not allow this method on the requested resource".to_owned(),
            406 => match self.text() {
                text if text.is_empty() || text == "unknown" => {
                    "the server was unable to respond with a content type that the client supports".to_owned()
                }
                text => text,
            },
            409 => "the server reported a conflict".to_owned(),
            422 => "the server rejected our request due to an error in our request".to_owned(),
            429 => "the server has received too many requests and has asked us to try again later".to_owned(),
            503 => "the server is currently unable to handle the request".to_owned(),
            504 => "the server was unable to return a response in the time allotted, but may still be processing the request".to_owned(),
            500.. => format!("an error on the server ({:?}) has prevented the request from succeeding", self.text()),
            code => format!("the server responded with the status code {code} but did not return more information"),
        }
    }

    /// What a success without a body means.
    pub fn empty(&self) -> String {
        format!("0-length response with status code: {} and content type: {}", self.code.as_u16(), self.media)
    }
}

/// Why there is no connection to an address.
pub(super) fn connecting(address: &str, error: &io::Error) -> String {
    let why = match error.kind() {
        ErrorKind::ConnectionRefused => "connect: connection refused",
        ErrorKind::NetworkUnreachable => "connect: network is unreachable",
        ErrorKind::HostUnreachable => "connect: no route to host",
        ErrorKind::ConnectionReset => "connect: connection reset by peer",
        ErrorKind::TimedOut => "connect: connection timed out",
        _ if error.raw_os_error().is_none() => return lookup(address, error),
        _ => return format!("dial tcp {address}: connect: {error}"),
    };
    format!("dial tcp {address}: {why}")
}

/// A name that has no address.
fn lookup(address: &str, error: &io::Error) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let text = error.to_string();
    let why = match text.strip_prefix("failed to lookup address information: ").unwrap_or(&text) {
        "Name or service not known" | "No address associated with hostname" => "no such host",
        other => other,
    };
    format!("dial tcp: lookup {host}: {why}")
}

/// Why a connection was not made safe.
pub(super) fn shaking_hands(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => format!("tls: failed to verify certificate: x509: {}", certificate(why)),
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "http: server gave HTTP response to HTTPS client".to_owned()
        }
        None if error.kind() == ErrorKind::UnexpectedEof => "EOF".to_owned(),
        _ => error.to_string(),
    }
}

fn certificate(why: &CertificateError) -> String {
    let outdated = |now: UnixTime, side: &str, limit: UnixTime| {
        let shown = |time: UnixTime| {
            let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
            jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX).to_string()
        };
        format!("certificate has expired or is not yet valid: current time {} is {side} {}", shown(now), shown(limit))
    };
    match why {
        // A signature that is wrong is one of another CA of the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => "certificate signed by unknown authority".to_owned(),
        CertificateError::Expired | CertificateError::NotValidYet => "certificate has expired or is not yet valid".to_owned(),
        CertificateError::ExpiredContext { time, not_after } => outdated(*time, "after", *not_after),
        CertificateError::NotValidYetContext { time, not_before } => outdated(*time, "before", *not_before),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "certificate specifies an incompatible key usage".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => another(expected, presented),
        other => other.to_string(),
    }
}

/// A certificate that is somebody else's. Its names come as `DnsName("a")` and `IpAddress(192.0.2.1)`.
fn another(expected: &ServerName<'_>, presented: &[String]) -> String {
    let named = |kind: &str| {
        let inner = |name: &String| Some(name.strip_prefix(kind)?.trim_matches(['(', ')', '"']).to_owned());
        presented.iter().filter_map(inner).collect::<Vec<_>>().join(", ")
    };
    let (wanted, names) = match expected {
        ServerName::IpAddress(ip) => (std::net::IpAddr::from(*ip).to_string(), named("IpAddress")),
        other => (other.to_str().into_owned(), named("DnsName")),
    };
    match (names.is_empty(), expected) {
        (false, _) => format!("certificate is valid for {names}, not {wanted}"),
        (true, ServerName::IpAddress(_)) => format!("cannot validate certificate for {wanted} because it doesn't contain any IP SANs"),
        (true, _) => format!("certificate is not valid for any names, but wanted to match {wanted}"),
    }
}

/// Why there is no answer although there was a connection.
pub(super) fn exchanging(error: &hyper::Error) -> String {
    if error.is_incomplete_message() { "EOF".to_owned() } else { error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: u16, media: &str, body: &'static str) -> String {
        Answer { code: StatusCode::from_u16(code).expect("a code"), media: media.to_owned(), body: body.into() }.refusal()
    }

    #[test]
    fn answers_that_are_no_success_are_told_as_client_go_tells_them() {
        let failed = "an error on the server (\"it broke\") has prevented the request from succeeding";
        assert_eq!(refusal(500, "text/plain; charset=utf-8", "it broke\n"), failed);
        assert_eq!(refusal(502, "", "it broke"), failed);
        let unknown = "an error on the server (\"unknown\") has prevented the request from succeeding";
        assert_eq!(refusal(500, "application/json", r#"{"error":"it broke"}"#), unknown);
        assert_eq!(refusal(404, "text/plain", "404 page not found"), "the server could not find the requested resource");
        assert_eq!(refusal(403, "text/plain", "not you\n"), "not you");
        let status = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"own words","reason":"Mine","code":500}"#;
        assert_eq!(refusal(500, "application/json", status), "own words");
        let other = "the server responded with the status code 302 but did not return more information";
        assert_eq!(refusal(302, "", ""), other);
    }

    #[test]
    fn certificates_are_refused_in_words_that_people_search_for() {
        let shown = |why: CertificateError| shaking_hands(&io::Error::new(ErrorKind::InvalidData, rustls::Error::InvalidCertificate(why)));
        let unknown = "tls: failed to verify certificate: x509: certificate signed by unknown authority";
        assert_eq!(shown(CertificateError::UnknownIssuer), unknown);
        let (time, not_after) =
            (UnixTime::since_unix_epoch(std::time::Duration::from_secs(86_400)), UnixTime::since_unix_epoch(Default::default()));
        let expired = "tls: failed to verify certificate: x509: certificate has expired or is not yet valid: \
                       current time 1970-01-02T00:00:00Z is after 1970-01-01T00:00:00Z";
        assert_eq!(shown(CertificateError::ExpiredContext { time, not_after }), expired);
        let named = |expected: &str, presented: &[&str]| {
            let expected = ServerName::try_from(expected.to_owned()).expect("a name");
            shown(CertificateError::NotValidForNameContext { expected, presented: presented.iter().map(|p| (*p).to_owned()).collect() })
        };
        let both = ["DnsName(\"a.test\")", "IpAddress(192.0.2.1)", "DnsName(\"b.test\")"];
        let prefix = "tls: failed to verify certificate: x509: ";
        assert_eq!(named("c.test", &both), format!("{prefix}certificate is valid for a.test, b.test, not c.test"));
        assert_eq!(named("192.0.2.2", &both), format!("{prefix}certificate is valid for 192.0.2.1, not 192.0.2.2"));
        let none = format!("{prefix}cannot validate certificate for 192.0.2.2 because it doesn't contain any IP SANs");
        assert_eq!(named("192.0.2.2", &both[..1]), none);
        assert_eq!(named("c.test", &[]), format!("{prefix}certificate is not valid for any names, but wanted to match c.test"));
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_refuses_the_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let error = tokio::net::TcpStream::connect(&address).await.expect_err("nobody");
        assert_eq!(connecting(&address, &error), format!("dial tcp {address}: connect: connection refused"));
    }
}
