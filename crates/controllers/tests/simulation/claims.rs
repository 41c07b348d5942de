//! Volumes and claims: a volume is bound to one claim and a claim to one volume, for good; what is reserved is kept, and what
//! is to be retained is never deleted.

use crate::CORE;
use crate::checks::Found;
use crate::common;
use crate::history::{Change, is_leaving, phase, text, uid};
use crate::scenario::Scenario;
use crate::world::World;
use http::Method;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const VOLUMES: &str = "/api/v1/persistentvolumes";
const COMPLETED: &str = "pv.kubernetes.io/bind-completed";

/// Who asks for volumes in a run.
pub struct Claims {
    made: [usize; 2],
    /// Volumes that an administrator has deleted.
    deleted: BTreeSet<String>,
}

fn claims() -> String {
    format!("{CORE}/persistentvolumeclaims")
}

impl Claims {
    /// A volume of so many gigabytes, for one claim when that is named.
    async fn volume(&mut self, world: &World, size: u32, of: Option<&str>, policy: &str) {
        let name = format!("v{}", self.made[0]);
        self.made[0] += 1;
        let mut spec = json!({"capacity": {"storage": format!("{size}Gi")}, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": policy, "storageClassName": "manual", "hostPath": {"path": "/x"}});
        if let Some(claim) = of {
            spec["claimRef"] = json!({"kind": "PersistentVolumeClaim", "namespace": "default", "name": claim});
        }
        let labels = json!({"reserved": of.unwrap_or_default()});
        world.ask(Method::POST, VOLUMES, json!({"metadata": {"name": name, "labels": labels}, "spec": spec})).await;
    }

    /// A claim for so many gigabytes, or for one volume when that is named.
    async fn claim(&mut self, world: &World, size: u32, of: Option<&str>) {
        let name = format!("c{}", self.made[1]);
        self.made[1] += 1;
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "manual", "resources": {"requests": {"storage": format!("{size}Gi")}}});
        if let Some(volume) = of {
            spec["volumeName"] = volume.into();
        }
        world.ask(Method::POST, &claims(), json!({"metadata": {"name": name}, "spec": spec})).await;
    }

    async fn any(&self, world: &World, path: &str, dice: &mut StdRng) -> Option<Value> {
        let mut all = world.items(path).await;
        (!all.is_empty()).then(|| all.swap_remove(dice.random_range(0..all.len())))
    }
}

impl Scenario for Claims {
    const CONTROLLERS: &'static [&'static str] =
        &["persistentvolume-binder-controller", "persistentvolumeclaim-protection-controller", "persistentvolume-protection-controller"];

    async fn install(world: &World) -> Self {
        let mut all = Claims { made: [0, 0], deleted: BTreeSet::new() };
        let class = json!({"metadata": {"name": "manual"}, "provisioner": "kubernetes.io/no-provisioner"});
        world.ask(Method::POST, "/apis/storage.k8s.io/v1/storageclasses", class).await;
        // Two of a size, so that who looks at an old cache may take the same; one reserved by the volume, one by the claim.
        for (size, of) in [(1, None), (1, None), (2, None), (3, Some("c2")), (3, None)] {
            all.volume(world, size, of, "Retain").await;
        }
        for (size, of) in [(1, None), (1, None), (1, None), (1, Some("v4"))] {
            all.claim(world, size, of).await;
        }
        all
    }

    async fn change(&mut self, world: &World, dice: &mut StdRng) {
        let size = dice.random_range(1..4);
        match dice.random_range(0..8) {
            0 => self.volume(world, size, None, "Retain").await,
            1 => self.volume(world, size, None, "Delete").await,
            2 => {
                let next = format!("c{}", self.made[1] + dice.random_range(0..2));
                self.volume(world, size, Some(&next), "Retain").await;
            }
            3 | 4 => {
                self.claim(world, size, None).await;
                self.claim(world, size, None).await;
            }
            5 => {
                let volume = self.any(world, VOLUMES, dice).await.map(|v| common::name(&v).to_owned());
                self.claim(world, 1, volume.as_deref()).await;
            }
            6 => {
                let Some(claim) = self.any(world, &claims(), dice).await else { return };
                world.try_ask(Method::DELETE, &format!("{}/{}", claims(), common::name(&claim)), json!({})).await;
            }
            _ => {
                let Some(volume) = self.any(world, VOLUMES, dice).await else { return };
                self.deleted.insert(uid(&volume).to_owned());
                world.try_ask(Method::DELETE, &format!("{VOLUMES}/{}", common::name(&volume)), json!({})).await;
            }
        }
    }

    async fn problems(&self, world: &World) -> Vec<String> {
        let (volumes, claims) = (world.items(VOLUMES).await, world.items(&claims()).await);
        let mut found = Found(Vec::new());
        let of_claim = |c: &Value| volumes.iter().find(|v| common::name(v) == text(&c["spec"]["volumeName"]));
        for claim in &claims {
            let volume = of_claim(claim);
            let bound = volume.is_some_and(|v| text(&v["spec"]["claimRef"]["uid"]) == uid(claim) && phase(v) == "Bound");
            let wants = || format!("{}: {} {}", common::name(claim), claim["spec"], phase(claim));
            match phase(claim) {
                "Bound" => found.unless(bound, || format!("{}, its volume: {volume:?}", wants())),
                "Lost" => found.unless(volume.is_none() || !bound, wants),
                _ => found.unless(!volumes.iter().any(|v| fits(v, claim)), || format!("{} waits, and there is one", wants())),
            }
        }
        for volume in &volumes {
            let reference = &volume["spec"]["claimRef"]["uid"];
            let claim = claims.iter().find(|c| uid(c) == text(reference));
            let right = match phase(volume) {
                // If it was to go before its claim had got it, neither gets anywhere, upstream as well: what goes is given to nobody.
                "Bound" => claim.is_some_and(|c| {
                    let named = text(&c["spec"]["volumeName"]);
                    named == common::name(volume) || named.is_empty() && is_leaving(volume)
                }),
                "Available" => reference.is_null(),
                "Released" | "Failed" => claim.is_none() && !reference.is_null(),
                _ => false,
            };
            found.unless(right, || format!("{} is {}: {}, its claim: {claim:?}", common::name(volume), phase(volume), volume["spec"]));
        }
        found.0
    }

    fn violations(&self, world: &World) -> Vec<String> {
        let history = world.server.history();
        let mut found = Found(Vec::new());
        let mut bound = BTreeMap::<String, String>::new();
        for change in &history {
            if change.is("PersistentVolume") {
                self.volume_changed(change, &mut found);
            } else if change.is("PersistentVolumeClaim") {
                claim_changed(change, &mut bound, &mut found);
            }
        }
        found.0
    }
}

fn gigabytes(size: &Value) -> u32 {
    text(size).trim_end_matches("Gi").parse().unwrap_or(0)
}

/// Whether a volume is free for a claim that waits.
fn fits(volume: &Value, claim: &Value) -> bool {
    let (reference, named) = (&volume["spec"]["claimRef"], text(&claim["spec"]["volumeName"]));
    let free = reference.is_null() || reference["uid"].is_null() && text(&reference["name"]) == common::name(claim);
    let large = gigabytes(&volume["spec"]["capacity"]["storage"]) >= gigabytes(&claim["spec"]["resources"]["requests"]["storage"]);
    free && large && !is_leaving(volume) && !is_leaving(claim) && (named.is_empty() || named == common::name(volume))
}

impl Claims {
    fn volume_changed(&self, change: &Change, found: &mut Found) {
        let (name, volume) = (change.name(), change.latest());
        let may_go = self.deleted.contains(uid(volume));
        let retained = volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain";
        found.unless(!change.is_end() || may_go || !retained, || format!("{name} is deleted, and nobody asked for it"));
        let reserved = text(&volume["metadata"]["labels"]["reserved"]);
        let reference = &volume["spec"]["claimRef"];
        let kept = reserved.is_empty() || text(&reference["name"]) == reserved;
        found.unless(kept, || format!("{name} is reserved for {reserved} and refers to {reference}"));
        let (Some(before), Some(after)) = (&change.before, &change.after) else { return };
        let [old, new] = [before, after].map(|v| text(&v["spec"]["claimRef"]["uid"]));
        found.unless(old.is_empty() || new.is_empty() || old == new, || format!("{name} goes from claim {old} to {new}"));
    }
}

/// A claim keeps its volume; no other one has the same, as far as binding is complete. `bound` is who has which volume.
fn claim_changed(change: &Change, bound: &mut BTreeMap<String, String>, found: &mut Found) {
    let (name, claim) = (change.name(), change.latest());
    let volume = text(&claim["spec"]["volumeName"]).to_owned();
    if let Some(before) = change.before.as_ref().filter(|_| change.after.is_some()) {
        let old = text(&before["spec"]["volumeName"]);
        found.unless(old.is_empty() || old == volume, || format!("{name} goes from volume {old} to {volume}"));
    }
    match &change.after {
        None => bound.retain(|_, of| of != uid(claim)),
        Some(_) if claim["metadata"]["annotations"][COMPLETED].is_string() && phase(claim) != "Lost" => {
            let other = bound.insert(volume.clone(), uid(claim).to_owned());
            found.unless(other.is_none_or(|o| o == uid(claim)), || format!("{volume} is bound to two claims"));
        }
        Some(_) => {}
    }
}
