//! CRI log files: cuts a container's output into lines and writes them as the kubelet reads them.
//!
//! `<RFC 3339 time with nanoseconds> <stdout|stderr> <F|P> <content>`; a line longer than the limit is written in parts, all but the last
//! tagged `P`. Never holds more than one part of a line.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Longest content of one entry, in bytes.
pub const MAX_ENTRY: usize = 16 * 1024;

/// Where a container's entries go. Without a path they go nowhere.
#[derive(Debug)]
pub struct LogFile {
    path: Option<PathBuf>,
    file: Option<File>,
}

impl LogFile {
    /// Opens the file for appending, creating it (0640) and nothing above it.
    pub fn open(path: Option<PathBuf>) -> std::io::Result<Self> {
        let file = path.as_deref().map(open).transpose()?;
        Ok(Self { path, file })
    }

    /// Opens the path anew, after the kubelet has moved the file away. On failure the old file stays in use.
    pub fn reopen(&mut self) -> std::io::Result<()> {
        if let Some(path) = &self.path {
            self.file = Some(open(path)?);
        }
        Ok(())
    }

    fn append(&mut self, entries: &[u8]) {
        // A full disk must not end the container: what cannot be written is lost, and the file shows where.
        if let Some(file) = &mut self.file {
            let _ = file.write_all(entries);
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Cuts one stream into entries.
#[derive(Debug)]
pub struct LineCutter {
    stream: &'static str,
    rest: Vec<u8>,
}

impl LineCutter {
    /// `stream` is `stdout` or `stderr`.
    pub fn new(stream: &'static str) -> Self {
        Self { stream, rest: Vec::new() }
    }

    /// Takes output as it comes and writes every entry that is complete, with one write for all of them.
    pub fn push(&mut self, mut data: &[u8], now: &str, log: &mut LogFile) {
        let mut entries = Vec::with_capacity(data.len() + 64);
        while let Some(end) = data.iter().position(|&byte| byte == b'\n') {
            self.take(&data[..end], now, &mut entries);
            self.entry(b'F', now, &mut entries);
            data = &data[end + 1..];
        }
        self.take(data, now, &mut entries);
        if !entries.is_empty() {
            log.append(&entries);
        }
    }

    /// The stream has ended: what is left is a whole line.
    pub fn finish(&mut self, now: &str, log: &mut LogFile) {
        if !self.rest.is_empty() {
            let mut entries = Vec::new();
            self.entry(b'F', now, &mut entries);
            log.append(&entries);
        }
        self.rest = Vec::new();
    }

    /// Collects a piece of a line, writing a partial entry whenever more than the limit would be held.
    fn take(&mut self, mut piece: &[u8], now: &str, entries: &mut Vec<u8>) {
        while self.rest.len() + piece.len() > MAX_ENTRY {
            let (head, tail) = piece.split_at(MAX_ENTRY - self.rest.len());
            self.rest.extend_from_slice(head);
            self.entry(b'P', now, entries);
            piece = tail;
        }
        self.rest.extend_from_slice(piece);
    }

    fn entry(&mut self, tag: u8, now: &str, entries: &mut Vec<u8>) {
        entries.extend_from_slice(now.as_bytes());
        entries.push(b' ');
        entries.extend_from_slice(self.stream.as_bytes());
        entries.extend_from_slice(&[b' ', tag, b' ']);
        entries.extend_from_slice(&self.rest);
        entries.push(b'\n');
        self.rest.clear();
        if self.rest.capacity() > 1024 {
            self.rest = Vec::new();
        }
    }
}

/// The present as log files carry it: RFC 3339 in UTC, always with nine digits of the second.
pub fn timestamp() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries_of(pieces: &[&[u8]]) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("0.log");
        let mut log = LogFile::open(Some(path.clone())).expect("a file");
        let mut cutter = LineCutter::new("stdout");
        for piece in pieces {
            cutter.push(piece, "T", &mut log);
        }
        cutter.finish("T", &mut log);
        std::fs::read_to_string(path).expect("the file")
    }

    #[test]
    fn lines_are_cut_wherever_the_pipe_was_cut() {
        assert_eq!(entries_of(&[b"a\nb\n"]), "T stdout F a\nT stdout F b\n");
        assert_eq!(entries_of(&[b"a", b"b", b"\n", b"\n"]), "T stdout F ab\nT stdout F \n");
        assert_eq!(entries_of(&[b"no end"]), "T stdout F no end\n");
        assert_eq!(entries_of(&[b""]), "");
    }

    #[test]
    fn a_long_line_comes_in_parts_and_ends_full() {
        let long = vec![b'x'; MAX_ENTRY + 5];
        let written = entries_of(&[&long, b"\nnext\n"]);
        let lines: Vec<&str> = written.lines().collect();
        assert_eq!(lines[0].len(), "T stdout P ".len() + MAX_ENTRY);
        assert!(lines[0].starts_with("T stdout P xxx"));
        assert_eq!(lines[1], "T stdout F xxxxx");
        assert_eq!(lines[2], "T stdout F next");
        // Exactly at the limit nothing is partial.
        let exact = vec![b'y'; MAX_ENTRY];
        assert!(entries_of(&[&exact, b"\n"]).starts_with("T stdout F yyy"));
    }

    #[test]
    fn after_rotation_entries_go_to_the_new_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("0.log");
        let mut log = LogFile::open(Some(path.clone())).expect("a file");
        let mut cutter = LineCutter::new("stderr");
        cutter.push(b"old\n", "T", &mut log);
        std::fs::rename(&path, folder.path().join("0.log.1")).expect("moved");
        log.reopen().expect("reopened");
        cutter.push(b"new\n", "T", &mut log);
        assert_eq!(std::fs::read_to_string(&path).expect("the file"), "T stderr F new\n");
    }

    #[test]
    fn timestamps_have_nine_digits() {
        let now = timestamp();
        assert_eq!(now.len(), "2026-01-02T03:04:05.123456789Z".len(), "{now}");
    }
}
