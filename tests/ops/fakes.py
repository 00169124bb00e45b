"""A stage for the ops commands: fake programs, and a Kubernetes API on a real socket.

The fake programs are executables on PATH. Each appends its argument list to one log, and fails
where a test said so. `helm` keeps releases as Helm does (status, revisions, values), in files. The
API server makes RayServices, RayClusters, pods and Services of those files as KubeRay 1.7 does:
each look at a RayService is one of its reconciliations.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.support.paths import ROOT

PROGRAM = """#!{python} -IS
import json, os, pathlib, signal, sys, time
stage = pathlib.Path({stage!r})
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
given = "" if sys.stdin is None or name != "docker" or "login" not in words else sys.stdin.read()
with open(stage / "calls", "a") as log:
    log.write(json.dumps([name, *words]) + "\\n")
    if given:
        log.write(json.dumps(["(stdin)", given]) + "\\n")
failures = stage / "failures"
for line in failures.read_text().splitlines() if failures.exists() else []:
    if all(word in [name, *words, "interrupt"] for word in line.split()):
        rest = [l for l in failures.read_text().splitlines() if l != line]
        failures.write_text("\\n".join(rest))
        if "interrupt" in line.split():
            os.kill(os.getppid(), signal.SIGINT)  # as Ctrl-C, which the whole terminal gets
            time.sleep(5)
        if name == "helm" and "upgrade" in words:
            release = next(w for w in words[1:] if w[0] != "-")
            file = stage / "releases" / (release + ".json")
            empty = dict(version=0, config=dict(), history=dict())
            old = json.loads(file.read_text()) if file.exists() else empty
            old["info"] = dict(status="pending-upgrade" if old["version"] else "pending-install")
            old["version"] += 1
            file.write_text(json.dumps(old))
        sys.exit(3)
answers = stage / "answers"

def put(config, path, value):
    keys = [k.replace("\\0", ".") for k in path.replace("\\\\.", "\\0").split(".")]
    for key in keys[:-1]:
        config = config.setdefault(key, dict())
    config[keys[-1]] = value

def merge(base, over):
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        base[key] = merge(base[key], value) if both else value
    return base

if name == "helm" and words[0] == "version":
    said = answers / "helm-version"
    print(said.read_text() if said.exists() else "v4.0.1")
elif name == "helm" and words[0] == "status":
    file = stage / "releases" / (words[1] + ".json")
    if not file.exists():
        print("Error: release: not found", file=sys.stderr)
        sys.exit(1)
    print(file.read_text())
elif name == "helm" and words[0] == "upgrade":
    release = next(w for w in words[1:] if w[0] != "-")
    file = stage / "releases" / (release + ".json")
    old = json.loads(file.read_text()) if file.exists() else dict(version=0, history=dict())
    if old.get("info", dict()).get("status", "").startswith("pending-"):
        print("Error: another operation is in progress", file=sys.stderr)
        sys.exit(1)
    if not old["version"] and "--install" not in words:
        print("Error: UPGRADE FAILED: no deployed releases", file=sys.stderr)
        sys.exit(1)
    config = json.loads(json.dumps(old["config"])) if "--reuse-values" in words else dict()
    for i, word in enumerate(words):
        if word == "--values":
            file_values = stage / "values" / os.path.basename(words[i + 1])
            config = merge(config, json.loads(file_values.read_text()))
        elif word == "--set-string":
            put(config, *words[i + 1].split("=", 1))
        elif word == "--set-json":
            key, _, value = words[i + 1].partition("=")
            put(config, key, json.loads(value))
    version = old["version"] + 1
    file.write_text(json.dumps(dict(
        name=release, version=version, info=dict(status="deployed"), config=config, content=version,
        history=old["history"] | {{str(version): [config, version]}})))
elif name == "helm" and words[0] == "rollback":
    file = stage / "releases" / (words[1] + ".json")
    old = json.loads(file.read_text())
    if words[2].isdigit():
        # The manifest of that revision, with the number it was rendered with.
        old["config"], old["content"] = old["history"][words[2]]
    old["info"], old["version"] = dict(status="deployed"), old["version"] + 1
    old["history"][str(old["version"])] = [old["config"], old["content"]]
    file.write_text(json.dumps(old))
elif name == "helm" and words[0] == "history":
    file = stage / "releases" / (words[1] + ".json")
    if not file.exists():
        sys.exit(1)
    revisions = list(json.loads(file.read_text())["history"])
    print(json.dumps([
        dict(revision=int(r), status="deployed" if r == revisions[-1] else "superseded")
        for r in revisions]))
elif name == "helm" and words[:2] == ["get", "values"]:
    old = json.loads((stage / "releases" / (words[2] + ".json")).read_text())
    print(json.dumps(old["history"][words[words.index("--revision") + 1]][0]))
elif name == "helm" and words[0] == "uninstall":
    (stage / "releases" / (words[1] + ".json")).unlink(missing_ok=True)
elif name == "terraform" and "init" in words and (answers / "outputs-after-init").exists():
    (answers / "outputs").write_text((answers / "outputs-after-init").read_text())
elif name == "terraform" and "output" in words:
    print((answers / "outputs").read_text() if (answers / "outputs").exists() else "{{}}")
elif name == "terraform" and "apply" in words:
    (answers / "outputs").write_text((answers / "outputs-after-apply").read_text())
elif name == "terraform" and "list" in words:
    print((answers / "state").read_text() if (answers / "state").exists() else "aws_vpc.this")
elif name == "git" and "rev-parse" in words:
    print("abcdef123456")
elif name == "git" and "status" in words:
    print((answers / "git-status").read_text() if (answers / "git-status").exists() else "", end="")
"""


@functools.cache
def _values(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


class Stage:
    """Everything outside the process that the ops commands meet, but AWS (which moto plays)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        for part in ("bin", "releases", "answers", "values"):
            (folder / part).mkdir()
        for file in (ROOT / "helm" / "plainmed").glob("values-*.yaml"):
            (folder / "values" / file.name).write_text(json.dumps(_values(file)))
        for name in ("helm", "terraform", "docker", "aws", "git"):
            self.add_program(name)
        repository = "123456789012.dkr.ecr.us-east-1.amazonaws.com/plainmed-dev"
        outputs = {
            "cluster_name": "plainmed-dev",
            "vpc_id": "vpc-1",
            "image_repositories": {t: f"{repository}/{t}" for t in ("cpu", "gpu", "vllm")},
        }
        text = json.dumps({name: {"value": value} for name, value in outputs.items()})
        (folder / "answers" / "outputs-after-apply").write_text(text)

    def add_program(self, name: str) -> None:
        program = self.bin / name
        program.write_text(PROGRAM.format(python=sys.executable, stage=str(self.folder)))
        program.chmod(0o755)

    def built(self) -> None:
        """Infrastructure that is there already."""
        answers = self.folder / "answers"
        (answers / "outputs").write_text((answers / "outputs-after-apply").read_text())

    def answer(self, name: str, text: str) -> None:
        (self.folder / "answers" / name).write_text(text)

    def fail_once(self, words: str) -> None:
        """The next call that holds all these words fails (a helm upgrade as if it were cut off).

        With the word `interrupt`, the call first sends this process what Ctrl-C does.
        """
        with (self.folder / "failures").open("a") as file:
            file.write(words + "\n")

    def calls(self, program: str | None = None) -> list[list[str]]:
        log = self.folder / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        return [c for c in map(json.loads, lines) if program is None or c[0] == program]

    def snapshot(self) -> dict[str, str]:
        """What the fake programs remember, by file name."""
        files = [f for part in ("releases", "answers") for f in (self.folder / part).iterdir()]
        return {str(file.relative_to(self.folder)): file.read_text() for file in files}

    def restore(self, remembered: dict[str, str]) -> None:
        """Makes the fake programs remember what a snapshot holds."""
        for name, text in remembered.items():
            (self.folder / name).write_text(text)

    def forget_calls(self) -> None:
        (self.folder / "calls").unlink(missing_ok=True)

    def release(self, name: str) -> dict[str, Any] | None:
        file = self.folder / "releases" / f"{name}.json"
        return json.loads(file.read_text()) if file.exists() else None

    def changing(self) -> list[list[str]]:
        """The calls that would have changed something."""
        reading = {"version", "status", "output", "rev-parse", "list", "history", "get"}
        return [c for c in self.calls() if not reading & set(c) and c[0] != "git"]


class Cluster:
    """A Kubernetes API server: enough HTTP and JSON for what the ops commands ask."""

    def __init__(self, stage: Stage, kubeconfig: Path) -> None:
        self.stage = stage
        self.crd: dict[str, Any] | None = crd()
        self.namespace_left = 2  # looks until a deleted namespace is gone
        self.deleted = False
        self.namespace: dict[str, Any] | None = None
        self.redis: dict[str, Any] | None = service("plainmed-redis", 6379, "ClusterIP")
        self.redis_ready = True
        self.redis_secret: dict[str, Any] | None = {"data": {"password": "eA=="}}
        self.keys_secret: dict[str, Any] | None = {"data": {"keys.json": "e30="}}
        self.kuberay: dict[str, KubeRay] = {}  # by release
        self.room = True  # for a second cluster
        self.broken: dict[str, str] = {}  # what Serve says of an image tag that cannot start
        self.patch: dict[str, dict[str, Any]] = {}  # by release: over its RayService's status
        self.pods: dict[str, list[dict[str, Any]]] = {}  # by release: instead of a ready worker
        self.events: list[dict[str, Any]] = []
        self.log_end = ""  # of every line of a log
        self.refuse = 0
        self.requests: list[str] = []
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{self.server.server_address[1]}"
        context = {"name": "plainmed-dev", "context": {"cluster": "c", "user": "u"}}
        kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": {"server": url}}],
                    "users": [{"name": "u", "user": {}}],
                    "contexts": [context],
                    "current-context": "plainmed-dev",
                }
            )
        )

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _releases(self) -> dict[str, dict[str, Any]]:
        names = [p.stem for p in (self.stage.folder / "releases").glob("plainmed-*.json")]
        return {name: data for name in names if (data := self.stage.release(name))}

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Any:
        """The answer's JSON, text, or None for 404."""
        releases = self._releases()
        parts = path.strip("/").split("/")
        if path.startswith("/version"):
            return {"major": "1", "minor": "35", "gitVersion": "v1.35.0"} | dict.fromkeys(
                ("buildDate", "compiler", "gitCommit", "gitTreeState", "goVersion", "platform"), "x"
            )
        if parts[-2:] == ["customresourcedefinitions", "rayservices.ray.io"]:
            return self.crd
        if "rayservices" in parts:
            name = parts[parts.index("rayservices") + 1]
            if name not in releases:
                self.kuberay.pop(name, None)
                return None
            if method == "PATCH":
                return self.kuberay[name].patched(parts[-1] == "status", body)
            return self.rayservice(name, releases[name])
        if "rayclusters" in parts:
            made = [one.cluster(parts[-1]) for one in self.kuberay.values()]
            return next(filter(None, made), None)
        if parts[-1] == "log":
            return "".join(f"line {n} of {query['container'][0]}{self.log_end}\n" for n in range(3))
        if parts[-1] == "pods":
            release = query["labelSelector"][0].partition("=")[2]
            return {"kind": "PodList", "apiVersion": "v1", "items": self.pods_of(release)}
        if parts[-1] == "events":
            return {"kind": "EventList", "apiVersion": "v1", "items": self.events}
        if parts[-1] == "endpointslices":
            ready = {"addresses": ["10.0.0.1"], "conditions": {"ready": self.redis_ready}}
            one = {"metadata": {"name": "r"}, "addressType": "IPv4", "endpoints": [ready]}
            return {"kind": "EndpointSliceList", "items": [one]}
        if parts[-2:] == ["secrets", "plainmed-redis"]:
            return self.redis_secret
        if parts[-2:] == ["secrets", "plainmed-api-keys"]:
            return self.keys_secret
        if parts[-2:] == ["services", "plainmed-redis"]:
            return self.redis
        if "services" in parts:
            if parts[-1] == "services":
                return {"kind": "ServiceList", "items": [service(n) for n in releases]}
            return service(parts[-1]) if parts[-1] in releases else None
        if path == "/api/v1/namespaces" and method == "POST":
            self.namespace = body
        elif path != "/api/v1/namespaces/plainmed":
            return None
        if method == "PATCH" and self.namespace is not None:
            self.namespace["metadata"]["labels"] |= body["metadata"]["labels"]
        self.deleted = self.deleted or method == "DELETE"
        if self.deleted:
            self.namespace_left -= 1
        return None if self.namespace_left < 0 else self.namespace

    def settle(self) -> None:
        """Every release ready or stopped, and recorded, as the verb that made it leaves it."""
        for name, data in self._releases().items():
            for _ in range(3):
                self.rayservice(name, data)
            if not data["config"].get("suspend"):
                self.kuberay[name].annotations["plainmed.io/ready-revisions"] = str(data["version"])

    def rayservice(self, name: str, data: dict[str, Any]) -> dict[str, Any]:
        controller = self.kuberay.setdefault(name, KubeRay(name))
        found = controller.reconciled(data, self.room, self.broken)
        return found | {"status": found["status"] | self.patch.get(name, {})}

    def pods_of(self, release: str) -> list[dict[str, Any]]:
        data = self.stage.release(release)
        if data is None or data["config"].get("suspend"):
            return []
        return self.pods.get(release, [pod(f"{release}-worker-1")])

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        cluster = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else 40 ms between head and body

            def _answer(self) -> None:
                cluster.requests.append(f"{self.command} {self.path}")
                if self.command == "PATCH":
                    assert self.headers["Content-Type"] in PATCHES
                split = urlsplit(self.path)
                if cluster.refuse:
                    found, code = {"kind": "Status", "reason": "Forbidden"}, cluster.refuse
                else:
                    given = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                    body = json.loads(given) if given else None
                    found = cluster.answer(self.command, split.path, parse_qs(split.query), body)
                    code = 404 if found is None else 200
                text = found if isinstance(found, str) else json.dumps(found or {"code": 404})
                answer = text.encode()
                self.send_response(code)
                kind = "text/plain" if isinstance(found, str) else "application/json"
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_DELETE = do_POST = do_PATCH = _answer

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


# What an API server takes of a custom resource; a JSON patch would be a list.
PATCHES = ("application/merge-patch+json", "application/strategic-merge-patch+json")
READY_ON_HEAD = "plainmed.io/serve-config"
HASH = "ray.io/hash-without-replicas-and-workers-to-delete"


class KubeRay:
    """What KubeRay 1.7 makes of one RayService: `shouldPrepareNewCluster`, the order of its steps,
    and the fields of its status (`controllers/ray/rayservice_controller.go`).

    A change is seen one look after it was made. Applications are read before a new Serve
    configuration is sent, so the first state after a change is the old one.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.annotations: dict[str, str] = {}
        self.generation = self.observed = self.made = 0
        self.spec: dict[str, Any] = {}
        self.active: dict[str, Any] | None = None
        self.pending: dict[str, Any] | None = None
        self.reason = "Initializing"

    def reconciled(
        self, data: dict[str, Any], room: bool, broken: Mapping[str, str]
    ) -> dict[str, Any]:
        config = data["config"]
        spec = self._spec(config)
        self.annotations |= {"plainmed.io/revision": str(data["content"])}
        if spec != self.spec:
            self.spec, self.generation = spec, self.generation + 1  # not seen yet
        elif self.reason != "InitializingTimeout" or spec["suspend"]:
            self.observed = self.generation
            self._step(config, room, broken)
        return {
            "apiVersion": "ray.io/v1",
            "kind": "RayService",
            "metadata": {
                "name": self.name,
                "generation": self.generation,
                "annotations": dict(self.annotations),
            },
            "spec": spec,
            "status": self._status(config, broken),
        }

    def _spec(self, config: dict[str, Any]) -> dict[str, Any]:
        rest = {key: value for key, value in config.items() if key != "suspend"}
        config_hash = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]
        head = {"metadata": {"annotations": {READY_ON_HEAD: config_hash}}}
        cluster: dict[str, Any] = {"headGroupSpec": {"template": head}}
        if (config.get("gcsFaultTolerance") or {}).get("enabled"):
            cluster["gcsFaultToleranceOptions"] = {"redisAddress": "plainmed-redis:6379"}
        return {"suspend": bool(config.get("suspend")), "rayClusterConfig": cluster}

    def _step(self, config: dict[str, Any], room: bool, broken: Mapping[str, str]) -> None:
        if self.spec["suspend"]:
            self.active = self.pending = None
            self.reason = "SuspendComplete"
            return
        if self.pending is not None and self._hash(self.pending) == self._goal():
            if room and _tag(config) not in broken:
                self.active, self.pending = self.pending, None
            return
        compared = self.pending or self.active
        if compared is None or self._hash(compared) != self._goal():
            self.made += 1
            self.pending = {
                "metadata": {
                    "name": f"{self.name}-{self.made:05x}",
                    "annotations": dict(self.annotations) | {HASH: self._goal()},
                },
                "spec": self.spec["rayClusterConfig"],
            }

    def _goal(self) -> str:
        text = json.dumps(self.spec["rayClusterConfig"], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @staticmethod
    def _hash(cluster: dict[str, Any]) -> str:
        return cluster["metadata"]["annotations"][HASH]

    def _status(self, config: dict[str, Any], broken: Mapping[str, str]) -> dict[str, Any]:
        serving = self.active is not None
        both = serving and self.pending is not None
        self.reason = "NonZeroServeEndpoints" if serving else self.reason
        upgrading = "BothActivePendingClustersExist" if both else "NoPendingCluster"
        status: dict[str, Any] = {
            "observedGeneration": self.observed,
            "numServeEndpoints": int(serving),
            "conditions": [
                {"type": "Ready", "status": str(serving), "reason": self.reason},
                {"type": "UpgradeInProgress", "status": str(both), "reason": upgrading},
            ],
        }
        counts = {"readyWorkerReplicas": 1, "desiredWorkerReplicas": 1}
        if self.active is not None:
            status["activeServiceStatus"] = {
                "rayClusterName": self.active["metadata"]["name"],
                "rayClusterStatus": counts,
            }
            if self.pending is None:  # during an upgrade KubeRay asks the new cluster alone
                status["activeServiceStatus"]["applicationStatuses"] = {
                    "plainmed": application("RUNNING")
                }
        if self.pending is not None:
            status["pendingServiceStatus"] = {"rayClusterName": self.pending["metadata"]["name"]}
            said = broken.get(_tag(config))
            if said is not None:
                status["pendingServiceStatus"]["applicationStatuses"] = {
                    "plainmed": application("DEPLOY_FAILED", said)
                }
        return status

    def cluster(self, name: str) -> dict[str, Any] | None:
        return next(
            (c for c in (self.active, self.pending) if c and c["metadata"]["name"] == name), None
        )

    def patched(self, status: bool, body: dict[str, Any]) -> dict[str, Any]:
        """A merge patch: of the status where the path says so, else of everything but it."""
        if status:
            assert body == {"status": {"pendingServiceStatus": None}}
            self.pending = None
        else:
            self.annotations |= body["metadata"]["annotations"]
        return {"kind": "RayService"}


def _tag(config: dict[str, Any]) -> str:
    return str(config["image"]["tag"])


def application(status: str, message: str = "") -> dict[str, Any]:
    """One entry of applicationStatuses."""
    gateway = {"status": "HEALTHY" if status == "RUNNING" else "UPDATING", "message": ""}
    return {
        "status": status,
        "message": message,
        "serveDeploymentStatuses": {"Gateway": gateway},
    }


def crd(*, suspend: bool = True) -> dict[str, Any]:
    fields = {"serveConfigV2": {}, **({"suspend": {}} if suspend else {})}
    schema = {"openAPIV3Schema": {"properties": {"spec": {"properties": fields}}}}
    return {
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "rayservices.ray.io"},
        "spec": {"versions": [{"name": "v1", "served": True, "schema": schema}]},
    }


def pod(name: str, *, waiting: tuple[str, str] | None = None, unscheduled: str = "") -> Any:
    ready = "False" if waiting or unscheduled else "True"
    conditions = [{"type": "Ready", "status": ready}]
    if unscheduled:
        conditions.append(
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": unscheduled,
            }
        )
    state = {"waiting": {"reason": waiting[0], "message": waiting[1]}} if waiting else {}
    container = {
        "name": "ray-worker",
        "image": "repository:tag",
        "imageID": "",
        "ready": not waiting,
        "restartCount": 0,
        "state": state or {"running": {}},
    }
    return {
        "metadata": {"name": name, "labels": {"ray.io/group": "generator"}},
        "spec": {"containers": [{"name": "ray-worker"}]},
        "status": {
            "phase": "Pending" if ready == "False" else "Running",
            "conditions": conditions,
            "containerStatuses": [] if unscheduled else [container],
        },
    }


def event(about: str, reason: str, message: str, kind: str = "Warning") -> dict[str, Any]:
    return {
        "metadata": {"name": f"{about}.1", "namespace": "plainmed"},
        "involvedObject": {"kind": "RayService", "name": about},
        "reason": reason,
        "message": message,
        "type": kind,
        "lastTimestamp": "2026-11-22T12:00:00Z",
    }


def service(name: str, port: int = 0, kind: str = "LoadBalancer") -> dict[str, Any]:
    port = port or (8001 if name.endswith("metrics") else 8000)
    host = f"{name}.elb.us-east-1.amazonaws.com"
    return {
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"type": kind, "ports": [{"port": port}]},
        "status": {"loadBalancer": {"ingress": [{"hostname": host}]}},
    }
