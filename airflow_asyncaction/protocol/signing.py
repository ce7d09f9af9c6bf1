# SPDX-License-Identifier: Apache-2.0
"""Signatures of job requests, v1 (webda's) and v2 (PROTOCOL.md, 2)."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from airflow_asyncaction.exceptions import SignatureError, StaleTime
from airflow_asyncaction.protocol.compat import StrEnum
from airflow_asyncaction.protocol.job_info import JobId, is_job_id

JOB_ID_HEADER = "X-Job-Id"
TIME_HEADER = "X-Job-Time"
NONCE_HEADER = "X-Job-Nonce"
V1_HEADER = "X-Job-Hash"
V2_HEADER = "X-Job-Signature"

_V2_PREFIX = "v2="
_TIME = re.compile(r"[0-9]{1,16}")
_NONCE = re.compile(r"[A-Za-z0-9_-]{16,64}")
_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")


class Scheme(StrEnum):
    """How a request is signed."""

    V1 = "v1"  # over the time alone
    V2 = "v2"  # over the whole request


class Signer(Protocol):
    """Signs requests about one action: its job (``JobInfo``), or its task (``TaskCredentials``)."""

    @property
    def job_id(self) -> JobId:
        """The action."""

    @property
    def secret_key(self) -> str:
        """The signer's own secret."""


@dataclass(frozen=True)
class Content:
    """What a v2 signature covers besides the headers, as it goes over the wire.

    :param path: relative to the hook URL, percent-encoding kept, ``""`` for the hook URL itself
    :param query: without ``?``
    """

    method: str
    path: str | bytes
    query: str | bytes = ""
    body: bytes = b""


@dataclass(frozen=True)
class Claim:
    """What the headers of a request claim; nothing is proven yet.

    :param nonce: ``""`` under v1, which has none
    """

    job_id: JobId
    scheme: Scheme
    time_ms: int
    time_text: str
    nonce: str
    digest: str


def sign_v1(secret: str, time_text: str) -> str:
    """Return the v1 hash of a time in ms, as decimal text."""
    return hmac.new(_octets(secret), _octets(time_text), hashlib.sha256).hexdigest()


def string_to_sign(*, job_id: str, time_text: str, nonce: str, content: Content) -> bytes:
    """Return the eight lines that a v2 signature covers."""
    return b"\n".join(
        (
            b"JOB-HMAC-SHA256-V2",
            _octets(job_id),
            _octets(time_text),
            _octets(nonce),
            _octets(content.method.upper()),
            _octets(content.path),
            _octets(content.query),
            hashlib.sha256(content.body).hexdigest().encode(),
        )
    )


def sign_v2(secret: str, *, job_id: str, time_text: str, nonce: str, content: Content) -> str:
    """Return the hex digest of a v2 signature (without ``v2=``)."""
    message = string_to_sign(job_id=job_id, time_text=time_text, nonce=nonce, content=content)
    return hmac.new(_octets(secret), message, hashlib.sha256).hexdigest()


def signed_headers(signer: Signer, content: Content, *, time_ms: int, nonce: str) -> dict[str, str]:
    """Return the headers that sign a request under v2."""
    time_text, job_id = str(time_ms), signer.job_id
    digest = sign_v2(signer.secret_key, job_id=job_id, time_text=time_text, nonce=nonce, content=content)
    return {
        JOB_ID_HEADER: job_id,
        TIME_HEADER: time_text,
        NONCE_HEADER: nonce,
        V2_HEADER: _V2_PREFIX + digest,
    }


def read_claim(headers: Mapping[str, str]) -> Claim:
    """Read who a request claims to be from.

    A v2 signature is taken before a v1 hash beside it.

    :param headers: with case-insensitive look-up, or with the names as this module spells them
    :raises SignatureError: a header is missing or malformed
    """
    job_id = headers.get(JOB_ID_HEADER) or ""
    time_text = headers.get(TIME_HEADER) or ""
    if not is_job_id(job_id):
        raise SignatureError(f"{JOB_ID_HEADER} is missing or not a UUID")
    if not _TIME.fullmatch(time_text):
        raise SignatureError(f"{TIME_HEADER} is missing or not a Unix time in ms")
    nonce = ""
    signature = headers.get(V2_HEADER)
    if signature is not None:
        scheme, digest = Scheme.V2, signature[len(_V2_PREFIX) :]
        nonce = headers.get(NONCE_HEADER) or ""
        if not signature.startswith(_V2_PREFIX):
            raise SignatureError(f'{V2_HEADER} does not start with "{_V2_PREFIX}"')
        if not _NONCE.fullmatch(nonce):
            raise SignatureError(f"{NONCE_HEADER} is missing or not of the form [A-Za-z0-9_-]{{16,64}}")
    else:
        scheme, digest = Scheme.V1, headers.get(V1_HEADER) or ""
    if not _HEX_SHA256.fullmatch(digest):
        raise SignatureError(f"{V1_HEADER} or {V2_HEADER} is missing or not 64 lower-case hex digits")
    return Claim(JobId(job_id), scheme, int(time_text), time_text, nonce, digest)


def verify(claim: Claim, content: Content, *, secret: str, now_ms: int, max_skew_ms: int) -> None:
    """Prove a claim. Comparison takes the same time wherever the digests differ.

    For the hook URL itself, a client may sign either path: ``""``, or ``/``, which is what HTTP sends.

    :raises StaleTime: it is signed rightly, but its time is more than ``max_skew_ms`` from ``now_ms``
    :raises SignatureError: it is not signed with ``secret``
    """
    if claim.scheme is Scheme.V2:
        paths = (content.path,) if content.path else ("", "/")
        accepted = [_expected_v2(claim, replace(content, path=path), secret) for path in paths]
    else:
        accepted = [sign_v1(secret, claim.time_text)]
    if not any(hmac.compare_digest(digest.encode(), claim.digest.encode()) for digest in accepted):
        raise SignatureError
    if abs(now_ms - claim.time_ms) > max_skew_ms:
        raise StaleTime


def _expected_v2(claim: Claim, content: Content, secret: str) -> str:
    return sign_v2(secret, job_id=claim.job_id, time_text=claim.time_text, nonce=claim.nonce, content=content)


def report_key(claim: Claim, body: bytes) -> str:
    """Return what identifies a report within its action: the nonce, or for v1 a digest of (time, body)."""
    if claim.scheme is Scheme.V2:
        return claim.nonce
    digest = hashlib.sha256(claim.time_text.encode() + b"\n" + body).hexdigest()
    return "." + digest[:48]  # "." never starts a nonce


def _octets(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
