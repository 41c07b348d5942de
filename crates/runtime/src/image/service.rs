//! CRI's image service: a thin translation between messages and [`ImageStore`].

use super::catalog::Image;
use super::error::Error;
use super::pull::blocking;
use super::registry::Credentials;
use super::store::ImageStore;
use base64::Engine as _;
use ferrokube_cri::v1;
use std::sync::Arc;
use std::time::UNIX_EPOCH;
use tonic::{Request, Response, Status};

/// Serves an [`ImageStore`] as `runtime.v1.ImageService`.
#[derive(Clone, Debug)]
pub struct ImageServiceImpl {
    store: ImageStore,
}

impl ImageServiceImpl {
    /// Over this store.
    pub fn new(store: ImageStore) -> Self {
        Self { store }
    }

    fn images(&self, filter: Option<v1::ImageFilter>) -> Vec<v1::Image> {
        let wanted = filter.and_then(|filter| filter.image).map(|spec| spec.image).filter(|image| !image.is_empty());
        match wanted {
            Some(image) => self.store.resolve(&image).iter().map(|image| message(image)).collect(),
            None => self.store.list().iter().map(|image| message(image)).collect(),
        }
    }
}

#[tonic::async_trait]
impl v1::image_service_server::ImageService for ImageServiceImpl {
    async fn list_images(&self, request: Request<v1::ListImagesRequest>) -> Result<Response<v1::ListImagesResponse>, Status> {
        Ok(Response::new(v1::ListImagesResponse { images: self.images(request.into_inner().filter) }))
    }

    type StreamImagesStream = futures_util::stream::BoxStream<'static, Result<v1::StreamImagesResponse, Status>>;

    async fn stream_images(&self, request: Request<v1::StreamImagesRequest>) -> Result<Response<Self::StreamImagesStream>, Status> {
        let images = self.images(request.into_inner().filter);
        let answers: Vec<_> = images.chunks(64).map(|images| Ok(v1::StreamImagesResponse { images: images.to_vec() })).collect();
        Ok(Response::new(Box::pin(futures_util::stream::iter(answers))))
    }

    async fn image_status(&self, request: Request<v1::ImageStatusRequest>) -> Result<Response<v1::ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let image = self.store.resolve(&spec_name(request.image)?);
        let info = image.iter().filter(|_| request.verbose).map(verbose).collect();
        Ok(Response::new(v1::ImageStatusResponse { image: image.as_deref().map(message), info }))
    }

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> Result<Response<v1::PullImageResponse>, Status> {
        let request = request.into_inner();
        let name = spec_name(request.image)?;
        let credentials = request.auth.map(|auth| credentials(auth, &name)).transpose()?.flatten();
        // On its own, so that a client that goes away does not take a nearly finished pull with it.
        let store = self.store.clone();
        let pull = tokio::spawn(async move { store.pull(&name, credentials.as_ref()).await });
        let image = pull.await.map_err(|e| Status::internal(format!("pull was interrupted: {e}")))?;
        let image = image.map_err(|error| {
            tracing::warn!(%error, "PullImage failed");
            error.to_status()
        })?;
        Ok(Response::new(v1::PullImageResponse { image_ref: image.id.clone() }))
    }

    async fn remove_image(&self, request: Request<v1::RemoveImageRequest>) -> Result<Response<v1::RemoveImageResponse>, Status> {
        let name = spec_name(request.into_inner().image)?;
        let store = self.store.clone();
        blocking(move || store.remove(&name)).await.map_err(|e| e.to_status())?;
        Ok(Response::new(v1::RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<v1::ImageFsInfoRequest>) -> Result<Response<v1::ImageFsInfoResponse>, Status> {
        let store = self.store.clone();
        let info = blocking(move || Ok(store.fs_info())).await.map_err(|e| e.to_status())?;
        let timestamp = info.at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
        let filesystem = |usage: super::Usage| v1::FilesystemUsage {
            timestamp,
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: info.mountpoint.display().to_string() }),
            used_bytes: Some(v1::UInt64Value { value: usage.bytes }),
            inodes_used: Some(v1::UInt64Value { value: usage.inodes }),
        };
        Ok(Response::new(v1::ImageFsInfoResponse {
            image_filesystems: vec![filesystem(info.images)],
            container_filesystems: vec![filesystem(info.containers)],
        }))
    }
}

fn spec_name(spec: Option<v1::ImageSpec>) -> Result<String, Status> {
    match spec {
        Some(spec) if !spec.image.is_empty() => Ok(spec.image),
        _ => Err(Status::invalid_argument("image reference is empty")),
    }
}

fn message(image: &Image) -> v1::Image {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<i64>().ok();
    v1::Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: uid.map(|value| v1::Int64Value { value }),
        username: if uid.is_none() { user.to_owned() } else { String::new() },
        spec: None,
        pinned: image.pinned,
    }
}

/// What `crictl inspecti` shows beyond the status.
fn verbose(image: &Arc<Image>) -> (String, String) {
    let info = serde_json::json!({
        "imageSpec": { "architecture": image.architecture, "os": "linux", "config": image.config,
                       "rootfs": { "type": "layers", "diff_ids": image.layers } },
    });
    ("info".to_owned(), info.to_string())
}

/// Credentials out of a CRI message, if they are for the registry of this reference.
fn credentials(auth: v1::AuthConfig, reference: &str) -> Result<Option<Credentials>, Status> {
    if !auth.server_address.is_empty() {
        let reference = super::Reference::parse(reference).map_err(|e: Error| e.to_status())?;
        let address = auth.server_address.split_once("://").map_or(auth.server_address.as_str(), |(_, rest)| rest);
        let host = address.split('/').next().unwrap_or_default();
        if super::Reference::parse(&format!("{host}/x")).map_or(host != reference.host(), |other| other.host() != reference.host()) {
            return Ok(None);
        }
    }
    let mut credentials = Credentials {
        username: auth.username,
        password: auth.password,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    };
    if credentials.username.is_empty() && !auth.auth.is_empty() {
        let invalid = || Status::invalid_argument("invalid auth: must be base64 of user:password");
        let decoded = base64::engine::general_purpose::STANDARD.decode(auth.auth.trim()).map_err(|_| invalid())?;
        let text = String::from_utf8(decoded).map_err(|_| invalid())?;
        let (username, password) = text.split_once(':').ok_or_else(invalid)?;
        (credentials.username, credentials.password) = (username.to_owned(), password.trim_matches('\0').to_owned());
    }
    Ok((credentials != Credentials::default()).then_some(credentials))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_in_every_shape_the_kubelet_sends() {
        let encoded = base64::engine::general_purpose::STANDARD.encode("me:se:cret\0");
        let auth = |auth: v1::AuthConfig| credentials(auth, "reg.example/app");
        let got = auth(v1::AuthConfig { auth: encoded.clone(), ..Default::default() }).expect("valid").expect("some");
        assert_eq!((got.username.as_str(), got.password.as_str()), ("me", "se:cret"));
        let for_other = v1::AuthConfig { auth: encoded.clone(), server_address: "https://other.example/v1/".into(), ..Default::default() };
        assert_eq!(auth(for_other).expect("valid"), None, "credentials of another registry are not used");
        let for_this = v1::AuthConfig { auth: encoded, server_address: "https://reg.example".into(), ..Default::default() };
        assert!(auth(for_this).expect("valid").is_some());
        assert_eq!(auth(v1::AuthConfig::default()).expect("valid"), None);
        assert!(auth(v1::AuthConfig { auth: "%%".into(), ..Default::default() }).is_err());
        let token = auth(v1::AuthConfig { identity_token: "t".into(), ..Default::default() }).expect("valid").expect("some");
        assert_eq!(token.identity_token, "t");
    }
}
