# SPDX-License-Identifier: Apache-2.0
"""Deployment examples of the gateway: Kubernetes knows all their fields, and the command their arguments."""

from __future__ import annotations

import argparse
import configparser
import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.cli.cli_config import ActionCommand, GroupCommand
from kubernetes.client import ApiClient

from airflow_asyncaction.cli import get_cli_commands
from airflow_asyncaction.cli.gateway import gateway
from airflow_asyncaction.settings import OPTIONS
from airflow_asyncaction.web.gateway_server import GRACE_SECONDS

FOLDER = Path(__file__).parents[2] / "docs" / "gateway"
MANIFESTS: list[dict[str, Any]] = list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()))
MODELS = {"Deployment": "V1Deployment", "Service": "V1Service", "NetworkPolicy": "V1NetworkPolicy"}


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = (
        each["spec"] for each in MANIFESTS if (each["kind"], each["metadata"]["name"]) == (kind, name)
    )
    assert isinstance(found, dict)
    return found


def parse(command_line: str) -> argparse.Namespace:
    """Parse a command line ``... airflow asyncaction gateway ...`` as Airflow does."""
    words = shlex.split(command_line)
    (group,) = get_cli_commands()
    assert isinstance(group, GroupCommand)
    (command,) = (each for each in group.subcommands if each.name == "gateway")
    assert isinstance(command, ActionCommand)
    parser = argparse.ArgumentParser(exit_on_error=False)
    for arg in command.args:
        arg.add_to_parser(parser)
    at = words.index("asyncaction")
    assert (Path(words[at - 1]).name, words[at + 1]) == ("airflow", "gateway")
    return parser.parse_args(words[at + 2 :])


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda each: f"{each['kind']} {each['metadata']['name']}")
def test_a_manifest_is_what_kubernetes_knows(manifest: dict[str, Any]) -> None:
    client = ApiClient()
    model = client.deserialize(SimpleNamespace(data=json.dumps(manifest)), MODELS[manifest["kind"]])
    assert client.sanitize_for_serialization(model) == manifest  # unknown fields would be lost


def test_the_service_and_the_probes_reach_the_gateway() -> None:
    deployment = named("Deployment", "airflow-gateway")
    pod = deployment["template"]
    (container,) = pod["spec"]["containers"]
    (port,) = container["ports"]
    assert port["containerPort"] == parse(container["args"][-1]).port
    for selector in (
        deployment["selector"]["matchLabels"],
        named("Service", "airflow-gateway")["selector"],
        named("NetworkPolicy", "airflow-gateway")["podSelector"]["matchLabels"],
    ):
        assert selector == pod["metadata"]["labels"]
    (rule,) = named("NetworkPolicy", "airflow-gateway")["ingress"]
    assert [each["port"] for each in rule["ports"]] == [port["containerPort"]]
    probed = [container[name]["httpGet"]["path"] for name in ("livenessProbe", "readinessProbe")]
    assert probed == ["/healthz", "/readyz"]


def test_all_other_pods_are_closed_to_jobs() -> None:
    policy = named("NetworkPolicy", "airflow-internal")
    labels = named("Deployment", "airflow-gateway")["template"]["metadata"]["labels"]
    (expression,) = policy["podSelector"]["matchExpressions"]
    assert expression == {"key": "app", "operator": "NotIn", "values": [labels["app"]]}
    assert policy["ingress"] == [{"from": [{"podSelector": {}}]}]


def test_the_values_of_the_chart_are_options() -> None:
    values = yaml.safe_load((FOLDER / "values.yaml").read_text())["config"]["asyncaction"]
    assert set(values) <= {option.name for option in OPTIONS}
    (port,) = named("Service", "airflow-gateway")["ports"]
    assert values["base_url"] == f"http://airflow-gateway.airflow.svc:{port['port']}/async"


def test_the_unit_runs_the_command() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(FOLDER / "asyncaction-gateway.service")
    options = parse(unit["Service"]["ExecStart"])
    assert (options.host, options.port, options.workers) == ("0.0.0.0", 8081, 2)
    assert int(unit["Service"]["TimeoutStopSec"]) > GRACE_SECONDS
    pod = named("Deployment", "airflow-gateway")["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > GRACE_SECONDS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--workers 0", "--workers must be at least 1"),
        ("--ssl-certfile cert.pem", "must be used together"),
        ("--ssl-keyfile key.pem", "must be used together"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: str, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        gateway(parse(f"airflow asyncaction gateway {options}"))
