//! Having an image on the node: pull policy, credentials, backoff, and the events that tell about it.
//!
//! Source: `pkg/kubelet/images/image_manager.go`.

pub mod gc;
mod name;

use crate::runtime::{Cri, CriError, unless_gone};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ferrokube_client::events::{EventType, Recorder};
use ferrokube_client::{Client, Optional};
use ferrokube_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Secret};
use serde::Deserialize;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Why the image is not there: the waiting reason and its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullError {
    /// `ErrImagePull`, `InvalidImageName`, `ErrImageNeverPull`, `ImageInspectError`.
    pub reason: &'static str,
    /// For a person.
    pub message: String,
}

/// What a pull needs to know and to tell.
pub struct Puller<'a> {
    /// The runtime.
    pub cri: &'a Cri,
    /// For pull secrets.
    pub client: &'a Client,
    /// For events.
    pub recorder: &'a Recorder,
    /// The pod.
    pub pod: &'a Pod,
    /// The container, as events name it.
    pub about: ObjectReference,
    /// The pod's sandbox, which some runtimes want to know.
    pub sandbox: &'a cri::PodSandboxConfig,
}

impl Puller<'_> {
    /// Makes sure that the container's image is on the node and returns it.
    pub async fn ensure(&self, container: &Container) -> Result<cri::Image, PullError> {
        let image = container.image.as_deref().unwrap_or_default();
        if let Err(why) = name::check(image) {
            let message = format!("Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: {why}");
            self.recorder.event(self.about.clone(), EventType::Warning, "InspectFailed", message.clone());
            self.recorder.event(self.about.clone(), EventType::Warning, "Failed", "Error: InvalidImageName");
            return Err(PullError { reason: "InvalidImageName", message });
        }
        let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
        let inspect_failed =
            |e: CriError| PullError { reason: "ImageInspectError", message: format!("Failed to inspect image {image:?}: {}", e.message()) };
        let present = image_status(self.cri, image).await.map_err(inspect_failed)?;
        match (policy, present) {
            ("Never" | "IfNotPresent", Some(present)) => {
                let message = format!("Container image {image:?} already present on machine and can be accessed by the pod");
                self.recorder.event(self.about.clone(), EventType::Normal, "Pulled", message);
                Ok(present)
            }
            ("Never", None) => {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                self.recorder.event(self.about.clone(), EventType::Warning, "ErrImageNeverPull", message.clone());
                self.recorder.event(self.about.clone(), EventType::Warning, "Failed", "Error: ErrImageNeverPull");
                Err(PullError { reason: "ErrImageNeverPull", message })
            }
            _ => self.pull(image).await,
        }
    }

    async fn pull(&self, image: &str) -> Result<cri::Image, PullError> {
        self.recorder.event(self.about.clone(), EventType::Normal, "Pulling", format!("Pulling image {image:?}"));
        let began = Instant::now();
        let reference = self.pull_with_credentials(image).await.map_err(|e| self.failed(image, &e))?;
        let pulled = match image_status(self.cri, &reference).await {
            Ok(Some(pulled)) => pulled,
            Ok(None) => return Err(self.failed(image, &CriError::not_found(format!("image {reference} vanished after it was pulled")))),
            Err(e) => return Err(self.failed(image, &e)),
        };
        let took = rounded(began.elapsed());
        let message =
            format!("Successfully pulled image {image:?} in {took} ({took} including waiting). Image size: {} bytes.", pulled.size);
        self.recorder.event(self.about.clone(), EventType::Normal, "Pulled", message);
        Ok(pulled)
    }

    fn failed(&self, image: &str, error: &CriError) -> PullError {
        let message = format!("Failed to pull image {image:?}: {}", error.message());
        self.recorder.event(self.about.clone(), EventType::Warning, "Failed", message);
        let invalid = error.code() == tonic::Code::InvalidArgument;
        let reason = if invalid { "InvalidImageName" } else { "ErrImagePull" };
        self.recorder.event(self.about.clone(), EventType::Warning, "Failed", format!("Error: {reason}"));
        PullError { reason, message: error.message().to_owned() }
    }

    /// Tries the credentials that fit the image one after the other, without any when there is none.
    async fn pull_with_credentials(&self, image: &str) -> Result<String, CriError> {
        let mut last = None;
        let credentials = self.credentials(image).await;
        let tries = if credentials.is_empty() { vec![None] } else { credentials.into_iter().map(Some).collect() };
        for auth in tries {
            let mut request = tonic::Request::new(cri::PullImageRequest {
                image: Some(cri::ImageSpec { image: image.to_owned(), user_specified_image: image.to_owned(), ..Default::default() }),
                auth,
                sandbox_config: Some(self.sandbox.clone()),
            });
            // A pull takes as long as it makes progress; the runtime gives up when it does not.
            request.set_timeout(Duration::from_secs(24 * 3600));
            match self.cri.images.clone().pull_image(request).await {
                Ok(answer) => return Ok(answer.into_inner().image_ref),
                Err(e) => last = Some(e),
            }
        }
        Err(last.expect("at least one try was made"))
    }

    async fn credentials(&self, image: &str) -> Vec<cri::AuthConfig> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let names = self.pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()).map(|r| r.name.clone());
        let mut found = Vec::new();
        for name in names {
            match self.client.get::<Secret>(namespace, &name).await.optional() {
                Ok(Some(secret)) => found.extend(credentials_in(&secret, image)),
                Ok(None) => {
                    let message =
                        format!("Unable to retrieve some image pull secrets ({name}); attempting to pull the image may not succeed.");
                    self.recorder.about(self.pod, EventType::Warning, "FailedToRetrieveImagePullSecret", message);
                }
                Err(e) => tracing::warn!(secret = name, "image pull secret not read: {e}"),
            }
        }
        found
    }
}

/// What the runtime has under a reference; `None` when it has nothing.
pub async fn image_status(cri: &Cri, image: &str) -> Result<Option<cri::Image>, CriError> {
    let spec = cri::ImageSpec { image: image.to_owned(), ..Default::default() };
    let request = cri::ImageStatusRequest { image: Some(spec), verbose: false };
    Ok(unless_gone(cri.images.clone().image_status(request).await)?.and_then(|a| a.into_inner().image))
}

fn rounded(d: Duration) -> String {
    if d < Duration::from_secs(1) { format!("{}ms", d.as_millis()) } else { format!("{:.3}s", d.as_secs_f64()) }
}

#[derive(Deserialize, Default)]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, DockerAuth>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default, rename_all = "camelCase")]
struct DockerAuth {
    username: String,
    password: String,
    auth: String,
    #[serde(alias = "identitytoken")]
    identity_token: String,
}

/// The credentials of a pull secret that fit an image.
fn credentials_in(secret: &Secret, image: &str) -> Vec<cri::AuthConfig> {
    let data = secret.data.as_ref();
    let modern = data.and_then(|d| d.get(".dockerconfigjson")).and_then(|b| serde_json::from_slice::<DockerConfig>(&b.0).ok());
    let legacy = data.and_then(|d| d.get(".dockercfg")).and_then(|b| serde_json::from_slice(&b.0).ok());
    let auths = modern.map(|c| c.auths).or(legacy).unwrap_or_default();
    let mut fitting: Vec<_> = auths.into_iter().filter(|(registry, _)| fits(registry, image)).collect();
    // The most specific first.
    fitting.sort_by_key(|(registry, _)| std::cmp::Reverse(registry.len()));
    fitting.into_iter().map(|(registry, auth)| auth_config(registry, auth)).collect()
}

fn auth_config(server_address: String, mut auth: DockerAuth) -> cri::AuthConfig {
    if auth.username.is_empty() {
        let decoded = STANDARD.decode(auth.auth.trim()).ok().and_then(|b| String::from_utf8(b).ok());
        if let Some((user, password)) = decoded.as_deref().and_then(|d| d.split_once(':')) {
            (auth.username, auth.password) = (user.to_owned(), password.to_owned());
        }
    }
    cri::AuthConfig {
        username: auth.username,
        password: auth.password,
        identity_token: auth.identity_token,
        server_address,
        ..cri::AuthConfig::default()
    }
}

/// Names under which credentials of the default registry of unqualified image names are kept.
const DEFAULT_REGISTRY_DOMAINS: [&str; 2] = ["docker.io", "index.docker.io"];

/// Whether a registry entry (`host[:port][/path]`, with `*` for a label of the host) fits an image reference.
fn fits(registry: &str, image: &str) -> bool {
    let registry = registry.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let registry = registry.strip_suffix("/v1").or(registry.strip_suffix("/v2")).unwrap_or(registry);
    let (host, path) = registry.split_once('/').unwrap_or((registry, ""));
    let first = image.split('/').next().unwrap_or_default();
    let qualified = image.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    if !qualified {
        // Unqualified images come from the default registry, however its entry is written.
        return DEFAULT_REGISTRY_DOMAINS.contains(&host);
    }
    let rest = &image[first.len() + 1..];
    let labels = |h: &str| h.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (want, have) = (labels(host), labels(first));
    let hosts = want.len() == have.len() && want.iter().zip(&have).all(|(w, h)| w == "*" || w == h);
    hosts && (path.is_empty() || rest.starts_with(path))
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_pull_secret_entry_fits_by_host_port_path_and_star() {
        let cases = [
            ("localhost:5000", "localhost:5000/app:1", true),
            ("https://localhost:5000/v2/", "localhost:5000/app:1", true),
            ("localhost:5000", "localhost:5001/app:1", false),
            ("registry.example/team", "registry.example/team/app", true),
            ("registry.example/team", "registry.example/other/app", false),
            ("*.example", "a.example/app", true),
            ("*.example", "a.b.example/app", false),
        ];
        for (registry, image, expected) in cases {
            assert_eq!(fits(registry, image), expected, "{registry} {image}");
        }
    }
}
