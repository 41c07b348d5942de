"""An aggregated API server as somebody else would write one: the group wardle.example.com with Flunders (in namespaces) and
Fischers, the kinds of Kubernetes' own sample API server. It keeps its objects in a file of its own and leaves to the cluster
what such servers leave to it: who somebody is (the front proxy's certificate, TokenReview) and what they may
(SubjectAccessReview). It shares no code with the server that it stands behind."""

import copy
import datetime
import http.server
import json
import os
import ssl
import sys
import threading
import urllib.parse
import uuid

from kubernetes import client, config

GROUP, VERSION = "wardle.example.com", "v1alpha1"
RESOURCES = {"flunders": ("Flunder", True, ["fl"]), "fischers": ("Fischer", False, [])}
VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"


class Refusal(Exception):
    def __init__(self, code, reason, message, details=None):
        super().__init__(message)
        self.status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        self.status.update({"message": message, "reason": reason, "details": details or {}, "code": code})


def not_found(resource, name):
    return Refusal(404, "NotFound", f'{resource}.{GROUP} "{name}" not found', {"name": name, "group": GROUP, "kind": resource})


def conflict(resource, name):
    text = f'Operation cannot be fulfilled on {resource}.{GROUP} "{name}": the object has been modified; please apply your changes'
    return Refusal(409, "Conflict", text + " to the latest version and try again", {"name": name, "group": GROUP, "kind": resource})


class Store:
    """Objects and what happened to them, under one lock. Only the objects outlive the process."""

    def __init__(self, path):
        self.path, self.changed = path, threading.Condition()
        self.objects, self.events, self.revision = {}, [], 1
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                kept = json.load(file)
            self.revision = kept["revision"]
            self.objects = {tuple(key): value for key, value in kept["objects"]}
        self.oldest = self.revision

    def put(self, key, kind, value):
        self.revision += 1
        value["metadata"]["resourceVersion"] = str(self.revision)
        self.events.append((self.revision, kind, key, copy.deepcopy(value)))
        if kind == "DELETED":
            del self.objects[key]
        else:
            self.objects[key] = value
        with open(self.path + ".new", "w", encoding="utf-8") as file:
            json.dump({"revision": self.revision, "objects": list(self.objects.items())}, file)
        os.replace(self.path + ".new", self.path)
        self.changed.notify_all()
        return value

    def get(self, key):
        if key not in self.objects:
            raise not_found(key[0], key[2])
        return self.objects[key]

    def list(self, resource, namespace, selects):
        wanted = lambda key, value: key[0] == resource and namespace in ("", key[1]) and selects(value)
        return [value for key, value in sorted(self.objects.items()) if wanted(key, value)]

    def create(self, key, value, user):
        if key in self.objects:
            details = {"name": key[2], "group": GROUP, "kind": key[0]}
            raise Refusal(409, "AlreadyExists", f'{key[0]}.{GROUP} "{key[2]}" already exists', details)
        if key[0] == "flunders":
            for fischer in self.list("fischers", "", lambda _: True):
                if key[2] in fischer.get("disallowedFlunders", []):
                    text = f'flunders.{GROUP} "{key[2]}" is forbidden: this name may not be used, please change the resource name'
                    raise Refusal(403, "Forbidden", text, {"name": key[2], "group": GROUP, "kind": "flunders"})
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        value["metadata"].update({"uid": str(uuid.uuid4()), "creationTimestamp": now})
        value["metadata"].setdefault("annotations", {})[f"{GROUP}/created-by"] = user
        return self.put(key, "ADDED", value)

    def update(self, key, value):
        before = self.get(key)
        told = value["metadata"].get("resourceVersion")
        if told and told != before["metadata"]["resourceVersion"]:
            raise conflict(key[0], key[2])
        for field in ("uid", "creationTimestamp", "deletionTimestamp"):
            if field in before["metadata"]:
                value["metadata"][field] = before["metadata"][field]
        for field in ("finalizers", "ownerReferences"):
            if not value["metadata"].get(field, True):
                del value["metadata"][field]
        if "deletionTimestamp" in value["metadata"] and not value["metadata"].get("finalizers"):
            return self.put(key, "DELETED", value)
        return self.put(key, "MODIFIED", value)

    def delete(self, key, options):
        value = copy.deepcopy(self.get(key))
        meta, asked = value["metadata"], options.get("preconditions") or {}
        if any(asked.get(field, meta[field]) != meta[field] for field in ("uid", "resourceVersion")):
            raise conflict(key[0], key[2])
        wanted = {"Foreground": [FOREGROUND], "Orphan": [ORPHAN]}.get(options.get("propagationPolicy"), [])
        finalizers = [f for f in meta.get("finalizers", []) if f not in (FOREGROUND, ORPHAN)] + wanted
        if not finalizers:
            self.put(key, "DELETED", value)
            return None
        if "deletionTimestamp" not in meta:
            now = datetime.datetime.now(datetime.timezone.utc)
            meta.update({"finalizers": finalizers, "deletionTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"), "deletionGracePeriodSeconds": 0})
            self.put(key, "MODIFIED", value)
        return value


def merged(value, patch):
    if not isinstance(patch, dict):
        return patch
    value = dict(value) if isinstance(value, dict) else {}
    for name, part in patch.items():
        if part is None:
            value.pop(name, None)
        else:
            value[name] = merged(value.get(name), part)
    return value


def selection(query):
    labels = [part.split("=") for part in query.get("labelSelector", "").replace("==", "=").split(",") if part]
    fields = [part.split("=") for part in query.get("fieldSelector", "").replace("==", "=").split(",") if part]

    def selects(value):
        meta = value["metadata"]
        known = {"metadata.name": meta["name"], "metadata.namespace": meta.get("namespace", "")}
        return all(meta.get("labels", {}).get(k) == v for k, v in labels) and all(known.get(k) == v for k, v in fields)

    return selects


def table(values, revision):
    columns = [{"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0}]
    columns.append({"name": "Created At", "type": "date", "format": "", "description": "", "priority": 0})
    rows = []
    for value in values:
        partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": value["metadata"]}
        rows.append({"cells": [value["metadata"]["name"], value["metadata"]["creationTimestamp"]], "object": partial})
    head = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": str(revision)}}
    return {**head, "columnDefinitions": columns, "rows": rows}


def definitions():
    """The types of both kinds for OpenAPI."""
    text = {"type": "string"}
    meta = {"kind": text, "apiVersion": text, "metadata": {"type": "object", "description": "Standard object metadata."}}
    spec = {"reference": {"type": "string", "description": "The name of another flunder."}, "referenceType": text}
    properties = {
        "Flunder": {"spec": {"type": "object", "description": "What the flunder refers to.", "properties": spec}},
        "Fischer": {"disallowedFlunders": {"type": "array", "description": "Names that flunders may not have.", "items": text}},
    }
    out = {}
    for kind, own in properties.items():
        known = [{"group": GROUP, "version": VERSION, "kind": kind}]
        described = {"type": "object", "description": f"{kind} is an example.", "properties": {**meta, **own}}
        out[f"com.example.wardle.v1alpha1.{kind}"] = {**described, "x-kubernetes-group-version-kind": known}
    return out


def paths(prefix):
    out = {}
    for resource, (kind, namespaced, _) in RESOURCES.items():
        path = f"/apis/{GROUP}/{VERSION}/{'namespaces/{namespace}/' if namespaced else ''}{resource}/{{name}}"
        known = {"group": GROUP, "version": VERSION, "kind": kind}
        schema = {"$ref": f"{prefix}com.example.wardle.v1alpha1.{kind}"}
        body = {"content": {"application/json": {"schema": schema}}} if "components" in prefix else {"schema": schema}
        about = {"responses": {"200": {"description": "OK", **body}}, "x-kubernetes-group-version-kind": known}
        strict = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
        out[path] = {
            "get": {**about, "x-kubernetes-action": "get"},
            "patch": {**about, "x-kubernetes-action": "patch", "parameters": [strict] if "components" in prefix else []},
        }
    return out


def check_fields(value):
    """What a client that asked for it (fieldValidation=Strict) is told of."""
    known = definitions()[f"com.example.wardle.v1alpha1.{value['kind']}"]["properties"]
    unknown = [name for name in value if name not in known]
    spec = known.get("spec", {}).get("properties", {})
    unknown += [f"spec.{name}" for name in value.get("spec", {}) if name not in spec]
    if unknown:
        listed = ", ".join(f'unknown field "{name}"' for name in unknown)
        text = f'{value["kind"]} in version "{VERSION}" cannot be handled as a {value["kind"]}: strict decoding error: {listed}'
        raise Refusal(400, "BadRequest", text)


def documents():
    resources = []
    for resource, (kind, namespaced, short) in RESOURCES.items():
        about = {"name": resource, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind, "verbs": VERBS}
        resources.append({**about, "shortNames": short} if short else about)
    version = {"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION}
    group = {"kind": "APIGroup", "apiVersion": "v1", "name": GROUP, "versions": [version], "preferredVersion": version}
    info = {"title": "wardle", "version": "v0"}
    own = f"apis/{GROUP}/{VERSION}"
    return {
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]},
        f"/apis/{GROUP}": group,
        f"/{own}": {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/{VERSION}", "resources": resources},
        "/openapi/v2": {"swagger": "2.0", "info": info, "paths": paths("#/definitions/"), "definitions": definitions()},
        "/openapi/v3": {"paths": {own: {"serverRelativeURL": f"/openapi/v3/{own}?hash=1"}}},
        f"/openapi/v3/{own}": {
            "openapi": "3.0.0",
            "info": info,
            "paths": paths("#/components/schemas/"),
            "components": {"schemas": definitions()},
        },
    }


class Delegate:
    """What is asked of the cluster."""

    def __init__(self, kubeconfig):
        api = config.new_client_from_config(kubeconfig)
        known = client.CoreV1Api(api).read_namespaced_config_map("extension-apiserver-authentication", "kube-system").data
        self.tokens, self.access = client.AuthenticationV1Api(api), client.AuthorizationV1Api(api)
        self.client_ca, self.proxy_ca = known["client-ca-file"], known["requestheader-client-ca-file"]
        self.proxy_names = json.loads(known["requestheader-allowed-names"])
        self.user_header = json.loads(known["requestheader-username-headers"])[0]
        self.group_header = json.loads(known["requestheader-group-headers"])[0]
        trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusted.load_verify_locations(cadata=self.proxy_ca)
        self.proxy_issuers = [ca["subject"] for ca in trusted.get_ca_certs()]

    def user(self, certificate, headers):
        if certificate:
            subject = dict(pair for part in certificate["subject"] for pair in part)
            if certificate["issuer"] in self.proxy_issuers:
                if subject.get("commonName") in self.proxy_names or not self.proxy_names:
                    return headers.get(self.user_header), headers.get_all(self.group_header, [])
            else:
                groups = [value for part in certificate["subject"] for name, value in part if name == "organizationName"]
                return subject["commonName"], groups
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if scheme == "Bearer":
            review = self.tokens.create_token_review({"spec": {"token": token}})
            if review.status.authenticated:
                return review.status.user.username, review.status.user.groups
            raise Refusal(401, "Unauthorized", "Unauthorized")
        return "system:anonymous", ["system:unauthenticated"]

    def check(self, user, groups, verb, resource, namespace, name):
        if "system:masters" in groups:
            return
        about = {"group": GROUP, "version": VERSION, "resource": resource, "verb": verb, "namespace": namespace, "name": name}
        review = self.access.create_subject_access_review({"spec": {"user": user, "groups": groups, "resourceAttributes": about}})
        if not review.status.allowed:
            where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
            text = f'User "{user}" cannot {verb} resource "{resource}" in API group "{GROUP}"{where}'
            raise Refusal(403, "Forbidden", f"{resource}.{GROUP} is forbidden: {text}", {"group": GROUP, "kind": resource})


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store = delegate = None

    def setup(self):
        self.request.do_handshake()
        super().setup()

    def log_message(self, format, *args):
        sys.stderr.write(f"{self.command} {self.path} {args}\n")

    def send(self, code, value):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        out = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            out += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return out

    def answer(self):
        try:
            body = self.body()
            self.route(json.loads(body) if body else {})
        except Refusal as refusal:
            self.send(refusal.status["code"], refusal.status)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def route(self, body):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        known = documents()
        if url.path in ("/healthz", "/readyz", "/livez"):
            return self.send(200, "ok")
        user, groups = self.delegate.user(self.request.getpeercert(), self.headers)
        if url.path.rstrip("/") in known:
            return self.send(200, known[url.path.rstrip("/")])
        parts = url.path.removeprefix(f"/apis/{GROUP}/{VERSION}/").split("/")
        namespace = ""
        if parts[0] == "namespaces" and len(parts) > 2:
            namespace, parts = parts[1], parts[2:]
        if url.path.count(f"/apis/{GROUP}/{VERSION}/") != 1 or parts[0] not in RESOURCES or len(parts) > 2:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        resource, name = parts[0], parts[1] if len(parts) == 2 else ""
        watches = query.get("watch") in ("1", "true")
        reading = ("get" if name else "watch" if watches else "list")
        removing = "delete" if name else "deletecollection"
        verb = {"GET": reading, "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": removing}[self.command]
        self.delegate.check(user, groups, verb, resource, namespace, name)
        getattr(self, verb)((resource, namespace, name), query, body, user)

    def show(self, code, value):
        if "as=Table" in self.headers.get("Accept", ""):
            value = table([value], value["metadata"]["resourceVersion"])
        self.send(code, value)

    def get(self, key, query, body, user):
        with self.store.changed:
            value = self.store.get(key)
        self.show(200, value)

    def list(self, key, query, body, user):
        with self.store.changed:
            values, revision = self.store.list(key[0], key[1], selection(query)), self.store.revision
        if "as=Table" in self.headers.get("Accept", ""):
            return self.send(200, table(values, revision))
        head = {"kind": RESOURCES[key[0]][0] + "List", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {"resourceVersion": str(revision)}}
        self.send(200, {**head, "items": values})

    def create(self, key, query, body, user):
        kind = RESOURCES[key[0]][0]
        if (body.get("kind"), body.get("apiVersion")) != (kind, f"{GROUP}/{VERSION}"):
            raise Refusal(400, "BadRequest", f"the object is not a {kind} of {GROUP}/{VERSION}")
        if query.get("fieldValidation") == "Strict":
            check_fields(body)
        meta = body["metadata"]
        if key[1]:
            meta["namespace"] = key[1]
        if "name" not in meta:
            meta["name"] = meta.get("generateName", "") + uuid.uuid4().hex[:5]
        with self.store.changed:
            made = self.store.create((key[0], key[1], meta["name"]), body, user)
        self.show(201, made)

    def update(self, key, query, body, user):
        with self.store.changed:
            made = self.store.update(key, body)
        self.show(200, made)

    def patch(self, key, query, body, user):
        if "merge-patch+json" not in self.headers.get("Content-Type", ""):
            raise Refusal(415, "UnsupportedMediaType", "the body of the request was in an unknown format - accepted media types include: application/merge-patch+json")
        with self.store.changed:
            made = self.store.update(key, merged(copy.deepcopy(self.store.get(key)), body))
        self.show(200, made)

    def delete(self, key, query, body, user):
        body.setdefault("propagationPolicy", query.get("propagationPolicy"))
        with self.store.changed:
            uid, left = self.store.get(key)["metadata"]["uid"], self.store.delete(key, body)
        details = {"name": key[2], "group": GROUP, "kind": key[0], "uid": uid}
        self.send(200, left or {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})

    def deletecollection(self, key, query, body, user):
        with self.store.changed:
            values = copy.deepcopy(self.store.list(key[0], key[1], selection(query)))
            for value in values:
                self.store.delete((key[0], value["metadata"].get("namespace", ""), value["metadata"]["name"]), body)
        self.send(200, {"kind": RESOURCES[key[0]][0] + "List", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}, "items": values})

    def watch(self, key, query, body, user):
        with self.store.changed:
            values, position = self.store.list(key[0], key[1], selection(query)), self.store.revision
            asked = int(query.get("resourceVersion") or 0)
        streaming = query.get("sendInitialEvents") == "true"
        started = [("ADDED", value) for value in values] if streaming or not asked else []
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if asked and not streaming and asked < self.store.oldest:
            gone = Refusal(410, "Expired", f"too old resource version: {asked} ({self.store.oldest})")
            self.tell("ERROR", gone.status)
            return self.wfile.write(b"0\r\n\r\n")
        try:
            for kind, value in started:
                self.tell(kind, value)
            if streaming:
                meta = {"resourceVersion": str(position), "annotations": {"k8s.io/initial-events-end": "true"}}
                mark = {"kind": RESOURCES[key[0]][0], "apiVersion": f"{GROUP}/{VERSION}", "metadata": meta}
                self.tell("BOOKMARK", mark)
            self.follow(key, selection(query), position if streaming or not asked else asked)
        except OSError:
            self.close_connection = True

    def follow(self, key, selects, position):
        while True:
            with self.store.changed:
                self.store.changed.wait_for(lambda: self.store.revision > position)
                news = [event for event in self.store.events if event[0] > position]
                position = self.store.revision
            for _, kind, at, value in news:
                if at[0] == key[0] and key[1] in ("", at[1]) and selects(value):
                    self.tell(kind, value)

    def tell(self, kind, value):
        if "as=Table" in self.headers.get("Accept", "") and kind != "ERROR":
            value = table([value], value["metadata"]["resourceVersion"])
        line = json.dumps({"type": kind, "object": value}).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.flush()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def get_request(self):
        stream, address = self.socket.accept()
        return self.tls.wrap_socket(stream, server_side=True, do_handshake_on_connect=False), address


def main(folder, port):
    Handler.delegate = Delegate(os.path.join(folder, "kubeconfig"))
    Handler.store = Store(os.path.join(folder, "objects"))
    server = Server(("127.0.0.1", port), Handler)
    server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.tls.load_cert_chain(os.path.join(folder, "tls.crt"), os.path.join(folder, "tls.key"))
    server.tls.verify_mode = ssl.CERT_OPTIONAL
    server.tls.load_verify_locations(cadata=Handler.delegate.proxy_ca)
    server.tls.load_verify_locations(cadata=Handler.delegate.client_ca)
    print(f"serving on {server.server_address[1]}", flush=True)
    server.serve_forever()


main(sys.argv[1], int(sys.argv[2]))
