//! Content negotiation: which format and which shape the client wants, by the rules of apiserver's `negotiation`.

use ferrokube_api::{Reason, Status};
use http::HeaderMap;
use http::header::ACCEPT;

/// How bytes are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `application/json`.
    #[default]
    Json,
    /// `application/yaml`.
    Yaml,
}

impl Format {
    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Yaml => "application/yaml",
        }
    }
}

/// What the object is turned into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accept {
    /// Format.
    pub format: Format,
    /// Shape.
    pub shape: Shape,
    /// The `meta.k8s.io` version of the shape is v1beta1.
    pub beta: bool,
}

const ACCEPTED: &str = "application/json, application/yaml";

/// 406, in the words of `negotiation.NewNotAcceptableError`.
pub fn not_acceptable() -> Status {
    Status::failure(406, Reason::NotAcceptable, format!("only the following media types are accepted: {ACCEPTED}"))
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
}

fn clause(text: &str) -> Clause<'_> {
    let mut parts = text.split(';').map(str::trim);
    let mut clause = Clause { media: parts.next().unwrap_or_default(), quality: 1000, convert: None, group: None, version: None };
    for part in parts {
        let Some((key, value)) = part.split_once('=') else { continue };
        match key {
            "q" => clause.quality = (value.parse::<f32>().unwrap_or(1.0) * 1000.0) as u16,
            "as" => clause.convert = Some(value),
            "g" => clause.group = Some(value),
            "v" => clause.version = Some(value),
            _ => {}
        }
    }
    clause
}

fn accepted(clause: &Clause<'_>, shapes: bool) -> Option<Accept> {
    let format = match clause.media {
        "application/json" | "*/*" | "application/*" => Format::Json,
        "application/yaml" => Format::Yaml,
        _ => return None,
    };
    let (shape, beta) = match (clause.convert, clause.group, clause.version) {
        (None, ..) => (Shape::Object, false),
        (Some(name), Some("meta.k8s.io"), Some(version @ ("v1" | "v1beta1"))) if shapes => {
            let shape = match name {
                "Table" => Shape::Table,
                "PartialObjectMetadata" => Shape::Partial,
                "PartialObjectMetadataList" => Shape::PartialList,
                _ => return None,
            };
            (shape, version == "v1beta1")
        }
        _ => return None,
    };
    Some(Accept { format, shape, beta })
}

/// Reads `Accept`. `shapes` says whether the endpoint can transform (get, list, watch).
pub fn accept(headers: &HeaderMap, shapes: bool) -> Result<Accept, Status> {
    let mut wanted = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(clause).peekable();
    if wanted.peek().is_none() {
        return Ok(Accept::default());
    }
    let mut wanted: Vec<_> = wanted.collect();
    wanted.sort_by_key(|c| std::cmp::Reverse(c.quality));
    wanted.iter().filter(|c| c.quality > 0).find_map(|c| accepted(c, shapes)).ok_or_else(not_acceptable)
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

    fn of(accept_header: &str) -> Result<Accept, Status> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept_header.parse().expect("a header"));
        accept(&headers, true)
    }

    #[test]
    fn the_first_usable_clause_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(of(kubectl).expect("accepted").shape, Shape::Table);
        let falls_back = of("application/vnd.kubernetes.protobuf,application/json").expect("accepted");
        assert_eq!((falls_back.format, falls_back.shape), (Format::Json, Shape::Object));
        let partial = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(of(partial).expect("accepted").shape, Shape::PartialList);
        assert_eq!(of("application/json;q=0.5, application/yaml").expect("accepted").format, Format::Yaml);
        assert_eq!(of("*/*").expect("accepted").format, Format::Json);
        assert_eq!(of("text/plain").expect_err("refused").code, 406);
        assert_eq!(of("application/vnd.kubernetes.protobuf").expect_err("refused").code, 406);
    }
}
