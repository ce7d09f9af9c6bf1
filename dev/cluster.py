# SPDX-License-Identifier: Apache-2.0
"""Temporary namespace on a real Kubernetes cluster, accessed with the minimal RBAC role."""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from kubernetes import client as k8s
from kubernetes import config as kube_config
from kubernetes import utils as kube_utils
from urllib3.exceptions import HTTPError

from dev.forwarder import Forwarder
from dev.zipapp import build_zipapp

KUBECONFIG = "ASYNCACTION_TEST_KUBECONFIG"
"""Environment variable with the path of a cluster administrator's kubeconfig."""

HOST = "ASYNCACTION_TEST_HOST"
"""Environment variable with the address at which pods reach this machine, if it cannot be detected."""

IMAGE = "ASYNCACTION_TEST_IMAGE"
"""Environment variable with the image for jobs in Python; the default is python:3-slim."""

SMALL_IMAGE = "busybox"

RBAC = Path(__file__).parent.parent / "docs" / "kubernetes" / "rbac.yaml"
ACCOUNT = "airflow-asyncaction"
"""ServiceAccount created by :data:`RBAC`."""

ZIPAPP = "asyncaction"
"""ConfigMap with the job client: /asyncaction/asyncaction.pyz if it is mounted at /asyncaction."""

_TOKEN_SECONDS = 24 * 3600
_POD_SECONDS = 60


class ClusterError(Exception):
    """No Kubernetes cluster is available."""


class Cluster:
    """``with Cluster() as cluster``: a namespace with the rights of docs/kubernetes/rbac.yaml.

    How it works: with an administrator's kubeconfig, by default that of :data:`KUBECONFIG`, it creates the
    namespace, the ServiceAccount with its role, and the ConfigMap :data:`ZIPAPP`. Airflow uses
    ``kubeconfig``, which has that ServiceAccount's token and this namespace as the default.

    What it does not do: start a cluster, or wait until the namespace has been deleted.

    :param with_forwarder: whether ``kubeconfig`` connects through a forwarder, as :meth:`outage` needs. The
        cluster's certificate must be valid for 127.0.0.1, as it is for local clusters
    """

    def __init__(self, admin_kubeconfig: Path | None = None, *, with_forwarder: bool = False) -> None:
        if admin_kubeconfig is None:
            admin_kubeconfig = Path(os.environ.get(KUBECONFIG, ""))
        if not admin_kubeconfig.is_file():
            raise ClusterError(
                f"No Kubernetes cluster: set {KUBECONFIG} to the kubeconfig of one, for example of kind"
            )
        self.admin_kubeconfig = admin_kubeconfig.resolve()
        self.namespace = f"asyncaction-{secrets.token_hex(4)}"
        self.image = os.environ.get(IMAGE, "python:3-slim")
        self._client = kube_config.new_client_from_config(config_file=str(self.admin_kubeconfig))
        self.core = k8s.CoreV1Api(self._client)
        self._forwarder = self._make_forwarder() if with_forwarder else None
        self._folder: Path | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig that Airflow uses."""
        assert self._folder is not None
        return self._folder / "kubeconfig"

    @property
    def environ(self) -> dict[str, str]:
        """Environment of a Deployment whose connection ``kubernetes_default`` uses this namespace."""
        extra = {"kube_config_path": str(self.kubeconfig), "namespace": self.namespace}
        return {
            "AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps({"conn_type": "kubernetes", "extra": extra}),
            "ASYNCACTION_TEST_NAMESPACE": self.namespace,
            IMAGE: self.image,
        }

    @cached_property
    def host(self) -> str:
        """Address at which pods reach this machine."""
        if configured := os.environ.get(HOST):
            return configured
        node = self.core.list_node(limit=1).items[0]
        address = next(each.address for each in node.status.addresses if each.type == "InternalIP")
        if not ipaddress.ip_address(address).is_loopback:
            return _address_towards(address)
        return _address_towards(self._address_of_a_pod())  # the node is this machine

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Make the Kubernetes API unreachable for users of ``kubeconfig``."""
        assert self._forwarder is not None, "create the Cluster with_forwarder"
        with self._forwarder.cut():
            yield

    def stop(self) -> None:
        """Delete the namespace. Do not wait until that is done."""
        if self._folder is None:
            return
        try:
            self.core.delete_collection_namespaced_pod(self.namespace, grace_period_seconds=0)
            self.core.delete_namespace(self.namespace)
        except (k8s.ApiException, HTTPError) as error:
            if getattr(error, "status", None) != 404:
                print(f"Could not delete the namespace {self.namespace}: {error}")
        self._client.rest_client.pool_manager.clear()
        self._open.close()
        self._folder = None

    def _start(self) -> None:
        try:
            self.core.create_namespace({"metadata": {"name": self.namespace}}, _request_timeout=30)
        except HTTPError as error:
            message = f"The Kubernetes cluster of {self.admin_kubeconfig} does not respond"
            raise ClusterError(message) from error
        folder = tempfile.TemporaryDirectory(prefix="asyncaction-cluster-")
        self._folder = Path(self._open.enter_context(folder))
        kube_utils.create_from_yaml(self._client, str(RBAC), namespace=self.namespace)
        if self._forwarder is not None:
            self._open.enter_context(self._forwarder)
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(json.dumps(self._account()))
        zipapp = build_zipapp(self._folder / "asyncaction.pyz").read_bytes()
        body = {"metadata": {"name": ZIPAPP}, "binaryData": {"asyncaction.pyz": _base64(zipapp)}}
        self.core.create_namespaced_config_map(self.namespace, body)
        self._wait_for_default_account()

    def _account(self) -> dict[str, Any]:
        """Return a kubeconfig of the ServiceAccount, as JSON."""
        request = {"spec": {"expirationSeconds": _TOKEN_SECONDS}}
        token = self.core.create_namespaced_service_account_token(
            ACCOUNT, self.namespace, request
        ).status.token
        admin = self._client.configuration
        server = admin.host if self._forwarder is None else f"https://127.0.0.1:{self._forwarder.port}"
        cluster: dict[str, Any] = {"server": server}
        if admin.ssl_ca_cert:
            cluster["certificate-authority-data"] = _base64(Path(admin.ssl_ca_cert).read_bytes())
        if not admin.verify_ssl:
            cluster["insecure-skip-tls-verify"] = True
        context = {"cluster": "cluster", "user": ACCOUNT, "namespace": self.namespace}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "context",
            "clusters": [{"name": "cluster", "cluster": cluster}],
            "users": [{"name": ACCOUNT, "user": {"token": token}}],
            "contexts": [{"name": "context", "context": context}],
        }

    def _make_forwarder(self) -> Forwarder:
        server = urlsplit(self._client.configuration.host)
        return Forwarder(str(server.hostname), server.port or 443)

    def _wait_for_default_account(self) -> None:
        """Wait for the default ServiceAccount, which pods need."""
        deadline = time.monotonic() + _POD_SECONDS
        while True:
            accounts = self.core.list_namespaced_service_account(self.namespace).items
            if any(each.metadata.name == "default" for each in accounts):
                return
            if time.monotonic() > deadline:
                raise ClusterError(f"The default ServiceAccount was not created within {_POD_SECONDS} s")
            time.sleep(0.1)

    def _address_of_a_pod(self) -> str:
        """Run a short-lived pod and return its IP address."""
        container = {"name": "base", "image": SMALL_IMAGE, "command": ["sleep", "60"]}
        spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container]}
        pod = {"metadata": {"name": "address"}, "spec": spec}
        self.core.create_namespaced_pod(self.namespace, pod)
        try:
            deadline = time.monotonic() + _POD_SECONDS
            while time.monotonic() < deadline:
                status = self.core.read_namespaced_pod("address", self.namespace).status
                if status.pod_ip:
                    return str(status.pod_ip)
                time.sleep(0.2)
        finally:
            self.core.delete_namespaced_pod("address", self.namespace, grace_period_seconds=0)
        raise ClusterError(f"A pod of {SMALL_IMAGE} got no IP address within {_POD_SECONDS} s: set {HOST}")


def _address_towards(address: str) -> str:
    """Return the local address of the route to another host, without sending anything."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        return str(probe.getsockname()[0])


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
