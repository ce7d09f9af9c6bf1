# SPDX-License-Identifier: Apache-2.0
"""What makes a pod a job: the JOB_ variables, the Secret, the labels; and pods out of whole manifests."""

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

# Names of keys in the Secret, which no container refers to.
TASK_KEY = "TASK_KEY"
MASKED_SECRETS = "MASKED_SECRETS"


@dataclass(frozen=True)
class PodSecrets:
    """The secrets of an action that a cluster keeps beside its pod.

    :param known: what else the pod was given that its task's log masks
    """

    job: str = field(repr=False)
    task: str = field(repr=False)
    known: frozenset[str] = field(default=frozenset(), repr=False)

    def masked(self, line: str) -> str:
        """Return a log line without them."""
        return self._masker.line(line)

    @cached_property
    def _masker(self) -> Masker:
        return Masker({self.job, self.task, *self.known})


def add_job(
    pod: k8s.V1Pod, info: JobInfo, *, task_key: str | None, secret_in_env: bool, on_finish: str
) -> None:
    """Make a pod, that has a name, the job of an action.

    All containers get the variables; none gets the task key. The pod is run once: tries are Airflow's.

    :param task_key: by which others than its worker can watch the pod
    :param secret_in_env: put both secrets into the pod in clear, rather than into its :func:`job_secret`
    :param on_finish: what is to be done with it at its end, as KubernetesPodOperator says it
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
        container.env = [*variables, *own]  # first, so that $(JOB_ID) can be used in the others
    pod.spec.restart_policy = "Never"
    labels = {ACTION_LABEL: info.job_id, ON_FINISH_LABEL: on_finish}
    pod.metadata.labels = {**(pod.metadata.labels or {}), **labels}


def job_secret(
    pod: k8s.V1Pod, info: JobInfo, *, task_key: str | None, known: Iterable[str] = ()
) -> k8s.V1Secret:
    """Return the Secret of a pod that was created: it has its name, and the cluster deletes it with it.

    The pod's containers refer to the job's secret in it alone.

    :param known: secrets that the pod is given: by it a trigger masks them in the task log
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


def secrets_of(pod: Pod, secret: Mapping[str, Any] | None) -> PodSecrets:
    """Return the secrets of an action out of its pod's Secret, as JSON, or else out of the pod itself.

    Pods of older releases have no task key: their job's secret is used instead.

    :raises ValueError: they are in neither
    """
    data = (secret or {}).get("data") or {}
    if JOB_SECRET_KEY in data:
        job = _decoded(data, JOB_SECRET_KEY)
        task = _decoded(data, TASK_KEY) if TASK_KEY in data else job
        return PodSecrets(job, task, _known(data))
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    for container in (pod.get("spec") or {}).get("containers") or ():
        for variable in container.get("env") or ():
            if variable.get("name") == JOB_SECRET_KEY and variable.get("value"):
                job = str(variable["value"])
                return PodSecrets(job, annotations.get(TASK_KEY_ANNOTATION) or job)
    raise ValueError(f"Neither the pod nor its Secret has {JOB_SECRET_KEY}")


def _known(data: Mapping[str, str]) -> frozenset[str]:
    if MASKED_SECRETS not in data:
        return frozenset()
    try:
        return frozenset(map(str, json.loads(_decoded(data, MASKED_SECRETS))))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{MASKED_SECRETS} in the Secret is not what was put there") from error


def _decoded(data: Mapping[str, str], name: str) -> str:
    try:
        return base64.b64decode(data[name], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{name} in the Secret is not what was put there") from error


def pod_of_manifest(
    manifest: str | os.PathLike[str] | Mapping[str, Any], variables: Mapping[str, str]
) -> k8s.V1Pod:
    """Return the pod of a manifest of kind Pod or Job.

    ``${JOB_ID}`` and the like are replaced in all strings (:func:`replace_variables`); ``$X`` is left alone.
    Of a Job its pod template, ``activeDeadlineSeconds`` and labels are taken; its ``backoffLimit`` is not,
    since tries are Airflow's.

    :param manifest: YAML or JSON, the path of a file with it, or a mapping
    :param variables: values by name, such as ``JOB_ID`` and ``env.REGION``
    :raises ValueError: what is wrong with it, and what to do
    """
    document = replace_variables(_document(manifest), variables)
    kind = document.get("kind")
    if kind == "Job":
        document = _pod_of_job(document)
    elif kind != "Pod":
        raise ValueError(f"The manifest is of kind {kind!r}: give one of kind Pod or Job")
    containers = (document.get("spec") or {}).get("containers")
    if not isinstance(containers, list) or not containers:
        raise ValueError("The manifest has no containers: give spec.containers at least one")
    document.setdefault("metadata", {})
    pod: k8s.V1Pod = PodGenerator.deserialize_model_dict(document)
    return pod


def _document(manifest: str | os.PathLike[str] | Mapping[str, Any]) -> Mapping[str, Any]:
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
        raise ValueError(f"The manifest is no single YAML document: {error}") from error
    if not isinstance(document, Mapping):
        raise ValueError("The manifest is no mapping: give one document of kind Pod or Job")
    return document


def _pod_of_job(job: Mapping[str, Any]) -> dict[str, Any]:
    spec, metadata = job.get("spec") or {}, job.get("metadata") or {}
    for name in ("completions", "parallelism"):
        if spec.get(name, 1) != 1:
            raise ValueError(
                f"The Job's {name} is {spec[name]!r}: a task is one pod; use mapped tasks for more"
            )
    template = spec.get("template")
    if not isinstance(template, Mapping) or not isinstance(template.get("spec"), Mapping):
        raise ValueError("The Job has no pod: give it spec.template.spec")
    pod_metadata = dict(template.get("metadata") or {})
    pod_metadata["labels"] = {**(metadata.get("labels") or {}), **(pod_metadata.get("labels") or {})}
    for name in ("name", "namespace"):
        if metadata.get(name):
            pod_metadata.setdefault(name, metadata[name])
    pod_spec = dict(template["spec"])
    if spec.get("activeDeadlineSeconds") is not None:
        pod_spec.setdefault("activeDeadlineSeconds", spec["activeDeadlineSeconds"])
    return {"apiVersion": "v1", "kind": "Pod", "metadata": pod_metadata, "spec": pod_spec}
