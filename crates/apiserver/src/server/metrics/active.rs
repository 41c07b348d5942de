//! Requests that take long by nature: counted while they last, whoever carries their bytes.

use super::{Labels, head, shown};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// How many run now, by what they are.
#[derive(Clone, Default)]
pub struct Running(Arc<Mutex<BTreeMap<Labels, usize>>>);

/// One of them. It is over when this goes.
pub struct Active {
    running: Running,
    labels: Labels,
}

impl Drop for Active {
    fn drop(&mut self) {
        let mut running = self.running.0.lock();
        if let Some(count) = running.get_mut(&self.labels) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.labels);
            }
        }
    }
}

impl Running {
    /// Counts one more.
    pub(super) fn begin(&self, labels: Labels) -> Active {
        *self.0.lock().entry(labels.clone()).or_default() += 1;
        Active { running: self.clone(), labels }
    }

    pub(super) fn write(&self, out: &mut String) {
        const NAME: &str = "apiserver_longrunning_requests";
        let help = "[STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.";
        head(out, NAME, "gauge", help);
        for (labels, count) in self.0.lock().iter() {
            let _ = writeln!(out, "{NAME}{{{}}} {count}", shown(labels, false));
        }
    }
}
