//! KMS v2: a seed of our own encrypts the values; a plug-in behind a Unix socket encrypts the seed.
//!
//! One seed serves until the plug-in changes its key. Each value gets a key of its own, derived from the seed and 32
//! random bytes that stand in front of it. Seeds of others are decrypted once and remembered by their encrypted form.
//! Source: `value/encrypt/envelope/kmsv2`, `value/encrypt/aes/aes_extended_nonce.go`.

use super::config::Kms;
use super::{EncryptionError, SealError};
use arc_swap::ArcSwapOption;
use ferrokube_kms::v2::key_management_service_client::KeyManagementServiceClient;
use ferrokube_kms::v2::{DecryptRequest, EncryptRequest, EncryptedObject, StatusRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prost::Message;
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk};
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};

const SEED: usize = 32;
const INFO: usize = 32;
/// `EncryptedDekSourceType`: a key that encrypts values itself, which older servers wrote.
const KEY_TYPE: i32 = 0;
/// `EncryptedDekSourceType`: a seed that derives a key per value.
const SEED_TYPE: i32 = 1;
/// How long a seed may write after the plug-in was last well.
const WRITES_FOR: Duration = Duration::from_secs(3 * 60);
/// How often the plug-in is asked when it is well, and when it is not.
const POLL: Duration = Duration::from_secs(60);
const POLL_ILL: Duration = Duration::from_secs(10);
/// How long the first answer is waited for, and the pause between tries.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(250);
/// Seeds remembered at most.
const REMEMBERED: usize = 4096;
/// Longest encrypted seed and key id.
const MAX_SHORT: usize = 1024;

/// What encrypts values.
enum Source {
    Seed(Prk),
    Key(LessSafeKey),
}

fn cipher(key: &[u8]) -> Result<LessSafeKey, SealError> {
    let algorithm = if key.len() == 16 { &AES_128_GCM } else { &AES_256_GCM };
    UnboundKey::new(algorithm, key).map(LessSafeKey::new).map_err(|_| SealError::Kms("the decrypted key has an unfit length".to_owned()))
}

fn fill(bytes: &mut [u8]) {
    SystemRandom::new().fill(bytes).expect("the system's random source works");
}

impl Source {
    fn new(kind: i32, bytes: &[u8]) -> Result<Self, SealError> {
        match kind {
            KEY_TYPE => Ok(Source::Key(cipher(bytes)?)),
            SEED_TYPE if bytes.len() >= SEED => Ok(Source::Seed(Prk::new_less_safe(HKDF_SHA256, bytes))),
            SEED_TYPE => Err(SealError::Kms(format!("invalid seed length {} used for key generation", bytes.len()))),
            other => Err(SealError::Kms(format!("unknown encryptedDEKSourceType: {other}"))),
        }
    }

    fn derived(prk: &Prk, info: &[u8]) -> Result<LessSafeKey, SealError> {
        let mut key = [0; 32];
        let expanded = prk.expand(&[info], HKDF_SHA256).and_then(|okm| okm.fill(&mut key));
        expanded.map_err(|_| SealError::Kms("no key could be derived".to_owned()))?;
        cipher(&key)
    }

    fn open(&self, context: &[u8], data: &[u8]) -> Result<Vec<u8>, SealError> {
        let split = |data: &[u8], at: usize| data.split_at_checked(at).map(|(a, b)| (a.to_vec(), b.to_vec())).ok_or(SealError::Short);
        let open = |key: &LessSafeKey, data: &[u8]| {
            let (nonce, mut sealed) = split(data, NONCE_LEN)?;
            let nonce = Nonce::try_assume_unique_for_key(&nonce).map_err(|_| SealError::Short)?;
            let length = key.open_in_place(nonce, Aad::from(context), &mut sealed).map_err(|_| SealError::Forged)?.len();
            sealed.truncate(length);
            Ok(sealed)
        };
        match self {
            Source::Key(key) => open(key, data),
            Source::Seed(prk) => {
                let (info, rest) = data.split_at_checked(INFO).ok_or(SealError::Short)?;
                open(&Self::derived(prk, info)?, rest)
            }
        }
    }
}

/// With what values are written now.
struct Writer {
    prk: Prk,
    /// Everything of the envelope but the data.
    envelope: EncryptedObject,
    until: Instant,
}

/// A plug-in and what is known of its keys.
pub(super) struct KmsProvider {
    name: String,
    prefix: Vec<u8>,
    client: KeyManagementServiceClient<Channel>,
    timeout: Duration,
    writer: ArcSwapOption<Writer>,
    known: Mutex<HashMap<[u8; 32], Arc<Source>>>,
    trouble: Mutex<Option<String>>,
}

/// What a seed is remembered by.
fn digest(envelope: &EncryptedObject) -> [u8; 32] {
    let bare = EncryptedObject { encrypted_data: Vec::new(), ..envelope.clone() };
    let digest = ring::digest::digest(&ring::digest::SHA256, &bare.encode_to_vec());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn check(source: &[u8], key_id: &str, annotations: &BTreeMap<String, Vec<u8>>) -> Result<(), String> {
    if source.is_empty() || source.len() > MAX_SHORT {
        return Err(format!("the encrypted seed has {} bytes; 1 to {MAX_SHORT} are allowed", source.len()));
    }
    if key_id.is_empty() || key_id.len() > MAX_SHORT {
        return Err(format!("the key id has {} bytes; 1 to {MAX_SHORT} are allowed", key_id.len()));
    }
    match annotations.keys().find(|k| !k.contains('.')) {
        Some(key) => Err(format!("annotation {key:?} is not a fully qualified domain name")),
        None => Ok(()),
    }
}

impl KmsProvider {
    /// Connects, makes the first seed, and keeps an eye on the plug-in for as long as the provider is held.
    pub async fn start(config: &Kms) -> Result<Arc<Self>, EncryptionError> {
        let path = config.endpoint.trim_start_matches("unix://").to_owned();
        let dial = tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let timeout = config.timeout();
        let channel = Endpoint::from_static("http://localhost").timeout(timeout).connect_with_connector_lazy(dial);
        let provider = Arc::new(KmsProvider {
            name: config.name.clone(),
            prefix: format!("k8s:enc:kms:v2:{}:", config.name).into_bytes(),
            client: KeyManagementServiceClient::new(channel),
            timeout,
            writer: ArcSwapOption::empty(),
            known: Mutex::new(HashMap::new()),
            trouble: Mutex::new(None),
        });
        let deadline = Instant::now() + PATIENCE.max(timeout);
        while let Err(why) = provider.look().await {
            if Instant::now() >= deadline {
                return Err(EncryptionError::Kms { name: config.name.clone(), why });
            }
            tokio::time::sleep(RETRY).await;
        }
        tokio::spawn(watch(Arc::downgrade(&provider)));
        Ok(provider)
    }

    /// Asks the plug-in how it is and which key it has; a new key gets a new seed.
    async fn look(&self) -> Result<(), String> {
        let mut client = self.client.clone();
        let said = |e: tonic::Status| e.message().to_owned();
        let status = client.status(StatusRequest {}).await.map_err(said)?.into_inner();
        if status.healthz != "ok" {
            return Err(format!("got unexpected healthz status: {}", status.healthz));
        }
        if status.version != "v2" && status.version != "v2beta1" {
            return Err(format!("expected KMSv2 API version v2, got {}", status.version));
        }
        let current = self.writer.load_full();
        let until = Instant::now() + WRITES_FOR;
        match current.filter(|w| w.envelope.key_id == status.key_id) {
            Some(w) => self.writer.store(Some(Arc::new(Writer { prk: w.prk.clone(), envelope: w.envelope.clone(), until }))),
            None => self.renew(until).await?,
        }
        Ok(())
    }

    async fn renew(&self, until: Instant) -> Result<(), String> {
        let mut seed = [0; SEED];
        fill(&mut seed);
        let request = EncryptRequest { plaintext: seed.to_vec(), uid: uuid::Uuid::new_v4().to_string() };
        let answer = self.client.clone().encrypt(request).await.map_err(|e| format!("failed to encrypt DEK, error: {}", e.message()))?;
        let answer = answer.into_inner();
        check(&answer.ciphertext, &answer.key_id, &answer.annotations)?;
        let envelope = EncryptedObject {
            encrypted_data: Vec::new(),
            key_id: answer.key_id,
            encrypted_dek_source: answer.ciphertext,
            annotations: answer.annotations,
            encrypted_dek_source_type: SEED_TYPE,
        };
        let prk = Prk::new_less_safe(HKDF_SHA256, &seed);
        self.remember(digest(&envelope), Arc::new(Source::Seed(prk.clone())));
        self.writer.store(Some(Arc::new(Writer { prk, envelope, until })));
        Ok(())
    }

    fn remember(&self, digest: [u8; 32], source: Arc<Source>) {
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(digest, source);
    }

    /// Whether the value was written through this plug-in.
    pub fn knows(&self, value: &[u8]) -> bool {
        value.starts_with(&self.prefix)
    }

    /// Whether the value was written with the plug-in's key of now.
    pub fn is_current(&self, value: &[u8]) -> bool {
        let envelope = value.strip_prefix(self.prefix.as_slice()).and_then(|v| EncryptedObject::decode(v).ok());
        let writer = self.writer.load();
        matches!((envelope, &*writer), (Some(e), Some(w)) if e.key_id == w.envelope.key_id && e.encrypted_dek_source_type == SEED_TYPE)
    }

    pub fn seal(&self, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let writer = self.writer.load_full().ok_or_else(|| SealError::Kms("no key yet".to_owned()))?;
        if Instant::now() > writer.until {
            return Err(SealError::Kms(format!("KMS provider {:?} is not healthy: its key may not write any more", self.name)));
        }
        let mut data = vec![0; INFO + NONCE_LEN];
        fill(&mut data);
        let key = Source::derived(&writer.prk, &data[..INFO])?;
        let nonce = Nonce::try_assume_unique_for_key(&data[INFO..]).map_err(|_| SealError::Short)?;
        let mut sealed = plain.to_vec();
        key.seal_in_place_append_tag(nonce, Aad::from(context), &mut sealed).map_err(|_| SealError::Forged)?;
        data.extend_from_slice(&sealed);
        let envelope = EncryptedObject { encrypted_data: data, ..writer.envelope.clone() };
        let mut out = self.prefix.clone();
        envelope.encode(&mut out).map_err(|e| SealError::Kms(e.to_string()))?;
        Ok(out)
    }

    pub async fn open(&self, context: &[u8], value: &[u8]) -> Result<Vec<u8>, SealError> {
        let envelope = EncryptedObject::decode(&value[self.prefix.len()..]).map_err(|e| SealError::Kms(e.to_string()))?;
        let digest = digest(&envelope);
        let known = self.known.lock().get(&digest).cloned();
        let source = match known {
            Some(source) => source,
            None => {
                let source = Arc::new(self.decrypt(&envelope).await?);
                self.remember(digest, source.clone());
                source
            }
        };
        source.open(context, &envelope.encrypted_data)
    }

    async fn decrypt(&self, envelope: &EncryptedObject) -> Result<Source, SealError> {
        check(&envelope.encrypted_dek_source, &envelope.key_id, &envelope.annotations).map_err(SealError::Kms)?;
        let request = DecryptRequest {
            ciphertext: envelope.encrypted_dek_source.clone(),
            uid: uuid::Uuid::new_v4().to_string(),
            key_id: envelope.key_id.clone(),
            annotations: envelope.annotations.clone(),
        };
        let answer = tokio::time::timeout(self.timeout, self.client.clone().decrypt(request)).await;
        let answer = answer.map_err(|_| SealError::Kms("failed to decrypt DEK, error: timeout".to_owned()))?;
        let answer = answer.map_err(|e| SealError::Kms(format!("failed to decrypt DEK, error: {}", e.message())))?;
        Source::new(envelope.encrypted_dek_source_type, &answer.into_inner().plaintext)
    }

    /// What is wrong with the plug-in, if anything.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone().map(|why| format!("{}: {why}", self.name))
    }
}

async fn watch(provider: Weak<KmsProvider>) {
    let mut wait = POLL;
    loop {
        tokio::time::sleep(wait).await;
        let Some(provider) = provider.upgrade() else { return };
        let looked = provider.look().await;
        if let Err(why) = &looked {
            tracing::warn!(provider = provider.name, why, "KMS provider is not well");
        }
        wait = if looked.is_ok() { POLL } else { POLL_ILL };
        *provider.trouble.lock() = looked.err();
    }
}
