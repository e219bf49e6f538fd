#!/usr/bin/env python3
"""Writes what is derived: chart/values.schema.json, chart/dashboards/, manifests/ and kustomize's list of them.

    k8s/generate.py            write
    k8s/generate.py --check    complain about files that are not as they would be written

Needs PyYAML, and helm on the PATH. `make k8s` installs both and runs this.
"""

import json
import subprocess
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parent))
from mixin.dashboards import dashboards  # noqa: E402

K8S = Path(__file__).resolve().parent
KUBERNETES = "1.34.3"

# Values under these keys are passed on to Kubernetes as they are.
FREE = {
    "affinity", "annotations", "capabilities", "clientsFrom", "containerSecurityContext", "data", "extraEnv",
    "extraManifests", "extraVolumeMounts", "extraVolumes", "hostnames", "labels", "metricsFrom", "nodeSelector",
    "overrides", "parentRefs", "podAnnotations", "podLabels", "podSecurityContext", "pullSecrets", "resources", "tls",
    "tolerations",
}
# Settings whose keys the user chooses.
FREE_SETTINGS = {"properties", "block_ingestion_policy_until", "policy_stream_mapping", "policy_override_limits"}
# The chart sets these itself.
NOT_SETTABLE = {("server", "http_listen_address"), ("server", "http_listen_port"), ("common",), ("runtime_config", "file")}
# Set for each pod.
NOT_SETTABLE |= {("cluster", "name"), ("cluster", "zone"), ("cluster", "advertise_address"), ("kafka", "instance_id")}


def settings_schema(value, path=()):
    """A schema from the defaults in docs/millrace.yaml, which a test keeps equal to the program's."""
    if isinstance(value, dict):
        if not value or (path and path[-1] in FREE_SETTINGS):
            return {"type": "object"}
        properties = {
            key: settings_schema(inner, (*path, key)) for key, inner in value.items() if (*path, key) not in NOT_SETTABLE
        }
        return {"type": "object", "additionalProperties": False, "properties": properties}
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, list):
        return {"type": "array"}
    if isinstance(value, (int, float)):
        return {"type": "number"}
    # Sizes and durations are texts with a unit or plain numbers.
    return {"type": ["string", "number", "null"]}


def values_schema(value, key=None):
    if key in FREE:
        return {"type": "array"} if isinstance(value, list) else {"type": "object"}
    if isinstance(value, dict):
        properties = {inner: values_schema(v, inner) for inner, v in value.items()}
        return {"type": "object", "additionalProperties": False, "properties": properties}
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int):
        return {"type": "integer", "minimum": 0}
    if isinstance(value, list):
        return {"type": "array"}
    return {"type": ["string", "null"]}


def schema():
    values = yaml.safe_load((K8S / "chart/values.yaml").read_text())
    settings = yaml.safe_load((K8S.parent / "docs/millrace.yaml").read_text())
    whole = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of the chart millrace"}
    whole |= values_schema(values)
    whole["properties"]["mode"] = {"enum": ["fleet", "single"]}
    whole["properties"]["config"] = settings_schema(settings)
    secret = {key: {"type": "string", "minLength": 1} for key in ("name", "secret", "key")}
    item = {"type": "object", "additionalProperties": False, "properties": secret, "required": list(secret)}
    whole["properties"]["secretEnv"] = {"type": "array", "items": item}
    whole["properties"]["networkPolicy"]["properties"]["egressPorts"] = {"type": "array", "items": {"type": "integer"}}
    whole["properties"]["global"] = {"type": "object"}
    return json.dumps(whole, indent=1) + "\n"


def helm(*arguments):
    command = ["helm", "template", "millrace", str(K8S / "chart"), "--kube-version", KUBERNETES, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def manifests():
    """The chart, rendered: one folder for each shape, with a kustomization over it."""
    shapes = {
        "single": ["-f", str(K8S / "chart/sizes/extra-small.yaml")],
        "fleet": [
            "-f", str(K8S / "chart/sizes/small.yaml"), "--set", "config.kafka.brokers=kafka:9092",
            "--set", "config.store.s3.bucket=millrace", "--set", "doctor.enabled=false",
        ],
    }  # fmt: skip
    head = "# Rendered from k8s/chart by k8s/generate.py; change the chart instead.\n"
    files = {}
    for shape, arguments in shapes.items():
        text = helm("--namespace", "millrace", *arguments)
        # Nobody manages plain manifests with Helm.
        lines = [line for line in text.splitlines() if "managed-by: Helm" not in line and "helm.sh/chart" not in line]
        files[f"manifests/{shape}/millrace.yaml"] = head + "\n".join(lines) + "\n"
        files[f"manifests/{shape}/kustomization.yaml"] = (
            head + "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: millrace\n"
            "resources: [millrace.yaml]\n"
        )
    return files


def main():
    rules = (K8S / "mixin/rules.yaml").read_text()
    # Helm renders the chart with what follows, so it comes first.
    first = {"chart/values.schema.json": schema(), "chart/files/rules.yaml": rules}
    for name, board in dashboards().items():
        first[f"chart/files/dashboards/{name}.json"] = json.dumps(board, indent=1) + "\n"
    stale = write(first)
    stale += write(manifests())
    if stale and "--check" in sys.argv:
        sys.exit("not as k8s/generate.py writes them: " + ", ".join(stale))


def write(files):
    stale = []
    for name, text in files.items():
        path = K8S / name
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if "--check" not in sys.argv:
            path.write_text(text)
    return stale


main()
