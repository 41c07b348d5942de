//! What people hear about a volume that their pods wait for: each thing once. Pure.
//!
//! Source: `reportMultiAttachError` of the reconciler, `waitForVolumeAttachment` of `pkg/volume/csi/csi_attacher.go`.

use super::plan::Wanted;
use k8s_openapi::api::storage::v1::VolumeAttachmentStatus;
use std::time::Duration;
use tokio::time::Instant;

/// How long a driver may take to attach a volume before people hear of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// What people hear.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It could not be attached.
    Failed(String),
    /// Another node has it, and only one may.
    Disputed,
}

/// What people have heard of a volume on a node.
#[derive(Debug, Default)]
pub(super) struct Told {
    failure: Option<String>,
    disputed: bool,
    /// Since when the driver is to answer; anew each time people hear that it does not.
    since: Option<Instant>,
}

impl Told {
    /// What is new, from the attachment as it is, if there is one.
    pub fn hear(&mut self, want: &Wanted, status: Option<&VolumeAttachmentStatus>, refused: bool, now: Instant) -> Option<News> {
        let disputed = std::mem::replace(&mut self.disputed, refused);
        if refused && !disputed {
            return Some(News::Disputed);
        }
        let failure = status.and_then(|s| s.attach_error.as_ref()?.message.clone());
        let known = std::mem::replace(&mut self.failure, failure.clone());
        if failure.is_some() || status.is_none_or(|s| s.attached) {
            self.since = None;
            return failure.filter(|f| known.as_ref() != Some(f)).map(News::Failed);
        }
        let since = *self.since.get_or_insert(now);
        let late = now.duration_since(since) >= PATIENCE;
        late.then(|| {
            self.since = Some(now);
            let Wanted { driver, handle, .. } = want;
            News::Failed(format!("timed out waiting for external-attacher of {driver} CSI driver to attach volume {handle}"))
        })
    }

    /// The driver is still to answer.
    pub fn waits(&self) -> bool {
        self.since.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_thing_is_heard_once() {
        let want = Wanted { volume: "pv".into(), driver: "d".into(), handle: "h".into(), exclusive: true };
        let status = |value| serde_json::from_value::<VolumeAttachmentStatus>(value).unwrap();
        let (open, done) = (status(json!({"attached": false})), status(json!({"attached": true})));
        let failed = status(json!({"attached": false, "attachError": {"message": "why"}}));
        let silent = News::Failed("timed out waiting for external-attacher of d CSI driver to attach volume h".into());
        let (start, mut told) = (Instant::now(), Told::default());
        let mut hear = |status, refused, after| told.hear(&want, status, refused, start + Duration::from_secs(after));
        assert_eq!(hear(None, true, 0), Some(News::Disputed));
        assert_eq!(hear(None, true, 10), None);
        assert_eq!(hear(None, false, 20), None);
        assert_eq!(hear(None, true, 30), Some(News::Disputed), "it was free in between");
        assert_eq!(hear(Some(&open), false, 40), None);
        assert_eq!(hear(Some(&open), false, 159), None);
        assert_eq!(hear(Some(&open), false, 160), Some(silent));
        assert_eq!(hear(Some(&open), false, 170), None);
        assert_eq!(hear(Some(&failed), false, 180), Some(News::Failed("why".into())));
        assert_eq!(hear(Some(&failed), false, 190), None);
        assert_eq!(hear(Some(&done), false, 200), None);
        assert!(!told.waits());
    }
}
