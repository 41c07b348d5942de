//! What CRI is asked to make for a container, field by field.

use super::*;
use crate::config::tests::config as node;
use crate::pod::spec::containers_of;
use serde_json::{Value, json};

/// Describes the last container of a pod; `pod` and `container` are merged into their specs.
fn make(pod: Value, container: Value, image: cri::Image) -> Result<cri::ContainerConfig, ConfigError> {
    let mut spec = pod;
    let mut fields = container;
    fields["name"] = json!("c");
    spec["containers"] = json!([fields]);
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec})).unwrap();
    let spec = containers_of(&pod).pop().unwrap();
    let volumes = BTreeMap::from([("v".to_owned(), VolumeSource::Path("/volumes/v".into()))]);
    config(&Inputs {
        pod: &pod,
        spec: &spec,
        restarts: 2,
        life: 0,
        image: &image,
        lookup: &Lookup::default(),
        volumes: &volumes,
        hosts_file: Some(Path::new("/pod/etc-hosts")),
        termination_file: Path::new("/pod/end"),
        target_id: Some("target"),
        node_memory: 1 << 30,
        config: &node(),
    })
}

fn plain(container: Value) -> cri::ContainerConfig {
    make(json!({}), container, cri::Image::default()).unwrap()
}

fn security_of(made: &cri::ContainerConfig) -> cri::LinuxContainerSecurityContext {
    made.linux.clone().unwrap().security_context.unwrap()
}

#[test]
fn command_and_arguments_are_expanded_and_the_instance_is_labelled() {
    let made = plain(
        json!({"command": ["run", "$(A)"], "args": ["$$(A)", "$(B)"], "env": [{"name": "A", "value": "1"}], "tty": true, "workingDir": "/w"}),
    );
    assert_eq!((made.command, made.args), (vec!["run".to_owned(), "1".into()], vec!["$(A)".to_owned(), "$(B)".into()]));
    assert_eq!((made.log_path.as_str(), made.tty, made.working_dir.as_str()), ("c/2.log", true, "/w"));
    assert_eq!(made.metadata.unwrap().attempt, 2);
    assert_eq!(made.labels.get(labels::CONTAINER_NAME).map(String::as_str), Some("c"));
}

#[test]
fn who_may_run_when_root_is_forbidden() {
    let image = |uid: Option<i64>, username: &str| cri::Image {
        uid: uid.map(|value| cri::Int64Value { value }),
        username: username.into(),
        ..Default::default()
    };
    let cases = [
        (json!({"runAsNonRoot": true, "runAsUser": 1000}), image(Some(0), ""), None),
        (json!({"runAsNonRoot": true, "runAsUser": 0}), image(Some(5), ""), Some("container's runAsUser breaks non-root policy")),
        (json!({"runAsNonRoot": true}), image(Some(1000), ""), None),
        (json!({"runAsNonRoot": true}), image(Some(0), ""), Some("container has runAsNonRoot and image will run as root")),
        (json!({"runAsNonRoot": true}), image(None, ""), Some("container has runAsNonRoot and image will run as root")),
        (json!({"runAsNonRoot": true}), image(None, "web"), Some("container has runAsNonRoot and image has non-numeric user (web)")),
        (json!({"runAsNonRoot": false}), image(Some(0), ""), None),
    ];
    for (context, image, refused) in cases {
        let made = make(json!({}), json!({"securityContext": context}), image);
        match (made, refused) {
            (Ok(_), None) => {}
            (Err(e), Some(text)) => assert!(e.0.starts_with(text), "{}", e.0),
            (made, _) => panic!("{context}: {made:?}"),
        }
    }
    let by_pod = make(json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 7}}), json!({}), image(Some(0), "")).unwrap();
    assert_eq!(security_of(&by_pod).run_as_user.unwrap().value, 7);
}

#[test]
fn mounts_have_their_propagation_and_the_managed_files_stay_out_of_the_way() {
    let made = plain(json!({
        "terminationMessagePath": "/dev/termination-log",
        "volumeMounts": [
            {"name": "v", "mountPath": "data", "readOnly": true, "recursiveReadOnly": "Enabled"},
            {"name": "v", "mountPath": "/shared", "mountPropagation": "Bidirectional"},
        ],
    }));
    let of = |path: &str| made.mounts.iter().find(|m| m.container_path == path).unwrap();
    assert!(of("/data").readonly && of("/data").recursive_read_only);
    assert_eq!(of("/shared").propagation, i32::from(cri::MountPropagation::PropagationBidirectional));
    assert_eq!(of("/etc/hosts").host_path, "/pod/etc-hosts");
    assert_eq!(of("/dev/termination-log").host_path, "/pod/end");
    let own = plain(json!({"volumeMounts": [{"name": "v", "mountPath": "/etc/hosts"}]}));
    assert_eq!(own.mounts.iter().filter(|m| m.container_path == "/etc/hosts").count(), 1);
    let missing = make(json!({}), json!({"volumeMounts": [{"name": "none", "mountPath": "/x"}]}), cri::Image::default()).unwrap_err();
    assert_eq!(missing.0, "cannot find volume \"none\" to mount into container \"c\"");
}

#[test]
fn a_sub_path_is_made_and_never_leaves_its_volume() {
    let root = tempfile::tempdir().unwrap();
    let base = root.path().canonicalize().unwrap();
    assert_eq!(sub_path(&base, Some("a/b")).unwrap(), base.join("a/b"));
    assert!(base.join("a/b").is_dir());
    std::os::unix::fs::symlink("/etc", base.join("out")).unwrap();
    assert!(sub_path(&base, Some("out")).is_err());
    for (bad, why) in [
        ("../x", "unable to provision SubPath `../x`: must not contain '..'"),
        ("a/../../x", "unable to provision SubPath `a/../../x`: must not contain '..'"),
        ("/etc", "error SubPath `/etc` must not be an absolute path"),
    ] {
        let container =
            json!({"env": [{"name": "P", "value": bad}], "volumeMounts": [{"name": "v", "mountPath": "/m", "subPathExpr": "$(P)"}]});
        assert_eq!(make(json!({}), container, cri::Image::default()).unwrap_err().0, why);
    }
}

#[test]
fn a_sub_path_that_is_made_may_be_used_by_whoever_may_use_the_volume() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o2777)).unwrap();
    assert_eq!(mode(&sub_path(root.path(), Some("a/b")).unwrap()), 0o2777);
    let own = root.path().join("own");
    std::fs::create_dir(&own).unwrap();
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(mode(&sub_path(root.path(), Some("own")).unwrap()), 0o700, "what is there stays as it is");
}

#[test]
fn nobody_writes_to_volumes_of_the_api_nor_to_a_claim_that_is_only_read() {
    for (source, readonly) in [
        (json!({"configMap": {"name": "m"}}), true),
        (json!({"secret": {"secretName": "s"}}), true),
        (json!({"downwardAPI": {}}), true),
        (json!({"projected": {"sources": []}}), true),
        (json!({"persistentVolumeClaim": {"claimName": "c", "readOnly": true}}), true),
        (json!({"persistentVolumeClaim": {"claimName": "c"}}), false),
        (json!({"emptyDir": {}}), false),
        (json!({"hostPath": {"path": "/"}}), false),
    ] {
        let mut volume = source.clone();
        volume["name"] = json!("v");
        let mount = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
        let made = make(json!({"volumes": [volume]}), mount, cri::Image::default()).unwrap();
        assert_eq!(made.mounts[0].readonly, readonly, "{source}");
    }
}

#[test]
fn privileges_decide_what_is_hidden_and_filtered() {
    use cri::security_profile::ProfileType;
    let made = security_of(&plain(json!({"securityContext": {
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}})));
    assert!(made.no_new_privs && made.readonly_rootfs && !made.masked_paths.is_empty() && !made.readonly_paths.is_empty());
    assert_eq!(made.seccomp.unwrap().profile_type, i32::from(ProfileType::RuntimeDefault));
    assert_eq!(made.capabilities.unwrap().drop_capabilities, ["ALL"]);
    let privileged = security_of(&plain(json!({"securityContext": {"privileged": true}})));
    assert!(privileged.privileged && privileged.masked_paths.is_empty() && !privileged.no_new_privs);
    assert_eq!(privileged.seccomp.unwrap().profile_type, i32::from(ProfileType::Unconfined));
    let groups = make(json!({"securityContext": {"fsGroup": 3, "supplementalGroups": [4]}}), json!({}), cri::Image::default()).unwrap();
    assert_eq!(security_of(&groups).supplemental_groups, [3, 4]);
}
