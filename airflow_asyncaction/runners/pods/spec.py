# SPDX-License-Identifier: Apache-2.0
"""Pod specs: the JOB_ variables, Secret and labels of a job's pod, and pods from manifests."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from kubernetes import client as k8s

from airflow_asyncaction.protocol.job_info import JOB_SECRET_KEY, JobInfo
from airflow_asyncaction.protocol.masking import Masker, bounded
from airflow_asyncaction.runners.manifest_variables import replace_variables
from airflow_asyncaction.runners.pods.exit_status import (
    ACTION_LABEL,
    ON_FINISH_LABEL,
    TASK_KEY_ANNOTATION,
    Pod,
)

# Keys in the Secret that no container refers to.
TASK_KEY = "TASK_KEY"
MASKED_SECRETS = "MASKED_SECRETS"


@dataclass(frozen=True)
class PodSecrets:
    """The secrets of an action, which the cluster stores with its pod.

    :param known: other secrets that the pod contains, to be masked in the task log
    """

    job: str = field(repr=False)
    task: str = field(repr=False)
    known: frozenset[str] = field(default=frozenset(), repr=False)

    def mask(self, line: str) -> str:
        """Return a log line without the secrets."""
        return self._masker.line(line)

    @cached_property
    def _masker(self) -> Masker:
        return Masker({self.job, self.task, *self.known})


def add_job(
    pod: k8s.V1Pod, info: JobInfo, *, task_key: str | None, secret_in_env: bool, on_finish: str
) -> None:
    """Make a named pod the job of an action.

    All containers get the variables, but not the task key. The pod runs once: Airflow retries the task.

    :param task_key: lets processes other than the worker watch the pod
    :param secret_in_env: put both secrets into the pod in plain text, not into :func:`build_job_secret`
    :param on_finish: what to do with it at its end: an ``on_finish_action`` of KubernetesPodOperator
    """
    environ = info.to_environ()
    secret = environ.pop(JOB_SECRET_KEY)
    variables = [k8s.V1EnvVar(name=name, value=value) for name, value in environ.items()]
    if secret_in_env:
        variables.append(k8s.V1EnvVar(name=JOB_SECRET_KEY, value=secret))
        annotations = {} if task_key is None else {TASK_KEY_ANNOTATION: task_key}
        pod.metadata.annotations = {**(pod.metadata.annotations or {}), **annotations}
    else:
        reference = k8s.V1SecretKeySelector(name=pod.metadata.name, key=JOB_SECRET_KEY)
        source = k8s.V1EnvVarSource(secret_key_ref=reference)
        variables.append(k8s.V1EnvVar(name=JOB_SECRET_KEY, value_from=source))
    names = {variable.name for variable in variables}
    for container in (*(pod.spec.init_containers or ()), *pod.spec.containers):
        own = [variable for variable in container.env or () if variable.name not in names]
        container.env = [*variables, *own]  # first, so that the others can refer to $(JOB_ID)
    pod.spec.restart_policy = "Never"
    labels = {ACTION_LABEL: info.job_id, ON_FINISH_LABEL: on_finish}
    pod.metadata.labels = {**(pod.metadata.labels or {}), **labels}


def build_job_secret(
    pod: k8s.V1Pod, info: JobInfo, *, task_key: str | None, known: Iterable[str] = ()
) -> k8s.V1Secret:
    """Return the Secret of an existing pod. It has the pod's name, and the cluster deletes it with the pod.

    The pod's containers refer only to the job's secret in it.

    :param known: other secrets that the pod contains: a trigger masks them in the task log
    """
    owner = k8s.V1OwnerReference(
        api_version="v1", kind="Pod", name=pod.metadata.name, uid=pod.metadata.uid, controller=True
    )
    metadata = k8s.V1ObjectMeta(
        name=pod.metadata.name, owner_references=[owner], labels={ACTION_LABEL: info.job_id}
    )
    data = {JOB_SECRET_KEY: info.secret_key} | ({} if task_key is None else {TASK_KEY: task_key})
    if kept := bounded(known):
        data[MASKED_SECRETS] = json.dumps(kept)
    return k8s.V1Secret(metadata=metadata, string_data=data)


def parse_secrets(pod: Pod, secret: Mapping[str, Any] | None) -> PodSecrets:
    """Return the secrets of an action from its pod's Secret, as JSON, or else from the pod itself.

    Pods of older releases have no task key: the job's secret is used instead.

    :raises ValueError: neither contains them
    """
    data = (secret or {}).get("data") or {}
    if JOB_SECRET_KEY in data:
        job = _decoded(data, JOB_SECRET_KEY)
        task = _decoded(data, TASK_KEY) if TASK_KEY in data else job
        return PodSecrets(job, task, _parse_known(data))
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    for container in (pod.get("spec") or {}).get("containers") or ():
        for variable in container.get("env") or ():
            if variable.get("name") == JOB_SECRET_KEY and variable.get("value"):
                job = str(variable["value"])
                return PodSecrets(job, annotations.get(TASK_KEY_ANNOTATION) or job)
    raise ValueError(f"Neither the pod nor its Secret contains {JOB_SECRET_KEY}")


def _parse_known(data: Mapping[str, str]) -> frozenset[str]:
    if MASKED_SECRETS not in data:
        return frozenset()
    try:
        return frozenset(map(str, json.loads(_decoded(data, MASKED_SECRETS))))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{MASKED_SECRETS} in the Secret was changed and is now invalid") from error


def _decoded(data: Mapping[str, str], name: str) -> str:
    try:
        return base64.b64decode(data[name], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{name} in the Secret was changed and is now invalid") from error


def parse_manifest(
    manifest: str | os.PathLike[str] | Mapping[str, Any], variables: Mapping[str, str]
) -> k8s.V1Pod:
    """Return the pod of a manifest of kind Pod or Job.

    ``${JOB_ID}`` and the like are replaced in all strings (:func:`replace_variables`); ``$X`` is kept.
    The pod template, ``activeDeadlineSeconds`` and labels of a Job are used. Its ``backoffLimit`` is ignored:
    Airflow retries the task.

    :param manifest: YAML or JSON, the path of a file that contains it, or a mapping
    :param variables: values by name, such as ``JOB_ID`` and ``env.REGION``
    :raises ValueError: the manifest is invalid; the message says what to change
    """
    document = replace_variables(_load_manifest(manifest), variables)
    kind = document.get("kind")
    if kind == "Job":
        document = _convert_job(document)
    elif kind != "Pod":
        raise ValueError(f"The manifest is of kind {kind!r}: use one of kind Pod or Job")
    containers = (document.get("spec") or {}).get("containers")
    if not isinstance(containers, list) or not containers:
        raise ValueError("The manifest has no containers: add one to spec.containers")
    document.setdefault("metadata", {})
    pod: k8s.V1Pod = PodGenerator.deserialize_model_dict(document)
    return pod


def _load_manifest(manifest: str | os.PathLike[str] | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(manifest, Mapping):
        return manifest
    text = os.fspath(manifest)
    if "\n" not in text and not text.lstrip().startswith("{"):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise ValueError(f"The manifest {text!r} cannot be read: {error}") from error
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"The manifest is not a single YAML document: {error}") from error
    if not isinstance(document, Mapping):
        raise ValueError("The manifest is not a mapping: use one document of kind Pod or Job")
    return document


def _convert_job(job: Mapping[str, Any]) -> dict[str, Any]:
    spec, metadata = job.get("spec") or {}, job.get("metadata") or {}
    for name in ("completions", "parallelism"):
        if spec.get(name, 1) != 1:
            raise ValueError(
                f"The Job's {name} is {spec[name]!r}, but a task runs one pod: use mapped tasks for more"
            )
    template = spec.get("template")
    if not isinstance(template, Mapping) or not isinstance(template.get("spec"), Mapping):
        raise ValueError("The Job has no pod template: add spec.template.spec")
    pod_metadata = dict(template.get("metadata") or {})
    pod_metadata["labels"] = {**(metadata.get("labels") or {}), **(pod_metadata.get("labels") or {})}
    for name in ("name", "namespace"):
        if metadata.get(name):
            pod_metadata.setdefault(name, metadata[name])
    pod_spec = dict(template["spec"])
    if spec.get("activeDeadlineSeconds") is not None:
        pod_spec.setdefault("activeDeadlineSeconds", spec["activeDeadlineSeconds"])
    return {"apiVersion": "v1", "kind": "Pod", "metadata": pod_metadata, "spec": pod_spec}
