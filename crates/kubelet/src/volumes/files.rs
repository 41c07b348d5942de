//! What is in configMap, secret, downwardAPI and projected volumes.

use super::atomic::{File, Payload};
use super::{Context, safe_relative};
use crate::make::env::{self, Lookup};
use ferrokube_client::{Cache, Selection, Target};
use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::time::Instant;

const DEFAULT_MODE: i32 = 0o644;

/// The plugin whose files these are; `None` for volumes that are not made of files.
pub fn plugin(volume: &Volume) -> Option<&'static str> {
    match volume {
        Volume { config_map: Some(_), .. } => Some("configmap"),
        Volume { secret: Some(_), .. } => Some("secret"),
        Volume { downward_api: Some(_), .. } => Some("downward-api"),
        Volume { projected: Some(_), .. } => Some("projected"),
        _ => None,
    }
}

struct Token {
    text: String,
    refresh_at: Instant,
}

/// Where the files of one pod come from. Objects are watched one by one (a node may not watch more), and `changed` wakes
/// the keeper.
pub struct Sources {
    context: Arc<Context>,
    /// The pod as it is now.
    pub pod: Arc<Pod>,
    /// Rung when an object changed.
    pub changed: Arc<Notify>,
    maps: HashMap<String, Cache<ConfigMap>>,
    secrets: HashMap<String, Cache<Secret>>,
    tokens: Mutex<BTreeMap<String, Token>>,
}

impl Sources {
    /// Nothing is watched yet.
    pub fn new(context: Arc<Context>, pod: Arc<Pod>) -> Self {
        Sources { context, pod, changed: Arc::default(), maps: HashMap::new(), secrets: HashMap::new(), tokens: Mutex::default() }
    }

    fn namespace(&self) -> String {
        self.pod.metadata.namespace.clone().unwrap_or_default()
    }

    fn one(&self, name: &str) -> Selection {
        Selection { namespace: self.namespace(), fields: format!("metadata.name={name}"), ..Selection::default() }
    }

    async fn config_map(&mut self, name: &str) -> Option<ConfigMap> {
        if !self.maps.contains_key(name) {
            let cache = self.context.caches.select::<ConfigMap>(self.one(name));
            cache.synced().await;
            let changed = self.changed.clone();
            cache.on_change(move |_| changed.notify_one());
            self.maps.insert(name.to_owned(), cache);
        }
        self.maps.get(name)?.get(&self.namespace(), name)
    }

    async fn secret(&mut self, name: &str) -> Option<Secret> {
        if !self.secrets.contains_key(name) {
            let cache = self.context.caches.select::<Secret>(self.one(name));
            cache.synced().await;
            let changed = self.changed.clone();
            cache.on_change(move |_| changed.notify_one());
            self.secrets.insert(name.to_owned(), cache);
        }
        self.secrets.get(name)?.get(&self.namespace(), name)
    }

    /// When the first of the tokens wants to be renewed.
    pub fn refresh_at(&self) -> Option<Instant> {
        self.tokens.lock().values().map(|t| t.refresh_at).min()
    }

    /// The files of a volume as they should be now.
    pub async fn payload(&mut self, volume: &Volume) -> Result<Payload, String> {
        if let Some(source) = &volume.config_map {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            return self.map_files(&source.name, source.optional, source.items.as_deref(), mode).await;
        }
        if let Some(source) = &volume.secret {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            return self
                .secret_files(source.secret_name.as_deref().unwrap_or_default(), source.optional, source.items.as_deref(), mode)
                .await;
        }
        if let Some(source) = &volume.downward_api {
            return self.downward_files(source.items.as_deref().unwrap_or_default(), source.default_mode.unwrap_or(DEFAULT_MODE));
        }
        let Some(projected) = &volume.projected else { return Ok(Payload::new()) };
        let mode = projected.default_mode.unwrap_or(DEFAULT_MODE);
        let mut all = Payload::new();
        for source in projected.sources.clone().unwrap_or_default() {
            all.extend(self.projection(&source, mode).await?);
        }
        Ok(all)
    }

    async fn projection(&mut self, source: &VolumeProjection, mode: i32) -> Result<Payload, String> {
        if let Some(map) = &source.config_map {
            return self.map_files(&map.name, map.optional, map.items.as_deref(), mode).await;
        }
        if let Some(secret) = &source.secret {
            return self.secret_files(&secret.name, secret.optional, secret.items.as_deref(), mode).await;
        }
        if let Some(downward) = &source.downward_api {
            return self.downward_files(downward.items.as_deref().unwrap_or_default(), mode);
        }
        if let Some(token) = &source.service_account_token {
            let text = self.token(token).await?;
            let path = safe_relative(&token.path)?.to_owned();
            return Ok(Payload::from([(path, self.token_file(text, mode))]));
        }
        Err("this projected source is not supported by this node".to_owned())
    }

    async fn map_files(&mut self, name: &str, optional: Option<bool>, items: Option<&[KeyToPath]>, mode: i32) -> Result<Payload, String> {
        let Some(map) = self.config_map(name).await else {
            return if optional == Some(true) { Ok(Payload::new()) } else { Err(format!("configmap {name:?} not found")) };
        };
        let mut data: BTreeMap<String, Vec<u8>> = map.data.into_iter().flatten().map(|(k, v)| (k, v.into_bytes())).collect();
        data.extend(map.binary_data.into_iter().flatten().map(|(k, v)| (k, v.0)));
        select(data, items, mode, optional == Some(true)).map_err(|key| format!("configmap references non-existent config key: {key}"))
    }

    async fn secret_files(
        &mut self,
        name: &str,
        optional: Option<bool>,
        items: Option<&[KeyToPath]>,
        mode: i32,
    ) -> Result<Payload, String> {
        let Some(secret) = self.secret(name).await else {
            return if optional == Some(true) { Ok(Payload::new()) } else { Err(format!("secret {name:?} not found")) };
        };
        let data = secret.data.into_iter().flatten().map(|(k, v)| (k, v.0)).collect();
        select(data, items, mode, optional == Some(true)).map_err(|key| format!("references non-existent secret key: {key}"))
    }

    fn downward_files(&self, items: &[DownwardAPIVolumeFile], mode: i32) -> Result<Payload, String> {
        let lookup = Lookup { host_ips: self.context.host_ips.clone(), ..Lookup::default() };
        let allocatable = (self.context.capacity.milli_cpu, self.context.capacity.memory_of_pods());
        let mut payload = Payload::new();
        for item in items {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => env::field_value(&self.pod, &field.field_path, &lookup),
                (None, Some(resource)) => env::resource_value(&self.pod, &Container::default(), resource, allocatable),
                (None, None) => continue,
            };
            let data = text.map_err(|e| e.0)?.into_bytes();
            let file = File { data, mode: bits(item.mode.unwrap_or(mode)), owner: None };
            payload.insert(safe_relative(&item.path)?.to_owned(), file);
        }
        Ok(payload)
    }

    /// Only the user who runs the containers (or the group) may read a token.
    fn token_file(&self, text: String, mode: i32) -> File {
        let spec = self.pod.spec.as_ref();
        let of_pod = spec.and_then(|s| s.security_context.as_ref()).and_then(|c| c.run_as_user);
        let each =
            spec.into_iter().flat_map(|s| s.containers.iter()).map(|c| c.security_context.as_ref().and_then(|c| c.run_as_user).or(of_pod));
        let users: Vec<Option<i64>> = each.collect();
        let same = users.first().copied().flatten().filter(|first| users.iter().all(|u| *u == Some(*first)));
        let restricted = super::fs_group(&self.pod).is_some() || same.is_some();
        let mode = if restricted { 0o600 } else { bits(mode) };
        File { data: text.into_bytes(), mode, owner: same.and_then(|u| u32::try_from(u).ok()) }
    }

    async fn token(&self, source: &ServiceAccountTokenProjection) -> Result<String, String> {
        let key = format!("{}/{}", source.audience.as_deref().unwrap_or_default(), source.path);
        if let Some(token) = self.tokens.lock().get(&key).filter(|t| t.refresh_at > Instant::now()) {
            return Ok(token.text.clone());
        }
        let token = match self.request_token(source).await {
            Ok(token) => token,
            Err(e) => {
                // The old token goes on serving while the API server is away; it is renewed well before it expires.
                let mut tokens = self.tokens.lock();
                let Some(old) = tokens.get_mut(&key) else { return Err(e) };
                tracing::warn!("service account token not renewed: {e}");
                old.refresh_at = Instant::now() + super::keeper::RETRY;
                return Ok(old.text.clone());
            }
        };
        let text = token.text.clone();
        self.tokens.lock().insert(key, token);
        Ok(text)
    }

    async fn request_token(&self, source: &ServiceAccountTokenProjection) -> Result<Token, String> {
        let meta = &self.pod.metadata;
        let account = self.pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_else(|| "default".into());
        let target = Target::of::<k8s_openapi::api::core::v1::ServiceAccount>(&self.namespace(), &account).sub("token");
        let audiences: Vec<&String> = source.audience.iter().filter(|a| !a.is_empty()).collect();
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "audiences": audiences,
                "expirationSeconds": source.expiration_seconds.unwrap_or(3600),
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta.name, "uid": meta.uid},
            },
        });
        let answer: Value =
            self.context.client.request(Method::POST, &target, "", Some(&body)).await.map_err(|e| format!("failed to fetch token: {e}"))?;
        let text = answer["status"]["token"].as_str().ok_or("the answer to a token request has no token")?.to_owned();
        let expires: Option<Timestamp> = answer["status"]["expirationTimestamp"].as_str().and_then(|t| t.parse().ok());
        let lifetime = expires.map_or(3600, |e| e.as_second() - Timestamp::now().as_second()).max(1);
        Ok(Token { text, refresh_at: Instant::now() + refresh_after(lifetime) })
    }
}

/// At 80 % of its life, or after a day; earlier by up to 10 s, so that tokens are not all renewed at once.
fn refresh_after(lifetime: i64) -> std::time::Duration {
    let seconds = u64::try_from(lifetime * 4 / 5).unwrap_or(0).min(24 * 3600);
    let jitter = (u64::from(rand::random::<u16>()) % 10_000).min(seconds * 100);
    std::time::Duration::from_millis((seconds * 1000).saturating_sub(jitter).max(1000))
}

fn bits(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0o644) & 0o777
}

/// All keys, or the listed ones under their paths; the error is a listed key that is not there.
fn select(mut data: BTreeMap<String, Vec<u8>>, items: Option<&[KeyToPath]>, mode: i32, optional: bool) -> Result<Payload, String> {
    let file = |data, mode| File { data, mode: bits(mode), owner: None };
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return Ok(data.into_iter().map(|(k, v)| (PathBuf::from(k), file(v, mode))).collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match data.remove(&item.key) {
            Some(bytes) => drop(payload.insert(safe_relative(&item.path)?.to_owned(), file(bytes, item.mode.unwrap_or(mode)))),
            None if optional => {}
            None => return Err(item.key.clone()),
        }
    }
    Ok(payload)
}
