//! Typed resources: the structs of `k8s-openapi`, with their (de)serialisers instantiated once, here.
//!
//! Decoding a kind costs 25 times the memory of its bytes: decode what you are about to use, keep the `Arc<Object>`.

use k8s_openapi::api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// A kind of the API with a struct of its own.
pub trait Resource: Clone + std::fmt::Debug + Send + Sync + 'static {
    /// Kind.
    const KIND: &'static str;
    /// Group; empty for core.
    const GROUP: &'static str;
    /// Version.
    const VERSION: &'static str;
    /// `v1`, `apps/v1`.
    const API_VERSION: &'static str;
    /// Plural.
    const RESOURCE: &'static str;
    /// Whether objects live in a namespace.
    const NAMESPACED: bool;
    /// Decodes.
    fn decode(json: &[u8]) -> Result<Self, serde_json::Error>;
    /// Encodes, with kind and apiVersion.
    fn encode(&self) -> Vec<u8>;
    /// `metadata`.
    fn meta(&self) -> &ObjectMeta;
    /// `metadata`.
    fn meta_mut(&mut self) -> &mut ObjectMeta;
}

/// Short ways to what every object has.
pub trait Named {
    /// `metadata.name`, empty when unset.
    fn name(&self) -> &str;
    /// `metadata.namespace`, empty when unset.
    fn namespace(&self) -> &str;
    /// `metadata.uid`, empty when unset.
    fn uid(&self) -> &str;
}

impl<R: Resource> Named for R {
    fn name(&self) -> &str {
        self.meta().name.as_deref().unwrap_or_default()
    }
    fn namespace(&self) -> &str {
        self.meta().namespace.as_deref().unwrap_or_default()
    }
    fn uid(&self) -> &str {
        self.meta().uid.as_deref().unwrap_or_default()
    }
}

macro_rules! resources {
    ($($path:path, $namespaced:literal;)*) => {$(
        impl Resource for $path {
            const KIND: &'static str = <$path as k8s_openapi::Resource>::KIND;
            const GROUP: &'static str = <$path as k8s_openapi::Resource>::GROUP;
            const VERSION: &'static str = <$path as k8s_openapi::Resource>::VERSION;
            const API_VERSION: &'static str = <$path as k8s_openapi::Resource>::API_VERSION;
            const RESOURCE: &'static str = <$path as k8s_openapi::Resource>::URL_PATH_SEGMENT;
            const NAMESPACED: bool = $namespaced;
            #[inline(never)]
            fn decode(json: &[u8]) -> Result<Self, serde_json::Error> {
                serde_json::from_slice(json)
            }
            #[inline(never)]
            fn encode(&self) -> Vec<u8> {
                serde_json::to_vec(self).expect("a typed object has string keys and no failing serialiser")
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    )*};
}

resources! {
    api::core::v1::Pod, true;
    api::core::v1::Node, false;
    api::core::v1::Namespace, false;
    api::core::v1::Service, true;
    api::core::v1::Endpoints, true;
    api::core::v1::ConfigMap, true;
    api::core::v1::Secret, true;
    api::core::v1::ServiceAccount, true;
    api::core::v1::Event, true;
    api::events::v1::Event, true;
    api::core::v1::PersistentVolumeClaim, true;
    api::core::v1::PersistentVolume, false;
    api::core::v1::ReplicationController, true;
    api::core::v1::ResourceQuota, true;
    api::core::v1::LimitRange, true;
    api::discovery::v1::EndpointSlice, true;
    api::apps::v1::Deployment, true;
    api::apps::v1::ReplicaSet, true;
    api::apps::v1::DaemonSet, true;
    api::apps::v1::StatefulSet, true;
    api::apps::v1::ControllerRevision, true;
    api::batch::v1::Job, true;
    api::batch::v1::CronJob, true;
    api::coordination::v1::Lease, true;
    api::policy::v1::PodDisruptionBudget, true;
    api::scheduling::v1::PriorityClass, false;
    api::storage::v1::StorageClass, false;
    api::storage::v1::CSINode, false;
    api::storage::v1::CSIDriver, false;
    api::storage::v1::VolumeAttachment, false;
    api::storage::v1::VolumeAttributesClass, false;
    api::admissionregistration::v1::ValidatingAdmissionPolicy, false;
    api::node::v1::RuntimeClass, false;
    api::resource::v1::ResourceClaim, true;
    api::resource::v1::ResourceClaimTemplate, true;
    api::resource::v1::ResourceSlice, false;
    api::resource::v1::DeviceClass, false;
    api::certificates::v1::CertificateSigningRequest, false;
    api::rbac::v1::ClusterRole, false;
    api::networking::v1::ServiceCIDR, false;
    api::networking::v1::IPAddress, false;
    api::autoscaling::v2::HorizontalPodAutoscaler, true;
}
