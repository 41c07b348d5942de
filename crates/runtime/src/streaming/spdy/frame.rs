//! SPDY/3.1 frames on the wire, as far as streams need them. Header blocks stay compressed here.

use std::io::{Error, Result};

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// No frame is longer, in bytes: peers cut their data long before.
const MAX_FRAME: usize = 16 << 20;

/// The last frame of its sender on a stream.
pub const FIN: u8 = 1;

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Data of a stream.
    Data {
        /// Which.
        stream: u32,
        /// Nothing follows.
        fin: bool,
        /// Content.
        data: Bytes,
    },
    /// The peer opens a stream.
    SynStream {
        /// Its number.
        stream: u32,
        /// The opener sends nothing on it.
        fin: bool,
        /// Compressed header block.
        block: Bytes,
    },
    /// The stream is accepted.
    SynReply {
        /// Which.
        stream: u32,
        /// The accepter sends nothing on it.
        fin: bool,
        /// Compressed header block.
        block: Bytes,
    },
    /// The stream is broken off.
    Reset {
        /// Which.
        stream: u32,
        /// Why, by number.
        status: u32,
    },
    /// To be sent back.
    Ping(u32),
    /// No new streams.
    GoAway {
        /// The last stream that was accepted.
        last: u32,
    },
    /// More headers of a stream.
    Headers {
        /// Which.
        stream: u32,
        /// Nothing follows.
        fin: bool,
        /// Compressed header block.
        block: Bytes,
    },
    /// Anything else: settings, window updates, credentials. Read and ignored.
    Other(u16),
}

/// Takes the first whole frame off a buffer.
///
/// # Errors
/// When it cannot be SPDY/3: a wrong version, a length beyond reason, a frame too short for its kind.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>> {
    let Some(head) = buffer.first_chunk::<8>() else { return Ok(None) };
    let control = head[0] & 0x80 != 0;
    let flags = head[4];
    let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
    if length > MAX_FRAME {
        return Err(Error::other(format!("a SPDY frame of {length} bytes")));
    }
    let first = u32::from_be_bytes([head[0] & 0x7f, head[1], head[2], head[3]]);
    if control && first >> 16 != 3 {
        return Err(Error::other(format!("SPDY version {}", first >> 16)));
    }
    if buffer.len() < 8 + length {
        return Ok(None);
    }
    buffer.advance(8);
    let body = buffer.split_to(length).freeze();
    if !control {
        return Ok(Some(Frame::Data { stream: first, fin: flags & FIN != 0, data: body }));
    }
    control_frame((first & 0xffff) as u16, flags & FIN != 0, body).map(Some)
}

fn control_frame(kind: u16, fin: bool, mut body: Bytes) -> Result<Frame> {
    let needed = match kind {
        1 => 10,
        2 | 6 => 4,
        3 | 7 | 8 => 4,
        _ => 0,
    };
    if body.len() < needed {
        return Err(Error::other(format!("a SPDY frame of type {kind} with {} bytes", body.len())));
    }
    let number = |body: &mut Bytes| body.get_u32() & 0x7fff_ffff;
    Ok(match kind {
        1 => {
            let stream = number(&mut body);
            // Associated stream, priority and slot say nothing here.
            body.advance(6);
            Frame::SynStream { stream, fin, block: body }
        }
        2 => Frame::SynReply { stream: number(&mut body), fin, block: body },
        3 => {
            let stream = number(&mut body);
            let status = if body.len() >= 4 { body.get_u32() } else { 0 };
            Frame::Reset { stream, status }
        }
        6 => Frame::Ping(body.get_u32()),
        7 => Frame::GoAway { last: number(&mut body) },
        8 => Frame::Headers { stream: number(&mut body), fin, block: body },
        other => Frame::Other(other),
    })
}

/// Appends a frame to a buffer.
pub fn encode(frame: &Frame, out: &mut BytesMut) {
    let mut control = |kind: u16, fin: bool, parts: &[&[u8]]| {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        out.put_u16(0x8003);
        out.put_u16(kind);
        out.put_u32(u32::from(u8::from(fin)) << 24 | u32::try_from(length).unwrap_or(0) & 0x00ff_ffff);
        for part in parts {
            out.put_slice(part);
        }
    };
    match frame {
        Frame::Data { stream, fin, data } => {
            out.put_u32(*stream);
            out.put_u32(u32::from(u8::from(*fin)) << 24 | u32::try_from(data.len()).unwrap_or(0) & 0x00ff_ffff);
            out.put_slice(data);
        }
        Frame::SynStream { stream, fin, block } => control(1, *fin, &[&stream.to_be_bytes(), &[0; 6], block]),
        Frame::SynReply { stream, fin, block } => control(2, *fin, &[&stream.to_be_bytes(), block]),
        Frame::Reset { stream, status } => control(3, false, &[&stream.to_be_bytes(), &status.to_be_bytes()]),
        Frame::Ping(number) => control(6, false, &[&number.to_be_bytes()]),
        Frame::GoAway { last } => control(7, false, &[&last.to_be_bytes(), &[0; 4]]),
        Frame::Headers { stream, fin, block } => control(8, *fin, &[&stream.to_be_bytes(), block]),
        Frame::Other(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_split() {
        let block = Bytes::from_static(b"block");
        let frames = [
            Frame::SynStream { stream: 1, fin: false, block: block.clone() },
            Frame::SynReply { stream: 1, fin: true, block: block.clone() },
            Frame::Data { stream: 1, fin: false, data: Bytes::from_static(b"hello") },
            Frame::Data { stream: 0x7fff_ffff, fin: true, data: Bytes::new() },
            Frame::Reset { stream: 3, status: 5 },
            Frame::Ping(7),
            Frame::GoAway { last: 9 },
            Frame::Headers { stream: 5, fin: false, block },
        ];
        let mut wire = BytesMut::new();
        for frame in &frames {
            encode(frame, &mut wire);
        }
        let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
        for byte in wire {
            buffer.put_u8(byte);
            while let Some(frame) = decode(&mut buffer).expect("our own frames") {
                seen.push(frame);
            }
        }
        assert_eq!(seen, frames);
    }

    #[test]
    fn whatever_bytes_come_a_frame_that_is_read_is_written_as_itself() {
        use ferrokube_testkit::fuzz::{damage, run};
        run("spdy", 5000, |random| {
            let block = Bytes::from((0..random.below(40)).map(|_| random.next() as u8).collect::<Vec<_>>());
            let (stream, fin) = (random.next() as u32 & 0x7fff_ffff, random.chance(50));
            let frame = match random.below(6) {
                0 => Frame::SynStream { stream, fin, block },
                1 => Frame::SynReply { stream, fin, block },
                2 => Frame::Headers { stream, fin, block },
                3 => Frame::Reset { stream, status: random.next() as u32 },
                4 => Frame::Ping(stream),
                _ => Frame::Data { stream, fin, data: block },
            };
            let mut wire = BytesMut::new();
            encode(&frame, &mut wire);
            assert_eq!(decode(&mut wire.clone()).expect("our own frame"), Some(frame));
            let mut bytes = wire.to_vec();
            damage(random, &mut bytes);
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(frame)) = decode(&mut buffer) {
                if !matches!(frame, Frame::Other(_)) {
                    let mut again = BytesMut::new();
                    encode(&frame, &mut again);
                    assert_eq!(decode(&mut again).expect("our own frame"), Some(frame));
                }
            }
        });
    }

    #[test]
    fn other_protocols_and_cut_frames_are_errors() {
        assert!(decode(&mut BytesMut::from(&b"\x80\x02\x00\x01\x00\x00\x00\x00"[..])).is_err());
        assert!(decode(&mut BytesMut::from(&b"\x80\x03\x00\x01\x00\x00\x00\x02xx"[..])).is_err());
        // Settings are none of our business.
        let settings = decode(&mut BytesMut::from(&b"\x80\x03\x00\x04\x00\x00\x00\x04\x00\x00\x00\x00"[..]));
        assert_eq!(settings.expect("read"), Some(Frame::Other(4)));
    }
}
