//! What a proxy says of itself and corrects on the way: who asked and for what, and where an answer leads to.
//!
//! A backend knows nothing of the path under which it is shown. Redirects and links to places of its own are led through the proxy again.
//! Source: apimachinery `util/proxy`, Go's `httputil.ReverseProxy`.

use super::page;
use super::passage::Destination;
use crate::output::Body;
use crate::pipeline::Request;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, CONNECTION,
    HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, UPGRADE,
};
use http::{Method, Response, StatusCode};
use std::net::IpAddr;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// Headers that concern one hop only.
pub(super) fn is_hop(name: &HeaderName) -> bool {
    const HOP: [&str; 8] =
        ["connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade"];
    HOP.contains(&name.as_str())
}

/// Adds the client's address to those that a request has come through. Callers of this process have none.
pub fn append_client(headers: &mut HeaderMap, client: Option<IpAddr>) {
    let Some(client) = client else { return };
    let before = headers.get_all(&FOR).iter().filter_map(|v| v.to_str().ok().map(str::to_owned));
    let all: Vec<String> = before.chain([client.to_string()]).collect();
    if let Ok(value) = HeaderValue::from_str(&all.join(", ")) {
        headers.insert(FOR, value);
    }
}

/// Says under which path the backend is shown.
pub fn set_uri(headers: &mut HeaderMap, path: &str) {
    if let Ok(value) = HeaderValue::from_str(path) {
        headers.insert(URI, value);
    }
}

/// Takes out of an answer what is between the backend and us, and whom the backend would let read it: that is ours to say.
pub(super) fn clean(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let hops = headers.keys().filter(|name| is_hop(name)).cloned().collect::<Vec<_>>();
    let cors = [ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN];
    for name in named.into_iter().chain(hops).chain(cors) {
        headers.remove(name);
    }
}

/// What may stand before `//` and a host.
fn is_scheme(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    text.is_empty() || text.strip_suffix(':').is_some_and(|name| name.bytes().all(letter))
}

/// Where a redirect or a link of a backend leads to: through the proxy again when it is to a place of the backend's own. `hosts` are the names
/// under which the backend and this server are known to those who speak here.
fn led_through(location: &str, prefix: &str, backend: &str, asked: &str) -> String {
    let (origin, rest) = match location.split_once("//") {
        Some((scheme, rest)) if is_scheme(scheme) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            (Some((scheme, &rest[..end])), &rest[end..])
        }
        _ => (None, location),
    };
    let host = origin.map_or("", |(_, host)| host);
    if !host.is_empty() && host != backend && host != asked || !rest.starts_with('/') {
        return location.to_owned();
    }
    let origin = origin.filter(|(_, host)| !host.is_empty() && *host == asked).map(|(scheme, host)| format!("{scheme}//{host}"));
    let prefix = if rest.starts_with(prefix) { "" } else { prefix };
    format!("{}{prefix}{rest}", origin.unwrap_or_default())
}

impl Request<'_> {
    /// The path below which a backend is shown.
    fn shown_below(&self) -> String {
        let info = &self.info;
        let place = if info.namespace.is_empty() { String::new() } else { format!("/namespaces/{}", info.namespace) };
        format!("/api/{}{place}/{}/{}/proxy", info.version, info.resource, info.name)
    }

    /// Relative links of a page need a path that ends: who asks for the root without it is sent there.
    pub(super) fn sent_to_root(&self) -> Option<Response<Body>> {
        let root = self.info.rest.is_empty() && !self.info.path.ends_with('/');
        if !root || !matches!(self.method, Method::GET | Method::HEAD) || self.headers.contains_key(UPGRADE) {
            return None;
        }
        let query = self.query.raw();
        let mark = if query.is_empty() { "" } else { "?" };
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        response.headers_mut().insert(LOCATION, HeaderValue::from_str(&format!("{}/{mark}{query}", self.shown_below())).ok()?);
        Some(response)
    }

    /// Leads a redirect through the proxy, or the links of a page.
    pub(super) fn lead_through(&self, answer: &mut Response<Body>, to: &Destination) {
        let asked = self.headers.get(HOST).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let (below, backend) = (self.shown_below(), to.authority());
        let Some(location) = answer.headers().get(LOCATION).and_then(|v| v.to_str().ok()) else {
            return page::lead(answer, move |link| Some(led_through(link, &below, &backend, &asked)).filter(|led| led != link));
        };
        if let Ok(value) = HeaderValue::from_str(&led_through(location, &below, &backend, &asked)) {
            answer.headers_mut().insert(LOCATION, value);
        }
    }

    /// The headers with what a backend behind a proxy is told.
    pub(super) fn told_headers(&self) -> HeaderMap {
        let mut headers = self.headers.clone();
        set_uri(&mut headers, &self.info.path);
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_to_places_of_the_backend_lead_through_the_proxy() {
        let prefix = "/api/v1/namespaces/n/services/s/proxy";
        let led = |location: &str| led_through(location, prefix, "10.0.0.7:80", "localhost:8001");
        assert_eq!(led("/login?next=%2F#top"), format!("{prefix}/login?next=%2F#top"));
        assert_eq!(led("http://10.0.0.7:80/a/"), format!("{prefix}/a/"));
        assert_eq!(led("http://localhost:8001/a"), format!("http://localhost:8001{prefix}/a"));
        assert_eq!(led(&format!("{prefix}/a")), format!("{prefix}/a"));
        for elsewhere in
            ["https://example.com/a", "//example.com/a", "a/b", "?x=1", "", "?x=http://10.0.0.7:80/", "javascript:a//10.0.0.7:80/"]
        {
            assert_eq!(led(elsewhere), elsewhere);
        }
    }

    #[test]
    fn the_way_that_a_request_came_is_written_down_and_what_concerns_a_hop_is_not_passed_on() {
        let mut headers = HeaderMap::new();
        headers.insert(FOR, HeaderValue::from_static("192.0.2.1"));
        append_client(&mut headers, None);
        append_client(&mut headers, Some(IpAddr::from([192, 0, 2, 9])));
        assert_eq!(headers[FOR], "192.0.2.1, 192.0.2.9");
        for (name, value) in
            [("connection", "x-own, keep-alive"), ("keep-alive", "1"), ("x-own", "1"), ("access-control-allow-origin", "*")]
        {
            headers.insert(name, HeaderValue::from_static(value));
        }
        clean(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-forwarded-for"]);
    }
}
