# SPDX-License-Identifier: Apache-2.0
"""File service: announces, receives, verifies, attaches and downloads the files of actions."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, BinaryIO, Protocol, TypeVar

from uuid6 import uuid7

from airflow_asyncaction.exceptions import FileRefused, FileStoreUnavailable
from airflow_asyncaction.files.stores.base import FileStore, convert_store_errors
from airflow_asyncaction.files.stores.configured import FileStores
from airflow_asyncaction.files.tokens import DownloadToken, Tokens, UploadToken
from airflow_asyncaction.files.uploads import (
    IncomingUpload,
    ReceivedContent,
    attach,
    link,
    read_attached,
    to_record,
)
from airflow_asyncaction.protocol import file_rules
from airflow_asyncaction.protocol.file_rules import (
    attached_response,
    check_not_ended,
    location_response,
    no_such_file,
    upload_response,
)
from airflow_asyncaction.protocol.files import (
    MAX_INDEX,
    Announcement,
    FileRecord,
    FileReference,
    Role,
    checked_property,
)
from airflow_asyncaction.protocol.job_info import JobId, is_job_id
from airflow_asyncaction.protocol.signing import Scheme
from airflow_asyncaction.store import files, rows
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.files import ContentRow, FileRow
from airflow_asyncaction.store.proof import Unseal
from airflow_asyncaction.store.rows import ActionRow, Transaction
from airflow_asyncaction.store.upstream import is_upstream

log = logging.getLogger(__name__)

T = TypeVar("T")


class Signed(Protocol):
    """Request about an action, signed by its job or its task."""

    @property
    def action_id(self) -> JobId:
        """Id of the action."""

    @property
    def job_scheme(self) -> Scheme | None:
        """Signature scheme of the job; ``None`` if a task sent the request."""

    @property
    def now(self) -> datetime:
        """Time of the request."""


@dataclass(frozen=True)
class FileTarget:
    """Store, property, role and action of a file.

    :param action_id: the file's action; ``None`` for the action of the request
    """

    store: str
    property: str
    role: Role
    action_id: str | None = None


class FileService:
    """Files of all actions.

    Purpose: a file is attached only after its content has been stored and verified. A job may
    download only files of its own action and of upstream actions.

    How it works: content is written before its row, so that a crash in between leaves at most content without
    a row, which garbage collection deletes. No transaction is open while content is transferred.

    What it does not do: authenticate requests. The ``prove`` and ``unseal`` arguments do that, under the
    action's lock.

    :param max_file_bytes: maximum size of a file
    :param max_files: maximum number of files of one action, inputs and outputs together
    """

    def __init__(
        self, actions: Actions, stores: FileStores, tokens: Tokens, *, max_file_bytes: int, max_files: int
    ) -> None:
        self._actions = actions
        self._stores = stores
        self._tokens = tokens
        self._max_file_bytes = max_file_bytes
        self._max_files = max_files
        self._hashers = ThreadPoolExecutor(thread_name_prefix="asyncaction-digest")

    def announce(
        self, signed: Signed, target: FileTarget, unseal: Unseal[Announcement], content_url: str
    ) -> dict[str, Any]:
        """Announce a file, and return the response. If its content is already stored, attach it.

        :param content_url: absolute URL that a token is appended to
        :raises FileRefused: the file may not be uploaded
        """
        with self._locked(signed, unseal) as (connection, row, announcement):
            _check_own(signed, target.action_id)
            check_not_ended(rows.to_action(row))
            store = self._stores.get(target.store)
            file_rules.check_size(announcement.size_bytes, self._max_file_bytes)
            file = self._announce(connection, signed, replace(target, store=store.name), announcement)
            if file.attached_at is not None:
                return upload_response(file.file_index)
            content = files.known_content(connection, file)
            if content is not None:
                link(connection, row, file, content, signed.now)
                return upload_response(file.file_index)
        return self._respond_with_upload_url(store, file, content_url, signed.now)

    def complete(
        self, signed: Signed, target: FileTarget, index: int, prove: Unseal[object]
    ) -> dict[str, Any]:
        """Verify and attach a file that was uploaded directly to an object store. Return the response.

        :raises FileRefused: the content is missing, or differs from its announcement
        """
        with self._locked(signed, prove) as (connection, row, _):
            _check_own(signed, target.action_id)
            check_not_ended(rows.to_action(row))
            self._stores.get(target.store)
            key = checked_property(target.property), _checked_index(index)
            file = files.by_index(connection, signed.action_id, *key)
            if file is None or file.role != target.role:
                raise no_such_file()
            if file.attached_at is not None:
                return attached_response(self._record(*read_attached(connection, file)))
        return attached_response(self._complete(file))

    def link(self, signed: Signed, property_: str, unseal: Unseal[FileReference]) -> dict[str, Any]:
        """Make a file of any action an input of this one, without copying it. Return the response.

        :raises FileRefused: the file does not exist
        """
        with self._locked(signed, unseal) as (connection, row, reference):
            check_not_ended(rows.to_action(row))
            source = files.attached(
                connection, JobId(reference.action.lower()), reference.property, reference.index
            )
            if source is None or source[1].sha256 != reference.sha256:
                raise no_such_file()
            source_file, content = source
            target = FileTarget(content.store, property_, Role.INPUT)
            file = self._announce(connection, signed, target, files.announcement_of(source_file, content))
            if file.attached_at is None:
                link(connection, row, file, content, signed.now)
            return attached_response(self._record(*read_attached(connection, file)))

    def locate(
        self, signed: Signed, wanted: FileTarget, index: int, prove: Unseal[object], content_url: str
    ) -> dict[str, Any]:
        """Return the response with the URL of a file of the action itself or of an upstream task.

        :param content_url: absolute URL that a token is appended to
        :raises FileRefused: the file does not exist, or the sender may not download it
        """
        with self._locked(signed, prove) as (connection, row, _):
            check_not_ended(rows.to_action(row))
            self._stores.get(wanted.store)
            owner = _find_readable_owner(connection, signed, wanted)
            key = owner, checked_property(wanted.property), _checked_index(index)
            found = files.attached(connection, *key)
            pending = files.by_index(connection, *key) if found is None else None
        if pending is not None and pending.store in self._stores.direct:
            self._complete_all([pending])
            found = self._find_attached(*key)
        if found is None:
            raise no_such_file()
        return location_response(self._sign_url(*found, content_url, signed.now), self._record(*found))

    def outputs(self, signed: Signed, prove: Unseal[object]) -> list[FileRecord]:
        """Return the outputs of a job, including direct uploads that the job did not confirm."""
        with self._locked(signed, prove) as (connection, _, _):
            pending = files.pending(connection, signed.action_id, stores=self._stores.direct)
        self._complete_all(pending)
        with self._actions.database.transaction() as connection:
            found = files.attached_in(connection, signed.action_id, Role.OUTPUT)
        return [self._record(*each) for each in found]

    def of_action(self, action_id: JobId) -> list[tuple[Role, FileRecord]]:
        """Return an action's attached files, inputs first. The caller checks permissions."""
        with self._actions.database.transaction() as connection:
            found = [
                (role, *each) for role in Role for each in files.attached_in(connection, action_id, role)
            ]
        return [(role, self._record(file, content)) for role, file, content in found]

    def locate_for_user(
        self, action_id: JobId, property_: str, index: int, content_url: str, now: datetime
    ) -> str:
        """Return the URL of a file of an action. The caller checks permissions.

        :raises FileRefused: the file does not exist
        """
        found = self._find_attached(action_id, checked_property(property_), _checked_index(index))
        if found is None:
            raise no_such_file()
        return self._sign_url(*found, content_url, now)

    def attach_pending(self, action_id: JobId) -> None:
        """Attach direct uploads that have arrived without being confirmed. Refused files are only logged."""
        if not self._stores.direct:
            return
        with self._actions.database.transaction() as connection:
            pending = files.pending(connection, action_id, stores=self._stores.direct)
        self._complete_all(pending)

    def receive(self, token: str) -> IncomingUpload:
        """Begin the upload that a token allows.

        :raises FileRefused: the token is invalid or expired
        """
        upload = self._tokens.read(UploadToken, token, datetime.now(UTC))
        store = self._stores.get(upload.store)
        with convert_store_errors(store):
            incoming = store.receive()
        return IncomingUpload(upload, store, incoming, self._actions.database, self._hashers)

    def open(self, token: str) -> tuple[DownloadToken, BinaryIO]:
        """Open the content that a token gives access to.

        :raises FileRefused: the token is invalid or expired, or the content is lost
        """
        download = self._tokens.read(DownloadToken, token, datetime.now(UTC))
        store = self._stores.get(download.store)
        with convert_store_errors(store):
            try:
                return download, store.open(download.content_id)
            except FileNotFoundError:
                log.error("Content %s is missing from file store %s", download.content_id, store.name)
                raise FileRefused("The file store has lost the content", code="content_lost") from None

    def _locked(
        self, signed: Signed, unseal: Unseal[T]
    ) -> AbstractContextManager[tuple[Transaction, ActionRow, T]]:
        return self._actions.locked(signed.action_id, unseal, signed.job_scheme)

    def _announce(
        self, connection: Transaction, signed: Signed, target: FileTarget, announcement: Announcement
    ) -> FileRow:
        return files.announce(
            connection,
            signed.action_id,
            checked_property(target.property),
            announcement,
            store=target.store,
            role=target.role,
            max_files=self._max_files,
            now=signed.now,
        )

    def _respond_with_upload_url(
        self, store: FileStore, file: FileRow, content_url: str, now: datetime
    ) -> dict[str, Any]:
        with convert_store_errors(store):
            url = store.signed_put(file.id, self._tokens.valid_for)
        if url is not None:
            return upload_response(file.file_index, url, is_direct=True)
        max_bytes = self._max_file_bytes if file.size_bytes is None else file.size_bytes
        token = UploadToken(file.action_id, file.id, store.name, file.md5, max_bytes)
        return upload_response(file.file_index, content_url + self._tokens.sign(token, now))

    def _sign_url(self, file: FileRow, content: ContentRow, content_url: str, now: datetime) -> str:
        store = self._stores.get(content.store)
        with convert_store_errors(store):
            url = store.signed_get(content.id, self._tokens.valid_for)
        if url is not None:
            return url
        token = DownloadToken(
            content.id, store.name, content.size_bytes, content.sha256, file.name, file.mimetype
        )
        return content_url + self._tokens.sign(token, now)

    def _complete(self, file: FileRow) -> FileRecord:
        """Verify and attach content that was uploaded to a signed URL.

        :raises FileRefused: the content is missing, or differs from its announcement
        """
        store, content_id = self._stores.get(file.store), str(uuid7())
        with convert_store_errors(store):
            try:
                measured = store.accept(file.id, content_id, md5=file.md5)
            except FileNotFoundError:
                found = self._find_attached(file.action_id, file.property, file.file_index)
                if found is None:
                    raise file_rules.content_missing() from None
                return self._record(*found)  # a concurrent request has completed it
        seconds = (datetime.now(UTC) - file.announced_at).total_seconds()
        arrived = ReceivedContent(store, content_id, measured, file.md5, seconds)
        database = self._actions.database
        try:
            record = attach(database, file.action_id, file.id, arrived, may_have_ended=True)
        except FileRefused:
            _withdraw(store, file)
            raise
        _withdraw(store, file)
        return record

    def _find_attached(
        self, action_id: JobId, property_: str, index: int
    ) -> tuple[FileRow, ContentRow] | None:
        with self._actions.database.transaction() as connection:
            return files.attached(connection, action_id, property_, index)

    def _complete_all(self, pending: list[FileRow]) -> None:
        """Verify and attach direct uploads, if they have arrived. An unavailable store is tried only once."""
        unavailable: set[str] = set()
        for file in pending:
            if file.store in unavailable:
                continue
            try:
                self._complete(file)
            except (FileRefused, FileStoreUnavailable) as error:
                log.info("%s[%d] of %s: %s", file.property, file.file_index, file.action_id, error)
                if isinstance(error, FileStoreUnavailable):
                    unavailable.add(file.store)

    def _record(self, file: FileRow, content: ContentRow) -> FileRecord:
        return to_record(file, content, self._stores.get(content.store))


def _check_own(signed: Signed, action_id: str | None) -> None:
    if action_id is not None and action_id.lower() != signed.action_id:
        raise file_rules.not_own()


def _find_readable_owner(connection: Transaction, signed: Signed, wanted: FileTarget) -> JobId:
    """Return the id of the action whose file is requested.

    :raises FileRefused: the sender may not download its files
    """
    owner = JobId((wanted.action_id or signed.action_id).lower())
    if not is_job_id(owner) or (
        owner != signed.action_id and not is_upstream(connection, owner, of=signed.action_id)
    ):
        raise file_rules.not_readable()
    return owner


def _checked_index(index: int) -> int:
    if not 0 <= index <= MAX_INDEX:
        raise no_such_file()
    return index


def _withdraw(store: FileStore, file: FileRow) -> None:
    with suppress(OSError):  # garbage collection deletes what is left
        store.withdraw(file.id)
