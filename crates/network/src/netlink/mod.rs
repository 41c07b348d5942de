//! The kernel's netlink protocol: messages, attributes, one blocking socket.
//!
//! Why our own: this crate speaks three netlink dialects (routing, nf_tables, conntrack) and needs from all of them the
//! same four things: build a message, send it, collect the acknowledgement, walk a dump. The kernel answers inside the
//! `send` call, so a blocking socket costs nothing and the CNI plugin needs no runtime.
//!
//! Must never: interpret a dialect (that is `route`, `crate::nft`, `crate::proxy::conntrack`), or trust a length that
//! came from the kernel buffer without checking it.

pub mod route;

use nix::sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// `NLM_F_REQUEST`: set on everything we send.
pub const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`: the kernel confirms the message.
pub const ACK: u16 = 0x4;
/// `NLM_F_DUMP`: all objects rather than one.
pub const DUMP: u16 = 0x300;
/// `NLM_F_REPLACE`.
pub const REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`: fail with EEXIST when the object exists.
pub const EXCL: u16 = 0x200;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`.
pub const APPEND: u16 = 0x800;

const HEADER: usize = 16;
const EVENT_PATIENCE_SECONDS: i64 = 5;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NESTED: u16 = 0x8000;

/// A netlink conversation that failed: what was asked and what the kernel said.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct Error {
    /// The operation, in words a user understands.
    pub what: String,
    /// The kernel's answer.
    pub source: io::Error,
}

impl Error {
    /// An error with its context.
    pub fn new(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { what: what.into(), source: source.into() }
    }

    /// The errno of the kernel's answer.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// The object asked for does not exist (ENOENT, ENODEV, ESRCH, EADDRNOTAVAIL).
    pub fn is_not_found(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL))
    }

    /// The object already exists.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }
}

/// Result of a netlink conversation.
pub type Result<T> = std::result::Result<T, Error>;

/// One message under construction; lengths are kept right by construction.
#[derive(Clone, Debug)]
pub struct Message(Vec<u8>);

impl Message {
    /// A message of `kind` with `flags` besides `NLM_F_REQUEST`.
    pub fn new(kind: u16, flags: u16) -> Self {
        let mut buf = Vec::with_capacity(128);
        buf.extend_from_slice(&[0; HEADER]);
        buf[4..6].copy_from_slice(&kind.to_ne_bytes());
        buf[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        Self(buf)
    }

    /// Appends the fixed part of the dialect (`ifinfomsg`, `nfgenmsg`, ...).
    pub fn fixed(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Appends an attribute with raw bytes.
    pub fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let len = u16::try_from(value.len() + 4).expect("single attributes are short; long lists are split by callers");
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends a NUL-terminated string.
    pub fn attr_str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Appends a `u32` in host byte order (routing dialect).
    pub fn attr_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends a `u32` in network byte order (netfilter dialects).
    pub fn attr_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends a `u64` in network byte order.
    pub fn attr_be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends an attribute that holds what `fill` appends. The content must stay under 64 KiB.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        fill(self);
        let len = u16::try_from(self.0.len() - start).expect("callers split lists before they reach 64 KiB");
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self.0[start + 2..start + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
        self
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing but the header is there.
    pub fn is_empty(&self) -> bool {
        self.0.len() == HEADER
    }

    /// Appends bytes that are not an attribute (the `ifinfomsg` inside a veth's peer).
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Makes a create request fail with EEXIST when the object exists.
    pub fn set_exclusive(&mut self) {
        self.add_flags(EXCL);
    }

    fn pad(&mut self) {
        while !self.0.len().is_multiple_of(4) {
            self.0.push(0);
        }
    }

    fn add_flags(&mut self, flags: u16) {
        let old = u16::from_ne_bytes([self.0[6], self.0[7]]);
        self.0[6..8].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    fn seal(&mut self, seq: u32) -> &[u8] {
        let len = u32::try_from(self.0.len()).expect("a message is far smaller than 4 GiB");
        self.0[0..4].copy_from_slice(&len.to_ne_bytes());
        self.0[8..12].copy_from_slice(&seq.to_ne_bytes());
        &self.0
    }
}

/// One message from the kernel, header stripped.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Message type.
    pub kind: u16,
    /// Everything after the netlink header: the dialect's fixed part, then attributes.
    pub payload: Vec<u8>,
}

impl Reply {
    /// The attributes after a fixed part of `fixed` bytes.
    pub fn attrs(&self, fixed: usize) -> Attrs<'_> {
        Attrs(self.payload.get(fixed.next_multiple_of(4)..).unwrap_or(&[]))
    }
}

/// Walks attributes: (type without flag bits, value).
#[derive(Clone, Debug)]
pub struct Attrs<'a>(pub &'a [u8]);

impl<'a> Attrs<'a> {
    /// The first attribute of `kind`.
    pub fn find(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find_map(|(k, v)| (k == kind).then_some(v))
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(u16::from_ne_bytes(self.0.get(0..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

/// The first four bytes of an attribute as a host-order `u32`.
pub fn read_u32(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

/// An attribute's string without its NUL.
pub fn read_str(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|b| *b == 0).next().unwrap_or(&[])).into_owned()
}

/// A blocking netlink socket. It belongs to the network namespace of the thread that opened it, for good.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    seq: u32,
    buf: Vec<u8>,
}

impl Socket {
    /// Opens the routing dialect.
    pub fn route() -> Result<Self> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// Opens the routing dialect's announcements of link changes; see [`Self::wait`].
    pub fn link_events() -> Result<Self> {
        const LINK_GROUP: u32 = 1;
        let socket = Self::open_in(SockProtocol::NetlinkRoute, LINK_GROUP)?;
        let patience = TimeVal::seconds(EVENT_PATIENCE_SECONDS);
        setsockopt(&socket.fd, sockopt::ReceiveTimeout, &patience).map_err(|e| Error::new("set a receive timeout", io::Error::from(e)))?;
        Ok(socket)
    }

    /// Waits for any announcement, some seconds at most.
    pub fn wait(&mut self) -> Result<()> {
        match socket::recv(self.fd.as_raw_fd(), &mut self.buf, MsgFlags::empty()) {
            // Announcements that were lost for want of room are announcements, too.
            Ok(_) | Err(nix::Error::EINTR | nix::Error::ENOBUFS) => Ok(()),
            Err(e) => Err(Error::new("wait for a link change", io::Error::from(e))),
        }
    }

    /// Opens the netfilter dialects (nf_tables, conntrack).
    pub fn netfilter() -> Result<Self> {
        let socket = Self::open(SockProtocol::NetlinkNetFilter)?;
        // A transaction is one send: the default buffer would refuse a rule set of some thousand services. Without the
        // privilege to go beyond the limit the default stays, and a too large send says so.
        let _ = setsockopt(&socket.fd, sockopt::SndBufForce, &(64 << 20));
        let _ = setsockopt(&socket.fd, sockopt::RcvBufForce, &(8 << 20));
        Ok(socket)
    }

    fn open(protocol: SockProtocol) -> Result<Self> {
        Self::open_in(protocol, 0)
    }

    fn open_in(protocol: SockProtocol, groups: u32) -> Result<Self> {
        let context = |e| Error::new("open a netlink socket", io::Error::from(e));
        let fd = socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).map_err(context)?;
        socket::bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups)).map_err(context)?;
        Ok(Self { fd, seq: 0, buf: vec![0; 64 << 10] })
    }

    /// Sends one message and waits until the kernel has done it.
    pub fn request(&mut self, what: impl Into<String>, mut message: Message) -> Result<()> {
        message.add_flags(ACK);
        self.converse(message, |_| {}).map_err(|e| Error::new(what, e))
    }

    /// Sends one message and returns the object the kernel answers with.
    pub fn get(&mut self, what: impl Into<String>, mut message: Message) -> Result<Reply> {
        let what = what.into();
        message.add_flags(ACK);
        let mut found = None;
        self.converse(message, |reply| found = Some(reply)).map_err(|e| Error::new(what.clone(), e))?;
        found.ok_or_else(|| Error::new(what, io::Error::from_raw_os_error(libc::ENOENT)))
    }

    /// Sends a dump request and returns all objects.
    pub fn dump(&mut self, what: impl Into<String>, mut message: Message) -> Result<Vec<Reply>> {
        message.add_flags(DUMP);
        let mut found = Vec::new();
        self.converse(message, |reply| found.push(reply)).map_err(|e| Error::new(what, e))?;
        Ok(found)
    }

    /// Sends all messages in one call (an nf_tables transaction) and returns the first error, if any, with the index of
    /// the message it belongs to. The kernel works inside the send, so the answers are there when it returns.
    pub fn batch(&mut self, messages: Vec<Message>) -> std::result::Result<(), (usize, io::Error)> {
        let first = self.seq.wrapping_add(1);
        let mut all = Vec::with_capacity(messages.iter().map(Message::len).sum());
        for mut message in messages {
            self.seq = self.seq.wrapping_add(1);
            all.extend_from_slice(message.seal(self.seq));
        }
        let io_err = |e: nix::Error| (0, io::Error::from(e));
        socket::send(self.fd.as_raw_fd(), &all, MsgFlags::empty()).map_err(io_err)?;
        let mut failure: Option<(usize, io::Error)> = None;
        loop {
            let n = match socket::recv(self.fd.as_raw_fd(), &mut self.buf, MsgFlags::MSG_DONTWAIT) {
                Ok(n) => n,
                Err(nix::Error::EAGAIN) => break,
                Err(nix::Error::EINTR) => continue,
                Err(e) => return Err(failure.unwrap_or((0, e.into()))),
            };
            for (header, body) in Datagram(&self.buf[..n]) {
                let errno = body.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
                if header.kind == NLMSG_ERROR && errno != 0 && failure.is_none() {
                    let index = header.seq.wrapping_sub(first) as usize;
                    failure = Some((index, io::Error::from_raw_os_error(-errno)));
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn converse(&mut self, mut message: Message, mut on_reply: impl FnMut(Reply)) -> io::Result<()> {
        self.seq = self.seq.wrapping_add(1);
        let seq = self.seq;
        socket::send(self.fd.as_raw_fd(), message.seal(seq), MsgFlags::empty())?;
        loop {
            let n = match socket::recv(self.fd.as_raw_fd(), &mut self.buf, MsgFlags::empty()) {
                Err(nix::Error::EINTR) => continue,
                other => other?,
            };
            for (header, body) in Datagram(&self.buf[..n]) {
                if header.seq != seq {
                    continue; // The rest of an earlier conversation that ended with an error.
                }
                match header.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        let code = body.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
                        return if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(()) };
                    }
                    kind => on_reply(Reply { kind, payload: body.to_vec() }),
                }
            }
        }
    }
}

struct Header {
    kind: u16,
    seq: u32,
}

/// Walks the messages of one datagram.
struct Datagram<'a>(&'a [u8]);

impl<'a> Iterator for Datagram<'a> {
    type Item = (Header, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = u32::from_ne_bytes(self.0.get(0..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(self.0.get(4..6)?.try_into().ok()?);
        let seq = u32::from_ne_bytes(self.0.get(8..12)?.try_into().ok()?);
        let body = self.0.get(HEADER..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((Header { kind, seq }, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_a_round_trip_with_padding_and_nesting() {
        let mut message = Message::new(7, ACK).fixed(&[1, 2, 3, 4]);
        message.attr(1, &[9]).nest(2, |m| {
            m.attr_str(3, "abc").attr_be32(4, 5);
        });
        let reply = Reply { kind: 7, payload: message.seal(1)[HEADER..].to_vec() };
        let attrs = reply.attrs(4);
        assert_eq!(attrs.find(1), Some(&[9][..]));
        let nested = Attrs(attrs.find(2).expect("nested attribute"));
        assert_eq!(read_str(nested.find(3).expect("string")), "abc");
        assert_eq!(nested.find(4), Some(&[0, 0, 0, 5][..]));
        assert_eq!(attrs.count(), 2);
    }

    #[test]
    fn a_lying_length_ends_the_walk_instead_of_panicking() {
        assert_eq!(Attrs(&[200, 0, 1, 0, 1, 2]).count(), 0);
        assert_eq!(Attrs(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(Datagram(&[255; 20]).count(), 0);
    }
}
