//! The Python client and kopf: the programs are in `python/`, as their users would write them.

use crate::kubectl::Kubectl;
use crate::plane::{PATIENCE, Plane, scenario};
use anyhow::{Context as _, Result, ensure};
use ferrokube_testkit::tools::clients;
use ferrokube_testkit::wait_for;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// One of the programs.
pub fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/python").join(name)
}

/// Python with these packages.
pub fn command(plane: &Plane, packages: &Path) -> Command {
    let mut command = plane.command(Path::new("python3"));
    command.env("PYTHONPATH", packages).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

#[tokio::test]
async fn a_program_with_the_python_client_does_its_work() {
    scenario("a_program_with_the_python_client_does_its_work", clients::python, async |plane, python| {
        let mut command = command(plane, &python);
        let output = command.arg(program("client.py")).output().await?;
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        ensure!(said.contains("the python client is content"), "{said}");
        Ok(())
    })
    .await;
}

const NOTES: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: notes.kopf.example.com}
spec:
  group: kopf.example.com
  scope: Namespaced
  names: {plural: notes, singular: note, kind: Note}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, required: [text], properties: {text: {type: string}}}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
";

#[tokio::test]
async fn an_operator_with_kopf_keeps_what_it_made_in_step() {
    let tools = || Ok((clients::python()?, clients::kubectl_newer()?));
    scenario("an_operator_with_kopf_keeps_what_it_made_in_step", tools, async |plane, (python, kubectl)| {
        let log = plane.home().join("kopf.log");
        let result = operated(plane, &python, Kubectl::new(plane, kubectl), &log).await;
        result.with_context(|| format!("kopf said:\n{}", std::fs::read_to_string(&log).unwrap_or_default()))
    })
    .await;
}

async fn operated(plane: &Plane, python: &Path, kubectl: Kubectl<'_>, log: &Path) -> Result<()> {
    kubectl.feed("apply -f -", NOTES).await?;
    kubectl.run("wait --for=condition=Established crd/notes.kopf.example.com --timeout=60s").await?;
    let note = "apiVersion: kopf.example.com/v1\nkind: Note\nmetadata: {name: a}\nspec: {text: hello}\n";
    kubectl.feed("apply -f -", note).await?;
    let out = std::fs::File::create(log)?;
    let mut kopf = command(plane, python);
    kopf.args(["-m", "kopf", "run", "--namespace", "default"]).arg(program("operator_with_kopf.py"));
    let _kopf = kopf.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;

    // Found when it starts, handled to the end, through two failures that are tried again, and ticking.
    for (path, value) in [("flaky", "2"), ("phase", "Written"), ("ticks", "3"), ("created.configMap", "note-a")] {
        kubectl.run(&format!("wait note/a --for=jsonpath={{.status.{path}}}={value} --timeout=90s")).await?;
    }
    let made = kubectl.run("get configmap note-a -o jsonpath={.data.text}/{.metadata.ownerReferences[0].kind}").await?;
    ensure!(made == "hello/Note", "{made}");

    kubectl.args(&["patch", "note", "a", "--type=merge", "-p", r#"{"spec":{"text":"bye"}}"#]).await?;
    kubectl.run("wait configmap/note-a --for=jsonpath={.data.text}=bye --timeout=90s").await?;
    kubectl.run("wait note/a --for=jsonpath={.status.was}=hello --timeout=90s").await?;

    // The finalizer holds the note until the farewell is written; then the garbage collector takes what it owned.
    kubectl.run("delete note a --timeout=90s").await?;
    let farewell = kubectl.run("get configmap farewell-a -o jsonpath={.data.text}").await?;
    ensure!(farewell == "bye", "{farewell}");
    kubectl.run("wait configmap/note-a --for=delete --timeout=90s").await?;

    // One made while it runs comes by the watch.
    kubectl.feed("create -f -", &note.replace("name: a", "name: b")).await?;
    kubectl.run("wait note/b --for=jsonpath={.status.phase}=Written --timeout=90s").await?;
    wait_for("a line of the log", PATIENCE, async || {
        let text = std::fs::read_to_string(log)?;
        ensure!(text.contains("Creation is processed: 2 succeeded"), "{text}");
        Ok(())
    })
    .await
}
