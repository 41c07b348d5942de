//! Ports for programs that cannot say which one they got.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below node ports and below what the kernel hands out by itself: nobody gets one of these by asking for any port, so it
/// is still free when its program starts, and when that starts again.
const FIRST: u32 = 10_000;
const COUNT: u32 = 20_000;

/// A port of loopback that is free, and stays so unless somebody wants this very one.
pub fn free_port() -> u16 {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    // Test processes beside this one begin elsewhere.
    let begin = std::process::id().wrapping_mul(61);
    let ports = std::iter::repeat_with(|| FIRST + begin.wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed)) % COUNT);
    let mut ports = ports.take(COUNT as usize).filter_map(|port| u16::try_from(port).ok());
    ports.find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()).expect("one port of many is free")
}
