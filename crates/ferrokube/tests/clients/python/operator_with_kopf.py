"""An operator of a custom kind as kopf's users write them: it makes a ConfigMap per Note, keeps it in step, counts with a
timer, and cleans up in a finalizer. Run by `kopf run`; the test beside it makes Notes and looks at what comes of them."""

import kopf
import kubernetes

GROUP, VERSION, PLURAL = "kopf.example.com", "v1", "notes"


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_):
    kubernetes.config.load_kube_config()
    settings.posting.level = 20
    settings.persistence.finalizer = "kopf.example.com/finalizer"
    settings.watching.server_timeout = 30  # Watches end and go on while the test runs.


@kopf.on.create(GROUP, VERSION, PLURAL)
def created(name, namespace, spec, patch, **_):
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"note-{name}"}, "data": {"text": spec["text"]}}
    kopf.adopt(body)
    kubernetes.client.CoreV1Api().create_namespaced_config_map(namespace, body)
    patch.status["phase"] = "Written"
    return {"configMap": body["metadata"]["name"]}


@kopf.on.update(GROUP, VERSION, PLURAL, field="spec.text")
def updated(name, namespace, old, new, patch, **_):
    kubernetes.client.CoreV1Api().patch_namespaced_config_map(f"note-{name}", namespace, {"data": {"text": new}})
    patch.status["was"] = old


@kopf.on.resume(GROUP, VERSION, PLURAL)
def resumed(patch, **_):
    patch.status["resumed"] = True


@kopf.on.create(GROUP, VERSION, PLURAL, id="flaky", backoff=0.1)
def flaky(retry, **_):
    if retry < 2:
        raise kopf.TemporaryError("not yet", delay=0.1)
    return retry


@kopf.timer(GROUP, VERSION, PLURAL, interval=0.5)
def tick(status, patch, **_):
    if status.get("ticks", 0) < 3:
        patch.status["ticks"] = status.get("ticks", 0) + 1


@kopf.on.delete(GROUP, VERSION, PLURAL)
def deleted(name, namespace, spec, **_):
    body = {"metadata": {"name": f"farewell-{name}"}, "data": {"text": spec["text"]}}
    kubernetes.client.CoreV1Api().create_namespaced_config_map(namespace, body)
