"""python-swiftclient, used straight: a contender, and what lays out images for the others."""

from __future__ import annotations

import importlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

MB = 1_024_000  # of the options of both sides
SEGMENTS = "_segments"


class Account:
    """The account and the container that the options of a store name, by some connections."""

    def __init__(self, options: Mapping[str, str], *, connections: int = 1) -> None:
        # Where no store of Swift is measured, there is neither of them.
        swiftclient = importlib.import_module("swiftclient")
        session = _session(options)
        url = options.get("swift_store_endpoint") or session.get_endpoint(
            service_type="object-store"
        )
        about = {"preauthurl": url, "preauthtoken": session.get_token()}
        self._connections = [swiftclient.Connection(**about) for _ in range(connections)]
        for each in self._connections:
            each.head_account()  # from here on it is connected
        self.container = options["swift_store_container"]
        self.segments = f"{self.container}{SEGMENTS}"
        self._options = options

    def url(self, key: str) -> str:
        """Return the location that the incumbent writes, which both sides read."""
        user, password = self._options["swift_store_user"], self._options["swift_store_key"]
        scheme, _, service = self._options["swift_store_auth_address"].partition("://")
        base = f"swift+{scheme}://{quote(user)}:{quote(password)}@{service}"
        return f"{base}/{self.container}/{key}"

    def make_containers(self) -> None:
        for name in (self.container, self.segments):
            self._connections[0].put_container(name)

    def upload(self, source: Path, segment: int, *, key: str = "") -> str:
        """Store a file as a static large object, from all connections at once; return its key."""
        key = key or str(uuid.uuid4())
        size = source.stat().st_size
        lengths = [min(segment, size - start) for start in range(0, size, segment)]

        def put(connection: Any, number: int) -> None:
            with source.open("rb") as file:
                file.seek(number * segment)
                name, length = f"{key}-{number:05d}", lengths[number]
                connection.put_object(self.segments, name, file, content_length=length)

        self._at_once(put, len(lengths))
        self._put_static(key, [f"{key}-{number:05d}" for number in range(len(lengths))], lengths)
        return key

    def download(self, key: str) -> int:
        """Read an object into nothing; return the number of bytes."""
        _, body = self._connections[0].get_object(self.container, key, resp_chunk_size=65536)
        return sum(map(len, body))

    def lay_out(self, kind: str, count: int) -> str:
        """Store an image in `count` segments of a byte, as imgstore or glance_store names them.

        `kind` is slo or dlo of imgstore, or glance_store; return the image's key.
        """
        key, token = str(uuid.uuid4()), uuid.uuid4().hex
        theirs = kind == "glance_store"
        where = self.container if theirs else self.segments
        prefix = f"{key}-" if theirs else f"{key}/imgstore-{token}/"
        names = [f"{prefix}{n:0{5 if theirs else 8}d}" for n in range(1, count + 1)]
        self._at_once(lambda each, number: each.put_object(where, names[number], b"."), count)
        own = {} if theirs else {"X-Object-Meta-Imgstore-Add": token}
        if kind == "slo":
            self._put_static(key, names, [1] * count, own)
        else:
            headers = {"X-Object-Manifest": f"{where}/{prefix}", **own}
            self._connections[0].put_object(self.container, key, b"", headers=headers)
        return key

    def delete(self, key: str) -> None:
        """Delete a static large object with its segments."""
        query = "multipart-manifest=delete"
        self._connections[0].delete_object(self.container, key, query_string=query)

    def names(self) -> list[str]:
        """Return the names of all objects, those of segments too."""
        return [
            entry["name"]
            for container in (self.container, self.segments)
            for entry in self._connections[0].get_container(container, full_listing=True)[1]
        ]

    def close(self) -> None:
        for each in self._connections:
            each.close()

    def _at_once(self, put: Callable[[Any, int], object], count: int) -> None:
        """Put each of `count` objects over the connection that is free first."""
        free = list(self._connections)

        def one(number: int) -> None:
            connection = free.pop()
            try:
                put(connection, number)
            finally:
                free.append(connection)

        with ThreadPoolExecutor(len(free)) as pool:
            list(pool.map(one, range(count)))

    def _put_static(
        self,
        key: str,
        names: Sequence[str],
        sizes: Sequence[int],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        manifest = [
            {"path": f"/{self.segments}/{name}", "size_bytes": size}
            for name, size in zip(names, sizes, strict=True)
        ]
        self._connections[0].put_object(
            self.container,
            key,
            json.dumps(manifest),
            headers=headers,
            query_string="multipart-manifest=put",
        )


def _session(options: Mapping[str, str]) -> Any:
    """Return keystoneauth1's session for the store's user."""
    v3 = importlib.import_module("keystoneauth1.identity.v3")
    project, _, user = options["swift_store_user"].partition(":")
    auth = v3.Password(
        options["swift_store_auth_address"],
        username=user,
        password=options["swift_store_key"],
        project_name=project,
        user_domain_id="default",
        project_domain_id="default",
    )
    return importlib.import_module("keystoneauth1.session").Session(auth)
