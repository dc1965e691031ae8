"""The chart, rendered by the real Helm: valid for the Kubernetes API, taken by the real daemon, refused in sentences.

Usage: chart_test.py MUOND_BINARY COORDINATOR_BINARY
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import chart
from chart import (
    CHART,
    VERSIONS,
    daemon_of,
    documents,
    errors_of,
    helm,
    of_kind,
    pod_of,
    render,
    try_template,
)

MUOND = sys.argv.pop(1) if __name__ == "__main__" and len(sys.argv) > 1 else "muond"
COORDINATOR = sys.argv.pop(1) if __name__ == "__main__" and len(sys.argv) > 1 else "muond-coordinator"
SIDECAR = {"job": {"image": "trainer:1"}}
EXAMPLES = {path.stem: path for path in sorted((CHART / "examples").glob("*.yaml"))}
BIG = 1_000_650_000  # a user id of OpenShift: Helm reads it as a float

# Every value of the chart, away from its default. Together they cover values.yaml; see test_every_value_is_flipped.
FLIPPED_SIDECAR = {
    "mode": "sidecar",
    "image": {"repository": "reg/flipped", "tag": "v9", "digest": "sha256:" + "a" * 64, "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "cred"}],
    "nameOverride": "renamed",
    "fullnameOverride": "wholly",
    "commonLabels": {"team": "one"},
    "podLabels": {"pod": "two"},
    "podAnnotations": {"note": "three"},
    "user": BIG,
    "group": BIG + 1,
    "serviceAccount": {"create": True, "name": "account", "annotations": {"a": "b"}},
    "config": {
        "backend": "cuda", "cpu_devices": 3, "cpu_memory_bytes": "3GiB", "workspace_bytes": "64MiB",
        "arena_share": 0.5, "job_lease_s": 31_536_000, "join_timeout_s": 7.5, "drain_timeout_s": 90.5,
        "log_level": "debug", "log_format": "text", "step_seconds_buckets": "0.001,0.01,1",
    },
    "gpu": {"access": "dra", "count": 4, "deviceClassName": "other.gpu"},
    "resources": {"requests": {"cpu": "3"}, "limits": {"memory": "9Gi"}},
    "nodeSelector": {"kind": "big"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "priorityClassName": "urgent",
    "job": {
        "image": "trainer:1", "pullPolicy": "Never", "command": ["run"], "args": ["fast"],
        "env": [{"name": "A", "value": "b"}],
        "resources": {"requests": {"cpu": "5"}, "limits": {"memory": "7Gi"}},
        "volumes": [{"name": "data", "emptyDir": {}}], "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "restartPolicy": "Never", "backoffLimit": 9, "activeDeadlineSeconds": 5_000_000,
        "ttlSecondsAfterFinished": 6_000_000, "podDisruptionBudget": False,
    },
    "metrics": {
        "enabled": True, "port": 19478, "discovery": "podMonitor", "interval": "7s", "labels": {"release": "prom"},
        "rules": {"enabled": True, "labels": {"rules": "yes"}},
        "dashboard": {"enabled": True, "labels": {"grafana": "x"}, "annotations": {"folder": "muond"}},
    },
    "networkPolicy": {"enabled": True, "metricsFrom": [{"namespaceSelector": {"matchLabels": {"who": "prom"}}}]},
}
FLIPPED_DAEMONSET = {
    "mode": "daemonset",
    "gpu": {"access": "runtimeClass", "runtimeClassName": "other", "resourceName": "amd.com/gpu"},
    "daemonset": {
        "socketHostPath": "/run/other", "stateHostPath": "/var/lib/other", "updateStrategy": "RollingUpdate",
    },
    "metrics": {"enabled": False},
    "networkPolicy": {"enabled": True},
    "serviceAccount": {"create": False},
}
COORDINATORS = {
    "mode": "daemonset",
    "coordinator": {"enabled": True, "etcd": {"endpoints": ["etcd:2379"], "tlsSecret": "etcd-client"}},
    "tls": {"secret": "certificate"},
}
FLIPPED_COORDINATORS = {
    "mode": "daemonset",
    "coordinator": {
        "enabled": True, "replicas": 5, "port": 17070, "leaderTtlSeconds": 7, "leaseMs": 4321,
        "etcd": {"endpoints": ["a:1", "b:2"], "prefix": "/other/", "tlsSecret": "etcd-client"},
        "allowFrom": [{"namespaceSelector": {"matchLabels": {"jobs": "yes"}}}],
        "resources": {"requests": {"cpu": "7", "memory": "1Gi"}, "limits": {"memory": "5Gi"}},
        "nodeSelector": {"role": "control"}, "tolerations": [{"key": "control", "operator": "Exists"}],
    },
    "tls": {
        "certManager": {
            "enabled": True, "issuerName": "ca", "issuerKind": "ClusterIssuer", "duration": "48h", "renewBefore": "24h",
        },
    },
}
# Daemons of one release that name the coordinators of another.
FLIPPED_ELSEWHERE = {
    "mode": "daemonset",
    "coordinator": {"endpoints": ["c1.example:7070", "c2.example:7071"]},
    "tls": {"secret": "certificate", "plainTcp": True},
}


# What the API server lets nobody change. A Job's template is one of them, too: a new training is a new release.
IMMUTABLE = {
    "DaemonSet": ("selector",),
    "StatefulSet": ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates"),
    "Service": ("clusterIP",),
    "Job": ("selector", "completions", "completionMode"),
}


def with_certificates(text: str, scratch: str) -> str:
    """The configuration with its certificate folders in `scratch`, where a certificate is; the file's path."""
    for folder in sorted(set(re.findall(r" (/etc/muond-(?:tls|etcd))/", text))):
        here = Path(scratch, folder[1:])
        here.mkdir(parents=True)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
             "-subj", "/CN=test", "-keyout", str(here / "tls.key"), "-out", str(here / "tls.crt")],
            capture_output=True, timeout=300, check=True)
        (here / "ca.crt").write_bytes((here / "tls.crt").read_bytes())
        text = text.replace(f" {folder}/", f" {here}/")
    file = Path(scratch, "config.yaml")
    file.write_text(text, encoding="utf-8")
    return str(file)


# Tables whose keys are the user's.
FREE = ("labels", "annotations", "requests", "limits", "nodeselector", "affinity")


def leaves(node: dict, prefix: str = "") -> set[str]:
    found = set()
    for key, value in node.items():
        inner = isinstance(value, dict) and not key.lower().endswith(FREE)
        found |= leaves(value, f"{prefix}{key}.") if inner else {prefix + key}
    return found


def check_config(manifests: list[dict]) -> subprocess.CompletedProcess[str]:
    """The rendered configuration, given to the daemon's own check."""
    text = of_kind(
        [m for m in manifests if "muond.yaml" in m.get("data", {})], "ConfigMap")["data"]["muond.yaml"]
    with tempfile.TemporaryDirectory() as scratch:
        return subprocess.run(
            [MUOND, "--config", with_certificates(text, scratch), "--check-config"],
            capture_output=True, text=True, timeout=300, check=False)


class ChartTest(unittest.TestCase):
    def assert_valid(self, manifests: list[dict], version: str) -> None:
        self.assertEqual([error for m in manifests for error in errors_of(m, version)], [])

    def test_helm_lints_it_strictly(self) -> None:
        done = helm("lint", "--strict", str(CHART), "-f", str(EXAMPLES["sidecar"]))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_every_example_is_valid_for_every_version_and_taken_by_the_daemon(self) -> None:
        for name, path in EXAMPLES.items():
            if name == "daemonset-jobs":
                continue
            for version in VERSIONS:
                if name == "sidecar-dra" and version < "1.32":
                    continue
                with self.subTest(name, version=version):
                    manifests = render(path, version)
                    self.assert_valid(manifests, version)
            done = check_config(manifests)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_the_jobs_of_the_daemonset_example_are_valid_and_fit_it(self) -> None:
        jobs = documents(EXAMPLES["daemonset-jobs"].read_text())
        manifests = render(EXAMPLES["daemonset"])
        [sockets] = [v for v in pod_of(manifests)["spec"]["volumes"] if v["name"] == "sockets"]
        self.assertEqual(len(jobs), 2)
        for job in jobs:
            for version in VERSIONS:
                self.assert_valid([job], version)
            spec = job["spec"]["template"]["spec"]
            [volume] = [v for v in spec["volumes"] if "hostPath" in v]
            self.assertEqual(volume["hostPath"]["path"], sockets["hostPath"]["path"])
            self.assertEqual(spec["securityContext"]["runAsUser"], daemon_of(manifests)["securityContext"]["runAsUser"])
            self.assertEqual(spec["nodeSelector"], pod_of(manifests)["spec"]["nodeSelector"])

    def test_the_daemon_is_a_native_sidecar_that_starts_first_and_shares_its_sockets(self) -> None:
        spec = pod_of(render(SIDECAR))["spec"]
        [daemon] = spec["initContainers"]
        [trainer] = spec["containers"]
        self.assertEqual(daemon["restartPolicy"], "Always")
        self.assertIn("startupProbe", daemon)
        self.assertIn({"name": "sockets", "mountPath": "/run/muond"}, daemon["volumeMounts"])
        self.assertIn({"name": "sockets", "mountPath": "/run/muond"}, trainer["volumeMounts"])
        [endpoint] = [e["value"] for e in trainer["env"] if e["name"] == "MUOND_ENDPOINT"]
        self.assertEqual(endpoint, "unix:/run/muond/daemon/grpc.sock")

    def test_with_dra_both_containers_name_one_claim_by_the_same_request(self) -> None:
        for version, api in (("1.32", "v1beta1"), ("1.33", "v1beta2"), ("1.34", "v1"), ("1.37", "v1")):
            manifests = render(EXAMPLES["sidecar-dra"], version)
            template = of_kind(manifests, "ResourceClaimTemplate")
            self.assertEqual(template["apiVersion"], f"resource.k8s.io/{api}")
            [request] = template["spec"]["spec"]["devices"]["requests"]
            self.assertEqual((request if api == "v1beta1" else request["exactly"])["count"], 2)
            spec = pod_of(manifests)["spec"]
            claims = [c["resources"]["claims"] for c in spec["initContainers"] + spec["containers"]]
            self.assertEqual(claims, [[{"name": "gpus", "request": request["name"]}]] * 2)
            self.assertEqual(
                spec["resourceClaims"],
                [{"name": "gpus", "resourceClaimTemplateName": template["metadata"]["name"]}])

    def test_without_dra_the_trainer_alone_asks_for_gpus(self) -> None:
        spec = pod_of(render(EXAMPLES["sidecar-runtime-class"]))["spec"]
        self.assertEqual(spec["runtimeClassName"], "nvidia")
        self.assertEqual(spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"], "2")
        self.assertNotIn("nvidia.com/gpu", spec["initContainers"][0]["resources"]["limits"])
        self.assertIn({"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}, spec["initContainers"][0]["env"])

    def test_no_pod_asks_for_more_than_it_needs(self) -> None:
        for path in (p for n, p in EXAMPLES.items() if n != "daemonset-jobs"):
            for m in render(path):
                spec = m["spec"]["template"]["spec"] if m["kind"] in ("Job", "DaemonSet", "StatefulSet") else m.get("spec", {})
                if "containers" not in spec:
                    continue
                with self.subTest(path.name, kind=m["kind"]):
                    self.assertFalse({"hostPID", "hostIPC", "hostNetwork", "shareProcessNamespace"} & set(spec))
                    self.assertIs(spec["automountServiceAccountToken"], False)
                    # A Service called muond would give MUOND_PORT and the like to a daemon that refuses unknown options.
                    self.assertIs(spec["enableServiceLinks"], False)
                    for container in spec.get("initContainers", []) + spec["containers"]:
                        context = container["securityContext"]
                        self.assertIs(context["allowPrivilegeEscalation"], False)
                        self.assertEqual(context["capabilities"]["drop"], ["ALL"])
                        self.assertNotIn("privileged", context)
                        root = context.get("runAsUser") == 0
                        self.assertEqual(root, container["name"] == "directories")
                        allowed = ["CHOWN", "FOWNER"] if root else None
                        self.assertEqual(context["capabilities"].get("add"), allowed)

    def test_a_pod_lives_longer_than_the_daemon_drains(self) -> None:
        for drain in (0, 60, 600.5):
            spec = pod_of(render({**SIDECAR, "config": {"drain_timeout_s": drain}}))["spec"]
            self.assertGreaterEqual(spec["terminationGracePeriodSeconds"], drain + 30)

    def test_every_value_is_flipped(self) -> None:
        import yaml

        values = yaml.safe_load((CHART / "values.yaml").read_text())
        flipped = set().union(*map(leaves, (
            FLIPPED_SIDECAR, FLIPPED_DAEMONSET, FLIPPED_COORDINATORS, FLIPPED_ELSEWHERE)))
        self.assertEqual(leaves(values) - flipped, set())
        self.assertEqual(flipped - leaves(values), set())

    def test_flipped_values_reach_the_sidecars_manifests(self) -> None:
        manifests = render(FLIPPED_SIDECAR)
        self.assert_valid(manifests, "1.34")
        done = check_config(manifests)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        pod, daemon, job = pod_of(manifests), daemon_of(manifests), of_kind(manifests, "Job")
        trainer = pod["spec"]["containers"][0]
        self.assertEqual(daemon["image"], "reg/flipped@sha256:" + "a" * 64)
        self.assertEqual((daemon["imagePullPolicy"], trainer["imagePullPolicy"]), ("Always", "Never"))
        self.assertEqual(pod["spec"]["imagePullSecrets"], [{"name": "cred"}])
        self.assertEqual(job["metadata"]["name"], "wholly")
        self.assertEqual(job["metadata"]["labels"]["app.kubernetes.io/name"], "renamed")
        self.assertEqual(job["metadata"]["labels"]["team"], "one")
        self.assertEqual(pod["metadata"]["labels"]["pod"], "two")
        self.assertEqual(pod["metadata"]["annotations"]["note"], "three")
        self.assertEqual(pod["spec"]["securityContext"]["runAsUser"], BIG)
        self.assertEqual(daemon["securityContext"]["runAsGroup"], BIG + 1)
        account = of_kind(manifests, "ServiceAccount")
        self.assertEqual((account["metadata"]["name"], account["metadata"]["annotations"]), ("account", {"a": "b"}))
        self.assertEqual(pod["spec"]["serviceAccountName"], "account")
        self.assertEqual(pod["spec"]["terminationGracePeriodSeconds"], 121)
        config = next(m for m in manifests if "muond.yaml" in m.get("data", {}))["data"]["muond.yaml"]
        for line in ('backend: "cuda"', 'cpu_devices: "3"', 'cpu_memory_bytes: "3GiB"', 'workspace_bytes: "64MiB"',
                     'arena_share: "0.5"', 'join_timeout_s: "7.5"', 'log_level: "debug"', 'log_format: "text"',
                     'step_seconds_buckets: "0.001,0.01,1"', 'metrics_listen: "0.0.0.0:19478"'):
            self.assertIn(line, config)
        self.assertEqual(float(config.split('job_lease_s: "')[1].split('"')[0]), 31_536_000)
        [request] = of_kind(manifests, "ResourceClaimTemplate")["spec"]["spec"]["devices"]["requests"]
        self.assertEqual((request["exactly"]["count"], request["exactly"]["deviceClassName"]), (4, "other.gpu"))
        self.assertEqual(daemon["resources"]["requests"]["cpu"], "3")
        self.assertEqual(trainer["resources"]["limits"]["memory"], "7Gi")
        self.assertEqual(pod["spec"]["nodeSelector"], {"kind": "big"})
        self.assertEqual(pod["spec"]["tolerations"], [{"key": "gpu", "operator": "Exists"}])
        self.assertEqual(pod["spec"]["affinity"], {"podAntiAffinity": {}})
        self.assertEqual(pod["spec"]["priorityClassName"], "urgent")
        self.assertEqual((trainer["command"], trainer["args"]), (["run"], ["fast"]))
        self.assertIn({"name": "A", "value": "b"}, trainer["env"])
        self.assertIn({"name": "data", "emptyDir": {}}, pod["spec"]["volumes"])
        self.assertIn({"name": "data", "mountPath": "/data"}, trainer["volumeMounts"])
        self.assertEqual(pod["spec"]["restartPolicy"], "Never")
        self.assertEqual(
            [job["spec"][key] for key in ("backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished")],
            [9, 5_000_000, 6_000_000])
        self.assertEqual([m for m in manifests if m["kind"] == "PodDisruptionBudget"], [])
        monitor = of_kind(manifests, "PodMonitor")
        self.assertEqual(monitor["metadata"]["labels"]["release"], "prom")
        self.assertEqual(monitor["spec"]["podMetricsEndpoints"][0]["interval"], "7s")
        self.assertEqual(of_kind(manifests, "PrometheusRule")["metadata"]["labels"]["rules"], "yes")
        dashboard = next(m for m in manifests if "muond.json" in m.get("data", {}))["metadata"]
        self.assertEqual((dashboard["labels"]["grafana"], dashboard["annotations"]), ("x", {"folder": "muond"}))
        [rule] = of_kind(manifests, "NetworkPolicy")["spec"]["ingress"]
        self.assertEqual(rule["from"], [{"namespaceSelector": {"matchLabels": {"who": "prom"}}}])

    def test_flipped_values_reach_the_daemonsets_manifests(self) -> None:
        manifests = render(FLIPPED_DAEMONSET)
        self.assert_valid(manifests, "1.34")
        pod, daemon = pod_of(manifests), daemon_of(manifests)
        paths = {v["name"]: v["hostPath"]["path"] for v in pod["spec"]["volumes"] if "hostPath" in v}
        self.assertEqual(paths, {"sockets": "/run/other", "state": "/var/lib/other"})
        self.assertEqual(pod["spec"]["runtimeClassName"], "other")
        self.assertEqual(of_kind(manifests, "DaemonSet")["spec"]["updateStrategy"],
                         {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}})
        self.assertEqual(pod["spec"]["serviceAccountName"], "default")
        self.assertEqual([m for m in manifests if m["kind"] == "ServiceAccount"], [])
        # Without the page of metrics the daemon is asked through its socket.
        self.assertNotIn("ports", daemon)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            self.assertEqual(daemon[probe]["exec"]["command"][:2], ["muonctl", "status"])
        self.assertEqual(of_kind(manifests, "NetworkPolicy")["spec"]["ingress"], [])
        resource = pod_of(render({**SIDECAR, "gpu": {"access": "runtimeClass", "resourceName": "amd.com/gpu"}}))
        self.assertEqual(resource["spec"]["containers"][0]["resources"]["limits"]["amd.com/gpu"], "1")

    def check_coordinator_config(self, manifests: list[dict]) -> str:
        """The rendered configuration, given to the coordinator's own check, with certificates made here; its text."""
        text = of_kind(manifests, "ConfigMap", "-coordinator")["data"]["coordinator.yaml"]
        with tempfile.TemporaryDirectory() as scratch:
            here = with_certificates(text, scratch)
            done = subprocess.run([COORDINATOR, "--config", here, "--check-config"],
                                  capture_output=True, text=True, timeout=300, check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return text

    def test_coordinators_stand_by_for_one_another_and_the_daemons_name_all_of_them(self) -> None:
        manifests = render(COORDINATORS)
        self.assert_valid(manifests, "1.34")
        self.check_coordinator_config(manifests)
        own = of_kind(manifests, "StatefulSet", "-coordinator")
        self.assertEqual((own["spec"]["replicas"], own["spec"]["podManagementPolicy"]), (3, "Parallel"))
        [container] = own["spec"]["template"]["spec"]["containers"]
        advertised = container["args"][container["args"].index("--advertise") + 1]
        config = next(m for m in manifests if "muond.yaml" in m.get("data", {}))["data"]["muond.yaml"]
        names = [advertised.replace("$(POD_NAME)", f"rel-muond-coordinator-{i}") for i in range(3)]
        self.assertIn(f'coordinator: "{",".join(names)}"', config)
        self.assertEqual(own["spec"]["serviceName"], of_kind(manifests, "Service", "-coordinator")["metadata"]["name"])
        self.assertEqual(of_kind(manifests, "PodDisruptionBudget", "-coordinator")["spec"]["maxUnavailable"], 1)
        # Both sides have the certificate as a whole folder: one file of it by subPath would never be renewed.
        for spec, one in ((own["spec"]["template"]["spec"], container), (pod_of(manifests)["spec"], daemon_of(manifests))):
            [mount] = [m for m in one["volumeMounts"] if m["name"] == "tls"]
            self.assertEqual(mount, {"name": "tls", "mountPath": "/etc/muond-tls", "readOnly": True})
            [volume] = [v for v in spec["volumes"] if v["name"] == "tls"]
            self.assertEqual(volume["secret"]["secretName"], "certificate")
            self.assertEqual(spec["securityContext"]["fsGroup"], 10001)
        # The DaemonSet's selector must not find coordinators, nor theirs the daemons.
        daemons = of_kind(manifests, "DaemonSet")["spec"]["selector"]["matchLabels"]
        theirs = own["spec"]["template"]["metadata"]["labels"]
        self.assertFalse(daemons.items() <= theirs.items())
        self.assertFalse(own["spec"]["selector"]["matchLabels"].items() <= pod_of(manifests)["metadata"]["labels"].items())
        # Daemons may speak to coordinators and to the name service, and coordinators listen to daemons.
        egress = of_kind(manifests, "NetworkPolicy")["spec"]["egress"]
        self.assertLessEqual(egress[0]["to"][0]["podSelector"]["matchLabels"].items(), theirs.items())
        ingress = of_kind(manifests, "NetworkPolicy", "-coordinator")["spec"]["ingress"]
        self.assertLessEqual(ingress[0]["from"][0]["podSelector"]["matchLabels"].items(),
                             pod_of(manifests)["metadata"]["labels"].items())

    def test_flipped_values_reach_the_coordinators_manifests(self) -> None:
        manifests = render({**FLIPPED_COORDINATORS, "metrics": {"discovery": "podMonitor"}})
        self.assert_valid(manifests, "1.34")
        text = self.check_coordinator_config(manifests)
        for line in ('listen: "0.0.0.0:17070"', 'etcd: "a:1,b:2"', 'etcd_prefix: "/other/"', 'leader_ttl_s: "7"',
                     'lease_ms: "4321"', "etcd_tls_ca: /etc/muond-etcd/ca.crt"):
            self.assertIn(line, text)
        own = of_kind(manifests, "StatefulSet", "-coordinator")["spec"]
        pod = own["template"]["spec"]
        self.assertEqual(own["replicas"], 5)
        self.assertEqual((pod["nodeSelector"], pod["tolerations"]),
                         ({"role": "control"}, [{"key": "control", "operator": "Exists"}]))
        self.assertEqual(pod["containers"][0]["resources"], FLIPPED_COORDINATORS["coordinator"]["resources"])
        [etcd] = [v for v in pod["volumes"] if v["name"] == "etcd-tls"]
        self.assertEqual(etcd["secret"]["secretName"], "etcd-client")
        ingress = of_kind(manifests, "NetworkPolicy", "-coordinator")["spec"]["ingress"]
        self.assertIn(FLIPPED_COORDINATORS["coordinator"]["allowFrom"][0], ingress[0]["from"])
        certificate = of_kind(manifests, "Certificate")["spec"]
        self.assertEqual(certificate["issuerRef"], {"name": "ca", "kind": "ClusterIssuer"})
        self.assertEqual((certificate["duration"], certificate["renewBefore"]), ("48h", "24h"))
        [tls] = [v for v in pod["volumes"] if v["name"] == "tls"]
        self.assertEqual(tls["secret"]["secretName"], certificate["secretName"])
        # The certificate is for the names by which the coordinators are asked.
        host = pod["containers"][0]["args"][3].split(":")[0]
        self.assertIn("*." + host.split(".", 1)[1], certificate["dnsNames"])

    def test_daemons_may_name_coordinators_of_another_release(self) -> None:
        manifests = render(FLIPPED_ELSEWHERE)
        self.assert_valid(manifests, "1.34")
        config = next(m for m in manifests if "muond.yaml" in m.get("data", {}))["data"]["muond.yaml"]
        self.assertIn('coordinator: "c1.example:7070,c2.example:7071"', config)
        self.assertIn('plain_tcp: "true"', config)
        self.assertEqual([m for m in manifests if m["kind"] == "StatefulSet"], [])
        [ports, _] = of_kind(manifests, "NetworkPolicy")["spec"]["egress"]
        self.assertEqual([p["port"] for p in ports["ports"]], [7070, 7071])

    def test_an_upgrade_from_the_previous_chart_moves_no_field_that_cannot_change(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            old = chart.previous_chart(Path(folder))
            if old is None:
                self.skipTest("this checkout's history has no earlier version of the chart")
            compared = 0
            for name in ("daemonset", "sidecar"):
                values = old / "examples" / f"{name}.yaml"
                before = try_template(values, which=old)
                self.assertEqual(before.returncode, 0, before.stderr)
                now = {(m["kind"], m["metadata"]["name"]): m for m in render(values)}
                for m in documents(before.stdout):
                    key = (m["kind"], m["metadata"]["name"])
                    self.assertIn(key, now, "an upgrade would delete it")
                    compared += 1
                    for field in IMMUTABLE.get(m["kind"], ()):
                        self.assertEqual(m["spec"].get(field), now[key]["spec"].get(field), f"{key}: {field}")
            self.assertGreater(compared, 8)

    def test_what_is_turned_off_is_not_rendered(self) -> None:
        manifests = render({**SIDECAR, "networkPolicy": {"enabled": False}})
        kinds = sorted(m["kind"] for m in manifests)
        self.assertEqual(kinds, ["ConfigMap", "Job", "Pod", "PodDisruptionBudget", "ServiceAccount"])

    def test_discovery_by_annotations_and_by_a_service(self) -> None:
        annotations = pod_of(render(EXAMPLES["sidecar"]))["metadata"]["annotations"]
        self.assertEqual((annotations["prometheus.io/scrape"], annotations["prometheus.io/port"]), ("true", "9478"))
        manifests = render(EXAMPLES["daemonset"])
        service, monitor = of_kind(manifests, "Service"), of_kind(manifests, "ServiceMonitor")
        labels = pod_of(manifests)["metadata"]["labels"]
        self.assertLessEqual(service["spec"]["selector"].items(), labels.items())
        self.assertLessEqual(monitor["spec"]["selector"]["matchLabels"].items(), service["metadata"]["labels"].items())
        # The rules say job="muond".
        self.assertEqual(service["metadata"]["labels"][monitor["spec"]["jobLabel"]], "muond")

    def test_no_value_moves_a_field_that_cannot_change(self) -> None:
        plain = of_kind(render({"mode": "daemonset"}), "DaemonSet")["spec"]["selector"]
        flipped = {**FLIPPED_DAEMONSET, "commonLabels": {"x": "y"}, "podLabels": {"z": "w"}, "image": {"tag": "2"}}
        self.assertEqual(of_kind(render(flipped), "DaemonSet")["spec"]["selector"], plain)

    def test_the_rules_and_the_dashboard_are_carried_whole(self) -> None:
        import yaml

        manifests = render({**SIDECAR, "metrics": {"rules": {"enabled": True}, "dashboard": {"enabled": True}}})
        rules = yaml.safe_load((CHART / "files" / "muond.rules.yml").read_text())
        self.assertEqual(of_kind(manifests, "PrometheusRule")["spec"], rules)
        text = next(m for m in manifests if "muond.json" in m.get("data", {}))["data"]["muond.json"]
        self.assertEqual(text.strip(), (CHART / "files" / "muond.dashboard.json").read_text().strip())

    def test_helms_test_pod_runs_programs_that_exist_with_options_that_exist(self) -> None:
        for name in ("sidecar", "daemonset"):
            manifests = render(EXAMPLES[name])
            [test] = [m for m in manifests if m["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"]
            commands = [c["command"] for c in test["spec"]["containers"]]
            self.assertEqual(commands[0], ["muond", "--config", "/etc/muond/muond.yaml", "--check-config"])
            if name == "daemonset":
                self.assertEqual(commands[1][:3], ["muonctl", "status", "--endpoint"])
            # The test's pod must not be found by the Service or counted by the PodDisruptionBudget.
            self.assertNotEqual(test["metadata"]["labels"]["app.kubernetes.io/name"], "muond")

    def test_wrong_values_are_refused_with_a_sentence(self) -> None:
        for values, sentence in (
            ({}, "job.image is empty"),
            ({"mode": "daemonset", **SIDECAR}, "mode daemonset runs no Job"),
            ({"mode": "daemonset", "gpu": {"access": "dra"}}, "would claim the GPUs that the Jobs need"),
            ({**SIDECAR, "gpu": {"access": "dra"}, "config": {"backend": "cpu"}}, "GPUs would be taken and not used"),
            ({**SIDECAR, "config": {"backend": "cuda"}}, "the daemon would see no GPU"),
            ({**SIDECAR, "metrics": {"enabled": False, "discovery": "podMonitor"}}, "there would be nothing to find"),
            ({"job": {"image": "x", "env": [{"name": "MUOND_ENDPOINT", "value": "y"}]}}, "the chart sets it"),
            ({**COORDINATORS, "mode": "sidecar", **SIDECAR}, "a Job ends, coordinators serve"),
            ({**COORDINATORS, "coordinator": {"enabled": True}}, "needs coordinator.etcd.endpoints"),
            ({**COORDINATORS, "tls": {}}, "coordinators are reached over TCP"),
            ({**COORDINATORS, "coordinator": {"enabled": True, "etcd": {"endpoints": ["etcd:2379"]}}},
             "etcd would be asked in plain text"),
            ({**COORDINATORS, "tls": {"secret": "x", "certManager": {"enabled": True}}}, "both name the certificate"),
            ({**COORDINATORS, "tls": {"certManager": {"enabled": True}}}, "needs tls.certManager.issuerName"),
            ({**FLIPPED_ELSEWHERE, "coordinator": {**COORDINATORS["coordinator"], "endpoints": ["a:1"]}},
             "two catalogues"),
            ({**COORDINATORS, "coordinator": {"enabled": True, "etcd": {"endpoints": ["http://e:1"]}}},
             "does not match pattern"),
            ({**SIDECAR, "mode": "sidcar"}, "value must be one of 'sidecar', 'daemonset'"),
            ({**SIDECAR, "replicas": 2}, "additional properties 'replicas' not allowed"),
            ({**SIDECAR, "config": {"backnd": "cpu"}}, "additional properties 'backnd' not allowed"),
            ({**SIDECAR, "config": {"socket_dir": "/x"}}, "additional properties 'socket_dir' not allowed"),
            ({**SIDECAR, "config": {"cpu_memory_bytes": 1000}}, "got number, want string"),
            ({**SIDECAR, "user": 0}, "minimum: got 0, want 1"),
            ({**SIDECAR, "image": {"digest": "latest"}}, "does not match pattern"),
            ({**SIDECAR, "metrics": {"port": 80}}, "minimum: got 80, want 1,024"),
        ):
            with self.subTest(sentence):
                done = try_template(values)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(sentence, done.stderr)
        done = try_template(EXAMPLES["sidecar-dra"], "1.31")
        self.assertIn("needs Kubernetes 1.32 or newer", done.stderr)
        done = try_template(SIDECAR, "1.28")
        self.assertIn("incompatible with Kubernetes v1.28", done.stderr)

    def test_a_value_that_the_schema_lets_through_is_refused_by_the_daemons_check(self) -> None:
        done = check_config(render({**SIDECAR, "config": {"step_seconds_buckets": "2,1"}}))
        self.assertEqual(done.returncode, 2)
        self.assertIn("step_seconds_buckets", done.stdout + done.stderr)


if __name__ == "__main__":
    if reason := chart.missing():
        print(f"SKIPPED: {reason}")
        sys.exit(77)
    unittest.main()
