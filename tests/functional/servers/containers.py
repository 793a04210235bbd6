"""Containers on a server of Swift's API, seen through a client of their own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from servers.keystone import ApplicationCredential, KeystoneUser
from servers.openstack import ask
from servers.process import until
from servers.radosgw import SwiftUser

AnyUser = KeystoneUser | ApplicationCredential | SwiftUser

_SESSIONS: dict[AnyUser, Any] = {}


def session(user: KeystoneUser | ApplicationCredential, **options: Any) -> Any:
    """Return keystoneauth1's session for a user."""
    from keystoneauth1.identity import v3  # noqa: PLC0415  # not every user of the servers has it
    from keystoneauth1.session import Session  # noqa: PLC0415

    if isinstance(user, ApplicationCredential):
        auth = v3.ApplicationCredential(
            user.url,
            application_credential_id=user.id,
            application_credential_secret=user.secret,
        )
    else:
        auth = v3.Password(
            user.url,
            username=user.name,
            password=user.password,
            user_domain_name=user.domain,
            project_name=user.project,
            project_domain_name=user.domain,
        )
    return Session(auth, **options)


def raw_swift(user: AnyUser, **options: Any) -> Any:
    """Return python-swiftclient's connection for a user, as plain as it gets; to be closed."""
    from swiftclient import Connection  # noqa: PLC0415

    plain: dict[str, Any] = {"retries": 1, "starting_backoff": 0.1, "timeout": 30}
    if isinstance(user, SwiftUser):
        login = {"authurl": user.url, "user": user.name, "key": user.key, "auth_version": "1"}
        return Connection(**login | plain | options)
    return Connection(**{"session": session(user)} | plain | options)


def _logged_in(user: AnyUser) -> Any:
    """Return a connection for a user; those of one user share a token."""
    if isinstance(user, SwiftUser):
        return raw_swift(user)
    if user not in _SESSIONS:
        _SESSIONS[user] = session(user)
    return raw_swift(user, session=_SESSIONS[user])


class Container:
    """A container of `user`, with one for segments beside it; `raw` is swiftclient's connection."""

    def __init__(self, user: AnyUser, raw: Any, name: str) -> None:
        self.user = user
        self.raw = raw
        self.name = name
        self.segments_name = f"{name}_segments"

    def names(self) -> list[str]:
        """Return the names of all objects."""
        return self._names(self.name)

    def segments(self) -> list[str]:
        """Return the names of all objects in the container for segments."""
        return self._names(self.segments_name)

    def headers(self, key: str) -> dict[str, str]:
        """Return the headers of an object; their names are in lower case."""
        found: dict[str, str] = self.raw.head_object(self.name, key)
        return found

    def content(self, key: str) -> bytes:
        """Return what an object holds."""
        found: bytes = self.raw.get_object(self.name, key)[1]
        return found

    def manifest(self, key: str) -> list[dict[str, Any]]:
        """Return the segments that a static large object names."""
        query = "multipart-manifest=get"
        found: list[dict[str, Any]] = json.loads(
            self.raw.get_object(self.name, key, query_string=query)[1]
        )
        return found

    def put(self, key: str, data: bytes, **headers: str) -> None:
        """Put an object; an underscore in the name of a header stands for a hyphen."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.raw.put_object(self.name, key, data, headers=named)

    def put_static(self, key: str, *parts: bytes) -> None:
        """Put a static large object, whose segments go to the container for them."""
        self.raw.put_container(self.segments_name)
        segments = []
        for number, data in enumerate(parts, start=1):
            name = f"{key}-{number:05d}"
            self.raw.put_object(self.segments_name, name, data)
            path = f"/{self.segments_name}/{name}"
            etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
            segments.append({"path": path, "etag": etag, "size_bytes": len(data)})
        self.put_manifest(key, segments)

    def put_manifest(self, key: str, segments: list[dict[str, Any]]) -> None:
        """Put the manifest of a static large object."""
        query = "multipart-manifest=put"
        self.raw.put_object(self.name, key, json.dumps(segments).encode(), query_string=query)

    def put_dynamic(self, key: str, *parts: bytes) -> None:
        """Put a dynamic large object, as glance_store does: its segments are beside it."""
        for number, data in enumerate(parts, start=1):
            self.raw.put_object(self.name, f"{key}-{number:05d}", data)
        self.put(key, b"", X_Object_Manifest=f"{self.name}/{key}-")

    def empty(self) -> None:
        """Remove all objects, segments too."""
        for name in (self.name, self.segments_name):
            for key in self._names(name):
                self._ignoring_absence(self.raw.delete_object, name, key)

    def remove(self) -> None:
        """Remove both containers and whatever is in them."""
        self.empty()
        for name in (self.name, self.segments_name):
            self._ignoring_absence(self.raw.delete_container, name)

    def _names(self, container: str) -> list[str]:
        names: list[str] = []
        while True:
            marker = names[-1] if names else None
            listing = self._ignoring_absence(self.raw.get_container, container, marker=marker)
            headers, page = listing or ({}, [])
            names += [entry["name"] for entry in page]
            # Whoever lists to the end asks for one page more, which is empty.
            if not page or len(names) >= int(headers["x-container-object-count"]):
                return names

    @staticmethod
    def _ignoring_absence(call: Any, *arguments: Any, **options: Any) -> Any:
        from swiftclient import ClientException  # noqa: PLC0415

        try:
            return call(*arguments, **options)
        except ClientException as exc:
            if exc.http_status != 404:
                raise
            return None


@contextmanager
def container(user: AnyUser) -> Iterator[Container]:
    """Make a container that is removed afterwards, whatever is in it."""
    with contextlib.closing(_logged_in(user)) as raw:
        made = Container(user, raw, f"images-{uuid.uuid4().hex[:12]}")
        raw.put_container(made.name)
        yield made
        made.remove()


def expired(account_url: str, token: str) -> None:
    """Wait until an account refuses a token, which has expired then."""

    def is_refused() -> bool:
        time.sleep(0.1)  # each question costs a busy machine more than that wait
        return ask("HEAD", account_url, {"X-Auth-Token": token}).status == 401

    until(is_refused, seconds=30, what="the token expires")


def empty_account(user: AnyUser) -> None:
    """Remove all containers of a user's account, whatever is in them."""
    with contextlib.closing(_logged_in(user)) as raw:
        for entry in raw.get_account(full_listing=True)[1]:
            Container(user, raw, entry["name"]).remove()
