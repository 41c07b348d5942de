//! Descriptions of types and fields, packed by the build script out of `k8s-openapi`; unpacked for the making of one document.

use std::collections::HashMap;
use std::io::Read as _;

static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/prose.z"));

/// How much there is, packed.
pub(super) fn size() -> usize {
    PACKED.len()
}

/// The unpacked text with an index by type.
pub(super) struct Prose {
    text: String,
    /// Type → range of its lines.
    types: HashMap<String, (usize, usize)>,
}

/// Unpacks everything. A damaged blob reads as no descriptions: it is part of the binary.
pub(super) fn unpack() -> Prose {
    let mut text = String::new();
    let _ = flate2::read::DeflateDecoder::new(PACKED).read_to_string(&mut text);
    let mut types = HashMap::new();
    let mut open: Option<(String, usize)> = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if let Some(header) = line.strip_prefix(':') {
            if let Some((name, start)) = open.take() {
                types.insert(name, (start, at));
            }
            open = Some((header.split('\t').next().unwrap_or_default().to_owned(), at));
        }
        at += line.len();
    }
    types.extend(open.map(|(name, start)| (name, (start, at))));
    Prose { text, types }
}

/// Where `kind` and `apiVersion` of any object are described.
const ANY_OBJECT: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

impl Prose {
    fn lines(&self, name: &str) -> impl Iterator<Item = (&str, &str)> {
        let (start, end) = self.types.get(name).copied().unwrap_or_default();
        self.text[start..end].lines().filter_map(|l| l.split_once('\t'))
    }

    /// The description of a type.
    pub(super) fn about(&self, name: &str) -> Option<String> {
        self.lines(name).next().map(|(_, text)| unfold(text)).filter(|t| !t.is_empty())
    }

    /// The description of a field.
    pub(super) fn field(&self, name: &str, field: &str) -> Option<String> {
        let own = self.lines(name).skip(1).find(|(f, _)| *f == field);
        let common = || self.lines(ANY_OBJECT).skip(1).find(|(f, _)| *f == field && matches!(field, "kind" | "apiVersion"));
        own.or_else(common).map(|(_, text)| unfold(text))
    }
}

fn unfold(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (c, c == '\\') {
            (_, true) => out.extend(characters.next().map(|n| if n == 'n' { '\n' } else { n })),
            (c, false) => out.push(c),
        }
    }
    out
}
