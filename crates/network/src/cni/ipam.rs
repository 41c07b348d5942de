//! Pod addresses of one node: who holds which.
//!
//! A reservation is a symbolic link named by the address whose target names the owner: created, read and removed in one
//! atomic system call each, so there is no torn state after a crash and two processes can never hold one address. The
//! owner carries the boot it was made in: sandboxes do not outlive a boot, so reservations of an earlier one are free.
//! Addresses are given out round-robin, so that one just released is not reused while old connections to it may linger.
//!
//! Must never: hand out an address that has a live reservation, or remove a reservation of another owner.

use super::{CniError, Result, code};
use crate::cidr::Cidr;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The address.
    pub address: Ipv4Addr,
    /// Sandbox id.
    pub container: String,
    /// Interface in the pod.
    pub ifname: String,
}

/// The node's address book, locked against other processes while it lives.
#[derive(Debug)]
pub struct Ipam {
    dir: PathBuf,
    boot: String,
    _lock: Flock<File>,
}

const LAST: &str = ".last";
const LOCK: &str = ".lock";

impl Ipam {
    /// Opens and locks the book in `data_dir/ipam`, creating it when needed.
    ///
    /// # Errors
    /// The folder cannot be made or locked.
    pub fn open(data_dir: &Path) -> Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self::open_in_boot(data_dir, boot.trim())
    }

    fn open_in_boot(data_dir: &Path, boot: &str) -> Result<Self> {
        let dir = data_dir.join("ipam");
        fs::create_dir_all(&dir).map_err(|e| io_error("create", &dir, &e))?;
        let path = dir.join(LOCK);
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|e| io_error("open", &path, &e))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| io_error("lock", &path, &e.into()))?;
        Ok(Self { dir, boot: boot.to_owned(), _lock: lock })
    }

    /// Reserves an address of `range` (neither its first two nor its last) for an attachment. The same attachment gets
    /// the same address again.
    ///
    /// # Errors
    /// All addresses are taken, or the book cannot be written.
    pub fn reserve(&self, range: Cidr, container: &str, ifname: &str) -> Result<Ipv4Addr> {
        for held in self.all()? {
            if held.container == container && held.ifname == ifname {
                if range.contains(held.address) {
                    return Ok(held.address);
                }
                self.remove(held.address)?;
            }
        }
        let owner = format!("{}/{container}/{ifname}", self.boot);
        let usable = range.size() - 3;
        let start = self.last().and_then(|last| offset(range, last)).map_or(0, |n| n.wrapping_sub(1) % usable);
        for step in 0..usable {
            let Some(address) = range.nth(2 + (start + step) % usable) else { continue };
            if self.try_reserve(address, &owner)? {
                self.remember(address);
                return Ok(address);
            }
        }
        Err(CniError::new(code::NO_ADDRESS, format!("no IP addresses available in range {range}")))
    }

    /// Releases what an attachment holds and says what it was.
    ///
    /// # Errors
    /// The book cannot be read or written.
    pub fn release(&self, container: &str, ifname: &str) -> Result<Option<Ipv4Addr>> {
        let mut released = None;
        for held in self.all()? {
            if held.container == container && held.ifname == ifname {
                self.remove(held.address)?;
                released = Some(held.address);
            }
        }
        Ok(released)
    }

    /// The address an attachment holds.
    ///
    /// # Errors
    /// The book cannot be read.
    pub fn find(&self, container: &str, ifname: &str) -> Result<Option<Ipv4Addr>> {
        let mut all = self.all()?.into_iter();
        Ok(all.find(|r| r.container == container && r.ifname == ifname).map(|r| r.address))
    }

    /// All live reservations.
    ///
    /// # Errors
    /// The book cannot be read.
    pub fn all(&self) -> Result<Vec<Reservation>> {
        let entries = fs::read_dir(&self.dir).map_err(|e| io_error("read", &self.dir, &e))?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Ok(names.filter_map(|address| self.owner(address)).collect())
    }

    /// Releases reservations older than `min_age` whose owner is not `alive`, and says which addresses they held. The age
    /// spares an ADD that is under way in another process.
    ///
    /// # Errors
    /// The book cannot be read or written.
    pub fn reclaim(&self, min_age: Duration, alive: impl Fn(&Reservation) -> bool) -> Result<Vec<Ipv4Addr>> {
        let mut freed = Vec::new();
        for held in self.all()? {
            let made = fs::symlink_metadata(self.path(held.address)).and_then(|m| m.modified()).ok();
            let old = made.and_then(|t| t.elapsed().ok()).is_some_and(|age| age >= min_age);
            if old && !alive(&held) {
                self.remove(held.address)?;
                freed.push(held.address);
            }
        }
        Ok(freed)
    }

    fn owner(&self, address: Ipv4Addr) -> Option<Reservation> {
        let target = fs::read_link(self.path(address)).ok()?;
        let mut parts = target.to_str()?.splitn(3, '/');
        let (boot, container, ifname) = (parts.next()?, parts.next()?, parts.next()?);
        (boot == self.boot).then(|| Reservation { address, container: container.into(), ifname: ifname.into() })
    }

    fn try_reserve(&self, address: Ipv4Addr, owner: &str) -> Result<bool> {
        let path = self.path(address);
        match symlink(owner, &path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists && self.owner(address).is_some() => Ok(false),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                // Left by an earlier boot.
                self.remove(address)?;
                symlink(owner, &path).map(|()| true).map_err(|e| io_error("create", &path, &e))
            }
            Err(e) => Err(io_error("create", &path, &e)),
        }
    }

    fn remove(&self, address: Ipv4Addr) -> Result<()> {
        let path = self.path(address);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(io_error("remove", &path, &e)),
            _ => Ok(()),
        }
    }

    fn path(&self, address: Ipv4Addr) -> PathBuf {
        self.dir.join(address.to_string())
    }

    /// Where to go on; only a hint, so a failure is harmless.
    fn last(&self) -> Option<Ipv4Addr> {
        fs::read_link(self.dir.join(LAST)).ok()?.to_str()?.parse().ok()
    }

    fn remember(&self, address: Ipv4Addr) {
        let path = self.dir.join(LAST);
        let _ = fs::remove_file(&path);
        let _ = symlink(address.to_string(), &path);
    }
}

fn offset(range: Cidr, address: Ipv4Addr) -> Option<u64> {
    range.contains(address).then(|| u64::from(u32::from(address) - u32::from(range.network())))
}

fn io_error(what: &str, path: &Path, e: &io::Error) -> CniError {
    CniError::new(code::IO_FAILURE, format!("{what} {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn range(text: &str) -> Cidr {
        text.parse().expect("valid range")
    }

    #[test]
    fn every_address_once_then_none_and_a_released_one_comes_back() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let ipam = Ipam::open(dir.path()).expect("opens");
        let net = range("10.0.0.0/29");
        let got: BTreeSet<_> = (0..5).map(|n| ipam.reserve(net, &format!("c{n}"), "eth0").expect("free")).collect();
        let want: BTreeSet<_> = (2..7).map(|n| Ipv4Addr::new(10, 0, 0, n)).collect();
        assert_eq!(got, want);
        assert_eq!(ipam.reserve(net, "more", "eth0").expect_err("full").code, code::NO_ADDRESS);
        let freed = ipam.release("c2", "eth0").expect("releases").expect("held one");
        assert_eq!(ipam.reserve(net, "more", "eth0").expect("free"), freed);
        assert_eq!(ipam.release("c2", "eth0").expect("a second time is fine"), None);
    }

    #[test]
    fn a_released_address_is_not_the_next_one_given() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let ipam = Ipam::open(dir.path()).expect("opens");
        let net = range("10.0.0.0/24");
        let first = ipam.reserve(net, "a", "eth0").expect("free");
        ipam.release("a", "eth0").expect("releases");
        drop(ipam);
        let ipam = Ipam::open(dir.path()).expect("opens again");
        assert_ne!(ipam.reserve(net, "b", "eth0").expect("free"), first);
    }

    #[test]
    fn addresses_of_owners_that_are_no_more_are_reclaimed_but_not_fresh_ones() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let ipam = Ipam::open(dir.path()).expect("opens");
        let net = range("10.0.0.0/29");
        let (a, b) = (ipam.reserve(net, "a", "eth0").expect("free"), ipam.reserve(net, "b", "eth0").expect("free"));
        let hour = Duration::from_secs(3600);
        assert!(ipam.reclaim(hour, |_| false).expect("reads").is_empty());
        assert_eq!(ipam.reclaim(Duration::ZERO, |r| r.container == "b").expect("reads"), [a]);
        assert_eq!(ipam.find("b", "eth0").expect("reads"), Some(b));
    }

    #[test]
    fn reservations_survive_a_restart_but_not_a_boot() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let net = range("10.0.0.0/30");
        let address = Ipam::open_in_boot(dir.path(), "one").expect("opens").reserve(net, "a", "eth0").expect("free");
        let same_boot = Ipam::open_in_boot(dir.path(), "one").expect("opens");
        assert_eq!(same_boot.find("a", "eth0").expect("reads"), Some(address));
        assert_eq!(same_boot.reserve(net, "a", "eth0").expect("idempotent"), address);
        assert!(same_boot.reserve(net, "b", "eth0").is_err());
        drop(same_boot);
        let next_boot = Ipam::open_in_boot(dir.path(), "two").expect("opens");
        assert_eq!(next_boot.find("a", "eth0").expect("reads"), None);
        assert_eq!(next_boot.reserve(net, "b", "eth0").expect("free again"), address);
    }

    #[test]
    fn processes_that_race_never_share_an_address() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let net = range("10.0.0.0/24");
        let all: Vec<Ipv4Addr> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8)
                .map(|n| {
                    let dir = dir.path();
                    scope.spawn(move || -> Vec<Ipv4Addr> {
                        let reserve = |i| Ipam::open(dir).and_then(|b| b.reserve(net, &format!("c{n}-{i}"), "eth0"));
                        (0..20).map(|i| reserve(i).expect("free")).collect()
                    })
                })
                .collect();
            racers.into_iter().flat_map(|r| r.join().expect("no panic")).collect()
        });
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 160);
    }
}
