//! An operator on kube-rs: a derived custom kind, a controller over what it owns, a finalizer and server-side apply.
//!
//! It runs beside the user of it, who makes, changes and deletes a poem, and says at the end whether all of that came to
//! what it should.

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::controller::Action;
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{Controller, watcher};
use kube::{Client, CustomResource, CustomResourceExt as _, Resource as _, ResourceExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[kube(group = "rust.example.com", version = "v1", kind = "Poem", namespaced, status = "PoemStatus", shortname = "pm")]
#[kube(printcolumn = r#"{"name":"Lines","type":"integer","jsonPath":".status.lines"}"#)]
struct PoemSpec {
    #[schemars(length(min = 1))]
    lines: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
struct PoemStatus {
    lines: usize,
    generation: Option<i64>,
}

type Failure = kube::runtime::finalizer::Error<kube::Error>;

async fn reconcile(poem: Arc<Poem>, client: Arc<Client>) -> Result<Action, Failure> {
    let namespace = poem.namespace().unwrap_or_default();
    let poems = Api::<Poem>::namespaced((*client).clone(), &namespace);
    let event = |event| async move {
        match event {
            Event::Apply(poem) => written(&poem, (*client).clone()).await,
            Event::Cleanup(poem) => mourned(&poem, (*client).clone()).await,
        }
    };
    finalizer(&poems, "rust.example.com/epitaph", poem, event).await
}

/// The config map is what the poem says, and the status says so.
async fn written(poem: &Poem, client: Client) -> Result<Action, kube::Error> {
    let namespace = poem.namespace().unwrap_or_default();
    let apply = PatchParams::apply("poet").force();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"text": poem.spec.lines.join("\n")},
        "metadata": {"name": poem.name_any(), "ownerReferences": [poem.controller_owner_ref(&())]}});
    Api::<ConfigMap>::namespaced(client.clone(), &namespace).patch(&poem.name_any(), &apply, &Patch::Apply(map)).await?;
    let status = json!({"apiVersion": "rust.example.com/v1", "kind": "Poem",
        "status": PoemStatus { lines: poem.spec.lines.len(), generation: poem.metadata.generation }});
    Api::<Poem>::namespaced(client, &namespace).patch_status(&poem.name_any(), &apply, &Patch::Apply(status)).await?;
    Ok(Action::await_change())
}

async fn mourned(poem: &Poem, client: Client) -> Result<Action, kube::Error> {
    let maps = Api::<ConfigMap>::namespaced(client, &poem.namespace().unwrap_or_default());
    let name = format!("epitaph-{}", poem.name_any());
    let epitaph = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": {"lines": poem.spec.lines.len().to_string()}});
    maps.patch(&name, &PatchParams::apply("poet").force(), &Patch::Apply(epitaph)).await?;
    Ok(Action::await_change())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let client = Client::try_default().await?;
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    definitions.patch("poems.rust.example.com", &PatchParams::apply("poet"), &Patch::Apply(Poem::crd())).await?;
    await_condition(definitions, "poems.rust.example.com", conditions::is_crd_established()).await?;

    let poems = Api::<Poem>::default_namespaced(client.clone());
    let maps = Api::<ConfigMap>::default_namespaced(client.clone());
    let controller = Controller::new(poems.clone(), watcher::Config::default()).owns(maps.clone(), watcher::Config::default());
    let retry = |_: Arc<Poem>, _: &Failure, _: Arc<Client>| Action::requeue(Duration::from_millis(200));
    let told = |done: Result<_, _>| {
        if let Err(error) = done {
            eprintln!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
        }
        std::future::ready(())
    };
    let run = controller.run(reconcile, retry, Arc::new(client)).for_each(told);
    tokio::select! {
        done = used(&poems, &maps) => done?,
        () = run => anyhow::bail!("the controller ended"),
    }
    println!("the operator is content");
    Ok(())
}

/// A poem from its first line to its epitaph.
async fn used(poems: &Api<Poem>, maps: &Api<ConfigMap>) -> Result<()> {
    let poem = |lines: &[&str]| Poem::new("ode", PoemSpec { lines: lines.iter().map(|&l| l.to_owned()).collect() });
    let refused = poems.create(&PostParams::default(), &poem(&[])).await;
    ensure!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 422), "the derived schema is held: {refused:?}");
    poems.create(&PostParams::default(), &poem(&["one", "two"])).await?;
    let says = |text: &'static str| {
        move |map: Option<&ConfigMap>| map.and_then(|m| m.data.as_ref()).and_then(|d| d.get("text")).is_some_and(|t| t == text)
    };
    await_condition(maps.clone(), "ode", says("one\ntwo")).await?;

    let changed = json!({"spec": {"lines": ["three"]}});
    let changed = poems.patch("ode", &PatchParams::default(), &Patch::Merge(changed)).await?;
    await_condition(maps.clone(), "ode", says("three")).await?;
    let generation = changed.metadata.generation;
    let seen = move |poem: Option<&Poem>| poem.and_then(|p| p.status.as_ref()).is_some_and(|s| s.generation == generation && s.lines == 1);
    await_condition(poems.clone(), "ode", seen).await?;

    // What the operator owns is mended: changed by another, and deleted.
    let scribble = json!({"data": {"text": "scribble"}});
    maps.patch("ode", &PatchParams::default(), &Patch::Merge(scribble)).await?;
    await_condition(maps.clone(), "ode", says("three")).await?;
    let uid = maps.get("ode").await?.metadata.uid.context("a uid")?;
    maps.delete("ode", &DeleteParams::default()).await?;
    let again = move |map: Option<&ConfigMap>| map.is_some_and(|m| m.metadata.uid.as_ref() != Some(&uid));
    await_condition(maps.clone(), "ode", again).await?;

    // The finalizer holds the poem until the epitaph is there; then the garbage collector takes what it owned.
    let uid = poems.get("ode").await?.metadata.uid.context("a uid")?;
    poems.delete("ode", &DeleteParams::default()).await?;
    await_condition(poems.clone(), "ode", conditions::is_deleted(&uid)).await?;
    ensure!(maps.get("epitaph-ode").await?.data.is_some_and(|d| d.get("lines").is_some_and(|n| n == "1")), "the epitaph");
    let gone = |map: Option<&ConfigMap>| map.is_none();
    await_condition(maps.clone(), "ode", gone).await?;
    ensure!(poems.list(&ListParams::default()).await?.items.is_empty(), "nothing is left");
    Ok(())
}
