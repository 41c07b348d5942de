//! Links in an HTML page that goes through a proxy, changed on the way. Source: apimachinery `util/proxy`, `rewriteHTML`.
//!
//! This finds tags and what stands in their attributes, as the HTML standard cuts a page up, and nothing else: whatever is not a link
//! that changes goes through byte by byte (upstream writes every tag anew). It works on pieces as they come, and keeps no more than a
//! tag. A page that is no HTML comes out as it went in, or nearly so: it must never fail.

use std::borrow::Cow;
use std::ops::Range;

/// The longest tag that is looked into; a longer one goes through as it is.
const LONGEST_TAG: usize = 1 << 20;

/// Elements with attributes that are links.
const LINKS: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements between whose tags there is text and nothing else.
const RAW: [&str; 9] = ["iframe", "noembed", "noframes", "plaintext", "script", "style", "textarea", "title", "xmp"];

/// Where in a page we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between tags.
    Text,
    /// In something that ends with these bytes: a comment, a declaration, an end tag.
    Until(&'static [u8]),
    /// In an element of [`RAW`].
    Raw(&'static str),
}

/// A page on its way.
pub struct Rewriter<F> {
    state: State,
    held: Vec<u8>,
    link: F,
}

impl<F: FnMut(&str) -> Option<String>> Rewriter<F> {
    /// `link` says what shall stand in place of a link, when something else shall.
    pub fn new(link: F) -> Self {
        Rewriter { state: State::Text, held: Vec::new(), link }
    }

    /// Takes what has come, and gives what can go on.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        self.held.extend_from_slice(piece);
        let held = std::mem::take(&mut self.held);
        let mut rest = held.as_slice();
        while let Some(taken) = self.step(rest, out) {
            rest = &rest[taken..];
        }
        self.held = rest.to_vec();
    }

    /// The page is at its end: what was begun and not ended goes as it is.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
    }

    /// Deals with the first part of `rest` and says how long it is; nothing when more must come first.
    fn step(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        match self.state {
            State::Text => self.text(rest, out),
            State::Until(end) => {
                let (taken, found) = upto(rest, find(rest, end).map(|at| at + end.len()), end.len() - 1)?;
                out.extend_from_slice(&rest[..taken]);
                if found {
                    self.state = State::Text;
                }
                Some(taken)
            }
            State::Raw(name) => {
                // `</`, the name, and one more that is not of the name.
                let (taken, found) = upto(rest, end_of_raw(rest, name), name.len() + 2)?;
                out.extend_from_slice(&rest[..taken]);
                if found {
                    self.state = State::Until(b">");
                }
                Some(taken)
            }
        }
    }

    fn text(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let at = rest.iter().position(|b| *b == b'<').unwrap_or(rest.len());
        if at > 0 {
            out.extend_from_slice(&rest[..at]);
            return Some(at);
        }
        let (taken, state) = match rest.get(1)? {
            b'a'..=b'z' | b'A'..=b'Z' => return self.tag(rest, out),
            b'/' | b'?' => (2, State::Until(b">")),
            b'!' if matches!(rest.get(2..4), Some(b"--")) => (2, State::Until(b"-->")),
            // Not yet known what it becomes.
            b'!' if b"--".starts_with(&rest[2..]) => return None,
            b'!' => (2, State::Until(b">")),
            _ => (1, State::Text),
        };
        out.extend_from_slice(&rest[..taken]);
        self.state = state;
        Some(taken)
    }

    /// A start tag.
    fn tag(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let Some(tag) = Tag::read(rest) else {
            // Too long for a tag: so it is let alone.
            return (rest.len() > LONGEST_TAG).then(|| {
                out.push(b'<');
                1
            });
        };
        let mut done = 0;
        if let Some((_, links)) = LINKS.iter().find(|(name, _)| tag.name.eq_ignore_ascii_case(name.as_bytes())) {
            for attribute in &tag.attributes {
                let key = &rest[attribute.key.clone()];
                let Ok(value) = std::str::from_utf8(&rest[attribute.value.clone()]) else { continue };
                if !links.iter().any(|link| key.eq_ignore_ascii_case(link.as_bytes())) {
                    continue;
                }
                if let Some(changed) = (self.link)(&unescape(value)) {
                    out.extend_from_slice(&rest[done..attribute.whole.start]);
                    out.push(b'"');
                    out.extend_from_slice(escape(&changed).as_bytes());
                    out.push(b'"');
                    done = attribute.whole.end;
                }
            }
        }
        out.extend_from_slice(&rest[done..tag.length]);
        if let Some(name) = RAW.into_iter().find(|name| tag.name.eq_ignore_ascii_case(name.as_bytes())) {
            self.state = State::Raw(name);
        }
        Some(tag.length)
    }
}

/// How much of `rest` can go: up to the end that was found, or all but so many bytes that may be the beginning of one.
fn upto(rest: &[u8], found: Option<usize>, keep: usize) -> Option<(usize, bool)> {
    match found {
        Some(end) => Some((end, true)),
        None if rest.len() > keep => Some((rest.len() - keep, false)),
        None => None,
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|w| w == what)
}

/// Where the end tag of an element begins whose content is text, without its `>`.
fn end_of_raw(text: &[u8], name: &str) -> Option<usize> {
    if name == "plaintext" {
        return None;
    }
    let length = name.len() + 3;
    let ends = |w: &[u8]| {
        w.starts_with(b"</")
            && w[2..length - 1].eq_ignore_ascii_case(name.as_bytes())
            && matches!(w[length - 1], b' ' | b'\t' | b'\n' | b'\r' | b'\x0c' | b'/' | b'>')
    };
    Some(text.windows(length).position(ends)? + length - 1)
}

/// An attribute: where its name is, its value, and the value with its quotes.
struct Attribute {
    key: Range<usize>,
    value: Range<usize>,
    whole: Range<usize>,
}

/// A start tag.
struct Tag<'a> {
    name: &'a [u8],
    attributes: Vec<Attribute>,
    length: usize,
}

impl<'a> Tag<'a> {
    /// Reads the tag that `text` begins with; nothing when it does not end here.
    fn read(text: &'a [u8]) -> Option<Self> {
        let mut at = skip(text, 1, |b| !is_space(b) && !matches!(b, b'/' | b'>'))?;
        let name = &text[1..at];
        let mut attributes = Vec::new();
        loop {
            at = skip(text, at, |b| is_space(b) || b == b'/')?;
            if text[at] == b'>' {
                return Some(Tag { name, attributes, length: at + 1 });
            }
            // A name may begin with what ends others.
            let key = at..skip(text, at + 1, |b| !is_space(b) && !matches!(b, b'/' | b'>' | b'='))?;
            let after = skip(text, key.end, is_space)?;
            if text[after] != b'=' {
                at = key.end;
                continue;
            }
            let start = skip(text, after + 1, is_space)?;
            let (value, whole) = match text[start] {
                quote @ (b'"' | b'\'') => {
                    let end = skip(text, start + 1, |b| b != quote)?;
                    (start + 1..end, start..end + 1)
                }
                b'>' => (start..start, start..start),
                _ => {
                    let end = skip(text, start, |b| !is_space(b) && b != b'>')?;
                    (start..end, start..end)
                }
            };
            at = whole.end;
            attributes.push(Attribute { key, value, whole });
        }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'\x0c')
}

/// The first place from `at` on that is not so, if there is one.
fn skip(text: &[u8], at: usize, so: impl Fn(u8) -> bool) -> Option<usize> {
    Some(at + text.get(at..)?.iter().position(|b| !so(*b))?)
}

/// What a value means: the references that template engines write. Others stay what they are.
fn unescape(value: &str) -> Cow<'_, str> {
    if !value.contains('&') {
        return value.into();
    }
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (letter, length) = reference(rest).unwrap_or(('&', 1));
        out.push(letter);
        rest = &rest[length..];
    }
    out.push_str(rest);
    out.into()
}

/// The letter that a reference at the beginning stands for, and how long it is.
fn reference(text: &str) -> Option<(char, usize)> {
    const NAMED: [(&str, char); 6] = [("amp", '&'), ("lt", '<'), ("gt", '>'), ("quot", '"'), ("apos", '\''), ("sol", '/')];
    let end = text.find(';').filter(|end| *end <= 10)?;
    let name = &text[1..end];
    let letter = match name.strip_prefix('#') {
        None => NAMED.iter().find(|(known, _)| *known == name)?.1,
        Some(number) => {
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)?
        }
    };
    Some((letter, end + 1))
}

fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for letter in value.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn led(link: &str) -> Option<String> {
        link.starts_with('/').then(|| format!("/proxy{link}"))
    }

    fn rewritten(pieces: &[&[u8]]) -> String {
        let (mut rewriter, mut out) = (Rewriter::new(led), Vec::new());
        pieces.iter().for_each(|piece| rewriter.push(piece, &mut out));
        rewriter.finish(&mut out);
        String::from_utf8(out).expect("text")
    }

    /// Pages, and what comes out of them; nothing where they stay what they are.
    const PAGES: [(&str, Option<&str>); 22] = [
        ("<a href=\"/x\">/x</a>", Some("<a href=\"/proxy/x\">/x</a>")),
        ("<A\n HREF = '/x'>", Some("<A\n HREF = \"/proxy/x\">")),
        ("<img src=/x alt=/y usemap=/z/>", Some("<img src=\"/proxy/x\" alt=/y usemap=\"/proxy/z/\">")),
        ("<link rel=icon href=\"/a?b=1&amp;c='2'\"/>", Some("<link rel=icon href=\"/proxy/a?b=1&amp;c=&#39;2&#39;\"/>")),
        ("<a href=\"&#x2F;x&#47;y&copy=1\">", Some("<a href=\"/proxy/x/y&amp;copy=1\">")),
        ("<form method=post action=\"/x\" novalidate>", Some("<form method=post action=\"/proxy/x\" novalidate>")),
        ("<a href=\"/1\" href=\"/2\"><a/href=/3>", Some("<a href=\"/proxy/1\" href=\"/proxy/2\"><a/href=\"/proxy/3\">")),
        ("<video poster=/p><source src=/s></video>", Some("<video poster=\"/proxy/p\"><source src=\"/proxy/s\"></video>")),
        ("<script src=\"/s\"></script><a href=/x>", Some("<script src=\"/proxy/s\"></script><a href=\"/proxy/x\">")),
        ("<title><a href=/no></title ><a href=/x>", Some("<title><a href=/no></title ><a href=\"/proxy/x\">")),
        (
            "<script>'<a href=\"/no\">' </scripts></SCRIPT><a href=/x>",
            Some("<script>'<a href=\"/no\">' </scripts></SCRIPT><a href=\"/proxy/x\">"),
        ),
        ("<!-- <a href=/no> --><a href=/x>", Some("<!-- <a href=/no> --><a href=\"/proxy/x\">")),
        ("<!--><a href=/x>", Some("<!--><a href=\"/proxy/x\">")),
        ("<!doctype html><?x?><html manifest=/m>", Some("<!doctype html><?x?><html manifest=\"/proxy/m\">")),
        ("<p title=\"<a href='/no'>\"><a title='>' href=/x>", Some("<p title=\"<a href='/no'>\"><a title='>' href=\"/proxy/x\">")),
        ("<a href=x><a href=\"https://other/x\"><a href=\"#\"><a href><a href=>", None),
        ("<p href=/x src=/y><div data=/z>", None),
        ("1 < 2 <3 </a href=/x> <", None),
        ("<a href=\"/x", None),
        ("<plaintext><a href=/x></plaintext><a href=/x>", None),
        ("<!-- <a href=/x>", None),
        ("<style>a { background: url(/x) }", None),
    ];

    #[test]
    fn links_of_a_page_change_and_nothing_else_does() {
        for (page, want) in PAGES {
            assert_eq!(rewritten(&[page.as_bytes()]), want.unwrap_or(page), "{page}");
        }
    }

    #[test]
    fn it_does_not_matter_in_which_pieces_a_page_comes() {
        for (page, want) in PAGES {
            let (bytes, want) = (page.as_bytes(), want.unwrap_or(page));
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(rewritten(&single), want, "{page}");
            for cut in 0..bytes.len() {
                assert_eq!(rewritten(&[&bytes[..cut], &bytes[cut..]]), want, "{page} at {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_page_goes_through_as_it_is_and_a_tag_without_end_is_not_kept() {
        let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        let (mut rewriter, mut out) = (Rewriter::new(|_: &str| None), Vec::new());
        bytes.chunks(77).for_each(|piece| rewriter.push(piece, &mut out));
        rewriter.finish(&mut out);
        assert_eq!(out, bytes);
        let (mut rewriter, mut out) = (Rewriter::new(led), Vec::new());
        rewriter.push(b"<a href=\"", &mut out);
        for _ in 0..=LONGEST_TAG / 65_536 {
            rewriter.push(&[b'x'; 65_536], &mut out);
        }
        assert!(out.len() > LONGEST_TAG && rewriter.held.is_empty());
    }
}
