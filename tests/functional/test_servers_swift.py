"""The harness itself: Keystone and Swift."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from keystoneauth1 import exceptions as refused
from keystoneauth1.identity import v3
from keystoneauth1.session import Session
from servers import openstack
from servers.containers import Container, empty_account, raw_swift, session
from servers.containers import container as make_container
from servers.keystone import Keystone, KeystoneUser
from servers.keystone import keystone as run_keystone
from servers.missing import Missing
from servers.openstack import ask
from servers.process import Process, ServerFailed, state, until
from servers.scratch import Scratch
from servers.swift import OTHER, Swift
from servers.swift import swift as run_swift
from swiftclient import ClientException

pytestmark = [pytest.mark.servers("swift", "keystone"), pytest.mark.lab]

HERE = Path(__file__).parent
MIB = 1 << 20

Open = Callable[..., Any]


@pytest.fixture
def connect() -> Iterator[Open]:
    """Make swiftclient's connections that are closed: ``connect(user, **options)``."""
    with contextlib.ExitStack() as stack:
        yield lambda *user, **options: stack.enter_context(
            contextlib.closing(raw_swift(*user, **options))
        )


def status(call: Callable[..., object], *arguments: object, **options: object) -> int:
    """Return the status with which a call is refused; 0 where it is not."""
    try:
        call(*arguments, **options)
    except ClientException as exc:
        return int(exc.http_status)
    return 0


def bearer(token: str, **headers: str) -> dict[str, str]:
    """Return the headers of a request with a token."""
    return {"X-Auth-Token": token, **{name.replace("_", "-"): headers[name] for name in headers}}


def opens(url: str, token: str, **headers: str) -> bool:
    """Tell whether a token opens an account; a new one answers 204, one that was used 200."""
    found = ask("HEAD", url, bearer(token, **headers)).status
    assert found in (200, 204, 401)
    return found != 401


def test_user_of_keystone_has_an_account(
    swift: Swift, swift_user: KeystoneUser, connect: Open
) -> None:
    """Whatever characters are in name and password, by password and by application credential."""
    credential = swift.keystone.application_credential(swift_user)
    for user in (swift_user, credential):
        raw = connect(user)
        raw.head_account()
        assert raw.url == swift.account_url(swift_user)


def test_user_without_a_role_is_refused(swift: Swift, connect: Open) -> None:
    """With the role of a reader, or none any more, there is a token but no account."""
    user = swift.keystone.user("reading", roles=("reader",))
    assert status(connect(user).put_container, "c") == 403
    swift.keystone.grant(user, "member")
    assert status(connect(user).put_container, "c") == 0
    empty_account(user)
    swift.keystone.withdraw(user, "member")
    assert status(connect(user).put_container, "c") == 403


def test_wrong_password_is_refused(keystone: Keystone, swift_user: KeystoneUser) -> None:
    """So is a user who was disabled."""
    wrong = replace(swift_user, password="wrong")
    with pytest.raises(ServerFailed, match="401"):
        keystone.token(wrong)
    user = keystone.user("disabled")
    assert keystone.token(user)
    keystone.change(user, enabled=False)
    with pytest.raises(ServerFailed, match="401"):
        keystone.token(user)


def test_domains_are_apart(keystone: Keystone, swift: Swift, connect: Open) -> None:
    """A user and a project of the same names in another domain are others."""
    users = [keystone.user("twin", domain=domain) for domain in ("Default", "Elsewhere")]
    assert users[0].project_id != users[1].project_id
    for user in users:
        raw = connect(user)
        raw.head_account()
        assert raw.url == swift.account_url(user)


def test_trust_stands_for_its_trustor(swift: Swift, swift_user: KeystoneUser) -> None:
    """A service acts in the trustor's project until the trust is deleted."""
    keystone = swift.keystone
    service = keystone.service
    trustor = session(swift_user)
    trust = {
        "trustor_user_id": swift_user.id,
        "trustee_user_id": service.id,
        "project_id": swift_user.project_id,
        "impersonation": True,
        "roles": [{"name": "member"}],
    }
    path = f"{keystone.url}/OS-TRUST/trusts"
    made = trustor.post(path, json={"trust": trust}).json()["trust"]
    assert [found["id"] for found in keystone.trusts()] == [made["id"]]
    auth = v3.Password(
        keystone.url,
        username=service.name,
        password=service.password,
        user_domain_name=service.domain,
        trust_id=made["id"],
    )
    trustee = Session(auth)
    url = swift.account_url(swift_user)
    assert trustee.get(url).ok
    trustor.delete(f"{path}/{made['id']}")
    assert keystone.trusts() == []
    with pytest.raises(refused.Unauthorized):
        trustee.get(url)


def test_token_lives_for_seconds(swift: Swift, swift_user: KeystoneUser) -> None:
    """A token of the second Keystone holds for 3 s; with a service token beside it, longer."""
    keystone = swift.keystone
    url = swift.account_url(swift_user)
    token = keystone.token(swift_user, url=keystone.short_url)
    assert opens(url, token)
    until(lambda: not opens(url, token), seconds=10, what="the token expires")
    assert opens(url, token, X_Service_Token=keystone.token(keystone.service))


def test_revoked_token_is_refused_at_once(swift: Swift, swift_user: KeystoneUser) -> None:
    """But not by a proxy that trusts tokens for a while."""
    url = swift.account_url(swift_user)
    trusting = swift.front(token_cache_seconds=300)
    trusted_url = url.replace(swift.url, trusting.url)
    token = swift.keystone.token(swift_user)
    assert opens(url, token)
    assert opens(trusted_url, token)
    swift.keystone.revoke(token)
    assert not opens(url, token)
    assert opens(trusted_url, token)


def test_proxies_remember_until_something_changes(
    swift: Swift, container: Container, swift_other: KeystoneUser
) -> None:
    """A token, and what they know of a container, as long as nobody can tell."""
    container.put("key", b"data")
    url = f"{container.raw.url}/{container.name}/key"
    urls = (url, url.replace(swift.url, swift.front(slo=False).url))
    token = swift.keystone.token(swift_other)

    def can_read() -> list[bool]:
        return [ask("GET", each, bearer(token)).status == 200 for each in urls]

    assert can_read() == [False, False]
    container.raw.post_container(container.name, {"X-Container-Read": "*:*"})
    swift.keystone.requests.forget()
    assert can_read() == can_read() == [True, True]
    assert swift.keystone.requests.read() == []
    for fault in (swift.container.kill, swift.container.freeze):
        fault()
        assert can_read() == [False, False]
        swift.heal()
        assert can_read() == [True, True]
    swift.keystone.revoke(token)
    assert can_read() == [False, False]


def test_service_token_arrives(swift: Swift, swift_user: KeystoneUser) -> None:
    """Each request tells whether its service token was good; some accounts want one."""
    keystone = swift.keystone
    token, service = keystone.token(swift_user), keystone.token(keystone.service)
    url = swift.account_url(swift_user)
    assert opens(url, token)
    assert opens(url, token, X_Service_Token=service)
    # A user's token is one, too, but not with the role of a service.
    assert not opens(url, token, X_Service_Token=token)
    assert not opens(url, token, X_Service_Token="nonsense")
    asked = swift.requests.read("HEAD")
    assert [each.service for each in asked] == ["", "Confirmed", "Invalid", "Invalid"]
    place = url.replace("/AUTH_", "/SERVICE_") + "/images"
    assert ask("PUT", place, bearer(token)).status == 403
    assert ask("PUT", place, bearer(token, X_Service_Token=service)).status == 201
    assert ask("DELETE", place, bearer(token, X_Service_Token=service)).status == 204


def test_catalogue_has_regions_and_interfaces(
    swift: Swift, swift_user: KeystoneUser, connect: Open
) -> None:
    """The endpoints differ, and all of them work; another service type has its own."""
    swift.front(tls=True)
    seen = set()
    for region, interface, kind in [
        ("RegionOne", "public", "object-store"),
        ("RegionOne", "internal", "object-store"),
        ("RegionOne", "admin", "object-store"),
        ("RegionTwo", "public", "images"),
    ]:
        options = {"region_name": region, "endpoint_type": interface, "service_type": kind}
        raw = connect(swift_user, os_options=options)
        raw.head_account()
        seen.add(raw.url)
    assert len(seen) == 4
    made = session(swift_user, verify=str(swift.keystone.ca))
    where = {"service_type": "images", "region_name": "RegionTLS"}
    assert made.head("", endpoint_filter=where).ok


def test_https_is_verified(swift: Swift, swift_user: KeystoneUser) -> None:
    """Keystone and Swift show certificates of one CA, which nobody else trusts."""
    keystone = swift.keystone
    place = swift.front(tls=True).url
    for url in (f"{place}/healthcheck", keystone.secure_url):
        assert requests.get(url, verify=str(keystone.ca), timeout=10).status_code == 200
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(url, timeout=10)
    trusting = session(replace(swift_user, url=keystone.secure_url), verify=str(keystone.ca))
    assert trusting.get_token()
    v1 = replace(swift.v1_user(), url=f"{place}/auth/v1.0")
    with contextlib.closing(raw_swift(v1, cacert=str(keystone.ca))) as raw:
        raw.head_account()
        assert raw.url.startswith(place)
    with pytest.raises(refused.SSLError):
        session(replace(swift_user, url=keystone.secure_url)).get_token()


@pytest.mark.parametrize("who", ["tester", "other"])
def test_v1_user_has_an_account(swift: Swift, connect: Open, who: str) -> None:
    """Without Keystone, each in an account of its own."""
    user = swift.v1_user() if who == "tester" else swift.v1_user(OTHER)
    with make_container(user) as container:
        container.put("key", b"data")
        assert container.content("key") == b"data"
        assert container.raw.url == swift.account_url(user)
    assert status(connect(replace(user, key="wrong")).head_account) == 401


def test_objects_are_put_once(container: Container) -> None:
    """Content and headers come back; a second exclusive PUT is refused."""
    container.put("key", b"data", X_Object_Meta_Color="blue")
    assert container.content("key") == b"data"
    assert container.headers("key")["x-object-meta-color"] == "blue"
    exclusive = {"If-None-Match": "*"}
    put = container.raw.put_object
    assert status(put, container.name, "key", b"more", headers=exclusive) == 412
    assert status(put, container.name, "other", b"more", headers=exclusive) == 0
    assert container.names() == ["key", "other"]
    assert status(put, container.name, "wrong", b"data", etag=hashlib.md5().hexdigest()) == 422


def test_object_may_not_be_too_large(swift: Swift, container: Container) -> None:
    """The limit is told, holds to the byte, and has room for segments of 1,024,000 bytes."""
    limit = swift.info()["swift"]["max_file_size"]
    assert 5_120_000 < limit < 6_000_000
    container.put("fits", bytes(limit))
    assert status(container.put, "too large", bytes(limit + 1)) == 413


def test_large_objects(container: Container) -> None:
    """Static ones in the container for segments, dynamic ones as glance_store writes them."""
    parts = [os.urandom(1000) for _ in range(12)]
    container.put_static("static", *parts)
    assert container.content("static") == b"".join(parts)
    assert len(container.segments()) == len(container.manifest("static")) == 12
    container.put_dynamic("dynamic", *parts)
    assert container.content("dynamic") == b"".join(parts)
    query = "multipart-manifest=delete"
    container.raw.delete_object(container.name, "static", query_string=query)
    assert container.segments() == []
    assert len(container.names()) == 13


def test_manifests_are_nested_beyond_the_limit(
    swift: Swift, swift_user: KeystoneUser, connect: Open, container: Container
) -> None:
    """A proxy with a small limit refuses a longer manifest, and takes one of manifests."""
    small = swift.front(max_manifest_segments=3)
    assert small.info()["slo"]["max_manifest_segments"] == 3
    url = swift.account_url(swift_user).replace(swift.url, small.url)
    raw = connect(swift_user, os_options={"object_storage_url": url})
    narrow = Container(swift_user, raw, container.name)
    with pytest.raises(ClientException, match="413"):
        narrow.put_static("key", b"1", b"2", b"3", b"4")
    names = narrow.segments()
    for number, pair in enumerate((names[:2], names[2:])):
        path = f"/{narrow.segments_name}/"
        inner = Container(swift_user, raw, narrow.segments_name)
        inner.put_manifest(f"inner-{number}", [{"path": path + name} for name in pair])
    inners = [{"path": f"/{narrow.segments_name}/inner-{number}"} for number in (0, 1)]
    narrow.put_manifest("key", inners)
    assert narrow.content("key") == b"1234"


def test_proxy_without_static_large_objects(
    swift: Swift, swift_user: KeystoneUser, connect: Open, container: Container
) -> None:
    """It does not list them, and takes a manifest for data."""
    plain = swift.front(slo=False)
    assert "slo" not in plain.info()
    url = swift.account_url(swift_user).replace(swift.url, plain.url)
    raw = connect(swift_user, os_options={"object_storage_url": url})
    Container(swift_user, raw, container.name).put_manifest("key", [])
    assert container.content("key") == b"[]"


def test_quota_of_a_container(swift: Swift, container: Container) -> None:
    """It holds to the byte and at once, until it is lifted."""
    swift.quota(container.user, 10, container=container.name)
    container.put("first", bytes(6))
    assert status(container.put, "second", bytes(5)) == 413
    swift.quota(container.user, None, container=container.name)
    container.put("second", bytes(5))


@pytest.mark.parametrize("v1", [False, True], ids=["keystone", "v1"])
def test_quota_of_an_account(swift: Swift, v1: bool) -> None:  # noqa: FBT001
    """It counts what the account was told of."""
    user = swift.v1_user() if v1 else swift.keystone.user("limited")
    with make_container(user) as container:
        try:
            swift.quota(user, 10)
            assert status(container.put, "large", bytes(11)) == 413
            container.put("first", bytes(10))
            swift.update()
            assert status(container.put, "second", bytes(1)) == 413
        finally:
            swift.quota(user, None)
        container.put("second", bytes(1))


def test_acl_opens_a_container(
    swift: Swift, container: Container, swift_other: KeystoneUser
) -> None:
    """For one project, for any user with a token, for everyone."""
    container.put("key", b"data")
    url = f"{container.raw.url}/{container.name}/key"
    token = bearer(swift.keystone.token(swift_other))
    no_token: dict[str, str] = {}
    for acl, known, anonymous in [
        ("", 403, 401),
        (f"{swift_other.project_id}:*", 200, 401),
        ("*:*", 200, 401),
        (".r:*,.rlistings", 200, 200),
    ]:
        container.raw.post_container(container.name, {"X-Container-Read": acl})
        assert ask("GET", url, token).status == known
        assert ask("GET", url, no_token).status == anonymous
    assert ask("PUT", url, token, b"").status == 403


def test_requests_are_logged(swift: Swift, container: Container) -> None:
    """Each with its headers, before its answer is there."""
    swift.requests.forget()
    container.put("a name/with ü", b"data", If_None_Match="*")
    (put,) = swift.requests.read("PUT")
    assert put.path.endswith(f"/{container.name}/a name/with ü")
    assert put.status == 201
    assert put.headers["if-none-match"] == "*"


@pytest.mark.parametrize("fault", [Process.kill, Process.freeze])
@pytest.mark.parametrize("which", ["account", "container", "object", "proxy", "keystone"])
def test_faulty_server_is_healed(
    swift: Swift, container: Container, fault: Callable[[Process], None], which: str
) -> None:
    """Killed or frozen, each is missed, and back as if nothing had been."""
    container.put("key", b"data")
    process: Process = swift.keystone.process if which == "keystone" else getattr(swift, which)
    fault(process)
    assert state(process.pid) in ("", "T")
    swift.heal()
    assert container.content("key") == b"data"
    container.put("more", b"data")
    assert container.names() == ["key", "more"]


OWNER = """
import json, time
from servers.keystone import keystone
from servers.scratch import Scratch
from servers.swift import swift
with Scratch() as scratch, keystone(scratch) as identity, swift(scratch, identity) as servers:
    identity.short_url
    pids = [process.pid for process in (identity.process, *servers.processes)]
    print(json.dumps(pids), flush=True)
    time.sleep(300)
"""


def test_servers_die_with_a_killed_run(swift: Swift, tmp_path: Path) -> None:
    """SIGKILL to the run ends every server, and the next run removes their files."""
    del swift  # wanted: it skips where there is none
    run = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        env={**os.environ, "PYTHONPATH": str(HERE), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
    )
    with run:
        assert run.stdout is not None
        pids = json.loads(run.stdout.readline())
        assert len(pids) == 5
        assert all(state(pid) for pid in pids)
        run.kill()
    until(lambda: not any(state(pid) for pid in pids), seconds=10, what="all are gone")
    with Scratch(tmp_path) as after:
        assert list(tmp_path.iterdir()) == [after.path]


def test_swift_as_in_production(scratch: Scratch, keystone: Keystone, tmp_path: Path) -> None:
    """One of a test's own, with other limits, caches and disk, stops without a trace.

    Objects that the container server did not hear of are listed once it is healed.
    """
    with run_swift(
        scratch,
        keystone,
        max_file_size=6 * MIB,
        listing_limit=2,
        node_timeout=1,
        cache=True,
        token_cache_seconds=300,
        devices=tmp_path,
        in_catalogue=False,
    ) as own:
        assert own.info()["swift"]["max_file_size"] == 6 * MIB
        with make_container(own.v1_user()) as container:
            container.put("1", b"data")
            assert any(tmp_path.glob("disk/objects/*/*/*/*.data"))
            own.container.kill()
            container.put("2", b"data")
            own.heal()
            container.put("3", b"data")
            assert container.names() == ["1", "2", "3"]
            assert len(container.raw.get_container(container.name)[1]) == 2
            own.object.freeze()
            assert status(container.content, "1") == 503
            own.heal()
            assert container.content("1") == b"data"
        pids = [process.pid for process in own.processes]
    assert not any(state(pid) for pid in pids)


def test_environment_that_is_not_there_is_missing(
    scratch: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the tests are skipped, or fail where IMGSTORE_REQUIRE asks for them."""
    monkeypatch.setattr(openstack, "ENVIRONMENT", tmp_path)
    with pytest.raises(Missing, match=r"^keystone: .* not installed"), run_keystone(scratch):
        pass
