//! The way of a component to the API server: a kubeconfig, another address for it, or what every pod is given.

use super::{Component, gates, ignored};
use anyhow::{Context, Result, bail};
use clap::Args;
use ferrokube_api::features::Features;
use ferrokube_client::http::{Credentials, Endpoint, HttpTransport};
use ferrokube_client::metrics::Metrics;
use ferrokube_client::{Client, kubeconfig};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The way to the API server.
#[derive(Args, Clone, Debug)]
pub struct ConnectionFlags {
    /// Where the API server is and who we are [default: in a pod, what its service account is given]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Where the API server is, whatever the kubeconfig says
    #[arg(long, value_name = "URL")]
    master: Option<String>,
    /// Features by name; most may only be set to what they are
    #[arg(long, value_name = "NAME=BOOL,...")]
    feature_gates: Vec<Features>,
    /// There is no other version to be
    #[arg(long, hide = true, value_parser = ["1.36", "kube=1.36"])]
    emulated_version: Option<String>,
    #[arg(long, short = 'v', hide = true, help_heading = ignored::HEADING)]
    v: Option<u8>,
    #[command(flatten)]
    ignored: ignored::Everywhere,
}

/// A client as the user of a kubeconfig.
pub fn client(path: &Path, agent: &str) -> Result<Client> {
    let (endpoint, credentials) = kubeconfig::load(path, crate::kubeconfig::parse_yaml)?;
    Ok(Client::new(Arc::new(HttpTransport::new(&endpoint, credentials)?), agent))
}

/// The address that `--master` means; without a scheme it is one of TLS, since who we are is not sent over anything else.
fn address(master: &str) -> String {
    let address = if master.contains("://") { master.to_owned() } else { format!("https://{master}") };
    address.trim_end_matches('/').to_owned()
}

impl ConnectionFlags {
    /// The same, with a kubeconfig that a configuration file names.
    #[must_use]
    pub fn with_kubeconfig(mut self, path: Option<PathBuf>) -> Self {
        self.kubeconfig = path.or(self.kubeconfig);
        self
    }

    fn load(&self) -> Result<(Endpoint, Credentials)> {
        let (endpoint, credentials) = match (&self.kubeconfig, &self.master) {
            (Some(path), _) => kubeconfig::load(path, crate::kubeconfig::parse_yaml)?,
            (None, Some(_)) => bail!("--kubeconfig is missing: --master says where the API server is, but not who we are"),
            (None, None) => kubeconfig::in_cluster().context("--kubeconfig is missing: it says where the API server is and who we are")?,
        };
        Ok((self.elsewhere(endpoint), credentials))
    }

    /// Where `--master` says it is. As upstream, a name that was to be verified was that of the other address.
    fn elsewhere(&self, endpoint: Endpoint) -> Endpoint {
        match &self.master {
            Some(master) => Endpoint { server: address(master), server_name: None, ..endpoint },
            None => endpoint,
        }
    }

    /// Which features there are.
    pub fn features(&self) -> Features {
        gates::of(&self.feature_gates)
    }

    /// A component that is ourselves.
    pub fn component(&self, name: &'static str, configuration: Value) -> Result<Component> {
        let (endpoint, credentials) = self.load()?;
        let client = Client::new(Arc::new(HttpTransport::new(&endpoint, credentials)?), name);
        Ok(Component { name, client, metrics: Metrics::default(), features: self.features(), configuration, pod_resources: false })
    }

    /// The CA of the kubeconfig's cluster, PEM; empty when it names none.
    pub fn ca(&self) -> Result<String> {
        let (endpoint, _) = self.load()?;
        Ok(endpoint.ca_pem.map(|pem| String::from_utf8_lossy(&pem).into_owned()).unwrap_or_default())
    }

    /// The same server without any identity yet; see [`HttpTransport::acting_with`].
    pub fn nobody(&self) -> Result<HttpTransport> {
        let (endpoint, _) = self.load()?;
        Ok(HttpTransport::new(&endpoint, Credentials::default())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        connection: ConnectionFlags,
    }

    fn flags(flags: &[&str]) -> ConnectionFlags {
        Line::try_parse_from([&["x"], flags].concat()).expect("flags").connection
    }

    #[test]
    fn another_address_counts_more_than_that_of_the_kubeconfig_and_says_not_who_we_are() {
        let file = || Endpoint {
            server: "https://file:6443".into(),
            ca_pem: Some(b"CA".to_vec()),
            server_name: Some("file".into()),
            ..Endpoint::default()
        };
        for (given, expected) in [("https://other:1/", "https://other:1"), ("other:1", "https://other:1"), ("http://other", "http://other")]
        {
            let endpoint = flags(&["--master", given]).elsewhere(file());
            assert_eq!((endpoint.server.as_str(), endpoint.server_name, endpoint.ca_pem), (expected, None, file().ca_pem));
        }
        let endpoint = flags(&[]).elsewhere(file());
        assert_eq!((endpoint.server, endpoint.server_name), (file().server, file().server_name));
        let error = flags(&["--master=other:1"]).load().err().expect("nobody");
        assert!(error.to_string().contains("not who we are"), "{error}");
    }

    #[test]
    fn the_kubeconfig_of_a_configuration_counts_more_than_the_flag() {
        let given = || flags(&["--kubeconfig=/flag"]);
        assert_eq!(given().with_kubeconfig(Some("/file".into())).kubeconfig, Some("/file".into()));
        assert_eq!(given().with_kubeconfig(None).kubeconfig, Some("/flag".into()));
    }
}
