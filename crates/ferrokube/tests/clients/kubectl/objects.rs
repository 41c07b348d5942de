//! Objects in kubectl's hands: made, applied, compared, changed in every way, shown in every way, awaited, deleted.

use super::{Kubectl, rows};
use anyhow::{Context as _, Result, ensure};
use std::path::Path;

const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: {tier: one}}\ndata: {x: '1', z: '2'}\n";

pub async fn whole(kubectl: &Kubectl<'_>) -> Result<()> {
    applied(kubectl).await?;
    applied_by_the_server(kubectl).await?;
    changed(kubectl).await?;
    shown(kubectl).await?;
    selected(kubectl).await?;
    watched(kubectl).await?;
    pruned(kubectl).await?;
    kustomized(kubectl).await?;
    refused(kubectl).await
}

async fn applied(kubectl: &Kubectl<'_>) -> Result<()> {
    let said = async |text: &str| Ok::<_, anyhow::Error>(kubectl.feed("apply -f -", text).await?.trim().to_owned());
    ensure!(said(MAP).await? == "configmap/a created");
    ensure!(said(MAP).await? == "configmap/a unchanged");
    kubectl.feed("diff -f -", MAP).await?;
    let changed = MAP.replace("z: '2'", "w: '3'");
    let diff = kubectl.fails_with("diff -f -", &changed).await?;
    ensure!(diff.contains("ended with 1") && diff.contains("\n-  z: \"2\"") && diff.contains("\n+  w: \"3\""), "{diff}");
    ensure!(kubectl.feed("apply --dry-run=server -f -", &changed).await?.contains("configmap/a configured (server dry run)"));
    ensure!(said(&changed).await? == "configmap/a configured");
    kubectl.prints("get cm a -o jsonpath={.data}", r#"{"w":"3","x":"1"}"#).await?;
    kubectl.says("apply view-last-applied cm a", "w: \"3\"").await?;
    ensure!(kubectl.feed("replace -f -", MAP).await?.contains("configmap/a replaced"));
    ensure!(kubectl.feed("replace --force -f -", MAP).await?.contains("configmap/a replaced"));
    let taken = kubectl.fails_with("create -f -", MAP).await?;
    ensure!(taken.contains("Error from server (AlreadyExists)") && taken.contains("configmaps \"a\" already exists"), "{taken}");
    Ok(())
}

async fn applied_by_the_server(kubectl: &Kubectl<'_>) -> Result<()> {
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: s}\ndata: {x: '1', v: '1'}\n";
    ensure!(kubectl.feed("apply --server-side -f -", map).await?.contains("configmap/s serverside-applied"));
    let other = map.replace("x: '1', v: '1'", "x: '2'");
    let conflict = kubectl.fails_with("apply --server-side --field-manager=other -f -", &other).await?;
    ensure!(conflict.contains("Apply failed with 1 conflict: conflict with \"kubectl\": .data.x"), "{conflict}");
    kubectl.feed("apply --server-side --field-manager=other --force-conflicts -f -", &other).await?;
    kubectl.prints("get cm s -o jsonpath={.data}", r#"{"v":"1","x":"2"}"#).await?;
    let managers = "get cm s --show-managed-fields -o jsonpath={.metadata.managedFields[*].manager}";
    kubectl.prints(managers, "kubectl other").await?;
    kubectl.feed("apply --server-side -f -", &map.replace("x: '1', v: '1'", "w: '1'")).await?;
    kubectl.prints("get cm s -o jsonpath={.data}", r#"{"w":"1","x":"2"}"#).await
}

async fn changed(kubectl: &Kubectl<'_>) -> Result<()> {
    kubectl.says("label cm a color=red", "configmap/a labeled").await?;
    let kept = kubectl.fails("label cm a color=blue").await?;
    ensure!(kept.contains("--overwrite is false"), "{kept}");
    kubectl.run("label cm a color=blue --overwrite").await?;
    kubectl.says("label cm a tier-", "configmap/a unlabeled").await?;
    kubectl.says("annotate cm a note=hello", "configmap/a annotated").await?;
    kubectl.prints("get cm a -o jsonpath={.metadata.labels}", r#"{"color":"blue"}"#).await?;
    let patched = kubectl.args(&["patch", "cm", "a", "-p", r#"{"data":{"x":null,"p":"1"}}"#]).await?;
    ensure!(patched.contains("configmap/a patched"), "{patched}");
    let steps = r#"[{"op":"test","path":"/data/p","value":"1"},{"op":"replace","path":"/data/p","value":"2"}]"#;
    kubectl.args(&["patch", "cm", "a", "--type=json", "-p", steps]).await?;
    let failed = kubectl.args(&["patch", "cm", "a", "--type=json", "-p", steps]).await;
    let failed = format!("{:#}", failed.err().context("the test of a JSON patch fails")?);
    ensure!(failed.contains("The request is invalid: the server rejected our request due to an error in our request"), "{failed}");
    let program = kubectl.program.to_string_lossy().into_owned();
    let edit = ["KUBE_EDITOR=sed -i s/hello/edited/", &program, "edit", "cm", "a"];
    ensure!(kubectl.plane.run(Path::new("env"), &edit, "").await?.contains("configmap/a edited"));
    kubectl.prints("get cm a -o jsonpath={.data.p}/{.metadata.annotations.note}", "2/edited").await
}

async fn shown(kubectl: &Kubectl<'_>) -> Result<()> {
    kubectl.says("get cm a", "NAME   DATA   AGE\na      2").await?;
    kubectl.prints("get cm a -o name", "configmap/a").await?;
    kubectl.says("get cm a -o yaml", "data:\n  p: \"2\"\n  z: \"2\"\nkind: ConfigMap").await?;
    let list: serde_json::Value = serde_json::from_str(&kubectl.run("get cm,ns -o json").await?)?;
    ensure!(list["kind"] == "List" && list["items"][0]["kind"] == "ConfigMap", "{list}");
    kubectl.prints("get cm a -o custom-columns=N:.metadata.name,P:.data.p", "N     P\na     2").await?;
    let template = "{{range .items}}{{.metadata.name}} {{end}}";
    let names = kubectl.args(&["get", "ns", "-o", "go-template", "--template", template]).await?;
    ensure!(names.trim() == "default kube-node-lease kube-public kube-system", "{names}");
    let sorted = kubectl.run("get ns --sort-by={.metadata.name} --no-headers -o custom-columns=N:.metadata.name").await?;
    ensure!(sorted.split_whitespace().eq(["default", "kube-node-lease", "kube-public", "kube-system"]), "{sorted}");
    kubectl.says("get cm a -L color --show-labels", "NAME   DATA   AGE").await?;
    let labels = kubectl.run("get cm a -L color").await?;
    ensure!(rows(&labels)[1] == ["a", "2", "blue"], "{labels}");
    kubectl.says("describe cm a", "Data\n====\np:\n----\n2").await?;
    let namespaces = kubectl.run("get ns -A --chunk-size=1").await?;
    ensure!(namespaces.lines().count() == 5, "all pages: {namespaces}");
    kubectl.says("describe ns default", "Status:       Active\n\nNo resource quota.\n\nNo LimitRange resource.").await
}

async fn selected(kubectl: &Kubectl<'_>) -> Result<()> {
    kubectl.prints("get cm -l color=blue -o name", "configmap/a").await?;
    kubectl.prints("get cm --field-selector=metadata.name=s -o name", "configmap/s").await?;
    kubectl.prints("get cm -l color=none", "No resources found in default namespace.").await?;
    let wrong = kubectl.args(&["get", "pods", "-l", "a in (b"]).await;
    let wrong = format!("{:#}", wrong.err().context("a broken selector")?);
    ensure!(wrong.contains(r#"field selector "": unable to parse requirement: found '', expected: ',' or ')'"#), "{wrong}");
    let wrong = kubectl.fails("get pods --field-selector=foo=bar").await?;
    ensure!(wrong.contains("field label not supported: foo"), "{wrong}");
    let missing = kubectl.fails("get cm nope").await?;
    ensure!(missing.contains("Error from server (NotFound): configmaps \"nope\" not found"), "{missing}");
    Ok(())
}

async fn watched(kubectl: &Kubectl<'_>) -> Result<()> {
    let revision = kubectl.run("get cm a -o jsonpath={.metadata.resourceVersion}").await?;
    kubectl.run("create cm seen --from-literal=n=0").await?;
    kubectl.args(&["patch", "cm", "seen", "-p", r#"{"data":{"n":"1"}}"#]).await?;
    kubectl.run("delete cm seen").await?;
    let raw = format!(
        "get --raw /api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=3&fieldSelector=metadata.name%3Dseen&resourceVersion={revision}"
    );
    let events = kubectl.run(&raw).await?;
    let kinds: Vec<String> = events
        .lines()
        .map(|line| Ok(serde_json::from_str::<serde_json::Value>(line)?["type"].as_str().unwrap_or_default().to_owned()))
        .collect::<Result<_>>()?;
    ensure!(kinds == ["ADDED", "MODIFIED", "DELETED"], "{events}");
    tokio::try_join!(kubectl.run("wait --for=create cm/late --timeout=90s"), kubectl.run("create cm late --from-literal=n=1"))?;
    kubectl.says("wait --for=jsonpath={.data.n}=1 cm/late --timeout=60s", "configmap/late condition met").await?;
    tokio::try_join!(kubectl.run("wait --for=delete cm/late --timeout=90s"), kubectl.run("delete cm late --wait=false"))?;
    Ok(())
}

async fn pruned(kubectl: &Kubectl<'_>) -> Result<()> {
    let two = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: k1, labels: {set: k}}\n---\n\
               apiVersion: v1\nkind: ConfigMap\nmetadata: {name: k2, labels: {set: k}}\n";
    kubectl.feed("apply -f -", two).await?;
    let one = two.split("---").next().unwrap_or_default();
    let said = kubectl.feed("apply --prune -l set=k --prune-allowlist=core/v1/ConfigMap -f -", one).await?;
    ensure!(said.contains("configmap/k1 unchanged") && said.contains("configmap/k2 pruned"), "{said}");
    kubectl.run("delete cm -l set=k").await.map(drop)
}

async fn kustomized(kubectl: &Kubectl<'_>) -> Result<()> {
    kubectl.plane.file("kustom/map.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: base}\ndata: {a: b}\n")?;
    let rules = "namePrefix: my-\nresources: [map.yaml]\nconfigMapGenerator:\n- name: made\n  literals: [k=v]\n";
    kubectl.plane.file("kustom/kustomization.yaml", rules)?;
    let said = kubectl.run("apply -k kustom").await?;
    ensure!(said.contains("configmap/my-base created") && said.contains("configmap/my-made-"), "{said}");
    kubectl.says("delete -k kustom", "\"my-base\" deleted").await
}

async fn refused(kubectl: &Kubectl<'_>) -> Result<()> {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: Bad_Name}\nspec: {containers: [{name: c}]}\n";
    let said = kubectl.fails_with("create -f -", pod).await?;
    ensure!(said.contains("The Pod \"Bad_Name\" is invalid:") && said.contains("spec.containers[0].image: Required value"), "{said}");
    let unknown = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: u}\ndatum: {a: b}\n";
    let said = kubectl.fails_with("create -f -", unknown).await?;
    ensure!(said.contains("strict decoding error: unknown field \"datum\""), "{said}");
    let nowhere = kubectl.fails("create cm x -n nowhere").await?;
    ensure!(nowhere.contains("namespaces \"nowhere\" not found"), "{nowhere}");
    kubectl.run("create ns going").await?;
    kubectl.says("delete ns going --timeout=90s", "namespace \"going\" deleted").await
}
