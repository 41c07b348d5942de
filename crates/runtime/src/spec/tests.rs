use super::*;
use ferrokube_cri::v1::{KeyValue, LinuxContainerConfig};

struct Case {
    config: ContainerConfig,
    image: ImageConfig,
}

impl Case {
    fn new() -> Self {
        let image = ImageConfig {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["default".into()],
            env: vec!["A=image".into(), "PATH=/image".into()],
            working_dir: "/work".into(),
            ..Default::default()
        };
        let linux = LinuxContainerConfig { security_context: Some(Default::default()), ..Default::default() };
        Self { config: ContainerConfig { linux: Some(linux), ..Default::default() }, image }
    }

    fn context(&mut self) -> &mut LinuxContainerSecurityContext {
        self.config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("set in new")
    }

    fn build(&self) -> Result<Decision, SpecError> {
        let rootfs = tempfile::tempdir().expect("a folder");
        build(&Input {
            sandbox_id: "s1",
            config: &self.config,
            image: &self.image,
            rootfs: rootfs.path(),
            namespaces: Namespaces {
                network: NamespaceChoice::Join("/run/ns/net".into()),
                ipc: NamespaceChoice::Join("/run/ns/ipc".into()),
                uts: NamespaceChoice::Node,
                pid: NamespaceChoice::New,
            },
            files: PodFiles::default(),
            image_volumes: &[],
            cgroup: "/pods/c1",
            node: NodeLimits { swap: true, hugetlb: true, v2: false },
            hostname: "pod-1",
        })
    }
}

fn env(name: &str, value: &str) -> KeyValue {
    KeyValue { key: name.into(), value: value.into() }
}

#[test]
fn command_and_arguments_replace_those_of_the_image() {
    let table: [(&[&str], &[&str], &[&str]); 4] =
        [(&[], &[], &["/entry", "default"]), (&[], &["x"], &["/entry", "x"]), (&["run"], &[], &["run"]), (&["run"], &["x"], &["run", "x"])];
    for (command, args, expected) in table {
        let mut case = Case::new();
        case.config.command = command.iter().map(|part| (*part).to_owned()).collect();
        case.config.args = args.iter().map(|part| (*part).to_owned()).collect();
        assert_eq!(case.build().expect("builds").config["process"]["args"], json!(expected));
    }
    let mut nothing = Case::new();
    nothing.image = ImageConfig::default();
    assert!(nothing.build().is_err());
}

#[test]
fn later_values_of_the_environment_take_the_place_of_earlier_ones() {
    let mut case = Case::new();
    case.config.envs = vec![env("A", "pod"), env("B", "1"), env("B", "2"), env("AB", "=x")];
    let decision = case.build().expect("builds");
    assert_eq!(decision.config["process"]["env"], json!(["PATH=/image", "HOSTNAME=pod-1", "A=pod", "B=2", "AB==x", "HOME=/"]));
    case.config.envs = vec![env("A=B", "x")];
    assert!(case.build().is_err());
}

#[test]
fn a_privileged_container_is_not_masked_confined_or_limited_in_devices() {
    let mut case = Case::new();
    case.context().privileged = true;
    case.context().seccomp = Some(SecurityProfile::default());
    let decision = case.build().expect("builds");
    assert!(decision.config["linux"].get("maskedPaths").is_none());
    assert_eq!(decision.config["linux"]["resources"]["devices"], json!([{"allow": true, "access": "rwm"}]));
    assert_eq!(decision.seccomp, None);
    assert!(decision.capabilities.len() > 30);
}

#[test]
fn an_ordinary_container_is_masked_and_confined() {
    let mut case = Case::new();
    case.context().seccomp = Some(SecurityProfile::default());
    case.context().no_new_privs = true;
    let decision = case.build().expect("builds");
    assert!(decision.config["linux"]["maskedPaths"].as_array().is_some_and(|paths| paths.contains(&json!("/proc/kcore"))));
    assert_eq!(decision.config["linux"]["resources"]["devices"][0], json!({"allow": false, "access": "rwm"}));
    assert_eq!(decision.seccomp, Some(SeccompChoice::RuntimeDefault));
    assert!(decision.no_new_privileges);
    assert_eq!(decision.config["process"]["noNewPrivileges"], true);
}

#[test]
fn namespaces_follow_the_pod() {
    let decision = Case::new().build().expect("builds");
    let expected = json!([
        {"type": "mount"},
        {"type": "network", "path": "/run/ns/net"},
        {"type": "ipc", "path": "/run/ns/ipc"},
        {"type": "pid"},
    ]);
    assert_eq!(decision.config["linux"]["namespaces"], expected);
}

#[test]
fn libcontainer_reads_what_is_written() {
    let mut case = Case::new();
    case.config.envs = vec![env("A", "pod")];
    let text = case.build().expect("builds").config.to_string();
    let spec: libcontainer::oci_spec::runtime::Spec = serde_json::from_str(&text).expect("an OCI spec");
    assert_eq!(spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone()), Some("/pods/c1".into()));
    assert_eq!(spec.process().as_ref().map(|process| process.cwd().clone()), Some("/work".into()));
}

#[test]
fn an_exec_is_the_containers_process_with_another_command() {
    let decision = Case::new().build().expect("builds");
    let process = exec_process(&decision.config, &["ls".to_owned()], true);
    assert_eq!(process["args"], json!(["ls"]));
    assert_eq!(process["cwd"], json!("/work"));
    assert!(process["env"].as_array().is_some_and(|all| all.contains(&json!("TERM=xterm"))));
}
