//! Content negotiation: which format and which shape the client wants, by the rules of apiserver's `negotiation`.

use ferrokube_api::{Reason, Status};
use http::HeaderMap;
use http::header::ACCEPT;

/// How bytes are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// `application/json`.
    #[default]
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl Format {
    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Yaml => "application/yaml",
            Format::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }

    /// The media type of a watch: only JSON goes without saying that it is one.
    pub fn stream_media_type(self) -> &'static str {
        match self {
            Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            Format::Json | Format::Yaml => "application/json",
        }
    }
}

/// What the object is turned into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Shape {
    /// As it is.
    #[default]
    Object,
    /// `meta.k8s.io/v1 Table`.
    Table,
    /// `PartialObjectMetadata`.
    Partial,
    /// `PartialObjectMetadataList`.
    PartialList,
}

/// What the client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Accept {
    /// Format.
    pub format: Format,
    /// Shape.
    pub shape: Shape,
    /// The `meta.k8s.io` version of the shape is v1beta1.
    pub beta: bool,
}

/// What an endpoint can answer with.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// Partial metadata, besides the objects as they are.
    pub transforms: bool,
    /// Tables. What is answered and kept nowhere has none.
    pub tables: bool,
    /// Its objects have a protobuf form; those of custom resources have none.
    pub protobuf: bool,
    /// Events, one after the other; YAML has no form for them.
    pub watch: bool,
}

impl Endpoint {
    /// Discovery documents and `Status`.
    pub const DOCUMENTS: Endpoint = Endpoint { transforms: false, tables: false, protobuf: true, watch: false };
    /// What has no form but JSON and YAML.
    pub const TEXT: Endpoint = Endpoint { transforms: false, tables: false, protobuf: false, watch: false };
}

const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const ACCEPTED_STREAMS: &str = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";

/// 406, in the words of `negotiation.NewNotAcceptableError`.
pub fn not_acceptable(watch: bool) -> Status {
    let accepted = if watch { ACCEPTED_STREAMS } else { ACCEPTED };
    Status::failure(406, Reason::NotAcceptable, format!("only the following media types are accepted: {accepted}"))
}

/// 415, in the words of `negotiation.NewUnsupportedMediaTypeError`.
pub fn unsupported(accepted: &str) -> Status {
    let message = format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
    Status::failure(415, Reason::UnsupportedMediaType, message)
}

struct Clause<'a> {
    media: &'a str,
    quality: u16,
    convert: Option<&'a str>,
    group: Option<&'a str>,
    version: Option<&'a str>,
    /// A parameter asks for what no endpoint has: another stream than a watch, another version of the server.
    impossible: bool,
}

fn clause(text: &str) -> Clause<'_> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default();
    let mut clause = Clause { media, quality: 1000, convert: None, group: None, version: None, impossible: false };
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let value = value.trim_matches('"');
        match key {
            "q" => clause.quality = (value.parse::<f32>().unwrap_or(1.0) * 1000.0) as u16,
            "as" => clause.convert = Some(value),
            "g" => clause.group = Some(value),
            "v" => clause.version = Some(value),
            "stream" => clause.impossible |= value != "watch",
            "sv" => clause.impossible |= !value.is_empty(),
            _ => {}
        }
    }
    clause
}

/// The formats that a media range covers, in the order of the server's own preference.
fn formats(media: &str) -> &'static [Format] {
    match media {
        "*/*" | "application/*" => &[Format::Json, Format::Yaml, Format::Protobuf],
        "application/json" => &[Format::Json],
        "application/yaml" => &[Format::Yaml],
        "application/vnd.kubernetes.protobuf" => &[Format::Protobuf],
        _ => &[],
    }
}

fn accepted(clause: &Clause<'_>, format: Format, endpoint: Endpoint) -> Option<Accept> {
    let (shape, beta) = match (clause.convert, clause.group, clause.version) {
        (None, ..) => (Shape::Object, false),
        (Some(name), Some("meta.k8s.io"), Some(version @ ("v1" | "v1beta1"))) if endpoint.transforms => {
            let shape = match name {
                "Table" if endpoint.tables => Shape::Table,
                "PartialObjectMetadata" => Shape::Partial,
                "PartialObjectMetadataList" => Shape::PartialList,
                _ => return None,
            };
            (shape, version == "v1beta1")
        }
        _ => return None,
    };
    let speaks = match (format, shape) {
        (Format::Protobuf, Shape::Table) => false,
        // Metadata has a protobuf form whatever it is the metadata of.
        (Format::Protobuf, Shape::Object) => endpoint.protobuf,
        (Format::Yaml, _) => !endpoint.watch,
        _ => true,
    };
    (speaks && !clause.impossible).then_some(Accept { format, shape, beta })
}

/// Reads `Accept`: of the best clauses that the endpoint can answer, the first.
///
/// # Errors
/// 406 when there is none.
pub fn accept(headers: &HeaderMap, endpoint: Endpoint) -> Result<Accept, Status> {
    let mut wanted = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(clause).peekable();
    if wanted.peek().is_none_or(|c| c.media.is_empty()) {
        return Ok(Accept::default());
    }
    let mut wanted: Vec<_> = wanted.collect();
    // Equal quality: what is named goes before ranges.
    wanted.sort_by_key(|c| (std::cmp::Reverse(c.quality), c.media == "*/*", c.media == "application/*"));
    let usable = wanted.iter().filter(|c| c.quality > 0);
    let mut answers = usable.flat_map(|c| formats(c.media).iter().filter_map(move |f| accepted(c, *f, endpoint)));
    answers.next().ok_or_else(|| not_acceptable(endpoint.watch))
}

/// Whether the client takes gzip.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(http::header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next() == Some("gzip") && !parts.any(|p| p == "q=0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECTS: Endpoint = Endpoint { transforms: true, tables: true, protobuf: true, watch: false };
    const CUSTOM: Endpoint = Endpoint { transforms: true, tables: true, protobuf: false, watch: false };
    const WATCH: Endpoint = Endpoint { transforms: true, tables: true, protobuf: true, watch: true };

    fn at(endpoint: Endpoint, header: &str) -> Option<(Format, Shape)> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, header.parse().expect("a header"));
        accept(&headers, endpoint).ok().map(|a| (a.format, a.shape))
    }

    #[test]
    fn the_best_clause_that_can_be_answered_wins() {
        let both = "application/vnd.kubernetes.protobuf,application/json";
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let wire_table = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json;as=Table;g=meta.k8s.io;v=v1";
        let partial = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        let cases = [
            (OBJECTS, both, Some((Format::Protobuf, Shape::Object))),
            (CUSTOM, both, Some((Format::Json, Shape::Object))),
            (CUSTOM, "application/vnd.kubernetes.protobuf", None),
            (OBJECTS, table, Some((Format::Json, Shape::Table))),
            (Endpoint::DOCUMENTS, table, Some((Format::Json, Shape::Object))),
            (OBJECTS, wire_table, Some((Format::Json, Shape::Table))),
            (OBJECTS, partial, Some((Format::Protobuf, Shape::PartialList))),
            (CUSTOM, partial, Some((Format::Protobuf, Shape::PartialList))),
            (OBJECTS, "application/json;q=0.5, application/yaml", Some((Format::Yaml, Shape::Object))),
            (OBJECTS, "*/*", Some((Format::Json, Shape::Object))),
            (OBJECTS, "*/*,application/yaml", Some((Format::Yaml, Shape::Object))),
            (OBJECTS, "text/html, */*;q=0.8", Some((Format::Json, Shape::Object))),
            (OBJECTS, "application/json;as=Table", None),
            (OBJECTS, "application/json;sv=v1", None),
            (OBJECTS, "text/plain", None),
            (WATCH, "application/yaml", None),
            (WATCH, "application/vnd.kubernetes.protobuf;stream=watch", Some((Format::Protobuf, Shape::Object))),
            (WATCH, "application/json;stream=other", None),
        ];
        for (endpoint, header, wanted) in cases {
            assert_eq!(at(endpoint, header), wanted, "{header} at {endpoint:?}");
        }
        assert_eq!(accept(&HeaderMap::new(), CUSTOM).expect("anything goes"), Accept::default());
    }

    #[test]
    fn a_refusal_names_what_there_is() {
        let words = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";
        assert_eq!(not_acceptable(false).message, words);
        assert!(not_acceptable(true).message.ends_with("application/vnd.kubernetes.protobuf;stream=watch"));
    }
}
