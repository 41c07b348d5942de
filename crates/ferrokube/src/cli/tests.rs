//! Command lines that people have: static pods of installers, and every flag that upstream's components of 1.36 know.

use super::read;

fn given(command: &str, flags: &[&str]) -> Result<Vec<String>, String> {
    let line = ["ferrokube", command].into_iter().chain(flags.iter().copied());
    read(line).map(|(_, without_effect)| without_effect).map_err(|e| e.to_string())
}

/// What kubeadm writes into the manifest of kube-controller-manager.
const MANAGER: [&str; 18] = [
    "--allocate-node-cidrs=true",
    "--authentication-kubeconfig=/etc/kubernetes/controller-manager.conf",
    "--authorization-kubeconfig=/etc/kubernetes/controller-manager.conf",
    "--bind-address=127.0.0.1",
    "--client-ca-file=/etc/kubernetes/pki/ca.crt",
    "--cluster-cidr=10.244.0.0/16",
    "--cluster-name=kubernetes",
    "--cluster-signing-cert-file=/etc/kubernetes/pki/ca.crt",
    "--cluster-signing-key-file=/etc/kubernetes/pki/ca.key",
    "--controllers=*,bootstrap-signer-controller,token-cleaner-controller",
    "--feature-gates=kube:JobManagedBy=true",
    "--kubeconfig=/etc/kubernetes/controller-manager.conf",
    "--leader-elect=true",
    "--requestheader-client-ca-file=/etc/kubernetes/pki/front-proxy-ca.crt",
    "--root-ca-file=/etc/kubernetes/pki/ca.crt",
    "--service-account-private-key-file=/etc/kubernetes/pki/sa.key",
    "--service-cluster-ip-range=10.96.0.0/12",
    "--use-service-account-credentials=true",
];

/// And into that of kube-scheduler.
const SCHEDULER: [&str; 5] = [
    "--authentication-kubeconfig=/etc/kubernetes/scheduler.conf",
    "--authorization-kubeconfig=/etc/kubernetes/scheduler.conf",
    "--bind-address=127.0.0.1",
    "--kubeconfig=/etc/kubernetes/scheduler.conf",
    "--leader-elect=true",
];

/// Flags of both, without those above.
const BOTH: [&str; 55] = [
    "--allow-metric-labels=a,b='c'",
    "--allow-metric-labels-manifest=/labels",
    "--authentication-skip-lookup",
    "--authentication-token-webhook-cache-ttl=10s",
    "--authentication-tolerate-lookup-failure",
    "--authorization-always-allow-paths=/healthz",
    "--authorization-webhook-cache-authorized-ttl=10s",
    "--authorization-webhook-cache-unauthorized-ttl=10s",
    "--cert-dir=/certs",
    "--client-ca-file=/ca",
    "--contention-profiling",
    "--disable-http2-serving",
    "--disabled-metrics=a,b",
    "--emulated-version=kube=1.36",
    "--feature-gates=JobManagedBy=true",
    "--http2-max-streams-per-connection=42",
    "--kube-api-burst=100",
    "--kube-api-content-type=application/vnd.kubernetes.protobuf",
    "--kube-api-qps=50",
    "--leader-elect-lease-duration=15s",
    "--leader-elect-renew-deadline=10s",
    "--leader-elect-resource-lock=leases",
    "--leader-elect-resource-name=x",
    "--leader-elect-resource-namespace=kube-system",
    "--leader-elect-retry-period=2s",
    "--log-flush-frequency=5s",
    "--log-json-info-buffer-size=0",
    "--log-json-split-stream",
    "--log-text-info-buffer-size=0",
    "--log-text-split-stream",
    "--logging-format=json",
    "--master=https://127.0.0.1:6443",
    "--min-compatibility-version=1.35",
    "--permit-address-sharing",
    "--permit-port-sharing",
    "--profiling=false",
    "--requestheader-allowed-names=front-proxy-client",
    "--requestheader-client-ca-file=/front-proxy-ca",
    "--requestheader-extra-headers-prefix=x-remote-extra-",
    "--requestheader-group-headers=x-remote-group",
    "--requestheader-uid-headers=x-remote-uid",
    "--requestheader-username-headers=x-remote-user",
    "--secure-port=0",
    "--show-hidden-metrics-for-version=1.35",
    "--tls-cert-file=/tls.crt",
    "--tls-cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "--tls-min-version=VersionTLS13",
    "--tls-private-key-file=/tls.key",
    "--tls-sni-cert-key=/c,/k:a.example.com,*.example.com",
    "--tls-sni-cert-key=/d,/l",
    "--v=2",
    "-v=4",
    "--v=5",
    "--vmodule=a=1",
    "--kubeconfig=/other",
];

const OF_MANAGER: [&str; 76] = [
    "--attach-detach-reconcile-sync-period=1m0s",
    "--cidr-allocator-type=RangeAllocator",
    "--cloud-config=",
    "--cloud-provider=external",
    "--cluster-signing-duration=8760h0m0s",
    "--concurrent-cron-job-syncs=5",
    "--concurrent-daemonset-syncs=2",
    "--concurrent-deployment-syncs=5",
    "--concurrent-device-taint-eviction-syncs=8",
    "--concurrent-endpoint-syncs=5",
    "--concurrent-ephemeralvolume-syncs=5",
    "--concurrent-gc-syncs=20",
    "--concurrent-horizontal-pod-autoscaler-syncs=5",
    "--concurrent-job-syncs=5",
    "--concurrent-namespace-syncs=10",
    "--concurrent-rc-syncs=5",
    "--concurrent_rc_syncs=6",
    "--concurrent-replicaset-syncs=5",
    "--concurrent-resource-quota-syncs=5",
    "--concurrent-resourceclaim-syncs=50",
    "--concurrent-service-endpoint-syncs=5",
    "--concurrent-service-syncs=1",
    "--concurrent-serviceaccount-token-syncs=5",
    "--concurrent-statefulset-syncs=5",
    "--concurrent-ttl-after-finished-syncs=5",
    "--concurrent-validating-admission-policy-status-syncs=5",
    "--configure-cloud-routes",
    "--controller-shutdown-timeout=10s",
    "--controller-start-interval=0s",
    "--disable-attach-detach-reconcile-sync",
    "--disable-force-detach-on-timeout",
    "--enable-dynamic-provisioning",
    "--enable-garbage-collector",
    "--enable-hostpath-provisioner=false",
    "--enable-leader-migration=false",
    "--endpoint-updates-batch-period=0s",
    "--endpointslice-updates-batch-period=0s",
    "--external-cloud-volume-plugin=",
    "--flex-volume-plugin-dir=/usr/libexec/kubernetes/kubelet-plugins/volume/exec/",
    "--horizontal-pod-autoscaler-cpu-initialization-period=5m0s",
    "--horizontal-pod-autoscaler-downscale-stabilization=5m0s",
    "--horizontal-pod-autoscaler-initial-readiness-delay=30s",
    "--horizontal-pod-autoscaler-sync-period=15s",
    "--horizontal-pod-autoscaler-tolerance=0.1",
    "--large-cluster-size-threshold=50",
    "--leader-migration-config=/migration",
    "--legacy-service-account-token-clean-up-period=8760h0m0s",
    "--max-endpoints-per-slice=100",
    "--min-resync-period=12h0m0s",
    "--mirroring-concurrent-service-endpoint-syncs=5",
    "--mirroring-endpointslice-updates-batch-period=0s",
    "--mirroring-max-endpoints-per-subset=1000",
    "--namespace-sync-period=5m0s",
    "--node-cidr-mask-size-ipv4=24",
    "--node-cidr-mask-size-ipv6=64",
    "--node-eviction-rate=0.1",
    "--node-monitor-grace-period=50s",
    "--node-monitor-period=5s",
    "--node-startup-grace-period=1m0s",
    "--pv-recycler-increment-timeout-nfs=30",
    "--pv-recycler-minimum-timeout-hostpath=60",
    "--pv-recycler-minimum-timeout-nfs=300",
    "--pv-recycler-pod-template-filepath-hostpath=/x",
    "--pv-recycler-pod-template-filepath-nfs=/x",
    "--pv-recycler-timeout-increment-hostpath=30",
    "--pvclaimbinder-sync-period=15s",
    "--resource-quota-sync-period=5m0s",
    "--route-reconciliation-period=10s",
    "--secondary-node-eviction-rate=0.01",
    "--terminated-pod-gc-threshold=12500",
    "--unhealthy-zone-threshold=0.55",
    "--volume-host-allow-local-loopback",
    "--volume-host-cidr-denylist=10.0.0.0/8",
    "--use-service-account-credentials",
    "--enable-garbage-collector=true",
    "--controllers=-job-controller",
];

/// CAs of single signers, which exclude the one for all, and the size of ranges of one family.
const OF_SIGNERS: [&str; 9] = [
    "--cluster-signing-kube-apiserver-client-cert-file=/c",
    "--cluster-signing-kube-apiserver-client-key-file=/k",
    "--cluster-signing-kubelet-client-cert-file=/c",
    "--cluster-signing-kubelet-client-key-file=/k",
    "--cluster-signing-kubelet-serving-cert-file=/c",
    "--cluster-signing-kubelet-serving-key-file=/k",
    "--cluster-signing-legacy-unknown-cert-file=/c",
    "--cluster-signing-legacy-unknown-key-file=/k",
    "--node-cidr-mask-size=24",
];

const OF_SCHEDULER: [&str; 2] = ["--config=/config", "--pod-max-in-unschedulable-pods-duration=5m0s"];

#[test]
fn static_pods_of_kubeadm_start_and_what_has_no_effect_is_named() {
    assert_eq!(given("controller-manager", &MANAGER), Ok(vec!["--requestheader-client-ca-file".into()]));
    assert_eq!(given("scheduler", &SCHEDULER), Ok(Vec::new()));
    let more = ["--v=2", "--kube-api-qps=100", "--vmodule=x=2", "--profiling=false"];
    let named = given("scheduler", &[&SCHEDULER[..], &more].concat()).expect("flags of upstream");
    assert_eq!(named, ["--kube-api-qps", "--v", "--vmodule"], "what works is not named");
    assert_eq!(given("apiserver", &["--watch-cache", "-v=2", "--bind-address=::"]), Ok(vec!["--v".into(), "--watch-cache".into()]));
}

#[test]
fn every_flag_of_upstream_is_taken() {
    let manager = [&MANAGER[..], &BOTH, &OF_MANAGER].concat();
    given("controller-manager", &manager).expect("the later word counts");
    given("controller-manager", &OF_SIGNERS).expect("instead of one CA and two families");
    given("scheduler", &[&SCHEDULER[..], &BOTH, &OF_SCHEDULER].concat()).expect("the later word counts");
}

#[test]
fn what_upstream_does_not_know_is_refused_and_what_would_be_missed_too() {
    for flag in ["--nonsense", "--emulated-version=1.35", "--leader-elect=perhaps", "--tls-sni-cert-key=/c", "--v=much"] {
        assert!(given("controller-manager", &[flag]).is_err(), "{flag}");
        assert!(given("scheduler", &[flag]).is_err(), "{flag}");
    }
    for flag in ["--enable-hostpath-provisioner", "--enable-leader-migration=true", "--cloud-provider=aws", "--config=/x"] {
        assert!(given("controller-manager", &[flag]).is_err(), "{flag}");
    }
    assert!(given("scheduler", &["--concurrent-job-syncs=1"]).is_err());
}
