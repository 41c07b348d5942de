//! Who is believed to be who, and who may do what: `--authentication-*`, `--oidc-*`, `--service-account-*`,
//! `--authorization-*`.

use super::followed;
use crate::flags::{duration, read, read_optional};
use anyhow::{Context, Result, bail};
use clap::Args;
use ferrokube_apiserver::authn::{Anonymous, AuthnConfig, JwtConfig, Mapping, RequestHeaders, Rule, Source, TokenWebhookConfig};
use ferrokube_apiserver::authz::{AuthzConfig, AuthzWebhookConfig};
use ferrokube_apiserver::tokens::TokenConfig;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args, Clone, Debug)]
pub(super) struct AuthenticationFlags {
    /// Whether requests without a credential are system:anonymous everywhere [default: only for health, version and the cluster's CA]
    #[arg(long, value_name = "BOOL")]
    anonymous_auth: Option<bool>,
    /// File of tokens: token,user,uid,"group1,group2" per line
    #[arg(long, value_name = "FILE")]
    token_auth_file: Option<PathBuf>,
    /// Accept tokens in Secrets of kube-system for nodes that join
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    enable_bootstrap_token_auth: bool,
    /// Common names of front proxies [default: front-proxy-client]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    requestheader_allowed_names: Vec<String>,
    /// CA of front proxies [default: the cluster's own]
    #[arg(long, value_name = "FILE")]
    requestheader_client_ca_file: Option<PathBuf>,
    /// Headers with the user name [default: X-Remote-User]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    requestheader_username_headers: Vec<String>,
    /// Headers with the uid [default: X-Remote-Uid]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    requestheader_uid_headers: Vec<String>,
    /// Headers with groups [default: X-Remote-Group]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    requestheader_group_headers: Vec<String>,
    /// Prefixes of headers with extra [default: X-Remote-Extra-]
    #[arg(long, value_name = "PREFIXES", value_delimiter = ',')]
    requestheader_extra_headers_prefix: Vec<String>,
    /// File with an AuthenticationConfiguration; it is followed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["oidc_issuer_url", "anonymous_auth"])]
    authentication_config: Option<PathBuf>,
    /// Kubeconfig of the webhook that is asked about tokens nobody here knows
    #[arg(long, value_name = "FILE")]
    authentication_token_webhook_config_file: Option<PathBuf>,
    /// Version of the TokenReviews sent to it
    #[arg(long, default_value = "v1beta1")]
    authentication_token_webhook_version: String,
    /// How long its answers are remembered
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "2m")]
    authentication_token_webhook_cache_ttl: Duration,
    /// URL of the OpenID issuer whose tokens are accepted
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    oidc_issuer_url: Option<String>,
    /// The client that its tokens must be for
    #[arg(long, value_name = "ID")]
    oidc_client_id: Option<String>,
    /// CA of the issuer [default: those of the system]
    #[arg(long, value_name = "FILE")]
    oidc_ca_file: Option<PathBuf>,
    /// Claim with the user name
    #[arg(long, default_value = "sub")]
    oidc_username_claim: String,
    /// What is put before user names; `-` is nothing [default: the issuer and #, unless the claim is email]
    #[arg(long)]
    oidc_username_prefix: Option<String>,
    /// Claim with the groups
    #[arg(long)]
    oidc_groups_claim: Option<String>,
    /// What is put before groups
    #[arg(long, default_value = "")]
    oidc_groups_prefix: String,
    /// Claims that tokens must have: key=value, may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    oidc_required_claim: Vec<String>,
    /// Algorithms that are accepted
    #[arg(long, value_delimiter = ',', default_value = "RS256")]
    oidc_signing_algs: Vec<String>,
    /// Issuer of service-account tokens [default: the service of the API server]
    #[arg(long, value_name = "URL")]
    service_account_issuer: Option<String>,
    /// Audiences that mean this API server [default: the issuer]
    #[arg(long, value_delimiter = ',')]
    api_audiences: Vec<String>,
    /// Further keys whose service-account tokens are accepted, may be given several times
    #[arg(long, value_name = "FILE")]
    service_account_key_file: Vec<PathBuf>,
    /// Longest life of a service-account token; 0s is no limit
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0s")]
    service_account_max_token_expiration: Duration,
    /// Let tokens of old clients live longer and only warn
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    service_account_extend_token_expiration: bool,
}

#[derive(Args, Clone, Debug)]
pub(super) struct AuthorizationFlags {
    /// Authorizers in the order in which they are asked: Node, RBAC, ABAC, Webhook, AlwaysAllow, AlwaysDeny
    #[arg(long, value_delimiter = ',', default_value = "Node,RBAC")]
    authorization_mode: Vec<String>,
    /// File of policies for ABAC
    #[arg(long, value_name = "FILE")]
    authorization_policy_file: Option<PathBuf>,
    /// Kubeconfig of the webhook for Webhook
    #[arg(long, value_name = "FILE")]
    authorization_webhook_config_file: Option<PathBuf>,
    /// Version of the SubjectAccessReviews sent to it
    #[arg(long, default_value = "v1beta1")]
    authorization_webhook_version: String,
    /// How long its yes is remembered
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5m")]
    authorization_webhook_cache_authorized_ttl: Duration,
    /// How long its no is remembered
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    authorization_webhook_cache_unauthorized_ttl: Duration,
    /// File with an AuthorizationConfiguration; it is followed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["authorization_mode", "authorization_webhook_config_file"])]
    authorization_config: Option<PathBuf>,
}

impl AuthenticationFlags {
    pub fn apply(&self, config: &mut AuthnConfig) -> Result<()> {
        self.front_proxy(config)?;
        config.static_tokens = read_optional(self.token_auth_file.as_ref())?;
        config.bootstrap_tokens = self.enable_bootstrap_token_auth;
        config.anonymous = match self.anonymous_auth {
            None => Anonymous::default(),
            Some(true) => Anonymous::Everywhere,
            Some(false) => Anonymous::Nowhere,
        };
        config.jwt = self.oidc()?.into_iter().collect();
        config.file = followed(self.authentication_config.as_ref());
        config.webhook = self.authentication_token_webhook_config_file.as_ref().map(|kubeconfig| TokenWebhookConfig {
            kubeconfig: kubeconfig.clone(),
            version: self.authentication_token_webhook_version.clone(),
            cache: self.authentication_token_webhook_cache_ttl,
        });
        Ok(())
    }

    /// Where the CA of front proxies is, if it was said.
    pub fn front_proxy_ca(&self) -> Option<PathBuf> {
        self.requestheader_client_ca_file.clone()
    }

    /// What is said replaces what kubeadm would set.
    fn front_proxy(&self, config: &mut AuthnConfig) -> Result<()> {
        if config.front_proxy.is_none() && self.requestheader_client_ca_file.is_some() {
            config.front_proxy = Some(RequestHeaders::standard(String::new()));
        }
        let Some(proxy) = &mut config.front_proxy else { return Ok(()) };
        if let Some(ca) = &self.requestheader_client_ca_file {
            proxy.ca = read(ca)?;
        }
        let lists = [
            (&self.requestheader_allowed_names, &mut proxy.allowed_names),
            (&self.requestheader_username_headers, &mut proxy.username),
            (&self.requestheader_uid_headers, &mut proxy.uid),
            (&self.requestheader_group_headers, &mut proxy.group),
            (&self.requestheader_extra_headers_prefix, &mut proxy.extra_prefix),
        ];
        lists.into_iter().filter(|(said, _)| !said.is_empty()).for_each(|(said, list)| list.clone_from(said));
        Ok(())
    }

    pub fn apply_tokens(&self, config: &mut TokenConfig) -> Result<()> {
        if let Some(issuer) = &self.service_account_issuer {
            config.issuer.clone_from(issuer);
        }
        config.api_audiences.clone_from(&self.api_audiences);
        config.verify_keys = self.service_account_key_file.iter().map(|path| read(path)).collect::<Result<_>>()?;
        config.max_expiration_seconds =
            self.service_account_max_token_expiration.as_secs().try_into().context("the longest life of a token")?;
        config.extend_expiration = self.service_account_extend_token_expiration;
        Ok(())
    }

    /// The one issuer that flags can name.
    fn oidc(&self) -> Result<Option<JwtConfig>> {
        let (Some(issuer), Some(client)) = (&self.oidc_issuer_url, &self.oidc_client_id) else { return Ok(None) };
        if let Some(unknown) = self.oidc_signing_algs.iter().find(|a| !ferrokube_apiserver::authn::ALGORITHMS.contains(&a.as_str())) {
            bail!("--oidc-signing-algs: {unknown:?} is not supported");
        }
        let prefix = match self.oidc_username_prefix.as_deref() {
            Some("-") => String::new(),
            Some(prefix) => prefix.to_owned(),
            None if self.oidc_username_claim == "email" => String::new(),
            None => format!("{issuer}#"),
        };
        let rule = |text: &String| {
            let (claim, required) = text.split_once('=').with_context(|| format!("--oidc-required-claim: {text:?} is not key=value"))?;
            Ok(Rule::Claim(claim.to_owned(), required.to_owned()))
        };
        Ok(Some(JwtConfig {
            issuer: issuer.clone(),
            discovery_url: String::new(),
            ca: read_optional(self.oidc_ca_file.as_ref())?,
            audiences: vec![client.clone()],
            algorithms: self.oidc_signing_algs.clone(),
            rules: self.oidc_required_claim.iter().map(rule).collect::<Result<_>>()?,
            mapping: Mapping {
                username: Source::claim(&self.oidc_username_claim, &prefix),
                groups: self.oidc_groups_claim.as_ref().map(|claim| Source::claim(claim, &self.oidc_groups_prefix)),
                uid: None,
                extra: Vec::new(),
            },
            user_rules: Vec::new(),
        }))
    }
}

impl AuthorizationFlags {
    pub fn config(&self) -> Result<AuthzConfig> {
        let webhook = self.authorization_webhook_config_file.as_ref().map(|kubeconfig| AuthzWebhookConfig {
            kubeconfig: kubeconfig.clone(),
            version: self.authorization_webhook_version.clone(),
            authorized_ttl: self.authorization_webhook_cache_authorized_ttl,
            unauthorized_ttl: self.authorization_webhook_cache_unauthorized_ttl,
        });
        Ok(AuthzConfig {
            modes: self.authorization_mode.clone(),
            abac_policy: read_optional(self.authorization_policy_file.as_ref())?,
            webhook,
            file: followed(self.authorization_config.as_ref()),
        })
    }
}
