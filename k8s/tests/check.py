#!/usr/bin/env python3
"""What `k8s/test` checks of the chart, the mixin, the agents and the Terraform module.

Prints one line for each check that passed and ends with `N passed, N failed`.
"""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import hcl2
import kubernetes_validate
import yaml

K8S = Path(__file__).resolve().parent.parent
ROOT = K8S.parent
KUBERNETES = "1.34.3"
NEEDED = {"config.kafka.brokers": "kafka:9092", "config.store.s3.bucket": "b"}
passed, failed = 0, []


def check(name, problem):
    global passed
    if problem:
        failed.append(name)
        print(f"FAILED {name}: {problem}")
    else:
        passed += 1


def helm(values=None, size=None, needed=True):
    command = ["helm", "template", "m", str(K8S / "chart"), "--namespace", "logs", "--kube-version", KUBERNETES]
    if size:
        command += ["-f", str(K8S / f"chart/sizes/{size}.yaml")]
    for key, value in {**(NEEDED if needed else {}), **(values or {})}.items():
        command += ["--set-json", f"{key}={json.dumps(value)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def resources(text):
    return [resource for resource in yaml.safe_load_all(text) if resource]


def find(all_resources, kind, name):
    return next(r for r in all_resources if r["kind"] == kind and r["metadata"]["name"] == name)


def validate(resource):
    """Built-in kinds against Kubernetes' own schemas; others need an apiVersion with a group."""
    api = resource["apiVersion"]
    if "." in api and not api.split("/")[0].endswith("k8s.io") or api.startswith(("gateway.networking", "autoscaling.k8s")):
        return None if "/" in api and resource.get("spec") else "a custom resource without group or spec"
    try:
        kubernetes_validate.validate(resource, "1.34", strict=True)
    except Exception as error:  # noqa: BLE001  (the library raises several kinds)
        return str(error)
    return None


def pod_rules(resource):
    """What every pod of ours must have (the Pod Security Standard "restricted", and what drains need)."""
    template = resource.get("spec", {}).get("template", {})
    spec = template.get("spec")
    if not spec:
        return None
    problems = []
    if spec.get("enableServiceLinks") is not False:
        problems.append("enableServiceLinks is not false")
    if spec.get("automountServiceAccountToken") is not False:
        problems.append("mounts an API token")
    if not spec["securityContext"].get("runAsNonRoot"):
        problems.append("may run as root")
    for container in spec["containers"]:
        context = container["securityContext"]
        if not context["readOnlyRootFilesystem"] or context["allowPrivilegeEscalation"] or context["capabilities"]["drop"] != ["ALL"]:
            problems.append("is not restricted")
        if "memory" not in container["resources"].get("limits", {}):
            problems.append("has no memory limit")
    if resource["kind"] != "Job":
        if spec["terminationGracePeriodSeconds"] <= 30:
            problems.append("is killed while it drains")
        if "readinessProbe" not in spec["containers"][0]:
            problems.append("has no readiness probe")
    mounted = {m["name"] for c in spec["containers"] for m in c["volumeMounts"]}
    claims = {c["metadata"]["name"] for c in resource["spec"].get("volumeClaimTemplates", [])}
    if mounted - {v["name"] for v in spec["volumes"]} - claims:
        problems.append("mounts a volume that does not exist")
    return ", ".join(problems) or None


OPTIONS = {
    "keda": {"consumer.keda.enabled": True, "prometheus.address": "http://p:9090"},
    "followers": {"follower.enabled": True, "zoneFromPodLabel": "topology.kubernetes.io/zone"},
    "routes": {"ingress.enabled": True, "httpRoute.enabled": True, "httpRoute.parentRefs": [{"name": "gw"}]},
    "monitoring": {
        "prometheus.serviceMonitor.enabled": True, "prometheus.rules.enabled": True, "grafana.dashboards.enabled": True,
        "grafana.datasource.enabled": True, "grafana.datasource.tenant": "t",
    },
    "strimzi": {"strimzi.enabled": True, "strimzi.cluster": "kafka"},
    "autoscaling": {f"{c}.autoscaling.enabled": True for c in ("gateway", "queryService", "builder")}
    | {f"{c}.vpa.enabled": True for c in ("gateway", "queryService", "builder", "consumer", "follower")},
    "secrets": {
        "secretEnv": [{"name": "MILLRACE_KAFKA__PROPERTIES__SASL.PASSWORD", "secret": "kafka", "key": "password"}],
        "externalSecrets": [{"name": "kafka", "store": {"kind": "ClusterSecretStore", "name": "v"}, "data": [{"key": "password", "remote": {"key": "k"}}]}],
        "extraVolumes": [{"name": "ca", "secret": {"secretName": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/kafka"}],
    },
    "placement": {
        "priorityClassName": "high", "gateway.nodeSelector": {"pool": "logs"}, "gateway.affinity": {"nodeAffinity": {}},
        "consumer.tolerations": [{"key": "logs", "operator": "Exists"}], "image.pullSecrets": [{"name": "registry"}],
        "serviceAccount.annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/m"},
    },
    "closed": {"networkPolicy.clientsFrom": [{"namespaceSelector": {}}], "networkPolicy.metricsFrom": [{"namespaceSelector": {}}]},
    "bare": {
        "networkPolicy.enabled": False, "doctor.enabled": False, "builder.enabled": False, "serviceAccount.create": False,
        "topologySpread.enabled": False, "gateway.pdb.enabled": False,
    },
    "extra": {"extraManifests": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-more"}}]},
}  # fmt: skip


def rendered():
    for size in ("extra-small", "small", "medium", "large"):
        yield size, helm(size=size, needed=size != "extra-small")
    for name, values in OPTIONS.items():
        yield name, helm(values)
    for one, other in itertools.combinations(OPTIONS, 2):
        yield f"{one} + {other}", helm({**OPTIONS[one], **OPTIONS[other]})


def check_chart():
    for name, (code, out, err) in rendered():
        check(f"{name} renders", code and err)
        if code:
            continue
        found = resources(out)
        names = [(r["kind"], r["metadata"]["name"]) for r in found]
        check(f"{name}: names differ", len(names) != len(set(names)) and names)
        for resource in found:
            label = f"{name}: {resource['kind']} {resource['metadata']['name']}"
            check(label, validate(resource) or pod_rules(resource))


WRONG = {
    "no brokers": ({}, "config.kafka.brokers is not set", False),
    "a wrong mode": ({"mode": "both"}, "mode"),
    "an unknown setting": ({"config.kafka.broker": "x"}, "'broker' not allowed"),
    "an unknown setting, deep": ({"config.querier.log_tail.bytes": "x"}, "'bytes' not allowed"),
    "an unknown value": ({"gateway.replica": 3}, "'replica' not allowed"),
    "a wrong type": ({"gateway.replicas": "three"}, "got string, want integer"),
    "a setting of the chart's own": ({"config.server.http_listen_port": 80}, "'http_listen_port' not allowed"),
    "a name for all pods": ({"config.kafka.instance_id": "x"}, "'instance_id' not allowed"),
    "consumers without work": ({"consumer.replicas": 17}, "17 consumers, but config.kafka.partitions is 16"),
    "scaling beyond the partitions": ({**OPTIONS["keda"], "consumer.keda.maxReplicas": 17}, "17 consumers"),
    "scaling without metrics": ({"consumer.keda.enabled": True}, "needs prometheus.address"),
    "a grace period too short": ({"terminationGracePeriodSeconds": 30}, "must be more than 30"),
    "a secret without key": ({"secretEnv": [{"name": "A", "secret": "b"}]}, "missing property 'key'"),
    "strimzi without a cluster": ({"strimzi.enabled": True}, "strimzi.cluster names"),
}


def check_wrong_values():
    for name, (values, text, *needed) in WRONG.items():
        code, _, err = helm(values, needed=not needed)
        check(f"{name} is refused", None if code and text in err else f"exit code {code}: {err}")


def check_details():
    found = resources(helm({**OPTIONS["followers"], "overrides": {"team-a": {"ingestion_rate_mb": 20}}})[1])
    consumer = find(found, "StatefulSet", "m-millrace-consumer")
    check("consumers start in parallel", consumer["spec"]["podManagementPolicy"] != "Parallel" and "no")
    env = {e["name"]: e for e in consumer["spec"]["template"]["spec"]["containers"][0]["env"]}
    instance = env["MILLRACE_KAFKA__INSTANCE_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    check("consumers are static members by pod name", instance != "metadata.name" and instance)
    follower = find(found, "StatefulSet", "m-millrace-follower")["spec"]["template"]["spec"]["containers"][0]
    check("followers follow", {"name": "MILLRACE_CONSUMER__MODE", "value": "follow"} not in follower["env"] and follower["env"])
    overrides = find(found, "ConfigMap", "m-millrace-overrides")["data"]["overrides.yaml"]
    want = {"overrides": {"team-a": {"ingestion_rate_mb": 20}}}
    check("overrides arrive", yaml.safe_load(overrides) != want and overrides)
    budgets = {r["metadata"]["name"] for r in found if r["kind"] == "PodDisruptionBudget"}
    check("consumers have a disruption budget", "m-millrace-consumer" not in budgets and budgets)
    scaled = resources(helm(OPTIONS["keda"])[1])
    consumer = find(scaled, "StatefulSet", "m-millrace-consumer")
    check("KEDA owns the number of consumers", "replicas" in consumer["spec"] and "replicas is set")


METRIC = re.compile(r"\b((?:millrace|loki|process)_[a-z0-9_]+)")
LABEL_OR_ROUTE = {"loki_api_v1_push", "loki_api_v1_query_range"}


def exported():
    """Names of metrics that the sources register."""
    names = set()
    for source in ROOT.glob("**/src/**/*.rs"):
        if "loadtest" in source.parts or "target" in source.parts:
            continue
        names |= set(re.findall(r'"((?:millrace|loki|logql)_[a-z0-9_]+)"', source.read_text()))
        # log_bus names its Kafka metrics with one prefix.
        if source.name == "metrics.rs" and "kafka" in source.parts:
            names |= {"millrace_kafka_" + n for n in re.findall(r'"([a-z_]+_total|[a-z_]+)"', source.read_text())}
    return names | {"process_cpu_seconds_total", "process_resident_memory_bytes"}


def check_metrics():
    known = exported()
    places = [K8S / "mixin/rules.yaml", *(K8S / "chart/files/dashboards").glob("*.json"), *(ROOT / "docs").glob("**/*.md")]
    places += [K8S / "chart/templates/autoscaling.yaml"]
    for place in places:
        named = {n for n in METRIC.findall(place.read_text()) if n not in LABEL_OR_ROUTE and not n.endswith("_")}
        bare = {n: re.sub(r"_(bucket|count|sum)$", "", n) for n in named}
        unknown = sorted(n for n, b in bare.items() if n not in known and b not in known)
        check(f"metrics of {place.relative_to(ROOT)} exist", unknown)


def check_alerts():
    rules = yaml.safe_load((K8S / "mixin/rules.yaml").read_text())
    alerts = [r for g in rules["groups"] for r in g["rules"] if "alert" in r]
    tested = (K8S / "mixin/rules_test.yaml").read_text()
    for alert in alerts:
        name = alert["alert"]
        url = alert["annotations"]["runbook_url"]
        runbook = ROOT / "docs/runbooks" / url.rsplit("/", 1)[1]
        check(f"{name} has a runbook", not runbook.exists() and runbook)
        check(f"{name} is tested both ways", not all(f"{name}, {way}" in tested for way in ("fires", "stays quiet")) and "no")
    runbooks = {p.stem for p in (ROOT / "docs/runbooks").glob("Millrace*.md")}
    check("each runbook has an alert", sorted(runbooks - {a["alert"] for a in alerts}))


def check_terraform():
    for file in sorted((K8S / "terraform").glob("**/*.tf")):
        try:
            with file.open() as text:
                hcl2.load(text)
            problem = None
        except Exception as error:  # noqa: BLE001
            problem = str(error)
        check(f"{file.relative_to(K8S)} parses", problem)


def check_agents():
    for file in sorted((K8S / "agents").glob("**/*.yaml")):
        try:
            for resource in resources(file.read_text()):
                if "kind" in resource:
                    check(f"{file.relative_to(K8S)}: {resource['kind']} {resource['metadata']['name']}", validate(resource))
        except yaml.YAMLError as error:
            check(f"{file.relative_to(K8S)} parses", str(error))


check_chart()
check_wrong_values()
check_details()
check_metrics()
check_alerts()
check_terraform()
check_agents()
print(f"{passed} passed, {len(failed)} failed")
sys.exit(1 if failed else 0)
