//! The kernel calls that safe crates do not offer, one small function each.
//!
//! Nothing here decides anything: what to call when is for the modules above, which stay free of `unsafe`.
#![expect(unsafe_code, reason = "thin kernel module: fork, descriptor passing, ioctls, seccomp")]

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

/// Forks. Returns the child's pid in the parent and none in the child.
///
/// Only for processes with a single thread (the shim): the child goes on to allocate memory.
pub fn fork() -> nix::Result<Option<Pid>> {
    // SAFETY: the caller has a single thread, so no lock can be held by a thread that does not exist in the child.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Some(child)),
        nix::unistd::ForkResult::Child => Ok(None),
    }
}

/// Ends a forked child at once, without running the exit handlers that belong to its parent.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Gives a signal its default action: `exec` keeps what Rust's start-up ignores (SIGPIPE), and a container must not inherit that.
pub fn default_signal(signal: nix::sys::signal::Signal) -> nix::Result<()> {
    // SAFETY: SIG_DFL installs no handler.
    unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl) }.map(drop)
}

/// Takes ownership of a descriptor number that a C-shaped interface handed out.
pub fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: callers pass numbers that were just handed to them and that nobody else closes.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Borrows a descriptor by number for the length of one call.
pub fn borrow<'fd>(fd: RawFd) -> BorrowedFd<'fd> {
    // SAFETY: callers own the descriptor for longer than the borrow.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Closes a descriptor by number, for the one owner that had to let go of its `OwnedFd` across a fork.
pub fn close(fd: RawFd) {
    drop(own(fd));
}

/// Sends bytes with descriptors beside them. Returns how many bytes went.
pub fn send_with_fds(socket: &impl AsFd, data: &[u8], fds: &[RawFd]) -> nix::Result<usize> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    sendmsg::<()>(socket.as_fd().as_raw_fd(), &[IoSlice::new(data)], control, MsgFlags::MSG_NOSIGNAL, None)
}

/// Receives bytes, and the descriptors beside them (close-on-exec).
pub fn receive_with_fds(socket: &impl AsFd, data: &mut [u8], fds: &mut Vec<OwnedFd>) -> nix::Result<usize> {
    let mut control = nix::cmsg_space!([RawFd; 8]);
    let mut parts = [IoSliceMut::new(data)];
    let message = recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = part {
            fds.extend(received.into_iter().map(own));
        }
    }
    Ok(message.bytes)
}

/// Sets the size of a terminal through its master (or slave).
pub fn set_window_size(terminal: &impl AsFd, width: u16, height: u16) -> nix::Result<()> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    nix::errno::Errno::result(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

/// Installs a seccomp filter on the calling thread without touching `no_new_privs`: without that flag the caller needs CAP_SYS_ADMIN.
///
/// `filter` holds the instructions as the kernel reads them, eight bytes each.
pub fn install_seccomp(filter: &[u8]) -> nix::Result<()> {
    let instructions: Vec<libc::sock_filter> = filter
        .chunks_exact(8)
        .map(|raw| libc::sock_filter {
            code: u16::from_ne_bytes([raw[0], raw[1]]),
            jt: raw[2],
            jf: raw[3],
            k: u32::from_ne_bytes([raw[4], raw[5], raw[6], raw[7]]),
        })
        .collect();
    let length = u16::try_from(instructions.len()).map_err(|_| nix::errno::Errno::E2BIG)?;
    let program = libc::sock_fprog { len: length, filter: instructions.as_ptr().cast_mut() };
    // SAFETY: the kernel copies `len` instructions from `filter`, which lives until after the call.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    nix::errno::Errno::result(result).map(drop)
}

/// Brings an interface up in the network namespace of the calling thread.
pub fn interface_up(name: &str) -> nix::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: ifreq is plain data, all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (target, byte) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *target = byte as libc::c_char;
    }
    // SAFETY: both calls read and write one ifreq.
    unsafe {
        nix::errno::Errno::result(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request))?;
        request.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        nix::errno::Errno::result(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request))?;
    }
    Ok(())
}

/// Puts a descriptor where the program that was started expects its standard ones.
pub fn duplicate_onto(fd: &impl AsFd, target: RawFd) -> nix::Result<()> {
    // SAFETY: replaces a descriptor number that only the caller uses.
    nix::errno::Errno::result(unsafe { libc::dup2(fd.as_fd().as_raw_fd(), target) }).map(drop)
}

/// Opens `/dev/null` for reading and writing.
pub fn dev_null() -> nix::Result<OwnedFd> {
    nix::fcntl::open("/dev/null", nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_CLOEXEC, Mode::empty())
}

/// The number in the kernel's view of a real-time signal's offset from SIGRTMIN.
pub fn sigrtmin() -> i32 {
    libc::SIGRTMIN()
}

/// The highest real-time signal.
pub fn sigrtmax() -> i32 {
    libc::SIGRTMAX()
}

/// Reaps one child that has ended, if there is one. The exit code is the one a shell would show: 128 + n after signal n.
pub fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: waitpid writes one int. The safe wrapper has no word for real-time signals, which end containers too.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    if pid <= 0 {
        return None;
    }
    let code = if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
    Some((pid, code))
}

/// Sends any signal, real-time ones too.
pub fn kill(pid: i32, signal: i32) -> nix::Result<()> {
    // SAFETY: kill has no memory effects.
    nix::errno::Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Registers a descriptor with the event loop.
pub fn watch(fd: OwnedFd, interest: tokio::io::Interest) -> std::io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is the same open descriptor for as long as the registration holds it.
    Ok(unsafe { tokio::io::unix::AsyncFd::register_with_interest(fd, interest) }?)
}

/// The part of `union bpf_attr` that loading and attaching a program use.
#[repr(C)]
#[derive(Default)]
struct BpfLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// The other part.
#[repr(C)]
#[derive(Default)]
struct BpfAttach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// Loads a program that decides about devices.
pub fn load_device_program(instructions: &[u64]) -> nix::Result<OwnedFd> {
    let request = BpfLoad {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(instructions.len()).map_err(|_| nix::errno::Errno::E2BIG)?,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..BpfLoad::default()
    };
    // SAFETY: the kernel reads the request and what it points to, all of which lives until after the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const request, size_of::<BpfLoad>()) };
    let fd = nix::errno::Errno::result(fd)?;
    Ok(own(i32::try_from(fd).map_err(|_| nix::errno::Errno::EBADF)?))
}

/// Attaches it to a cgroup, beside others that its parents may have.
pub fn attach_device_program(cgroup: &impl AsFd, program: &impl AsFd) -> nix::Result<()> {
    let request = BpfAttach {
        target: cgroup.as_fd().as_raw_fd().cast_unsigned(),
        program: program.as_fd().as_raw_fd().cast_unsigned(),
        attach_type: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: as above.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const request, size_of::<BpfAttach>()) };
    nix::errno::Errno::result(result).map(drop)
}
