"""Fixtures over the real servers, and what happens where this machine has none."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from servers.buckets import Bucket, raw_client, share_models
from servers.buckets import bucket as make_bucket
from servers.ceph import Ceph
from servers.ceph import ceph as run_ceph
from servers.cinder import Cinder
from servers.cinder import cinder as run_cinder
from servers.cinder_stores import as_client
from servers.containers import Container, raw_swift
from servers.containers import container as make_container
from servers.filesystems import Filesystems
from servers.fuse import FaultyFilesystem, faulty
from servers.glance import Glance
from servers.glance_client import Images
from servers.hostile import Hostile
from servers.kept import Kept
from servers.keystone import Keystone, KeystoneUser
from servers.keystone import keystone as run_keystone
from servers.losing import Losing, losing
from servers.missing import Missing, required
from servers.moto import Moto, any_user
from servers.moto import moto as run_moto
from servers.nginx import Nginx
from servers.nginx import nginx as run_nginx
from servers.pools import RbdPool, admin, make_pool
from servers.process import Process
from servers.proxy import Proxy
from servers.radosgw import RadosGateway, User
from servers.radosgw import radosgw as run_radosgw
from servers.scratch import Scratch, tail
from servers.swift import Swift
from servers.swift import swift as run_swift
from servers.vsphere import VSphere
from servers.vsphere import vsphere as run_vsphere

_SCRATCH = pytest.StashKey[Scratch]()
_LOGGED = pytest.StashKey[dict[Path, int]]()
# By the fixtures that start them, once a run.
_SERVERS = {
    "_nginx": "nginx",
    "_ceph": "ceph",
    "_radosgw": "radosgw",
    "_moto": "moto",
    "_keystone": "keystone",
    "_swift": "swift",
    "_cinder": "cinder",
    "_glance": "glance",
    "_vsphere": "vsphere",
}


@pytest.fixture(scope="session")
def scratch(pytestconfig: pytest.Config) -> Iterator[Scratch]:
    """The private directory of this run."""
    with Scratch() as made:
        pytestconfig.stash[_SCRATCH] = made
        yield made
        del pytestconfig.stash[_SCRATCH]


@pytest.fixture(scope="session")
def _nginx(scratch: Scratch) -> Iterator[Nginx]:
    with run_nginx(scratch) as server:
        yield server


@pytest.fixture
def nginx(_nginx: Nginx) -> Nginx:
    """A running nginx whose log starts with this test, whatever the last one did to it."""
    _nginx.process.revive()
    _nginx.forget()
    return _nginx


@pytest.fixture(scope="session")
def _ceph(scratch: Scratch) -> Iterator[Ceph]:
    with run_ceph(scratch, store="bluestore") as cluster:
        yield cluster


@pytest.fixture
def ceph(_ceph: Ceph) -> Iterator[Ceph]:
    """A Ceph cluster in health before and after the test, whatever the test does to it."""
    _ceph.heal()
    yield _ceph
    _ceph.heal()


@pytest.fixture(scope="session")
def ceph_admin(_ceph: Ceph) -> Iterator[Any]:
    """A connection of librados to that cluster, as its admin."""
    with admin(_ceph) as client:
        yield client


@pytest.fixture(scope="session")
def rbd_pool(_ceph: Ceph, ceph_admin: Any) -> RbdPool:
    """A pool for images, one a run; whoever uses it leaves it empty."""
    return make_pool(_ceph, ceph_admin, "images")


@pytest.fixture(scope="session")
def _radosgw(scratch: Scratch, _ceph: Ceph) -> Iterator[RadosGateway]:
    with run_radosgw(scratch, _ceph) as gateway:
        yield gateway


@pytest.fixture
def radosgw(_radosgw: RadosGateway) -> Iterator[RadosGateway]:
    """Ceph's S3 and Swift gateway, as `ceph` in health before and after the test."""
    _radosgw.heal()
    yield _radosgw
    _radosgw.heal()


@pytest.fixture
def radosgw_ceph(radosgw: RadosGateway) -> Ceph:
    """The cluster that the gateway stores in."""
    return radosgw.cluster


@pytest.fixture(scope="session")
def _moto(scratch: Scratch) -> Iterator[Moto]:
    with run_moto(scratch) as server:
        yield server


@pytest.fixture(scope="session")
def moto_raw(_moto: Moto) -> Iterator[Any]:
    """boto3's own client for moto's server."""
    share_models()
    client = raw_client(_moto.url(), any_user())
    yield client
    client.close()


@pytest.fixture
def moto(_moto: Moto) -> Moto:
    """A second kind of S3 server, which forgets everything where a test kills it."""
    _moto.heal()
    return _moto


@pytest.fixture(scope="session")
def s3_user(_radosgw: RadosGateway) -> User:
    """A user of S3, one a run."""
    return _radosgw.user("tests")


@pytest.fixture(scope="session")
def s3_other(_radosgw: RadosGateway) -> User:
    """Another user of S3, who may do nothing with the buckets of the first."""
    return _radosgw.user("other")


@pytest.fixture(scope="session")
def s3_raw(_radosgw: RadosGateway, s3_user: User) -> Iterator[Any]:
    """boto3's own client for that user, over http."""
    share_models()
    client = raw_client(_radosgw.url(), s3_user)
    yield client
    client.close()


@pytest.fixture(scope="class")
def s3_images(request: pytest.FixtureRequest) -> Iterator[tuple[Any, str]]:
    """A bucket for all tests of a class, with the `client` that it names."""
    raw, name = request.getfixturevalue(request.cls.client), f"images-{uuid.uuid4().hex[:12]}"
    raw.create_bucket(Bucket=name)
    yield raw, name
    raw.delete_bucket(Bucket=name)


@pytest.fixture
def bucket(radosgw: RadosGateway, s3_user: User, s3_raw: Any) -> Iterator[Bucket]:
    """A bucket of this test's own."""
    with make_bucket(radosgw, s3_user, s3_raw) as made:
        yield made


@pytest.fixture(scope="session")
def _keystone(scratch: Scratch) -> Iterator[Keystone]:
    with run_keystone(scratch, short_seconds=3) as server:
        yield server


@pytest.fixture
def keystone(_keystone: Keystone) -> Iterator[Keystone]:
    """A Keystone in health before and after the test, whose log of requests starts with it."""
    _keystone.heal()
    _keystone.requests.forget()
    yield _keystone
    _keystone.heal()


@pytest.fixture(scope="session")
def _swift(scratch: Scratch, _keystone: Keystone) -> Iterator[Swift]:
    # So few names in a page that what needs many pages is tested with little data.
    with run_swift(scratch, _keystone, listing_limit=10) as servers:
        yield servers


@pytest.fixture
def swift(_swift: Swift, keystone: Keystone) -> Iterator[Swift]:
    """A Swift in health before and after the test, whose log of requests starts with it."""
    _swift.heal()
    _swift.requests.forget()
    yield _swift
    _swift.heal()


@pytest.fixture(scope="session")
def swift_user(_swift: Swift) -> KeystoneUser:
    """A user of Keystone with an account, one a run; a URL must quote what it is called."""
    return _swift.keystone.user("te%st:er", project="tests", password="pa%ss:w@rd/")


@pytest.fixture(scope="session")
def swift_other(_swift: Swift) -> KeystoneUser:
    """Another user, in another project."""
    return _swift.keystone.user("other")


@pytest.fixture(scope="session")
def swift_raw(_swift: Swift, swift_user: KeystoneUser) -> Iterator[Any]:
    """python-swiftclient's own connection for that user."""
    client = raw_swift(swift_user)
    yield client
    client.close()


@pytest.fixture
def container(swift: Swift, swift_user: KeystoneUser) -> Iterator[Container]:
    """A container of this test's own; a faulty server is healed before it is removed."""
    with make_container(swift_user) as made:
        yield made
        swift.heal()


@pytest.fixture
def link(swift: Swift) -> Iterator[Losing]:
    """A forwarder that loses what it is told to."""
    parts = urlsplit(swift.url)
    with losing(str(parts.hostname), int(parts.port or 0)) as made:
        yield made


@pytest.fixture(scope="class")
def images(request: pytest.FixtureRequest) -> Iterator[Container]:
    """A container for all tests of a class, of the `user` that it names."""
    with make_container(request.getfixturevalue(request.cls.user)) as made:
        yield made


@pytest.fixture(scope="module")
def old_glance(_glance: Glance) -> Iterator[tuple[str, Process]]:
    """Beside a module's Glance another one, on glance_store: its URL and its process."""
    with _glance.another("glance_store") as made:
        yield made


@pytest.fixture
def old(old_glance: tuple[str, Process], images: Images) -> Images:
    """The same images, as that other one has them."""
    return Images(images.server, url=old_glance[0])


@pytest.fixture(scope="session")
def _vsphere(scratch: Scratch) -> Iterator[VSphere]:
    with run_vsphere(scratch) as server:
        yield server


@pytest.fixture
def vsphere(_vsphere: VSphere) -> Iterator[VSphere]:
    """A vCenter Server in health before and after the test, without files at its beginning."""
    _vsphere.heal()
    _vsphere.empty()
    _vsphere.requests.forget()
    yield _vsphere
    _vsphere.heal()


@pytest.fixture(scope="session")
def _cinder(scratch: Scratch, _keystone: Keystone) -> Iterator[Cinder]:
    # A cluster of its own: Cinder needs a manager, and what its tests kill is theirs.
    with (
        run_ceph(scratch, store="bluestore", mgr=True) as cluster,
        run_cinder(scratch, _keystone, cluster) as server,
        as_client(server),
    ):
        yield server


@pytest.fixture
def cinder(_cinder: Cinder, keystone: Keystone) -> Iterator[Cinder]:
    """A Cinder in health before and after the test, whose log of requests starts with it."""
    _cinder.heal()
    _cinder.requests.forget()
    with _cinder.rescue():
        yield _cinder
        _cinder.heal()


@pytest.fixture(scope="class")
def kept() -> Iterator[Kept]:
    """The store that the tests of a class have in common."""
    kept = Kept()
    yield kept
    kept.close()


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    """A hostile HTTP server of this test's own."""
    with Hostile() as server:
        yield server


@pytest.fixture
def proxies() -> Iterator[Callable[..., Proxy]]:
    """Make proxies: ``proxies(target, **options)``."""
    with ExitStack() as stack:
        yield lambda target, **options: stack.enter_context(Proxy(target, **options))


@pytest.fixture
def filesystems(scratch: Scratch) -> Iterator[Filesystems]:
    """Make mounts that end with this test."""
    with Filesystems(scratch) as made:
        yield made


@pytest.fixture
def faulty_filesystem(scratch: Scratch) -> Iterator[FaultyFilesystem]:
    """A FUSE file system that fails and hangs on demand."""
    with faulty(scratch) as made:
        yield made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a test that starts servers which its file does not name."""
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        marker = item.get_closest_marker("servers")
        named = set(marker.args) if marker else set()
        started = {_SERVERS[name] for name in _fixtures(item) if name in _SERVERS}
        if marker is None or started - named:
            servers = ", ".join(sorted(started - named)) or "its servers"
            raise pytest.UsageError(f"{item.nodeid}: the file's `pytestmark` must name {servers}")


def _fixtures(item: pytest.Item) -> list[str]:
    return item.fixturenames if isinstance(item, pytest.Function) else []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """Remember what the servers had logged before this test."""
    made = item.config.stash.get(_SCRATCH, None)
    item.stash[_LOGGED] = made.logs() if made else {}
    try:
        return (yield)
    except Missing as missing:
        _skip_or_fail(missing)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Skip a test, or fail it, that found something missing only while it ran."""
    try:
        return (yield)
    except Missing as missing:
        _skip_or_fail(missing)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show what every server logged during a test that failed."""
    report = yield
    made = item.config.stash.get(_SCRATCH, None)
    if report.failed and made is not None:
        before = item.stash.get(_LOGGED, {})
        for log, size in made.logs().items():
            if text := tail(log, start=before.get(log, 0)):
                report.sections.append((f"{log.parent.name}/{log.name} ({size} bytes)", text))
    return report


def _skip_or_fail(missing: Missing) -> None:
    if required(missing.what):
        pytest.fail(f"required by IMGSTORE_REQUIRE, but missing: {missing}", pytrace=False)
    pytest.skip(str(missing))
