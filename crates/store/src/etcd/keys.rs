//! Where our keys are in etcd: kube-apiserver's `--etcd-prefix`. Inside, keys begin with `/registry`; in etcd, with the prefix.
//! With the default prefix they are the same bytes and nothing is copied.

use bytes::Bytes;

/// What keys begin with on this side.
const ROOT: &[u8] = b"/registry";

/// Translates keys.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// `None`: the same on both sides.
    prefix: Option<Bytes>,
}

impl Keys {
    /// With a prefix such as `/registry` or `/clusters/a`.
    pub fn new(prefix: &str) -> Keys {
        let trimmed = prefix.trim_matches('/');
        let prefix = format!("/{trimmed}").into_bytes();
        Keys { prefix: (prefix != ROOT).then(|| prefix.into()) }
    }

    /// The key in etcd.
    pub fn outward(&self, key: Bytes) -> Bytes {
        match (&self.prefix, key.strip_prefix(ROOT)) {
            (Some(prefix), Some(rest)) => [prefix, rest].concat().into(),
            _ => key,
        }
    }

    /// The key on this side.
    pub fn inward(&self, key: Bytes) -> Bytes {
        match self.prefix.as_ref().map(|prefix| key.strip_prefix(&prefix[..])) {
            Some(Some(rest)) => [ROOT, rest].concat().into(),
            _ => key,
        }
    }

    /// The key that all of ours begin with.
    pub fn root(&self) -> Bytes {
        self.prefix.clone().unwrap_or(Bytes::from_static(ROOT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_move_to_the_prefix_and_back_and_keep_their_order() {
        let keys = Keys::new("/clusters/a/");
        let (key, end) = (Bytes::from_static(b"/registry/pods/x"), Bytes::from_static(b"/registry0"));
        assert_eq!(keys.outward(key.clone()), Bytes::from_static(b"/clusters/a/pods/x"));
        assert_eq!(keys.outward(end), Bytes::from_static(b"/clusters/a0"));
        assert_eq!(keys.inward(keys.outward(key.clone())), key);
        let same = Keys::new("/registry");
        assert_eq!(same.outward(key.clone()).as_ptr(), key.as_ptr(), "nothing is copied with the default prefix");
    }
}
