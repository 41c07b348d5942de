//! What etcd's refusals mean in the words of [`crate::Error`], and which of them say that a call may be made again.
//!
//! Must never call a write repeatable that may have been applied: its outcome is the client's to find out.

use crate::Error;
use tonic::{Code, ConnectError, Status};

/// A failed call, judged.
#[derive(Debug)]
pub(super) struct Failure {
    /// What the caller is told when the call is not made again.
    pub error: Refusal,
    /// The member can't serve now; another one may.
    pub unfit: bool,
    /// Trying again may help.
    pub transient: bool,
    /// The call had no effect, so that even a write may be made again.
    pub without_effect: bool,
}

/// What etcd says no with. Those that need more knowledge than the status carries become an [`Error`] where that knowledge is.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    /// The revision is compacted; etcd does not say up to where.
    Compacted,
    /// The revision is not there yet; etcd does not say which is.
    Future,
    /// The lease has expired or never was.
    LeaseNotFound,
    /// Anything else.
    Error(Error),
}

impl Refusal {
    /// For calls whose answer cannot depend on a revision or a lease.
    pub fn plain(self) -> Error {
        match self {
            Refusal::Error(error) => error,
            other => Error::Unavailable(format!("etcd refused with {other:?}, which does not fit the call")),
        }
    }
}

/// A call that did not end in time.
pub(super) fn elapsed(member: &str) -> Failure {
    let error = Error::Unavailable(format!("etcd at {member} did not answer in time"));
    Failure { error: Refusal::Error(error), unfit: true, transient: true, without_effect: false }
}

/// Whether the request never left: no connection could be made.
fn never_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The whole chain: transport errors say what happened only at its end.
fn told(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let inner = error.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        source = error.source();
    }
    text
}

/// Judges a status that `member` answered with, or that the transport made up.
pub(super) fn judge(status: &Status, member: &str) -> Failure {
    let text = told(status);
    let says = |part: &str| text.contains(part);
    let lasting = |error: Refusal| Failure { error, unfit: false, transient: false, without_effect: true };
    if says("mvcc: required revision has been compacted") {
        return lasting(Refusal::Compacted);
    }
    if says("mvcc: required revision is a future revision") {
        return lasting(Refusal::Future);
    }
    if says("requested lease not found") {
        return lasting(Refusal::LeaseNotFound);
    }
    if says("mvcc: database space exceeded") {
        return lasting(Refusal::Error(Error::NoSpace { path: format!("etcd ({member}): its database has reached its quota") }));
    }
    if says("request is too large") || says("message larger than max") {
        return lasting(Refusal::Error(Error::TooLarge(format!("etcd ({member}): {text}"))));
    }
    if status.code() == Code::DataLoss || says("corrupt") {
        return lasting(Refusal::Error(Error::Corrupted { path: format!("etcd ({member})"), detail: text }));
    }
    // What has a source was made by the transport on this side.
    let broken = std::error::Error::source(status).is_some();
    let unfit = broken || matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Unknown);
    let busy = says("too many requests");
    let without_effect = busy || never_sent(status) || says("etcdserver: no leader");
    let transient = unfit || busy || matches!(status.code(), Code::Aborted | Code::Cancelled);
    Failure { error: Refusal::Error(Error::Unavailable(format!("etcd ({member}): {text}"))), unfit, transient, without_effect }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: Code, text: &str) -> Failure {
        judge(&Status::new(code, text), "m1")
    }

    #[test]
    fn refusals_of_etcd_become_the_errors_of_the_trait() {
        assert!(matches!(of(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted").error, Refusal::Compacted));
        assert!(matches!(of(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision").error, Refusal::Future));
        assert!(matches!(of(Code::NotFound, "etcdserver: requested lease not found").error, Refusal::LeaseNotFound));
        let full = of(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
        assert!(matches!(full.error, Refusal::Error(Error::NoSpace { .. })) && !full.transient);
        let large = of(Code::InvalidArgument, "etcdserver: request is too large");
        assert!(matches!(large.error, Refusal::Error(Error::TooLarge(_))));
        assert!(matches!(of(Code::DataLoss, "etcdserver: corrupt cluster").error, Refusal::Error(Error::Corrupted { .. })));
    }

    #[test]
    fn a_write_is_repeatable_only_when_it_had_no_effect() {
        assert!(!of(Code::Unavailable, "etcdserver: request timed out").without_effect);
        assert!(!of(Code::Unavailable, "etcdserver: leader changed").without_effect);
        assert!(of(Code::ResourceExhausted, "etcdserver: too many requests").without_effect);
        assert!(of(Code::Unavailable, "etcdserver: no leader").without_effect);
        let refused = Status::from_error(Box::new(ConnectError("refused".into())));
        let failure = judge(&refused, "m1");
        assert!(failure.without_effect && failure.unfit && failure.transient);
    }

    #[test]
    fn a_member_is_left_when_it_cannot_serve_but_not_for_what_every_member_would_say() {
        assert!(of(Code::Unavailable, "etcdserver: request timed out").unfit);
        assert!(!of(Code::ResourceExhausted, "etcdserver: too many requests").unfit);
        assert!(!of(Code::PermissionDenied, "etcdserver: permission denied").transient);
    }
}
