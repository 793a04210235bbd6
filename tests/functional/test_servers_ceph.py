"""The harness itself: the Ceph cluster and its gateway."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import socket
import ssl
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from servers.ceph import Ceph
from servers.ceph import ceph as run_ceph
from servers.containers import container as make_container
from servers.link import link as run_link
from servers.names import resolving
from servers.process import Process, ServerFailed, free_ports, state, until
from servers.radosgw import NAME, RadosGateway, Session, User
from servers.radosgw import radosgw as run_radosgw
from servers.scratch import Scratch

pytestmark = [pytest.mark.servers("ceph", "radosgw"), pytest.mark.lab]

HERE = Path(__file__).parent
MIB = 1 << 20

Connect = Callable[..., Any]


@pytest.fixture
def connect(radosgw: RadosGateway) -> Iterator[Connect]:
    """Make S3 clients that try once and are closed: ``connect(user, url, style)``."""
    with contextlib.ExitStack() as stack:

        def make(user: User | Session, url: str = "", *, style: str = "path") -> Any:
            config = Config(
                s3={"addressing_style": style},
                retries={"total_max_attempts": 1},
                connect_timeout=5,
                read_timeout=5,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
            client = boto3.client(
                "s3",
                endpoint_url=url or radosgw.url(),
                region_name="us-east-1",
                aws_access_key_id=user.access_key,
                aws_secret_access_key=user.secret_key,
                aws_session_token=user.token if isinstance(user, Session) else None,
                verify=str(radosgw.ca),
                config=config,
            )
            return stack.enter_context(contextlib.closing(client))

        yield make


@pytest.fixture(scope="module")
def user(_radosgw: RadosGateway) -> User:
    """A user of the tests in this module."""
    return _radosgw.user("harness")


@pytest.fixture
def name(user: User, radosgw: RadosGateway) -> str:
    """The name of a new bucket; it is left to the cluster's end."""
    made = f"harness-{random.SystemRandom().randrange(1 << 40):x}"
    radosgw.bucket(user, made)
    return made


def objects(ceph: Ceph, verb: str, *arguments: str, pool: str = "objects") -> str:
    """Run ``rados`` on a pool."""
    return ceph.run(["rados", "--pool", pool, verb, *arguments], seconds=60)


@pytest.fixture(scope="module")
def _pool(_ceph: Ceph) -> None:
    _ceph.pool("objects", application="tests")


@pytest.fixture
def stored(ceph: Ceph, _pool: None, tmp_path: Path) -> Callable[[], bytes]:
    """Store an object; the result reads it."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"what was stored")
    objects(ceph, "put", "it", str(source))

    def read() -> bytes:
        objects(ceph, "get", "it", str(target))
        return target.read_bytes()

    return read


def test_memstore_cluster_serves_rbd(scratch: Scratch) -> None:
    """A cluster of its own for a test: a pool for images, and a user who sees nothing else."""
    with run_ceph(scratch) as cluster:
        cluster.pool("images")
        cluster.pool("other")
        user = cluster.user("glance", mon="profile rbd", osd="profile rbd pool=images")
        assert cluster.user("glance", mon="profile rbd", osd="profile rbd pool=images") == user
        rbd = ["rbd", "--id", user.name, "--pool"]
        cluster.run([*rbd, "images", "create", "--size", "1", "image"], conf=user.conf)
        assert cluster.run([*rbd, "images", "ls"], conf=user.conf) == "image\n"
        with pytest.raises(ServerFailed, match="not permitted"):
            cluster.run([*rbd, "other", "ls"], conf=user.conf)
        cluster.osd.kill()
        with pytest.raises(ServerFailed, match="in its memory"):
            cluster.heal()


def test_command_that_fails_is_reported_with_its_words(ceph: Ceph) -> None:
    """What the program said is in the error; one that hangs is ended."""
    with pytest.raises(ServerFailed, match=r"osd pool get atlantis size: .*unrecognized pool"):
        ceph.command("osd", "pool", "get", "atlantis", "size")
    ceph.mon.freeze()
    with pytest.raises(ServerFailed, match="no answer within 1 s"):
        ceph.command("status", seconds=1)


@pytest.mark.parametrize("fault", [Process.kill, Process.freeze, Process.stop])
@pytest.mark.parametrize("daemons", [["mon"], ["osd"], ["osd", "mon"]])
def test_cluster_is_healed(
    ceph: Ceph, stored: Callable[[], bytes], fault: Callable[[Process], None], daemons: list[str]
) -> None:
    """Whatever was killed, stopped or frozen comes back with what was stored."""
    for daemon in daemons:
        fault(getattr(ceph, daemon))
    ceph.heal()
    assert stored() == b"what was stored"


def test_frozen_or_paused_cluster_serves_nothing_meanwhile(
    ceph: Ceph, stored: Callable[[], bytes]
) -> None:
    """A read waits for the OSD to be thawed, or for the pause to end, and then succeeds."""
    for begin, end in ((ceph.osd.freeze, ceph.osd.thaw), (ceph.pause, ceph.unpause)):
        begin()
        read: list[bytes] = []
        reader = threading.Thread(target=lambda into=read: into.append(stored()))
        reader.start()
        reader.join(0.5)
        assert read == []
        end()
        reader.join(30)
        assert read == [b"what was stored"]
    ceph.pause()
    ceph.heal()
    assert stored() == b"what was stored"


def test_full_cluster_is_read_but_not_written(
    ceph: Ceph, stored: Callable[[], bytes], tmp_path: Path
) -> None:
    """A write waits until there is room, or until the cluster is healed."""
    written = tmp_path / "written"
    written.write_bytes(b"later")
    ceph.fill()
    assert stored() == b"what was stored"
    writer = threading.Thread(target=lambda: objects(ceph, "put", "full", str(written)))
    writer.start()
    writer.join(0.5)
    assert writer.is_alive()
    ceph.heal()
    writer.join(60)
    objects(ceph, "get", "full", str(tmp_path / "read"))
    assert (tmp_path / "read").read_bytes() == b"later"


def test_quota_of_a_pool_needs_a_manager(ceph: Ceph) -> None:
    """Without one it would never be seen to, which must not pass for a quota."""
    with pytest.raises(ServerFailed, match="there is none"):
        ceph.quota("objects", MIB)


def test_free_ports_are_apart_from_free_port() -> None:
    """A block that a server chooses from has no port that was given to another."""
    ports = free_ports(32)
    assert len(ports) == 32
    assert ports[-1] < 20000
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[0]))


def test_names_lead_where_they_are_told(radosgw: RadosGateway) -> None:
    """A name and those below it, in any case; others, and all of them afterwards, do not."""
    port = radosgw.ports["http"]
    with resolving(".s3.test", "127.0.0.1"):
        for host in ("s3.test", "Bucket.S3.test", b"a.b.s3.test", "s3.test."):
            assert socket.getaddrinfo(host, port)[0][4] == ("127.0.0.1", port)
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo("nots3.test", port)
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("s3.test", port)


def test_gateway_answers_on_both_schemes(
    radosgw: RadosGateway, connect: Connect, user: User, name: str
) -> None:
    """What is put over one is read over the other, with our authority and no other."""
    connect(user).put_object(Bucket=name, Key="a/key", Body=b"data")
    secure = connect(user, radosgw.url("https"))
    assert secure.get_object(Bucket=name, Key="a/key")["Body"].read() == b"data"
    stranger = http.client.HTTPSConnection(
        "127.0.0.1", radosgw.ports["https"], timeout=5, context=ssl.create_default_context()
    )
    with contextlib.closing(stranger), pytest.raises(ssl.SSLCertVerificationError):
        stranger.connect()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_gateway_serves_a_bucket_at_its_own_host(
    radosgw: RadosGateway, connect: Connect, user: User, name: str, scheme: Any
) -> None:
    """BUCKET.s3.test is the bucket, s3.test the service, under one certificate."""
    with resolving(NAME, "127.0.0.1"):
        client = connect(user, radosgw.url(scheme, host=NAME), style="virtual")
        hosts: list[str] = []
        client.meta.events.register(
            "before-send.s3", lambda request, **_: hosts.append(urlsplit(request.url).hostname)
        )
        client.put_object(Bucket=name, Key="key", Body=b"data")
        assert client.get_object(Bucket=name, Key="key")["Body"].read() == b"data"
    assert set(hosts) == {f"{name}.{NAME}"}
    assert connect(user).get_object(Bucket=name, Key="key")["Body"].read() == b"data"


def test_gateway_killed_and_restarted_keeps_what_it_has(
    radosgw: RadosGateway, connect: Connect, user: User, name: str
) -> None:
    """On the same port, with its objects, and without waiting for the one that was killed."""
    client = connect(user)
    client.put_object(Bucket=name, Key="key", Body=b"data")
    radosgw.process.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", radosgw.ports["http"]), timeout=5)
    radosgw.process.start()
    assert client.get_object(Bucket=name, Key="key")["Body"].read() == b"data"
    client.create_bucket(Bucket=f"{name}-2")
    assert radosgw.user("afterwards").access_key


@pytest.mark.parametrize("fault", [Process.kill, Process.freeze])
def test_gateway_is_healed_with_its_cluster(
    radosgw: RadosGateway,
    connect: Connect,
    user: User,
    name: str,
    fault: Callable[[Process], None],
) -> None:
    """With every daemon killed or frozen at once, objects are there again."""
    client = connect(user)
    client.put_object(Bucket=name, Key="key", Body=b"data")
    for process in (radosgw.cluster.osd, radosgw.process, radosgw.cluster.mon):
        fault(process)
    radosgw.heal()
    assert client.get_object(Bucket=name, Key="key")["Body"].read() == b"data"
    client.put_object(Bucket=name, Key="key", Body=b"more")


def test_quota_holds_at_once(radosgw: RadosGateway, connect: Connect) -> None:
    """It bounds the sum of a user's buckets; deleting makes room, lifting it all room."""
    limited = radosgw.user("limited", max_size=2 * MIB)
    client = connect(limited)
    client.create_bucket(Bucket="limited")
    put = {"Bucket": "limited", "Body": bytes(MIB)}
    for key in ("first", "second"):
        client.put_object(Key=key, **put)
    with pytest.raises(ClientError) as caught:
        client.put_object(Key="third", **put)
    assert caught.value.response["Error"]["Code"] == "QuotaExceeded"
    client.delete_object(Bucket="limited", Key="first")
    client.put_object(Key="third", **put)
    radosgw.quota(limited, None)
    client.put_object(Key="fourth", **put)
    radosgw.quota(limited, MIB)
    with pytest.raises(ClientError, match="QuotaExceeded"):
        client.put_object(Key="fifth", **put)


def test_session_ends(radosgw: RadosGateway, connect: Connect, user: User, name: str) -> None:
    """Temporary credentials open the user's buckets, for as long as was asked."""
    connect(user).put_object(Bucket=name, Key="key", Body=b"data")
    session = radosgw.session(user, seconds=2)
    client = connect(session)
    assert client.get_object(Bucket=name, Key="key")["Body"].read() == b"data"
    client.put_object(Bucket=name, Key="key", Body=b"more")

    def refused() -> bool:
        try:
            client.head_bucket(Bucket=name)
        except ClientError as exc:
            return exc.response["Error"]["Code"] == "403"
        return False

    until(refused, seconds=20, what="the session ends")
    assert connect(radosgw.session(user, seconds=60)).head_bucket(Bucket=name)


def test_link_is_a_process_between(
    radosgw: RadosGateway, scratch: Scratch, connect: Connect, user: User, name: str
) -> None:
    """Requests pass a process of its own, which refuses them once it is killed."""
    target = ("127.0.0.1", radosgw.ports["http"])
    with run_link(scratch, target, delay=0.01, bandwidth=10 * MIB) as link:
        client = connect(user, f"http://127.0.0.1:{link.port}")
        client.put_object(Bucket=name, Key="key", Body=bytes(MIB))
        assert client.get_object(Bucket=name, Key="key")["Body"].read() == bytes(MIB)
        assert link.process.pid not in {0, os.getpid()}
        link.process.kill()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(link.address, timeout=5)


def test_swift_user_gets_a_token(radosgw: RadosGateway) -> None:
    """The subuser logs in at the Swift API and sees an account."""
    swift = radosgw.swift_user(radosgw.user("swimmer"))
    connection = http.client.HTTPConnection("127.0.0.1", radosgw.ports["http"], timeout=5)
    with contextlib.closing(connection):
        login = {"X-Auth-User": swift.name, "X-Auth-Key": swift.key}
        connection.request("GET", urlsplit(swift.url).path, headers=login)
        answer = connection.getresponse()
        answer.read()
        place, token = answer.headers["X-Storage-Url"], answer.headers["X-Auth-Token"]
        connection.request("GET", urlsplit(place).path, headers={"X-Auth-Token": token})
        answer = connection.getresponse()
        answer.read()
    assert answer.status in (200, 204)


def test_secret_has_what_must_be_quoted(user: User, radosgw: RadosGateway) -> None:
    """Every secret has a slash and a plus; no two are alike."""
    assert {"/", "+"} <= set(user.secret_key)
    assert radosgw.user("another").secret_key != user.secret_key


def test_parts_may_be_small_where_asked(scratch: Scratch) -> None:
    """A gateway of a test's own, with its cache, that takes parts of 64 KiB and not less."""
    with run_ceph(scratch) as cluster, run_radosgw(scratch, cluster, part=65536, cache=True) as own:
        user = own.user("parts")
        own.bucket(user, "parts")
        client = boto3.client(
            "s3",
            endpoint_url=own.url(),
            region_name="us-east-1",
            aws_access_key_id=user.access_key,
            aws_secret_access_key=user.secret_key,
        )
        with contextlib.closing(client):
            assert _in_parts(client, 65536) == "whole"
            assert _in_parts(client, 65535) == "EntityTooSmall"


def _in_parts(client: Any, size: int) -> str:
    upload = {"Bucket": "parts", "Key": "key"}
    upload["UploadId"] = client.create_multipart_upload(**upload)["UploadId"]
    sent = []
    for number in (1, 2):
        answer = client.upload_part(**upload, PartNumber=number, Body=bytes(size))
        sent.append({"PartNumber": number, "ETag": answer["ETag"]})
    try:
        client.complete_multipart_upload(**upload, MultipartUpload={"Parts": sent})
    except ClientError as exc:
        return str(exc.response["Error"]["Code"])
    return "whole"


OWNER = """
import json, time
from servers.ceph import ceph
from servers.radosgw import radosgw
from servers.scratch import Scratch
with Scratch() as scratch, ceph(scratch) as cluster, radosgw(scratch, cluster) as gateway:
    print(json.dumps([cluster.mon.pid, cluster.osd.pid, gateway.process.pid]), flush=True)
    time.sleep(300)
"""


def test_cluster_dies_with_a_killed_run(radosgw: RadosGateway, tmp_path: Path) -> None:
    """SIGKILL to the run ends monitor, OSD and gateway, and the next run removes their files."""
    del radosgw  # wanted: it skips where there is no Ceph
    run = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        env={**os.environ, "PYTHONPATH": str(HERE), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
    )
    with run:
        assert run.stdout is not None
        pids = json.loads(run.stdout.readline())
        assert all(state(pid) for pid in pids)
        run.kill()
    until(lambda: not any(state(pid) for pid in pids), seconds=10, what="all are gone")
    with Scratch(tmp_path) as after:
        assert list(tmp_path.iterdir()) == [after.path]


def test_radosgw_has_the_same_shape(radosgw: RadosGateway) -> None:
    """The helpers work on Ceph's gateway, too."""
    user = radosgw.swift_user(radosgw.user(f"swift{uuid.uuid4().hex[:8]}"))
    with make_container(user) as container:
        container.put_dynamic("key", b"one", b"two")
        assert container.content("key") == b"onetwo"
        assert len(container.names()) == 3
