//! Amounts of resources as placement counts them: cpu in thousandths, the rest in whole units.

use ferrokube_api::quantity::Quantity;

/// What a pod that names no cpu is taken to use when nodes are compared (`DefaultMilliCPURequest`).
pub const DEFAULT_MILLI_CPU: i64 = 100;
/// What a pod that names no memory is taken to use when nodes are compared (`DefaultMemoryRequest`), bytes.
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts by resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    /// Thousandths of a cpu.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of ephemeral-storage.
    pub ephemeral: i64,
    /// Extended resources, huge pages and attachable volumes, by name, sorted.
    pub scalars: Vec<(Box<str>, i64)>,
}

impl Resources {
    /// Reads one entry of a resource list; `pods` is not an amount that pods ask for.
    pub fn set(&mut self, name: &str, amount: Quantity) {
        match name {
            "cpu" => self.milli_cpu = amount.milli_value(),
            "memory" => self.memory = amount.value(),
            "ephemeral-storage" => self.ephemeral = amount.value(),
            "pods" => {}
            _ => *self.scalar(name) = amount.value(),
        }
    }

    fn scalar(&mut self, name: &str) -> &mut i64 {
        let at = match self.scalars.binary_search_by(|(n, _)| (**n).cmp(name)) {
            Ok(at) => at,
            Err(at) => {
                self.scalars.insert(at, (name.into(), 0));
                at
            }
        };
        &mut self.scalars[at].1
    }

    /// The amount of a scalar resource.
    pub fn scalar_amount(&self, name: &str) -> i64 {
        self.scalars.binary_search_by(|(n, _)| (**n).cmp(name)).map_or(0, |at| self.scalars[at].1)
    }

    /// The amount of any resource that pods ask for.
    pub fn amount(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.milli_cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral,
            _ => self.scalar_amount(name),
        }
    }

    fn combine(&mut self, other: &Resources, with: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral = with(self.ephemeral, other.ephemeral);
        for (name, amount) in &other.scalars {
            let mine = self.scalar(name);
            *mine = with(*mine, *amount);
        }
    }

    /// Adds.
    pub fn add(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes away what was added before.
    pub fn sub(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_sub);
    }

    /// The larger of each.
    pub fn max(&mut self, other: &Resources) {
        self.combine(other, i64::max);
    }

    /// Whether nothing is asked for.
    pub fn is_zero(&self) -> bool {
        self.milli_cpu == 0 && self.memory == 0 && self.ephemeral == 0 && self.scalars.iter().all(|(_, n)| *n == 0)
    }
}

/// What one container asks for, and which of cpu and memory it names at all.
#[derive(Clone, Debug, Default)]
pub struct ContainerRequest {
    /// The amounts.
    pub amounts: Resources,
    /// cpu is named, maybe with zero.
    pub names_cpu: bool,
    /// memory is named, maybe with zero.
    pub names_memory: bool,
    /// An init container that keeps running (`restartPolicy: Always`).
    pub sidecar: bool,
}

/// What a pod as a whole asks for.
#[derive(Clone, Debug, Default)]
pub struct PodRequest {
    /// In order.
    pub init: Vec<ContainerRequest>,
    /// In order.
    pub containers: Vec<ContainerRequest>,
    /// `spec.resources.requests`.
    pub pod: ContainerRequest,
    /// Whether `spec.resources` says anything.
    pub pod_level: bool,
    /// `spec.overhead`.
    pub overhead: Resources,
}

impl PodRequest {
    /// What the pod takes of a node (component-helpers `PodRequests`): the containers' sum with the sidecars, or the
    /// largest moment of initialisation; pod-level amounts replace both; overhead comes on top.
    pub fn total(&self) -> Resources {
        self.sum(|c| c.amounts.clone())
    }

    /// cpu and memory for comparing nodes, with defaults where a container names none. A pod with amounts of its own has a default only
    /// for what neither it nor any container names.
    pub fn for_scoring(&self) -> (i64, i64) {
        let named = |names: fn(&ContainerRequest) -> bool| {
            self.pod_level && (names(&self.pod) || self.containers.iter().chain(&self.init).any(names))
        };
        let (cpu_named, memory_named) = (named(|c| c.names_cpu), named(|c| c.names_memory));
        let filled = |c: &ContainerRequest| {
            let mut amounts = c.amounts.clone();
            if !c.names_cpu && !cpu_named {
                amounts.milli_cpu = DEFAULT_MILLI_CPU;
            }
            if !c.names_memory && !memory_named {
                amounts.memory = DEFAULT_MEMORY;
            }
            amounts
        };
        let sum = self.sum(filled);
        (sum.milli_cpu, sum.memory)
    }

    fn sum(&self, amounts: impl Fn(&ContainerRequest) -> Resources) -> Resources {
        let mut total = Resources::default();
        self.containers.iter().for_each(|c| total.add(&amounts(c)));
        let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
        for container in &self.init {
            let mut moment = amounts(container);
            if container.sidecar {
                total.add(&moment);
                sidecars.add(&moment);
                moment = sidecars.clone();
            } else {
                moment.add(&sidecars);
            }
            peak.max(&moment);
        }
        total.max(&peak);
        if self.pod.names_cpu {
            total.milli_cpu = self.pod.amounts.milli_cpu;
        }
        if self.pod.names_memory {
            total.memory = self.pod.amounts.memory;
        }
        for (name, amount) in &self.pod.amounts.scalars {
            *total.scalar(name) = *amount;
        }
        total.add(&self.overhead);
        total
    }
}
