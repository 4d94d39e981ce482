"""What the chart installs: hardened pods, closed ports, webhooks that stand in nobody's way; whatever the values."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import yaml
from chart import (
    COMBINATIONS,
    Manifest,
    containers,
    find,
    newer_chart,
    pod_specs,
    render,
    render_text,
)
from kube.installation import CHART, NAMESPACE

from plinth.desired.key_secrets import KEYS_NAMESPACE, secret_name
from plinth.gateway.options import parse_options
from plinth.runtime.chart_test import KEY_NAME, chart_test
from plinth.runtime.gateway_agent import gateway_agent
from plinth.runtime.operator import operator
from plinth.runtime.release import release

pytestmark = pytest.mark.kube

API_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"


@cache
def rendered(combination: str) -> list[Manifest]:
    return render(COMBINATIONS[combination])


@pytest.fixture(params=COMBINATIONS)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return rendered(request.param)


def test_no_two_objects_have_one_name(manifests: list[Manifest]) -> None:
    names = [
        (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in manifests
    ]
    assert len(names) == len(set(names))


def test_no_container_has_more_rights_than_it_needs(manifests: list[Manifest]) -> None:
    for name, spec in pod_specs(manifests):
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in containers(spec):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"], name
            assert not context["allowPrivilegeEscalation"], name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["requests"], name


def test_a_token_for_the_api_server_is_only_where_it_is_used(manifests: list[Manifest]) -> None:
    accounts = {each["metadata"]["name"] for each in manifests if each["kind"] == "ServiceAccount"}
    tested = {"plinth-test"} if "plinth-test" in accounts else set()
    assert accounts == {"plinth-operator", "plinth-gateway", "plinth-release"} | tested
    for name, spec in pod_specs(manifests):
        has_all = spec.get("automountServiceAccountToken", True)
        holders = {"Deployment plinth-operator", "Job plinth-release", *(f"Pod {each}" for each in tested)}
        assert has_all == (name in holders), name
        mounted = {
            each["name"]
            for each in containers(spec)
            for mount in each["volumeMounts"]
            if mount["mountPath"] == API_TOKEN
        }
        assert mounted == ({"agent"} if name == "Deployment plinth-gateway" else set()), name


def test_no_secret_stands_in_a_command_an_environment_or_a_config_map(manifests: list[Manifest]) -> None:
    secrets = [value for each in manifests if each["kind"] == "Secret" for value in each["data"].values()]
    others = repr([each for each in manifests if each["kind"] != "Secret"])
    assert not [secret for secret in secrets if secret in others]
    for name, spec in pod_specs(manifests):
        for container in containers(spec):
            assert not [each for each in container.get("env", []) if "secretKeyRef" in repr(each)], name


def test_every_flag_is_one_that_the_program_knows(manifests: list[Manifest]) -> None:
    programs: dict[str, Callable[[list[str]], object]] = {
        "operator": lambda flags: operator.make_context("operator", flags),
        "agent": lambda flags: gateway_agent.make_context("gateway-agent", flags),
        "release": lambda flags: release.make_context("release", flags),
        "gateway": parse_options,
        "test": lambda flags: chart_test.make_context("chart-test", flags),
    }
    seen = set()
    for _, spec in pod_specs(manifests):
        for container in containers(spec):
            if container["name"] in programs:
                programs[container["name"]](list(container["args"]))
                seen.add(container["name"])
    assert seen == programs.keys()


def test_webhooks_never_keep_anything_from_being_deleted(manifests: list[Manifest]) -> None:
    for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        for webhook in find(manifests, kind, "plinth")["webhooks"]:
            operations = {each for rule in webhook["rules"] for each in rule["operations"]}
            assert operations == {"CREATE", "UPDATE"}
            assert [each["expression"] for each in webhook["matchConditions"]] == [
                "!has(object.metadata.deletionTimestamp)"
            ]
            assert webhook["failurePolicy"] == "Ignore"
            assert webhook["timeoutSeconds"] <= 3
            assert "caBundle" not in webhook["clientConfig"]


def test_nothing_is_set_or_mounted_twice(manifests: list[Manifest]) -> None:
    for name, spec in pod_specs(manifests):
        for container in containers(spec):
            names = [each["name"] for each in container.get("env", [])]
            paths = [each["mountPath"] for each in container["volumeMounts"]]
            assert len(names) == len(set(names)), name
            assert len(paths) == len(set(paths)), name


def test_every_volume_that_is_mounted_exists(manifests: list[Manifest]) -> None:
    claims = {
        claim["metadata"]["name"]
        for each in manifests
        if each["kind"] == "StatefulSet"
        for claim in each["spec"].get("volumeClaimTemplates", [])
    }
    for name, spec in pod_specs(manifests):
        volumes = {each["name"] for each in spec.get("volumes", [])} | claims
        mounts = {mount["name"] for each in containers(spec) for mount in each["volumeMounts"]}
        assert mounts <= volumes, name


def test_a_gateway_is_given_more_time_to_drain_than_it_takes(manifests: list[Manifest]) -> None:
    spec = find(manifests, "Deployment", "plinth-gateway")["spec"]["template"]["spec"]
    (gateway,) = spec["containers"]
    (drain,) = (re.fullmatch(r"--drain-seconds=(\d+)", each) for each in gateway["args"] if "drain" in each)
    assert drain
    before = gateway["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] > int(drain[1]) + before


def test_the_agent_outlives_the_gateway_that_it_serves() -> None:
    spec = find(rendered("defaults"), "Deployment", "plinth-gateway")["spec"]["template"]["spec"]
    assert [(each["name"], each["restartPolicy"]) for each in spec["initContainers"]] == [("agent", "Always")]


def test_ray_pods_are_closed_to_all_but_operator_gateway_and_each_other() -> None:
    manifests = rendered("dedicated namespaces")
    for namespace in (NAMESPACE, "team-a", "team-b"):
        spec = find(manifests, "NetworkPolicy", "plinth-engine", namespace)["spec"]
        assert spec["policyTypes"] == ["Ingress"]
        (rule,) = spec["ingress"]
        themselves, ours = rule["from"]
        assert themselves == {"podSelector": spec["podSelector"]}
        assert ours["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": NAMESPACE}
        names = {each["key"]: each["values"] for each in ours["podSelector"]["matchExpressions"]}
        assert names["app.kubernetes.io/component"] == ["operator", "gateway"]


def test_load_reports_are_only_for_the_operator_and_metrics_only_for_who_is_named() -> None:
    gateway = find(rendered("defaults"), "NetworkPolicy", "plinth-gateway")["spec"]
    everybody, reports = gateway["ingress"]
    assert everybody == {"ports": [{"port": "http"}]}
    assert reports["ports"] == [{"port": "agent"}]
    (peer,) = reports["from"]
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "operator"
    operator = find(rendered("defaults"), "NetworkPolicy", "plinth-operator")["spec"]
    assert [rule["ports"] for rule in operator["ingress"]] == [[{"port": "webhook"}]]
    named = find(rendered("clients and monitoring named"), "NetworkPolicy", "plinth-gateway")["spec"]
    clients, metrics, _ = named["ingress"]
    assert len(clients["from"]) == 2  # theirs, and the chart's own test
    monitoring = COMBINATIONS["clients and monitoring named"]["networkPolicy"]["monitoring"]
    assert metrics == {"ports": [{"port": "metrics"}], "from": monitoring}


def test_what_probes_and_prometheus_ask_is_on_no_service(manifests: list[Manifest]) -> None:
    (gateway,) = find(manifests, "Deployment", "plinth-gateway")["spec"]["template"]["spec"]["containers"]
    assert {gateway[each]["httpGet"]["port"] for each in ("readinessProbe", "livenessProbe")} == {"metrics"}
    (port,) = (each["containerPort"] for each in gateway["ports"] if each["name"] == "metrics")
    assert f"--metrics-port={port}" in gateway["args"]
    (served,) = find(manifests, "Service", "plinth-gateway")["spec"]["ports"]
    assert served["targetPort"] == "http"
    for monitor in (each for each in manifests if each["kind"] in {"PodMonitor", "ServiceMonitor"}):
        (endpoint,) = monitor["spec"].get("endpoints") or monitor["spec"]["podMetricsEndpoints"]
        assert endpoint["port"] == "metrics"


def test_tls_files_are_where_the_flags_say(manifests: list[Manifest]) -> None:
    spec = find(manifests, "Deployment", "plinth-gateway")["spec"]["template"]["spec"]
    (gateway,) = spec["containers"]
    folders = {each["mountPath"]: each["name"] for each in gateway["volumeMounts"]}
    volumes = {each["name"]: each for each in spec["volumes"]}
    for flag in (each for each in gateway["args"] if "tls-" in each):
        folder, _, file = flag.partition("=")[2].rpartition("/")
        shown = volumes[folders[folder]]["secret"].get("items")
        assert shown is None or file in {each["path"] for each in shown}, flag


def test_a_gateway_with_a_certificate_is_asked_by_https_and_one_without_by_http() -> None:
    for combination, scheme in (("defaults", "http"), ("gateways that speak tls to both sides", "https")):
        (port,) = find(rendered(combination), "Service", "plinth-gateway")["spec"]["ports"]
        assert (port["name"], port["appProtocol"]) == (scheme, scheme)
        test = find(rendered(combination), "Pod", "plinth-test")["spec"]["containers"][0]
        assert f"--gateway={scheme}://plinth-gateway:80" in test["args"]
    flags = gateway_flags("gateways that speak tls to both sides")
    assert "--redis-url=rediss://counts.example:6380" in flags
    assert "--tls-cert=/etc/plinth/tls/tls.crt" in flags


def test_the_chart_s_test_may_make_keys_only_while_it_runs_and_take_away_only_its_own() -> None:
    manifests = rendered("defaults")
    role = find(manifests, "Role", "plinth-test", KEYS_NAMESPACE)
    assert role["metadata"]["annotations"]["helm.sh/hook"] == "test"
    create, delete = role["rules"]
    assert create["verbs"] == ["create"]
    assert (delete["verbs"], delete["resourceNames"]) == (["delete"], [secret_name(NAMESPACE, KEY_NAME)])
    open_to_all = {each["metadata"]["name"] for each in rendered("no key asked for")}
    assert "plinth-test" in open_to_all
    assert "serviceAccountName" not in find(rendered("no key asked for"), "Pod", "plinth-test")["spec"]


def gateway_flags(combination: str) -> set[str]:
    spec = find(rendered(combination), "Deployment", "plinth-gateway")["spec"]["template"]["spec"]
    return {flag for container in containers(spec) for flag in container["args"]}


def test_gateways_ask_for_a_key_unless_it_is_said_that_they_need_not() -> None:
    assert {"--requires-key", f"--keys-namespace={KEYS_NAMESPACE}"} <= gateway_flags("defaults")
    assert "--requires-no-key" in gateway_flags("no key asked for")
    assert "--keys-namespace=keys" in gateway_flags("keys in a namespace that is there")


def test_keys_are_read_by_operator_and_agents_alone_and_stay_when_the_chart_goes() -> None:
    manifests = rendered("defaults")
    namespace = find(manifests, "Namespace", KEYS_NAMESPACE)
    assert namespace["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    binding = find(manifests, "RoleBinding", "plinth-keys", KEYS_NAMESPACE)
    assert {each["name"] for each in binding["subjects"]} == {"plinth-gateway", "plinth-operator"}
    elsewhere = rendered("keys in a namespace that is there")
    assert "Namespace" not in {each["kind"] for each in elsewhere}
    assert find(elsewhere, "RoleBinding", "plinth-keys", "keys")


def test_gateways_share_counts_by_the_redis_of_their_own_else_by_the_chart_s() -> None:
    def redis(combination: str) -> set[str]:
        return {flag for flag in gateway_flags(combination) if "redis" in flag}

    password = "--redis-password-file=/etc/plinth/redis/password"
    assert redis("defaults") == redis("redis of one's own") == set()
    url = f"--redis-url=redis://plinth-redis.{NAMESPACE}.svc:6379/1"
    assert redis("redis of the chart") == {url, password, "--redis-timeout-ms=50"}
    own = redis("gateways with a redis of their own")
    assert {"--redis-url=redis://counts.example:6379/2", password, "--cache-place=redis"} <= own
    assert password not in redis("gateways with a redis of their own without a password")


def test_the_chart_s_redis_is_open_to_gateways_only_where_they_use_it() -> None:
    def peers(combination: str) -> str:
        return repr(find(rendered(combination), "NetworkPolicy", "plinth-redis")["spec"]["ingress"])

    assert "'gateway'" in peers("redis of the chart")
    assert "'gateway'" not in peers("gateways with a redis of their own")


def test_without_network_policies_there_are_none() -> None:
    assert "NetworkPolicy" not in {each["kind"] for each in rendered("no network policies")}


def test_a_namespace_that_is_named_gives_the_operator_access_there_and_nowhere_else() -> None:
    bindings = [each for each in rendered("dedicated namespaces") if each["kind"] == "RoleBinding"]
    opened = {
        each["metadata"]["namespace"]
        for each in bindings
        if each["roleRef"]["name"] == "plinth-namespace-access"
    }
    assert opened == {"team-a", "team-b"}
    assert "plinth-namespace-access" not in {
        each["roleRef"]["name"] for each in rendered("defaults") if "roleRef" in each
    }


def test_crds_stay_when_the_chart_goes() -> None:
    crds = [each for each in rendered("defaults") if each["kind"] == "CustomResourceDefinition"]
    assert len(crds) == 3
    assert {each["metadata"]["annotations"]["helm.sh/resource-policy"] for each in crds} == {"keep"}


def test_secrets_of_ones_own_are_left_alone() -> None:
    assert "Secret" not in {each["kind"] for each in rendered("secrets of one's own")}


def test_draining_a_node_is_never_blocked_by_a_single_replica(manifests: list[Manifest]) -> None:
    budgets = [each["spec"] for each in manifests if each["kind"] == "PodDisruptionBudget"]
    assert [each["maxUnavailable"] for each in budgets] == [1, 1]


def test_a_new_version_of_the_chart_alone_restarts_no_redis(tmp_path: Path) -> None:
    def redis(chart: Path) -> Manifest:
        text = render_text({"redis": {"enabled": True}}, chart=chart)
        manifests = [each for each in yaml.safe_load_all(text) if each]
        template: Manifest = find(manifests, "StatefulSet", "plinth-redis")["spec"]["template"]
        return template

    assert redis(newer_chart(tmp_path)) == redis(CHART)
