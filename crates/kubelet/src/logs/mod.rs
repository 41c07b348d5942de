//! Container logs in the CRI format: `<time> stdout|stderr P|F <text>`. What reads their end, rotates and links them.

pub mod links;
pub mod rotate;

use std::io::{Read, Seek, SeekFrom};

/// The end of a container's log as plain text: at most `bytes` bytes and `lines` lines.
pub fn tail(path: &str, bytes: usize, lines: usize) -> String {
    let Ok(mut file) = std::fs::File::open(path) else { return String::new() };
    // Every line carries about 40 bytes of prefix.
    let wanted = u64::try_from(bytes + lines * 48).unwrap_or(u64::MAX);
    let length = file.metadata().map(|m| m.len()).unwrap_or(0);
    if file.seek(SeekFrom::Start(length.saturating_sub(wanted))).is_err() {
        return String::new();
    }
    let mut raw = Vec::new();
    if file.read_to_end(&mut raw).is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&raw);
    let plain: Vec<&str> = text.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).collect();
    let from = plain.len().saturating_sub(lines);
    let mut joined = plain[from..].join("\n");
    if joined.len() > bytes {
        let mut cut = joined.len() - bytes;
        while !joined.is_char_boundary(cut) {
            cut += 1;
        }
        joined.drain(..cut);
    }
    joined
}
