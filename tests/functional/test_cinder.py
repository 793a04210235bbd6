"""The Cinder store as operators use it, on a real Cinder."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oslo_concurrency import lockutils
from servers.cinder import Cinder
from servers.cinder_stores import cinder_store, login
from servers.keystone import Keystone, KeystoneUser

from imgstore import Location, RequestContext, Store, StoreManager, errors
from imgstore.drivers.cinder import CinderStore
from imgstore.testing.harness import content, difference, new_id, pattern

pytestmark = pytest.mark.servers("cinder", "keystone")

MIB = 1 << 20
GIB = 1 << 30
DATA = pattern(5 * MIB + 3)


@pytest.fixture(autouse=True)
def _emptied(cinder: Cinder) -> Iterator[None]:
    yield
    cinder.empty()


@pytest.fixture
def make(cinder: Cinder) -> Iterator[Callable[..., Any]]:
    """Make stores that end with the test."""
    made: list[Store] = []

    def one(kind: str | None = "fast", **options: Any) -> Any:
        made.append(cinder_store(cinder, kind, **options))
        return made[-1]

    yield one
    for store in made:
        store.close()


def volume_of(cinder: Cinder, location: Location) -> dict[str, Any]:
    found = cinder.volume(location.rest.rpartition("/")[2])
    assert found is not None
    return found


def chunks(count: int) -> Iterator[bytes]:
    """Yield MiB that differ from each other."""
    for number in range(count):
        yield number.to_bytes(4, "big") * (MIB // 4)


def digest_of_chunks(count: int) -> str:
    digest = hashlib.sha256()
    for chunk in chunks(count):
        digest.update(chunk)
    return digest.hexdigest()


class TestVolumes:
    """What a volume of an image is."""

    @pytest.mark.parametrize("kind", ["fast", "slow", "multi"])
    def test_what_neighbours_read_of_it(self, make: Any, cinder: Cinder, kind: str) -> None:
        """Nova and Cinder look at the name and the metadata, and clone it where they may."""
        store, image_id = make(kind), new_id()
        image = store.add(image_id, DATA, context=None)
        volume = volume_of(cinder, image.location)
        assert image.location.url == f"cinder://{kind}/{volume['id']}"
        assert volume["name"] == f"image-{image_id}"
        assert volume["metadata"] == {
            "glance_image_id": image_id,
            "image_size": str(len(DATA)),
            "image_owner": cinder.user.project_id,
            "readonly": "True",
        }
        assert (volume["volume_type"], volume["size"], volume["status"]) == (kind, 1, "available")
        assert not difference(content(store, image.location), DATA)

    def test_an_image_is_described_by_one_request(self, make: Any, cinder: Cinder) -> None:
        """Size, version and time are in one answer; nothing is attached."""
        store = make()
        image = store.add(new_id(), b"1")
        for verb in (store.size, store.stat):
            cinder.requests.forget()
            verb(image)
            assert [each.method for each in cinder.requests.read()] == ["GET"]

    def test_the_owner_is_who_asks(self, make: Any, cinder: Cinder) -> None:
        context = RequestContext(token="unused", project_id="someone")
        image = make().add(new_id(), b"1", context=context)
        assert volume_of(cinder, image.location)["metadata"]["image_owner"] == "someone"

    def test_known_sizes_are_made_at_once(self, make: Any, cinder: Cinder, tmp_path: Path) -> None:
        store, path = make(), tmp_path / "image"
        with path.open("wb") as file:
            file.truncate(1025 * MIB)  # its holes are not written
        cinder.requests.forget()
        image = store.add(new_id(), path)
        assert volume_of(cinder, image.location)["size"] == 2
        assert not [each for each in cinder.requests.read("POST") if each.path.endswith("/extend")]

    @pytest.mark.parametrize("kind", ["slow", None])
    def test_an_image_may_be_in_each_store(self, make: Any, kind: str | None) -> None:
        """Services copy images from store to store under one id."""
        stores, image_id = [make("multi"), make(kind)], new_id()
        images = [store.add(image_id, DATA) for store in stores]
        for store, image in zip(stores, images, strict=True):
            with pytest.raises(errors.AlreadyExists):
                store.add(image_id, DATA)
            assert not difference(content(store, image.location), DATA)

    def test_a_volume_of_cinders_own_is_read_whole(self, make: Any, cinder: Cinder) -> None:
        """Cinder registers volumes as images, and says nothing of their size."""
        made = cinder.make(kind="slow", metadata={"glance_image_id": "some"})
        store = make("slow")
        assert store.size(f"cinder://slow/{made}") == GIB
        with store.get(f"cinder://slow/{made}", offset=GIB - 10) as reader:
            assert reader.read() == bytes(10)

    def test_single_stores_write_the_short_form(self, make: Any) -> None:
        store = make(single=True)
        image = store.add(new_id(), DATA)
        assert "/" not in image.location.rest
        assert store.size(image.location) == len(DATA)
        assert store.size(f"cinder://fast/{image.location.rest}") == len(DATA)


def test_an_id_is_free_once_its_image_is_deleted(make: Any, cinder: Cinder) -> None:
    """Although Cinder has not ended yet to delete the volume."""
    store, name = make(wait_for_delete=False), new_id()
    image = store.add(name, DATA)
    cinder.services["rbd"].freeze()
    try:
        store.delete(image.location)
        assert volume_of(cinder, image.location)["status"] == "deleting"
    finally:
        threading.Timer(1, cinder.services["rbd"].thaw).start()
    other = store.add(name, DATA[1:])
    assert not difference(content(store, other.location), DATA[1:])


class TestGrowing:
    """Images whose size nobody knows."""

    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            ("fast", {"do_extend_attached": True}),
            ("slow", {}),
            pytest.param("fast", {}, marks=pytest.mark.heavy),
            pytest.param("slow", {"do_extend_attached": True}, marks=pytest.mark.heavy),
        ],
    )
    def test_nothing_is_lost(self, make: Any, cinder: Cinder, kind: str, options: Any) -> None:
        """Through several extensions, online or offline, what was written before stays."""
        store = make(kind, extend_step=0, **options)
        image = store.add(new_id(), chunks(2060))
        volume = volume_of(cinder, image.location)
        assert volume["size"] == 3
        assert volume["metadata"]["image_size"] == str(2060 * MIB)
        assert image.digests["sha256"] == digest_of_chunks(2060)
        found = hashlib.sha256()
        with store.get(image.location) as reader:
            while block := reader.read(MIB):
                found.update(block)
        assert found.hexdigest() == image.digests["sha256"]

    def test_a_full_volume_is_not_extended_for_nothing(self, make: Any, cinder: Cinder) -> None:
        image = make().add(new_id(), chunks(1024))
        assert volume_of(cinder, image.location)["size"] == 1

    @pytest.mark.parametrize(
        ("backend", "options", "count"),
        [
            ("rbd", {}, 1030),
            pytest.param("nfs", {}, 1030, marks=pytest.mark.heavy),
            pytest.param("rbd", {"do_extend_attached": True}, 2060, marks=pytest.mark.heavy),
            pytest.param("nfs", {}, 2060, marks=pytest.mark.heavy),
        ],
    )
    def test_a_backend_that_makes_more_than_asked_for(
        self, make: Any, cinder: Cinder, backend: str, options: Any, count: int
    ) -> None:
        """How large a volume is says Cinder, not who asked for it."""
        kind = cinder.call("POST", "types", {"volume_type": {"name": f"even-{backend}"}})
        path = f"types/{kind['volume_type']['id']}"
        try:
            specs = {"extra_specs": {"volume_backend_name": backend}}
            cinder.call("POST", f"{path}/extra_specs", specs)
            store = make(f"even-{backend}", extend_step=0, **options)
            image = store.add(new_id(), chunks(count))
            assert volume_of(cinder, image.location)["size"] == (2 if count < 2048 else 3)
            assert image.digests["sha256"] == digest_of_chunks(count)
            found = hashlib.sha256()
            with store.get(image.location) as reader:
                while block := reader.read(MIB):
                    found.update(block)
            assert found.hexdigest() == image.digests["sha256"]
        finally:
            cinder.empty()
            cinder.call("DELETE", path)

    def test_the_first_size_and_steps_are_options(self, make: Any, cinder: Cinder) -> None:
        image = make("slow", initial_size=2, extend_step=100).add(new_id(), chunks(2049))
        assert volume_of(cinder, image.location)["size"] == 4


class TestRefusals:
    """Clear errors."""

    def test_types_that_do_not_exist(self, make: Any, cinder: Cinder) -> None:
        store = make("fast", volume_type="absent")
        (fault,) = store.check()
        assert "no volume type 'absent'" in fault
        with pytest.raises(errors.ConfigError, match=r"'absent'.*cinder_volume_type"):
            store.add(new_id(), DATA)
        assert cinder.volumes() == []

    def test_wrong_passwords(self, make: Any) -> None:
        store = make(password="wrong-password")
        with pytest.raises(errors.PermissionDenied, match="Keystone answers 401") as caught:
            store.add(new_id(), DATA)
        assert "wrong-password" not in str(caught.value)
        (fault,) = store.check()
        assert "401" in fault

    @pytest.mark.parametrize("limit", ["volumes", "gigabytes"])
    def test_quotas(self, make: Any, cinder: Cinder, limit: str) -> None:
        cinder.quota(**{limit: 0})
        try:
            with pytest.raises(errors.StorageFull, match=r"quota|exceed"):
                make().add(new_id(), DATA)
        finally:
            cinder.quota(**{limit: -1})
        assert cinder.volumes() == []

    def test_a_quota_that_ends_growth(self, make: Any, cinder: Cinder) -> None:
        cinder.quota(gigabytes=1)
        try:
            with pytest.raises(errors.StorageFull):
                make("slow").add(new_id(), chunks(1030))
        finally:
            cinder.quota(gigabytes=-1)
        cinder.call("GET", "limits")
        assert [volume for volume in cinder.volumes() if volume["status"] != "deleting"] == []

    def test_no_directory_for_locks(
        self, make: Any, cinder: Cinder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = make()
        monkeypatch.delenv("OSLO_LOCK_PATH")
        lockutils.set_defaults(None)  # it has read the environment when it was imported
        try:
            with pytest.raises(errors.ConfigError, match=r"\[oslo_concurrency\]"):
                store.add(new_id(), DATA)
            assert any("lock_path" in fault for fault in store.check())
        finally:
            lockutils.set_defaults(str(cinder.locks))
        assert cinder.volumes() == []

    def test_in_use(self, make: Any, cinder: Cinder) -> None:
        """Somebody's snapshot, and somebody's attachment."""
        store = make()
        image = store.add(new_id(), DATA)
        volume = volume_of(cinder, image.location)["id"]
        asked = {"snapshot": {"volume_id": volume, "force": True}}
        snapshot = cinder.call("POST", "snapshots", asked)["snapshot"]["id"]
        with pytest.raises(errors.InUse):
            store.delete(image.location)
        cinder.wait_snapshot_gone(snapshot)
        with store.get(image.location) as reader:
            reader.read(1)
            with pytest.raises(errors.InUse):
                store.delete(image.location)
        store.delete(image.location)
        with pytest.raises(errors.NotFound):
            store.delete(image.location)

    def test_states_that_last(self, make: Any, cinder: Cinder) -> None:
        """They are named, at once, where an image is read, copied or deleted."""
        store = make(attachment_retry_attempts=99, initial_size=1)
        image = store.add(new_id(), b"data")
        volume = volume_of(cinder, image.location)["id"]

        def reset(state: str) -> None:
            cinder.call("POST", f"volumes/{volume}/action", {"os-reset_status": {"status": state}})

        for state in ("maintenance", "backing-up", "uploading", "error_deleting"):
            reset(state)
            for call in (
                lambda: store.get(image.location),
                lambda: store.copy(image.location, new_id()),
                lambda: store.delete(image.location),
            ):
                with pytest.raises(errors.StoreError, match=f"the state '{state}'") as caught:
                    call()
                assert caught.value.retryable == (state != "error_deleting")
        reset("available")
        assert content(store, image.location) == b"data"
        assert len(cinder.volumes()) == 1

    def test_another_store_has_the_volume_attached(self, make: Any) -> None:
        """Volumes without multiattach are read by one process at a time."""
        store, other = make(), make(attachment_retry_attempts=1)
        image = store.add(new_id(), DATA)
        with store.get(image.location) as reader:
            reader.read(1)
            with pytest.raises(errors.InUse, match="multiattach") as caught:
                other.get(image.location)
            assert caught.value.retryable
        assert not difference(content(other, image.location), DATA)

    def test_multiattach(self, make: Any) -> None:
        store, other = make("multi"), make("multi", attachment_retry_attempts=1)
        image = store.add(new_id(), DATA)
        with store.get(image.location) as one, other.get(image.location) as two:
            assert one.read() == two.read() == DATA


class TestCallers:
    """A store without credentials acts for whoever asks."""

    @pytest.fixture
    def user(self, keystone: Keystone, cinder: Cinder) -> Iterator[KeystoneUser]:
        user = keystone.user(new_id())
        yield user
        for volume in cinder.volumes(user=user):
            cinder.call("DELETE", f"volumes/{volume['id']}", user=user)

    def context(self, keystone: Keystone, user: KeystoneUser, *, catalog: Any = ()) -> Any:
        return RequestContext(
            token=keystone.token(user),
            project_id=user.project_id,
            user_id=user.id,
            service_catalog=catalog,
        )

    def anonymous(self, make: Any, **options: Any) -> Any:
        none = dict.fromkeys(("auth_address", "user_name", "password", "project_name"))
        return make(**none, **options)

    def test_by_template(
        self, make: Any, cinder: Cinder, keystone: Keystone, user: KeystoneUser
    ) -> None:
        store = self.anonymous(make, endpoint_template=f"{cinder.url}/%(tenant)s")
        context = self.context(keystone, user)
        image = store.add(new_id(), DATA, context=context)
        (volume,) = cinder.volumes(user=user)
        assert volume["metadata"]["image_owner"] == user.project_id
        with store.get(image.location, context=context) as reader:
            assert reader.read() == DATA
        store.delete(image.location, context=context)

    def test_by_catalog(
        self, make: Any, cinder: Cinder, keystone: Keystone, user: KeystoneUser
    ) -> None:
        endpoint = {"interface": "public", "region": "RegionOne"}
        endpoint["url"] = f"{cinder.url}/{user.project_id}"
        catalog = [{"type": "volumev3", "name": "volumev3", "endpoints": [endpoint]}]
        store = self.anonymous(make, catalog_info="volumev2::publicURL")
        context = self.context(keystone, user, catalog=catalog)
        image = store.add(new_id(), DATA, context=context)
        assert store.size(image.location, context=context) == len(DATA)

    def test_who_cannot_be_told(self, make: Any, cinder: Cinder) -> None:
        store = self.anonymous(make, endpoint_template=f"{cinder.url}/%(tenant)s")
        with pytest.raises(errors.PermissionDenied, match="context"):
            store.add(new_id(), DATA)
        with pytest.raises(errors.PermissionDenied) as caught:
            store.add(new_id(), DATA, context=RequestContext(token="bad-token", project_id="p"))
        assert "bad-token" not in str(caught.value)

    def test_no_catalog(self, make: Any, keystone: Keystone, user: KeystoneUser) -> None:
        with pytest.raises(errors.ConfigError, match="cinder_endpoint_template"):
            self.anonymous(make).add(new_id(), DATA, context=self.context(keystone, user))

    def test_application_credentials(self, make: Any, cinder: Cinder, keystone: Keystone) -> None:
        made = keystone.application_credential(cinder.user)
        none = dict.fromkeys(("user_name", "password", "project_name"))
        store = make(
            application_credential_id=made.id, application_credential_secret=made.secret, **none
        )
        image = store.add(new_id(), DATA)
        assert volume_of(cinder, image.location)["metadata"]["image_owner"] == made.project_id


class TestOwners:
    """Legacy locations, and the store that each belongs to."""

    def configuration(self, cinder: Cinder, tmp_path: Path, **types: str) -> Path:
        lines = ["[DEFAULT]", f"enabled_backends = {', '.join(f'{n}:cinder' for n in types)}"]
        lines += ["[oslo_concurrency]", f"lock_path = {tmp_path}/locks", "[backend_defaults]"]
        lines += [f"cinder_store_{key} = {value}" for key, value in login(cinder.user).items()]
        lines += [f"cinder_mount_point_base = {cinder.mounts}"]
        for name, kind in types.items():
            lines += [f"[{name}]", f"cinder_volume_type = {kind}" if kind else ""]
        path = tmp_path / "glance-api.conf"
        path.write_text("\n".join(lines))
        return path

    def test_a_volume_belongs_to_the_store_of_its_type(
        self, cinder: Cinder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By the type, or by Cinder's default type where a store has none."""
        monkeypatch.delenv("OSLO_LOCK_PATH")  # it is in the file
        volumes = {kind: cinder.make(kind=kind) for kind in ("fast", "slow", "multi")}
        conf = self.configuration(cinder, tmp_path, old="", new="slow")
        with StoreManager.from_file(conf) as stores:
            assert stores.owner_of(f"cinder://{volumes['fast']}") == "old"
            assert stores.owner_of(f"cinder://{volumes['slow']}") == "new"
            assert stores.owner_of(f"cinder://new/{volumes['fast']}") == "new"
            for unknown in (volumes["multi"], "00000000-0000-0000-0000-000000000000"):
                with pytest.raises(errors.NotFound, match="owner_of"):
                    stores.owner_of(f"cinder://{unknown}")
            with pytest.raises(errors.InvalidLocation, match="store="):
                stores.size(f"cinder://{volumes['fast']}")
            image = stores.add(new_id(), DATA, store="new")
            with stores.get(image.location) as reader:
                assert reader.read(1)
                assert os.listdir(tmp_path / "locks")
            assert os.listdir(tmp_path / "locks") == []
            assert not difference(content(stores["new"], image.location), DATA)

    def test_two_stores_of_one_type(self, cinder: Cinder, tmp_path: Path) -> None:
        volume = cinder.make()
        conf = self.configuration(cinder, tmp_path, one="fast", two="fast")
        with (
            StoreManager.from_file(conf) as stores,
            pytest.raises(errors.InvalidLocation, match="'one', 'two'"),
        ):
            stores.owner_of(f"cinder://{volume}")


def test_stores_do_not_share_credentials(make: Any, cinder: Cinder, keystone: Keystone) -> None:
    """Each of them has volumes in its own project."""
    other = keystone.user(new_id())
    one, two = make(), make(**login(other))
    assert isinstance(two, CinderStore)
    image_id = new_id()
    first, second = one.add(image_id, DATA), two.add(image_id, b"2")
    assert [volume["id"] for volume in cinder.volumes(user=other)] == [
        second.location.rest.rpartition("/")[2]
    ]
    with pytest.raises(errors.NotFound):
        two.size(first.location)
    two.delete(second.location)


def test_nothing_stays_mounted(make: Any, cinder: Cinder) -> None:
    locks = set(cinder.locks.iterdir())  # os-brick keeps those of other protocols
    store = make("slow")
    image = store.add(new_id(), DATA)
    with store.get(image.location) as one, store.get(image.location) as two:
        assert os.listdir(cinder.mounts / "nfs")
        assert one.read() == two.read() == DATA
    assert os.listdir(cinder.mounts / "nfs") == []
    store.close()  # its life ends with it
    more = set(cinder.locks.iterdir()) - locks
    assert [path for path in more if "life" not in path.name] == []
