"""What a program written with the official Python client does: typed objects, patches, watches, custom kinds, dynamic
discovery and leader election. Ends with a traceback when anything is not as the client's documentation says."""

import datetime
import threading
import uuid

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

NAMESPACE = "python"


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


def refused(status, call, *args, **kwargs):
    """The error of a call that must fail with this status."""
    try:
        call(*args, **kwargs)
    except ApiException as error:
        expect(error.status == status, f"{status} was expected, not {error.status}: {error.body}")
        return error
    raise AssertionError(f"{status} was expected, and the call succeeded")


def furnished(core):
    """Waits for what the controllers put into a new namespace, which would come in between otherwise."""
    for call, name in ((core.list_namespaced_config_map, "kube-root-ca.crt"), (core.list_namespaced_service_account, "default")):
        for _ in watch.Watch().stream(call, NAMESPACE, field_selector=f"metadata.name={name}", timeout_seconds=120):
            break
        else:
            raise AssertionError(f"{name} does not come")


def typed_objects(core, apps):
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    furnished(core)
    refused(409, core.create_namespace, client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    container = client.V1Container(name="web", image="nginx", ports=[client.V1ContainerPort(container_port=80)])
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels={"app": "web"}), spec=client.V1PodSpec(containers=[container])
    )
    spec = client.V1DeploymentSpec(replicas=2, selector=client.V1LabelSelector(match_labels={"app": "web"}), template=template)
    made = apps.create_namespaced_deployment(NAMESPACE, client.V1Deployment(metadata=client.V1ObjectMeta(name="web"), spec=spec))
    expect(made.spec.strategy.rolling_update.max_surge == "25%", "defaults come back typed")
    expect(isinstance(made.metadata.creation_timestamp, datetime.datetime), "times come back as times")
    made.spec.replicas = 3
    stale, made.metadata.resource_version = made.metadata.resource_version, None  # The controllers write to it as well.
    replaced = apps.replace_namespaced_deployment("web", NAMESPACE, made)
    expect(replaced.metadata.generation == 2, "a replaced spec is a new generation")
    made.metadata.resource_version = stale
    conflict = refused(409, apps.replace_namespaced_deployment, "web", NAMESPACE, made)
    expect("the object has been modified" in conflict.body, conflict.body)
    scaled = apps.patch_namespaced_deployment_scale("web", NAMESPACE, {"spec": {"replicas": 1}})
    expect(scaled.spec.replicas == 1 and scaled.status.selector == "app=web", f"scaled: {scaled}")
    config_map = client.V1ConfigMap(metadata=client.V1ObjectMeta(generate_name="cm-"), data={"a": "b"}, binary_data={"x": "AAE="})
    names = {core.create_namespaced_config_map(NAMESPACE, config_map).metadata.name for _ in range(5)}
    expect(len(names) == 5, f"generated names: {names}")
    secret = client.V1Secret(metadata=client.V1ObjectMeta(name="s"), string_data={"password": "p"}, type="Opaque")
    expect(core.create_namespaced_secret(NAMESPACE, secret).data == {"password": "cA=="}, "stringData becomes data")
    body = client.V1Pod(metadata=client.V1ObjectMeta(name="bad"), spec=client.V1PodSpec(containers=[]))
    invalid = refused(422, core.create_namespaced_pod, NAMESPACE, body)
    expect("spec.containers" in invalid.body and "Required value" in invalid.body, invalid.body)
    token = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600))
    expect(core.create_namespaced_service_account_token("default", NAMESPACE, token).status.token.count(".") == 2, "a token")


def lists(core):
    page = core.list_namespaced_config_map(NAMESPACE, limit=2)
    seen = [item.metadata.name for item in page.items]
    while page.metadata._continue:
        page = core.list_namespaced_config_map(NAMESPACE, limit=2, _continue=page.metadata._continue)
        seen += [item.metadata.name for item in page.items]
    everything = [item.metadata.name for item in core.list_namespaced_config_map(NAMESPACE).items]
    expect(seen == everything, f"pages {seen} make up the list {everything}")
    one = core.list_namespaced_config_map(NAMESPACE, field_selector=f"metadata.name={seen[0]}")
    expect(len(one.items) == 1, "a field selector")
    expect(core.list_namespaced_config_map(NAMESPACE, label_selector="no=such").items == [], "a label selector")


def patches(core, api_client):
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="patched", labels={"a": "1"}), data={"x": "1", "y": "2"})
    core.create_namespaced_config_map(NAMESPACE, body)
    patched = core.patch_namespaced_config_map("patched", NAMESPACE, {"data": {"x": None, "z": "3"}})
    expect(patched.data == {"y": "2", "z": "3"}, f"strategic merge: {patched.data}")
    operations = [{"op": "replace", "path": "/data/y", "value": "4"}]
    expect(core.patch_namespaced_config_map("patched", NAMESPACE, operations).data["y"] == "4", "a JSON patch")
    apply = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "patched"}, "data": {"y": "5"}}
    kind = {"_content_type": "application/apply-patch+yaml"}
    conflict = refused(409, core.patch_namespaced_config_map, "patched", NAMESPACE, apply, field_manager="py", **kind)
    expect("conflict" in conflict.body and ".data.y" in conflict.body, conflict.body)
    applied = core.patch_namespaced_config_map("patched", NAMESPACE, apply, field_manager="py", force=True, **kind)
    expect(applied.data == {"y": "5", "z": "3"}, f"apply: {applied.data}")
    manager = [m for m in applied.metadata.managed_fields if m.manager == "py"]
    expect(manager and manager[0].operation == "Apply", "the applier is a manager")
    manifest = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "from-yaml"}, "spec": {"ports": [{"port": 80}]}}
    utils.create_from_dict(api_client, manifest, namespace=NAMESPACE)
    expect(core.read_namespaced_service("from-yaml", NAMESPACE).spec.cluster_ip.startswith("10.96."), "an address")


def watches(core):
    start = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": "seen"}, "data": {"n": "0"}})
    core.patch_namespaced_config_map("seen", NAMESPACE, {"data": {"n": "1"}})
    core.delete_namespaced_config_map("seen", NAMESPACE)
    types = []
    stream = watch.Watch()
    for event in stream.stream(core.list_namespaced_config_map, NAMESPACE, resource_version=start, timeout_seconds=60):
        expect(event["object"].metadata.name == "seen", f"an event of {event['object'].metadata.name}")
        types.append(event["type"])
        if event["type"] == "DELETED":
            stream.stop()
    expect(types == ["ADDED", "MODIFIED", "DELETED"], f"events: {types}")
    # A watch that ends by its time limit is no error.
    quiet = watch.Watch().stream(core.list_namespaced_secret, NAMESPACE, label_selector="no=such", timeout_seconds=1)
    expect(list(quiet) == [], "a quiet watch")


def schema():
    spec = {"type": "object", "required": ["size"], "properties": {"size": {"type": "integer", "minimum": 1}, "note": {"type": "string", "default": "none"}}}
    status = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
    return {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": status}}}


def custom_kinds(extensions, custom):
    names = client.V1CustomResourceDefinitionNames(plural="shelves", singular="shelf", kind="Shelf", short_names=["sh"])
    subresources = client.V1CustomResourceSubresources(status={})
    version = client.V1CustomResourceDefinitionVersion(name="v1", served=True, storage=True, schema=schema(), subresources=subresources)
    spec = client.V1CustomResourceDefinitionSpec(group="python.example.com", scope="Namespaced", names=names, versions=[version])
    definition = client.V1CustomResourceDefinition(metadata=client.V1ObjectMeta(name="shelves.python.example.com"), spec=spec)
    extensions.create_custom_resource_definition(definition)
    for event in watch.Watch().stream(extensions.list_custom_resource_definition, field_selector="metadata.name=shelves.python.example.com", timeout_seconds=60):
        conditions = {c.type: c.status for c in event["object"].status.conditions or []}
        if conditions.get("Established") == "True":
            break
    where = ("python.example.com", "v1", NAMESPACE, "shelves")
    shelf = {"apiVersion": "python.example.com/v1", "kind": "Shelf", "metadata": {"name": "one"}, "spec": {"size": 2}}
    made = custom.create_namespaced_custom_object(*where, shelf)
    expect(made["spec"]["note"] == "none", "a default of the schema")
    refused(422, custom.patch_namespaced_custom_object, *where, "one", {"spec": {"size": 0}})
    custom.patch_namespaced_custom_object_status(*where, "one", {"status": {"ready": True}, "spec": {"size": 9}})
    read = custom.get_namespaced_custom_object(*where, "one")
    expect(read["status"]["ready"] is True and read["spec"]["size"] == 2, f"status apart from spec: {read}")
    expect(len(custom.list_cluster_custom_object("python.example.com", "v1", "shelves")["items"]) == 1, "a list over namespaces")


def dynamic_client(api_client):
    found = dynamic.DynamicClient(api_client)
    shelves = found.resources.get(api_version="python.example.com/v1", kind="Shelf")
    two = {"apiVersion": "python.example.com/v1", "kind": "Shelf", "metadata": {"name": "two"}, "spec": {"size": 1}}
    shelves.create(body=two, namespace=NAMESPACE)
    two["spec"]["note"] = "applied"
    applied = shelves.server_side_apply(body=two, namespace=NAMESPACE, field_manager="dynamic", force_conflicts=True)
    expect(applied.spec.note == "applied", "server-side apply of a custom object")
    for event in shelves.watch(namespace=NAMESPACE, name="two", timeout=60):
        expect(event["object"].metadata.name == "two", "the watched one")
        break
    shelves.delete(name="two", namespace=NAMESPACE)
    expect([item.metadata.name for item in shelves.get(namespace=NAMESPACE).items] == ["one"], "one is left")
    pods = found.resources.get(api_version="v1", kind="Pod")
    expect("exec" in pods.subresources and pods.namespaced, "subresources are discovered")


def leader_election():
    led = threading.Event()
    lock = LeaseLock("election", NAMESPACE, f"candidate-{uuid.uuid4()}")
    options = electionconfig.Config(lock, lease_duration=17, renew_deadline=15, retry_period=2, onstarted_leading=led.set, onstopped_leading=None)
    threading.Thread(target=leaderelection.LeaderElection(options).run, daemon=True).start()
    expect(led.wait(timeout=60), "somebody leads")
    lease = client.CoordinationV1Api().read_namespaced_lease("election", NAMESPACE)
    expect(lease.spec.holder_identity == lock.identity, f"held by {lease.spec.holder_identity}")


def the_end(core, apps):
    gone = core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="a=1")
    expect(gone is not None, "a collection is deleted")
    refused(404, core.read_namespaced_config_map, "patched", NAMESPACE)
    apps.delete_namespaced_deployment("web", NAMESPACE, propagation_policy="Foreground")
    start = core.list_namespace().metadata.resource_version
    core.delete_namespace(NAMESPACE)
    for event in watch.Watch().stream(core.list_namespace, field_selector=f"metadata.name={NAMESPACE}", resource_version=start, timeout_seconds=90):
        if event["type"] == "DELETED":
            break
    refused(404, core.read_namespace, NAMESPACE)


def main():
    config.load_kube_config()
    api_client = client.ApiClient()
    core, apps = client.CoreV1Api(), client.AppsV1Api()
    expect(client.VersionApi().get_code().minor == "36", "the version")
    typed_objects(core, apps)
    lists(core)
    patches(core, api_client)
    watches(core)
    custom_kinds(client.ApiextensionsV1Api(), client.CustomObjectsApi())
    dynamic_client(api_client)
    leader_election()
    the_end(core, apps)
    print("the python client is content")


if __name__ == "__main__":
    main()
