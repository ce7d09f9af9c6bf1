# SPDX-License-Identifier: Apache-2.0
"""Kubernetes API client of a worker: sends requests from the calling thread, and retries them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from http.client import HTTPException
from typing import Any, Self

from kubernetes import client as k8s
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from airflow_asyncaction.retrying import ExponentialBackoff, as_sentence
from airflow_asyncaction.runners.pods.api_requests import (
    ApiRequest,
    ClusterUnavailable,
    describe_failure,
    describe_unreachable,
    parse_response,
)

log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0
_CHUNK_BYTES = 64 * 1024
_NO_RESPONSE = (HTTPError, HTTPException, OSError)


class RequestAbandoned(Exception):
    """A failed request was not retried: the runner no longer needs the response."""


class PodApi:
    """Sends requests to a cluster.

    :param is_abandoned: returns whether a failed request is no longer needed
    """

    def __init__(self, client: k8s.CoreV1Api, is_abandoned: Callable[[], bool] = lambda: False) -> None:
        self._client = client
        self._is_abandoned = is_abandoned

    def send(self, request: ApiRequest, *, patience: timedelta | None) -> Any:
        """Return the response's JSON; retry while the cluster is unavailable.

        :param patience: for how long to retry; ``None``: without limit
        :raises ClusterError: the cluster refused it, or was unavailable for too long
        :raises RequestAbandoned: the cluster is unavailable, and the response is no longer needed
        """
        until = math.inf if patience is None else time.monotonic() + patience.total_seconds()
        backoff = ExponentialBackoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        while True:
            try:
                return self.send_once(request)
            except ClusterUnavailable as error:
                remaining = until - time.monotonic()
                if remaining <= 0:
                    raise
                if self._is_abandoned():
                    raise RequestAbandoned(str(error)) from error
                pause = min(backoff.next_pause(), remaining)
                limit = "" if math.isinf(remaining) else f", for at most {remaining:.0f} s"
                log.warning("%s Retrying in %.1f s%s", as_sentence(str(error)), pause, limit)
                time.sleep(pause)

    def send_once(self, request: ApiRequest) -> Any:
        """Return the response's JSON.

        :raises ClusterError: the request failed
        """
        try:
            response = request.call(self._client)
            status, body = response.status, response.data
        except ApiException as error:
            status, body = error.status, error.body or ""
        except _NO_RESPONSE as error:
            raise describe_unreachable(error) from error
        return parse_response(request, status, body)

    def open_stream(self, request: ApiRequest) -> ResponseStream:
        """Return a response whose body is streamed.

        :raises ClusterError: the request failed
        """
        try:
            return ResponseStream(request.call(self._client))
        except ApiException as error:
            raise describe_failure(error.status, error.body) from error
        except _NO_RESPONSE as error:
            raise describe_unreachable(error) from error


class ResponseStream:
    """Streamed body of a response. A context manager that closes the connection."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()

    def __iter__(self) -> Iterator[bytes]:
        """Yield the chunks of the body.

        :raises ClusterUnavailable: the connection broke
        """
        try:
            yield from self._response.stream(amt=_CHUNK_BYTES, decode_content=False)
            self._response.release_conn()
        except _NO_RESPONSE as error:
            raise describe_unreachable(error) from error

    def interrupt(self) -> None:
        """End the iteration in another thread. Older urllib3: it ends when the connection closes."""
        if hasattr(self._response, "shutdown"):
            with suppress(HTTPError, OSError, ValueError, RuntimeError):
                self._response.shutdown()
