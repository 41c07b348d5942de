//! `--cluster-signing-<signer>-cert-file` and `-key-file`: CAs of single signers, instead of one for all.
//!
//! One row per signer: its fields, the names of its flags, its name, and where `/configz` shows it.

use crate::flags::read;
use anyhow::{Context, Result, ensure};
use clap::Args;
use ferrokube_controllers::Signing;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

macro_rules! signers {
    ($($cert:ident $key:ident, $cert_flag:literal $key_flag:literal, $name:literal, $section:literal;)*) => {
        /// The flags.
        #[derive(Args, Debug)]
        #[command(next_help_heading = "CAs of single signers")]
        pub struct SignerFlags {
            $(#[doc = concat!("CA that signs for ", $name)]
            #[arg(long = $cert_flag, value_name = "FILE", requires = stringify!($key))]
            $cert: Option<PathBuf>,
            /// Its key
            #[arg(long = $key_flag, value_name = "FILE", requires = stringify!($cert))]
            $key: Option<PathBuf>,)*
        }

        impl SignerFlags {
            /// CAs by signer. As upstream, signers with a CA of their own and one CA for all exclude each other.
            pub fn signing(&self, duration: Duration, one_for_all: bool) -> Result<HashMap<&'static str, Signing>> {
                let mut all = HashMap::new();
                $(if let (Some(certificate), Some(key)) = (&self.$cert, &self.$key) {
                    let read_of = |path| read(path).with_context(|| concat!("the CA of ", $name));
                    all.insert($name, Signing { certificate: read_of(certificate)?, key: read_of(key)?, duration });
                })*
                ensure!(
                    all.is_empty() || !one_for_all,
                    "cannot specify --cluster-signing-{{cert,key}}-file and other --cluster-signing-*-file flags at the same time"
                );
                Ok(all)
            }

            /// As `/configz` shows them.
            pub fn show(&self, shown: &mut Value) {
                let path = |p: &Option<PathBuf>| p.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
                $(shown[$section] = json!({"CertFile": path(&self.$cert), "KeyFile": path(&self.$key)});)*
            }
        }
    };
}

signers! {
    serving_cert serving_key, "cluster-signing-kubelet-serving-cert-file" "cluster-signing-kubelet-serving-key-file", "kubernetes.io/kubelet-serving", "KubeletServingSignerConfiguration";
    kubelet_cert kubelet_key, "cluster-signing-kubelet-client-cert-file" "cluster-signing-kubelet-client-key-file", "kubernetes.io/kube-apiserver-client-kubelet", "KubeletClientSignerConfiguration";
    client_cert client_key, "cluster-signing-kube-apiserver-client-cert-file" "cluster-signing-kube-apiserver-client-key-file", "kubernetes.io/kube-apiserver-client", "KubeAPIServerClientSignerConfiguration";
    legacy_cert legacy_key, "cluster-signing-legacy-unknown-cert-file" "cluster-signing-legacy-unknown-key-file", "kubernetes.io/legacy-unknown", "LegacyUnknownSignerConfiguration";
}
