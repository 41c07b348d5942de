//! The providers whose keys stand in the configuration: AES-GCM, AES-CBC, secretbox. The name of the key is part of the
//! value's prefix; where the cipher can, the value is tied to its key in the store.

use super::SealError;
use super::config::{Key, Keys};
use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit};
use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm};
use crypto_secretbox::XSalsa20Poly1305;
use ring::rand::{SecureRandom, SystemRandom};

const GCM_NONCE: usize = 12;
const BOX_NONCE: usize = 24;
const BLOCK: usize = 16;

enum Cipher {
    Gcm128(Box<Aes128Gcm>),
    Gcm192(Box<AesGcm<aes::Aes192, U12>>),
    Gcm256(Box<Aes256Gcm>),
    Cbc(Vec<u8>),
    Box(Box<XSalsa20Poly1305>),
}

struct Named {
    prefix: Vec<u8>,
    cipher: Cipher,
}

/// One provider with its keys: the first writes, all read.
pub(super) struct Local {
    what: &'static str,
    prefix: &'static str,
    keys: Vec<Named>,
}

pub(super) fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    SystemRandom::new().fill(&mut bytes).expect("the system's random source works");
    bytes
}

impl Local {
    fn new(what: &'static str, prefix: &'static str, keys: &Keys, cipher: fn(&Key) -> Result<Cipher, String>) -> Result<Self, String> {
        let named = |key: &Key| Ok(Named { prefix: format!("{prefix}{}:", key.name).into_bytes(), cipher: cipher(key)? });
        Ok(Local { what, prefix, keys: keys.keys.iter().map(named).collect::<Result<_, String>>()? })
    }

    pub fn aesgcm(keys: &Keys) -> Result<Self, String> {
        Self::new("AES-GCM", "k8s:enc:aesgcm:v1:", keys, |key| {
            let bytes = key.bytes(&[16, 24, 32])?;
            let unfit = |_| "unfit key".to_owned();
            Ok(match bytes.len() {
                16 => Cipher::Gcm128(Box::new(Aes128Gcm::new_from_slice(&bytes).map_err(unfit)?)),
                24 => Cipher::Gcm192(Box::new(AesGcm::new_from_slice(&bytes).map_err(unfit)?)),
                _ => Cipher::Gcm256(Box::new(Aes256Gcm::new_from_slice(&bytes).map_err(unfit)?)),
            })
        })
    }

    pub fn aescbc(keys: &Keys) -> Result<Self, String> {
        Self::new("AES-CBC", "k8s:enc:aescbc:v1:", keys, |key| Ok(Cipher::Cbc(key.bytes(&[16, 24, 32])?)))
    }

    pub fn secretbox(keys: &Keys) -> Result<Self, String> {
        Self::new("secretbox", "k8s:enc:secretbox:v1:", keys, |key| {
            let bytes = key.bytes(&[32])?;
            Ok(Cipher::Box(Box::new(XSalsa20Poly1305::new_from_slice(&bytes).map_err(|_| "unfit key".to_owned())?)))
        })
    }

    /// Whether the value was written by this provider, with whatever key.
    pub fn knows(&self, value: &[u8]) -> bool {
        value.starts_with(self.prefix.as_bytes())
    }

    /// Whether the value was written with the first key.
    pub fn is_current(&self, value: &[u8]) -> bool {
        self.keys.first().is_some_and(|k| value.starts_with(&k.prefix))
    }

    pub fn seal(&self, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let key = self.keys.first().ok_or(SealError::NoKey(self.what))?;
        let mut out = key.prefix.clone();
        key.cipher.seal(context, plain, &mut out)?;
        Ok(out)
    }

    pub fn open(&self, context: &[u8], value: &[u8]) -> Result<Vec<u8>, SealError> {
        let key = self.keys.iter().find(|k| value.starts_with(&k.prefix)).ok_or(SealError::NoKey(self.what))?;
        key.cipher.open(context, &value[key.prefix.len()..])
    }
}

fn split(data: &[u8], at: usize) -> Result<(&[u8], &[u8]), SealError> {
    data.split_at_checked(at).ok_or(SealError::Short)
}

impl Cipher {
    fn seal(&self, context: &[u8], plain: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        let payload = Payload { msg: plain, aad: context };
        let forged = |_| SealError::Forged;
        let nonce = random(match self {
            Cipher::Box(_) => BOX_NONCE,
            Cipher::Cbc(_) => BLOCK,
            _ => GCM_NONCE,
        });
        let sealed = match self {
            Cipher::Gcm128(c) => c.encrypt(nonce.as_slice().into(), payload).map_err(forged)?,
            Cipher::Gcm192(c) => c.encrypt(nonce.as_slice().into(), payload).map_err(forged)?,
            Cipher::Gcm256(c) => c.encrypt(nonce.as_slice().into(), payload).map_err(forged)?,
            Cipher::Box(c) => c.encrypt(nonce.as_slice().into(), plain).map_err(forged)?,
            Cipher::Cbc(key) => cbc_seal(key, &nonce, plain)?,
        };
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        Ok(())
    }

    fn open(&self, context: &[u8], data: &[u8]) -> Result<Vec<u8>, SealError> {
        let forged = |_| SealError::Forged;
        let gcm = |data| split(data, GCM_NONCE).map(|(nonce, msg)| (nonce, Payload { msg, aad: context }));
        match self {
            Cipher::Gcm128(c) => gcm(data).and_then(|(nonce, p)| c.decrypt(nonce.into(), p).map_err(forged)),
            Cipher::Gcm192(c) => gcm(data).and_then(|(nonce, p)| c.decrypt(nonce.into(), p).map_err(forged)),
            Cipher::Gcm256(c) => gcm(data).and_then(|(nonce, p)| c.decrypt(nonce.into(), p).map_err(forged)),
            Cipher::Box(c) => {
                let (nonce, sealed) = split(data, BOX_NONCE)?;
                c.decrypt(nonce.into(), sealed).map_err(forged)
            }
            Cipher::Cbc(key) => {
                let (iv, sealed) = split(data, BLOCK)?;
                cbc_open(key, iv, sealed)
            }
        }
    }
}

fn cbc_seal(key: &[u8], iv: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
    let unfit = |_| SealError::Forged;
    Ok(match key.len() {
        16 => cbc::Encryptor::<aes::Aes128>::new_from_slices(key, iv).map_err(unfit)?.encrypt_padded_vec_mut::<Pkcs7>(plain),
        24 => cbc::Encryptor::<aes::Aes192>::new_from_slices(key, iv).map_err(unfit)?.encrypt_padded_vec_mut::<Pkcs7>(plain),
        _ => cbc::Encryptor::<aes::Aes256>::new_from_slices(key, iv).map_err(unfit)?.encrypt_padded_vec_mut::<Pkcs7>(plain),
    })
}

fn cbc_open(key: &[u8], iv: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let unfit = |_| SealError::Forged;
    match key.len() {
        16 => cbc::Decryptor::<aes::Aes128>::new_from_slices(key, iv).map_err(unfit)?.decrypt_padded_vec_mut::<Pkcs7>(sealed),
        24 => cbc::Decryptor::<aes::Aes192>::new_from_slices(key, iv).map_err(unfit)?.decrypt_padded_vec_mut::<Pkcs7>(sealed),
        _ => cbc::Decryptor::<aes::Aes256>::new_from_slices(key, iv).map_err(unfit)?.decrypt_padded_vec_mut::<Pkcs7>(sealed),
    }
    .map_err(|_| SealError::Forged)
}
