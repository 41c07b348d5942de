//! Kinds that another API server serves, as a user meets them: the server is `python/wardle.py`, registered the way such
//! servers are, and known to the cluster by its service account.

use super::{Kubectl, NO_SUCH_KIND};
use crate::plane::{PATIENCE, Plane, scenario};
use crate::python;
use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ferrokube_testkit::tools::clients;
use ferrokube_testkit::{free_port, wait_for};
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

const SERVICE: &str = "apiservice/v1alpha1.wardle.example.com";

const REGISTERED: &str = "
apiVersion: v1
kind: Service
metadata: {name: api, namespace: wardle}
spec: {type: ExternalName, externalName: 127.0.0.1}
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1alpha1.wardle.example.com}
spec:
  group: wardle.example.com
  version: v1alpha1
  groupPriorityMinimum: 1000
  versionPriority: 15
  service: {name: api, namespace: wardle, port: PORT}
  caBundle: BUNDLE
";

/// The other server. Dropping it ends it.
struct Wardle {
    _process: Child,
    port: u16,
}

impl Wardle {
    /// Starts it in its folder.
    async fn start(plane: &Plane, packages: &Path, port: u16) -> Result<Self> {
        let folder = plane.home().join("wardle");
        let log = folder.join("log");
        let out = std::fs::File::create(&log)?;
        let mut command = python::command(plane, packages);
        command.arg(python::program("wardle.py")).arg(&folder).arg(port.to_string());
        let mut process = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;
        let port = wait_for("the other API server", PATIENCE, async || {
            let said = std::fs::read_to_string(&log)?;
            if let Some(status) = process.try_wait()? {
                bail!("it ended with {status}: {said}");
            }
            let line = said.lines().find_map(|line| line.strip_prefix("serving on ")).context("not there yet")?;
            Ok(line.parse()?)
        })
        .await?;
        Ok(Wardle { _process: process, port })
    }
}

/// A certificate of its own making, for the name of its service and for whoever asks it directly. It comes back.
fn certificate(folder: &Path) -> Result<String> {
    let key = rcgen::KeyPair::generate()?;
    let names = ["api.wardle.svc".to_owned(), "127.0.0.1".to_owned()];
    let pem = rcgen::CertificateParams::new(names)?.self_signed(&key)?.pem();
    std::fs::write(folder.join("tls.crt"), &pem)?;
    std::fs::write(folder.join("tls.key"), key.serialize_pem())?;
    Ok(pem)
}

/// What the operator of such a server does: an account that may ask who is who and who may what, and the registration.
async fn install(plane: &Plane, packages: &Path, kubectl: &Kubectl<'_>) -> Result<Wardle> {
    kubectl.run("create namespace wardle").await?;
    kubectl.run("create serviceaccount apiserver -n wardle").await?;
    let account = "--serviceaccount=wardle:apiserver";
    kubectl.run(&format!("create clusterrolebinding wardle:delegator --clusterrole=system:auth-delegator {account}")).await?;
    let reader = "--role=extension-apiserver-authentication-reader";
    kubectl.run(&format!("create rolebinding wardle-reader -n kube-system {reader} {account}")).await?;
    let kubeconfig = plane.file("wardle/kubeconfig", &std::fs::read_to_string(plane.kubeconfig())?)?;
    let token = kubectl.run("create token apiserver -n wardle").await?;
    let own = format!("--kubeconfig={} config", kubeconfig.display());
    kubectl.run(&format!("{own} set-credentials wardle --token={}", token.trim())).await?;
    kubectl.run(&format!("{own} set-context --current --user=wardle")).await?;
    let certificate = certificate(&plane.home().join("wardle"))?;
    let wardle = Wardle::start(plane, packages, free_port()).await?;
    let registered = REGISTERED.replace("PORT", &wardle.port.to_string()).replace("BUNDLE", &STANDARD.encode(certificate));
    kubectl.feed("apply -f -", &registered).await?;
    kubectl.run(&format!("wait {SERVICE} --for=condition=Available --timeout=90s")).await?;
    Ok(wardle)
}

#[tokio::test]
async fn kinds_of_an_aggregated_server_are_kinds_like_others() {
    let tools = || Ok((clients::python()?, clients::kubectl_newer()?));
    scenario("kinds_of_an_aggregated_server_are_kinds_like_others", tools, async |plane, (packages, program)| {
        let kubectl = Kubectl::new(plane, program);
        let work = async {
            let wardle = install(plane, &packages, &kubectl).await?;
            known(&kubectl).await?;
            used(plane, &kubectl).await?;
            guarded(plane, &kubectl, wardle.port).await?;
            collected(&kubectl).await?;
            counted(&kubectl).await?;
            emptied(&kubectl).await?;
            missed(plane, &packages, &kubectl, wardle).await
        };
        let log = || std::fs::read_to_string(plane.home().join("wardle/log")).unwrap_or_default();
        work.await.map_err(|error: anyhow::Error| error.context(format!("the other server said:\n{}", log())))
    })
    .await;
}

async fn known(kubectl: &Kubectl<'_>) -> Result<()> {
    kubectl.says(&format!("get {SERVICE}"), "wardle/api   True").await?;
    kubectl
        .says(
            "api-resources --api-group=wardle.example.com --sort-by=name",
            "fischers                wardle.example.com/v1alpha1   false        Fischer\nflunders   fl           wardle.example.com/v1alpha1   true         Flunder",
        )
        .await?;
    kubectl.says("explain flunders.spec.reference", "The name of another flunder.").await?;
    kubectl.says("explain fischer --recursive", "disallowedFlunders\t<[]string>").await
}

fn flunder(name: &str) -> String {
    format!("apiVersion: wardle.example.com/v1alpha1\nkind: Flunder\nmetadata: {{name: {name}}}\nspec: {{reference: other}}\n")
}

fn owned(manifest: &str, kind: &str, version: &str, name: &str, uid: &str) -> String {
    let owner = format!("{{apiVersion: {version}, kind: {kind}, name: {name}, uid: {uid}, blockOwnerDeletion: true}}");
    manifest.replace("metadata: {", &format!("metadata: {{ownerReferences: [{owner}], "))
}

/// A `kubectl get --watch` and the events that it prints, each once however often it is repeated.
struct Told {
    _process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    events: Vec<String>,
}

impl Told {
    fn start(plane: &Plane, kubectl: &Kubectl<'_>, resource: &str) -> Result<Self> {
        let mut watch = plane.command(&kubectl.program);
        watch.args(["get", resource, "--watch", "--output-watch-events"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = watch.spawn()?;
        let lines = BufReader::new(process.stdout.take().context("its output")?).lines();
        Ok(Told { _process: process, lines, events: Vec::new() })
    }

    async fn until(&mut self, last: &str) -> Result<()> {
        while self.events.last().is_none_or(|event| event != last) {
            let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await.context("an event")??.context("the watch goes on")?;
            let event = line.split_whitespace().next().unwrap_or_default().to_owned();
            if event != "EVENT" && self.events.last() != Some(&event) {
                self.events.push(event);
            }
        }
        Ok(())
    }
}

async fn used(plane: &Plane, kubectl: &Kubectl<'_>) -> Result<()> {
    kubectl.feed("apply -f -", &flunder("a")).await?;
    let mut told = Told::start(plane, kubectl, "flunders")?;
    told.until("ADDED").await?;
    kubectl.says("get flunders", "NAME   CREATED AT\na ").await?;
    let me = kubectl.run("auth whoami -o jsonpath={.status.userInfo.username}").await?;
    kubectl.prints("get fl a -o jsonpath={.metadata.annotations.wardle\\.example\\.com/created-by}", me.trim()).await?;
    kubectl.feed("apply -f -", &flunder("a").replace("other", "another")).await?;
    kubectl.run("wait flunder/a --for=jsonpath={.spec.reference}=another --timeout=90s").await?;
    kubectl.run("label flunder a color=red").await?;
    kubectl.prints("get flunders -l color=red -o name", "flunder.wardle.example.com/a").await?;
    let unknown = kubectl.fails_with("create -f -", &flunder("b").replace("reference", "refers")).await?;
    ensure!(unknown.contains("strict decoding error: unknown field \"spec.refers\""), "{unknown}");
    let fischer = "apiVersion: wardle.example.com/v1alpha1\nkind: Fischer\nmetadata: {name: f}\ndisallowedFlunders: [forbidden]\n";
    kubectl.feed("create -f -", fischer).await?;
    let banned = kubectl.fails_with("create -f -", &flunder("forbidden")).await?;
    ensure!(banned.contains("this name may not be used, please change the resource name"), "{banned}");
    kubectl.run("delete flunder a --timeout=90s").await?;
    let missing = kubectl.fails("get flunder a").await?;
    ensure!(missing.contains("Error from server (NotFound): flunders.wardle.example.com \"a\" not found"), "{missing}");
    told.until("DELETED").await?;
    ensure!(told.events == ["ADDED", "MODIFIED", "DELETED"], "{:?}", told.events);
    Ok(())
}

/// Whoever comes through the cluster's server was looked at there; whoever does not is asked about there.
async fn guarded(plane: &Plane, kubectl: &Kubectl<'_>, port: u16) -> Result<()> {
    let refused = kubectl.fails("get flunders --as=jane").await?;
    let why = "User \"jane\" cannot list resource \"flunders\" in API group \"wardle.example.com\" in the namespace \"default\"";
    ensure!(refused.contains(why), "{refused}");
    kubectl.run("create role flunderer --verb=get,list,create --resource=flunders.wardle.example.com").await?;
    kubectl.run("create rolebinding jane --role=flunderer --user=jane").await?;
    kubectl.feed("create --as=jane -f -", &flunder("janes")).await?;
    kubectl.prints("get fl janes -o jsonpath={.metadata.annotations.wardle\\.example\\.com/created-by}", "jane").await?;

    kubectl.run("create serviceaccount reader").await?;
    let token = kubectl.run("create token reader").await?;
    let nothing = plane.file("nothing", "apiVersion: v1\nkind: Config\n")?;
    let authority = plane.home().join("wardle/tls.crt");
    let direct = |token: &str| {
        let server = format!("--server=https://127.0.0.1:{port} --certificate-authority={}", authority.display());
        let path = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders/janes";
        format!("--kubeconfig={} {server} --token={token} get --raw {path}", nothing.display())
    };
    let refused = kubectl.fails(&direct(token.trim())).await?;
    ensure!(refused.contains("User \"system:serviceaccount:default:reader\" cannot get resource \"flunders\""), "{refused}");
    let nobody = kubectl.fails(&direct("nonsense")).await?;
    ensure!(nobody.contains("Unauthorized") || nobody.contains("must be logged in"), "{nobody}");
    kubectl.run("create rolebinding reader --role=flunderer --serviceaccount=default:reader").await?;
    kubectl.comes_to_say(&direct(token.trim()), "\"reference\": \"other\"").await?;
    kubectl.run("delete flunder janes").await.map(drop)
}

const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: NAME}\n";

async fn uid(kubectl: &Kubectl<'_>, object: &str) -> Result<String> {
    Ok(kubectl.run(&format!("get {object} -o jsonpath={{.metadata.uid}}")).await?.trim().to_owned())
}

/// Owners and dependents may live in different servers.
async fn collected(kubectl: &Kubectl<'_>) -> Result<()> {
    let version = "wardle.example.com/v1alpha1";
    for (cascade, left) in [("background", false), ("foreground", false), ("orphan", true)] {
        kubectl.feed("create -f -", &flunder("owner")).await?;
        let owner = uid(kubectl, "flunder/owner").await?;
        kubectl.feed("create -f -", &owned(&MAP.replace("NAME", "dependent"), "Flunder", version, "owner", &owner)).await?;
        kubectl.run(&format!("delete flunder owner --cascade={cascade} --timeout=90s")).await?;
        if left {
            kubectl.prints("get configmap dependent -o jsonpath={.metadata.ownerReferences}", "").await?;
            kubectl.run("delete configmap dependent").await?;
        } else {
            kubectl.run("wait configmap/dependent --for=delete --timeout=90s").await?;
        }
    }
    for (cascade, left) in [("background", false), ("foreground", false), ("orphan", true)] {
        kubectl.feed("create -f -", &MAP.replace("NAME", "owner")).await?;
        let owner = uid(kubectl, "configmap/owner").await?;
        kubectl.feed("create -f -", &owned(&flunder("dependent"), "ConfigMap", "v1", "owner", &owner)).await?;
        kubectl.run(&format!("delete configmap owner --cascade={cascade} --timeout=90s")).await?;
        if left {
            kubectl.prints("get flunder dependent -o jsonpath={.metadata.ownerReferences}", "").await?;
            kubectl.run("delete flunder dependent").await?;
        } else {
            kubectl.run("wait flunder/dependent --for=delete --timeout=90s").await?;
        }
    }
    Ok(())
}

async fn counted(kubectl: &Kubectl<'_>) -> Result<()> {
    kubectl.run("create namespace counted").await?;
    kubectl.run("create quota flunders -n counted --hard=count/flunders.wardle.example.com=5").await?;
    let used = "get quota flunders -n counted -o jsonpath={.status.used}";
    kubectl.comes_to_say(used, "{\"count/flunders.wardle.example.com\":\"0\"}").await?;
    for name in ["a", "b"] {
        kubectl.feed("create -n counted -f -", &flunder(name)).await?;
    }
    kubectl.comes_to_say(used, "{\"count/flunders.wardle.example.com\":\"2\"}").await?;
    kubectl.run("delete flunder a -n counted").await?;
    kubectl.comes_to_say(used, "{\"count/flunders.wardle.example.com\":\"1\"}").await
}

async fn emptied(kubectl: &Kubectl<'_>) -> Result<()> {
    kubectl.feed("create -n counted -f -", &flunder("c")).await?;
    kubectl.run("delete namespace counted --timeout=120s").await?;
    kubectl.says("get flunders --all-namespaces", "No resources found").await
}

/// A server that is away keeps back what is its own and nothing else.
async fn missed(plane: &Plane, packages: &Path, kubectl: &Kubectl<'_>, wardle: Wardle) -> Result<()> {
    kubectl.run("create namespace missed").await?;
    kubectl.feed("create -n missed -f -", &flunder("a")).await?;
    let port = wardle.port;
    drop(wardle);
    kubectl.run(&format!("wait {SERVICE} --for=condition=Available=false --timeout=120s")).await?;
    kubectl.says(&format!("get {SERVICE}"), "False (FailedDiscoveryCheck)").await?;
    let away = kubectl.fails("get --raw /apis/wardle.example.com/v1alpha1/namespaces/missed/flunders").await?;
    ensure!(away.contains("Error from server (ServiceUnavailable): the server is currently unable to handle the request"), "{away}");
    kubectl.feed("create -f -", &MAP.replace("NAME", "ours")).await?;
    kubectl.run("delete configmap ours --cascade=foreground --timeout=90s").await?;
    kubectl.run("delete namespace missed --wait=false").await?;
    let stale = "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: \
        wardle.example.com/v1alpha1: stale GroupVersion discovery: wardle.example.com/v1alpha1";
    kubectl.comes_to_say("get namespace missed -o jsonpath={.status.conditions}", stale).await?;

    let _wardle = Wardle::start(plane, packages, port).await?;
    kubectl.run(&format!("wait {SERVICE} --for=condition=Available --timeout=120s")).await?;
    kubectl.run("wait namespace/missed --for=delete --timeout=120s").await?;
    kubectl.says("get flunders --all-namespaces", "No resources found").await?;
    kubectl.run("delete fischer f").await?;
    // Nobody speaks of it any more once it is not registered.
    kubectl.run(&format!("delete {SERVICE}")).await?;
    kubectl.comes_to_fail("get flunders", &NO_SUCH_KIND).await
}
