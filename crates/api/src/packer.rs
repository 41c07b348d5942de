//! Which template the objects of a kind are packed against.
//!
//! A kind has few templates: one is made of an object that is unlike those that are known, but no more than one for so many bytes of
//! objects, since a template is kept whole. Objects whose keys are next to each other are mostly of one origin, so the template of the
//! neighbour is tried first.

use crate::Object;
use crate::json::{Packed, Template};
use parking_lot::Mutex;
use std::sync::Arc;

/// Bytes of objects for each further template.
const PER_TEMPLATE: usize = 256 << 10;

/// The packer of one kind.
#[derive(Debug, Default)]
pub struct Packer(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The one that served last.
    recent: Option<Arc<Template>>,
    /// Bytes of the objects since the last one was made.
    since: usize,
}

impl Packer {
    /// Packs an object. `near`: what the object next to it is packed against.
    pub fn pack(&self, object: &Object, near: Option<Arc<Template>>) {
        object.json.pack(|json| self.packed(json, near));
    }

    fn packed(&self, json: &[u8], near: Option<Arc<Template>>) -> Option<Packed> {
        let (recent, may_make) = {
            let mut known = self.0.lock();
            known.since = known.since.saturating_add(json.len());
            (known.recent.clone(), known.recent.is_none() || known.since >= PER_TEMPLATE)
        };
        let recent = recent.filter(|recent| near.as_ref().is_none_or(|near| !Arc::ptr_eq(near, recent)));
        let mut best: Option<Packed> = None;
        for template in [near, recent].into_iter().flatten() {
            let packed = Packed::new(json, &template);
            if packed.as_ref().is_some_and(|packed| packed.len() <= json.len() / 4) {
                self.0.lock().recent = Some(template);
                return packed;
            }
            best = [best, packed].into_iter().flatten().min_by_key(Packed::len);
        }
        let made = if may_make { Template::new(json) } else { None };
        let Some(template) = made else { return best };
        let packed = Packed::new(json, &template);
        *self.0.lock() = Known { recent: Some(template), since: 0 };
        packed
    }
}
