//! The columns of every kind's Table, in the order of its cells.

use super::row::{AGE, Col, NAME, int, text, wide};

const CONTAINERS: Col = wide("Containers", "Names of the containers in the template.");
const IMAGES: Col = wide("Images", "Images of the containers in the template.");
const SELECTOR: Col = wide("Selector", "Labels that pods must have.");
const DESIRED: Col = int("Desired", "Number of pods wanted.");
const CURRENT: Col = int("Current", "Number of pods there are.");
const READY: Col = int("Ready", "Number of pods that are ready.");

pub const NAME_AGE: &[Col] = &[NAME, AGE];

pub const POD: &[Col] = &[
    NAME,
    text("Ready", "Ready containers out of all."),
    text("Status", "Summary of where the pod is in its life."),
    text("Restarts", "How often containers restarted, and when last."),
    AGE,
    wide("IP", "First address of the pod."),
    wide("Node", "Node the pod runs on."),
    wide("Nominated Node", "Node on which preemption makes room for the pod."),
    wide("Readiness Gates", "Gates passed out of all."),
];

pub const POD_TEMPLATE: &[Col] = &[
    NAME,
    text("Containers", "Names of the containers in the template."),
    text("Images", "Images of the containers in the template."),
    text("Pod Labels", "Labels of the template."),
];

pub const REPLICAS: &[Col] = &[NAME, DESIRED, CURRENT, READY, AGE, CONTAINERS, IMAGES, SELECTOR];

pub const DAEMON_SET: &[Col] = &[
    NAME,
    DESIRED,
    CURRENT,
    READY,
    int("Up-to-date", "Number of nodes that run the current template."),
    int("Available", "Number of nodes whose pod is available."),
    text("Node Selector", "Labels that nodes must have."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub const DEPLOYMENT: &[Col] = &[
    NAME,
    text("Ready", "Ready pods out of all wanted."),
    text("Up-to-date", "Number of pods of the current template."),
    text("Available", "Number of pods that are available."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub const STATEFUL_SET: &[Col] = &[NAME, text("Ready", "Ready pods out of all wanted."), AGE, CONTAINERS, IMAGES];

pub const CONTROLLER_REVISION: &[Col] =
    &[NAME, text("Controller", "Owner of the revision."), text("Revision", "Number of the revision."), AGE];

pub const JOB: &[Col] = &[
    NAME,
    text("Status", "Where the job is in its life."),
    text("Completions", "Pods that succeeded out of those wanted."),
    text("Duration", "Time the job ran, so far."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub const CRON_JOB: &[Col] = &[
    NAME,
    text("Schedule", "Cron expression of the starts."),
    text("Timezone", "Time zone of the schedule."),
    Col("Suspend", "boolean", 0, "Whether starts are suspended."),
    int("Active", "Number of jobs that run."),
    text("Last Schedule", "Time since the last start."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub const SERVICE: &[Col] = &[
    NAME,
    text("Type", "How the service is exposed."),
    text("Cluster-IP", "Address inside the cluster."),
    text("External-IP", "Addresses outside the cluster."),
    text("Port(s)", "Ports of the service."),
    AGE,
    SELECTOR,
];

pub const ENDPOINTS: &[Col] = &[NAME, text("Endpoints", "Addresses and ports behind the service."), AGE];

pub const ENDPOINT_SLICE: &[Col] = &[
    NAME,
    text("AddressType", "Family of the addresses."),
    text("Ports", "Ports of every endpoint."),
    text("Endpoints", "Addresses of the endpoints."),
    AGE,
];

pub const INGRESS: &[Col] = &[
    NAME,
    text("Class", "Class that implements the ingress."),
    text("Hosts", "Hosts of the rules."),
    text("Address", "Addresses of the load balancer."),
    text("Ports", "Ports that are open."),
    AGE,
];

pub const INGRESS_CLASS: &[Col] =
    &[NAME, text("Controller", "Controller of the class."), text("Parameters", "Object with parameters of the controller."), AGE];

pub const NETWORK_POLICY: &[Col] = &[NAME, text("Pod-Selector", "Pods the policy applies to."), AGE];
pub const IP_ADDRESS: &[Col] = &[NAME, text("ParentRef", "Object the address belongs to.")];
pub const SERVICE_CIDR: &[Col] = &[NAME, text("CIDRs", "Ranges of service addresses."), AGE];

pub const NODE: &[Col] = &[
    NAME,
    text("Status", "Whether the node is ready and schedulable."),
    text("Roles", "Roles of the node."),
    AGE,
    text("Version", "Version of the kubelet."),
    wide("Internal-IP", "Address inside the cluster."),
    wide("External-IP", "Address outside the cluster."),
    wide("OS-Image", "Operating system."),
    wide("Kernel-Version", "Kernel."),
    wide("Container-Runtime", "Container runtime and its version."),
];

pub const EVENT: &[Col] = &[
    text("Last Seen", "Time since the event was last seen."),
    text("Type", "Normal or Warning."),
    text("Reason", "Why, for a program."),
    text("Object", "Object the event is about."),
    wide("Subobject", "Part of the object."),
    wide("Source", "Component that reported."),
    text("Message", "What happened, for a person."),
    wide("First Seen", "Time since the event was first seen."),
    wide("Count", "How often it was seen."),
    wide("Name", "Name of the event."),
];

pub const NAMESPACE: &[Col] = &[NAME, text("Status", "Active or Terminating."), AGE];
pub const SECRET: &[Col] = &[NAME, text("Type", "Kind of secret."), text("Data", "Number of entries."), AGE];
pub const CONFIG_MAP: &[Col] = &[NAME, text("Data", "Number of entries."), AGE];
pub const COMPONENT_STATUS: &[Col] =
    &[NAME, text("Status", "Health."), text("Message", "What the component says."), text("Error", "What is wrong.")];

pub const PERSISTENT_VOLUME: &[Col] = &[
    NAME,
    text("Capacity", "Size of the volume."),
    text("Access Modes", "Ways the volume can be mounted."),
    text("Reclaim Policy", "What happens when the claim goes away."),
    text("Status", "Phase."),
    text("Claim", "Claim the volume is bound to."),
    text("StorageClass", "Class of the volume."),
    text("VolumeAttributesClass", "Class of the volume's attributes."),
    text("Reason", "Why the volume failed."),
    AGE,
    wide("VolumeMode", "Filesystem or Block."),
];

pub const PERSISTENT_VOLUME_CLAIM: &[Col] = &[
    NAME,
    text("Status", "Phase."),
    text("Volume", "Volume the claim is bound to."),
    text("Capacity", "Size of the volume."),
    text("Access Modes", "Ways the volume can be mounted."),
    text("StorageClass", "Class of the volume."),
    text("VolumeAttributesClass", "Class of the volume's attributes."),
    AGE,
    wide("VolumeMode", "Filesystem or Block."),
];

pub const RESOURCE_QUOTA: &[Col] =
    &[NAME, text("Request", "Requests used out of those allowed."), text("Limit", "Limits used out of those allowed."), AGE];

pub const DISRUPTION_BUDGET: &[Col] = &[
    NAME,
    text("Min Available", "Pods that must stay available."),
    text("Max Unavailable", "Pods that may be unavailable."),
    int("Allowed Disruptions", "Pods that may be evicted now."),
    AGE,
];

pub const AUTOSCALER: &[Col] = &[
    NAME,
    text("Reference", "Object that is scaled."),
    text("Targets", "Metrics and their targets."),
    text("MinPods", "Least number of pods."),
    text("MaxPods", "Greatest number of pods."),
    text("Replicas", "Number of pods."),
    AGE,
];

pub const ROLE: &[Col] = &[NAME, text("Created At", "When the server created the object.")];
pub const ROLE_BINDING: &[Col] = &[
    NAME,
    text("Role", "Role that is granted."),
    AGE,
    wide("Users", "Users it is granted to."),
    wide("Groups", "Groups it is granted to."),
    wide("ServiceAccounts", "Service accounts it is granted to."),
];

pub const SIGNING_REQUEST: &[Col] = &[
    NAME,
    AGE,
    text("SignerName", "Signer that is asked."),
    text("Requestor", "Who asks."),
    text("RequestedDuration", "For how long."),
    text("Condition", "Whether it was approved and issued."),
];

pub const LEASE: &[Col] = &[NAME, text("Holder", "Who holds the lease."), AGE];

pub const STORAGE_CLASS: &[Col] = &[
    NAME,
    text("Provisioner", "Provisioner of the class."),
    text("ReclaimPolicy", "What happens when a claim goes away."),
    text("VolumeBindingMode", "When volumes are bound."),
    text("AllowVolumeExpansion", "Whether volumes can grow."),
    AGE,
];
pub const VOLUME_ATTRIBUTES_CLASS: &[Col] = &[NAME, text("DriverName", "Driver of the class."), AGE];
pub const VOLUME_ATTACHMENT: &[Col] = &[
    NAME,
    text("Attacher", "Driver that attaches."),
    text("PV", "Volume that is attached."),
    text("Node", "Node it is attached to."),
    Col("Attached", "boolean", 0, "Whether it is attached."),
    AGE,
];
pub const CSI_NODE: &[Col] = &[NAME, int("Drivers", "Number of drivers on the node."), AGE];
pub const CSI_DRIVER: &[Col] = &[
    NAME,
    Col("AttachRequired", "boolean", 0, "Whether volumes must be attached."),
    Col("PodInfoOnMount", "boolean", 0, "Whether the driver is told about the pod."),
    Col("StorageCapacity", "boolean", 0, "Whether scheduling looks at capacity."),
    text("TokenRequests", "Audiences of tokens the driver wants."),
    Col("RequiresRepublish", "boolean", 0, "Whether volumes are published again and again."),
    text("Modes", "Kinds of volumes."),
    AGE,
];
pub const CSI_CAPACITY: &[Col] = &[NAME, text("StorageClassName", "Class the capacity is of."), text("Capacity", "Space that is left.")];

pub const PRIORITY_CLASS: &[Col] = &[
    NAME,
    int("Value", "Priority of pods of the class."),
    Col("Global-Default", "boolean", 0, "Whether pods without a class get it."),
    AGE,
    text("PreemptionPolicy", "Whether pods of the class preempt others."),
];
pub const RUNTIME_CLASS: &[Col] = &[NAME, text("Handler", "Configuration of the runtime."), AGE];
pub const WEBHOOKS: &[Col] = &[NAME, int("Webhooks", "Number of webhooks."), AGE];
pub const VALIDATING_POLICY: &[Col] =
    &[NAME, int("Validations", "Number of validations."), text("ParamKind", "Kind of the parameters."), AGE];
pub const MUTATING_POLICY: &[Col] = &[NAME, int("Mutations", "Number of mutations."), text("ParamKind", "Kind of the parameters."), AGE];
pub const POLICY_BINDING: &[Col] =
    &[NAME, text("PolicyName", "Policy that is bound."), text("ParamRef", "Parameters of the binding."), AGE];

pub const FLOW_SCHEMA: &[Col] = &[
    NAME,
    text("PriorityLevel", "Priority level of matching requests."),
    int("MatchingPrecedence", "Order among flow schemas."),
    text("DistinguisherMethod", "How flows are told apart."),
    AGE,
    text("MissingPL", "Whether the priority level is missing."),
];
pub const PRIORITY_LEVEL: &[Col] = &[
    NAME,
    text("Type", "Exempt or Limited."),
    text("NominalConcurrencyShares", "Share of the concurrency."),
    text("Queues", "Number of queues."),
    text("HandSize", "Queues a flow may use."),
    text("QueueLengthLimit", "Requests a queue holds."),
    AGE,
];

pub const RESOURCE_CLAIM: &[Col] = &[NAME, text("State", "Whether it is allocated and reserved."), AGE];
pub const RESOURCE_SLICE: &[Col] =
    &[NAME, text("Node", "Node of the devices."), text("Driver", "Driver of the devices."), text("Pool", "Pool of the devices."), AGE];
pub const CUSTOM_RESOURCE_DEFINITION: &[Col] = &[NAME, text("Created At", "When the server created the object.")];
pub const API_SERVICE: &[Col] = &[NAME, text("Service", "Service behind the API."), text("Available", "Whether the service answers."), AGE];

pub const STORAGE_VERSION: &[Col] = &[
    NAME,
    text("CommonEncodingVersion", "Version in which all API servers write the objects."),
    text("StorageVersions", "Version in which each API server writes them."),
    AGE,
];

pub const STORAGE_VERSION_MIGRATION: &[Col] =
    &[NAME, text("Resource", "Resource whose objects are migrated."), text("Status", "Where the migration is, or what came of it.")];
