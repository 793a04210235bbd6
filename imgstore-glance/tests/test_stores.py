"""Named stores: options, the registry, failed stores, what Glance asks of a store."""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import uuid

import glance_store
import pytest
import told_driver
from glance_store import exceptions, location, multi_backend
from glance_store.capabilities import BitMasks
from oslo_config import cfg
from services import PATH, RESERVED

from imgstore.errors import NotFound, PermissionDenied, Unavailable

VOLUME = "3c2ae8a1-93a7-41f6-a1d2-64ac1d2eb5a0"
S3 = {"s3_store_host": "https://s3.example.org", "s3_store_bucket": "images"}
SWIFT = {
    "swift_store_auth_address": "https://keys.example.org/v3",
    "swift_store_user": "p:u",
    "swift_store_key": "k/e:y",
}
VMWARE = {
    "vmware_server_host": "vc.example.org",
    "vmware_server_username": "u",
    "vmware_server_password": "p",
    "vmware_datastores": ["DC0:one:10"],
}


def store(name):
    return glance_store.get_store_from_store_identifier(name)


def add(name, image_id="image", data=b"data"):
    return glance_store.add_with_multihash(
        cfg.CONF, image_id, io.BytesIO(data), len(data), name, "sha256"
    )


def content(url, name, **given):
    data, size = glance_store.get(url, name, **given)
    found = b"".join(data)
    data.close()
    assert size == len(found)
    return found


class TestOptions:
    def test_known_before_any_store(self, conf):
        """Registered again and again, they can be overridden at once."""
        conf.set_override("enabled_backends", {"a": "file", "b": "swift", "nobody": "nothing"})
        for _ in range(3):
            glance_store.register_store_opts(conf, RESERVED)
        assert conf.a.weight == 0
        assert conf.a.store_description == ""
        assert conf.backend_defaults.swift_store_container == "glance"
        assert conf.b.swift_store_config_file is None
        assert conf.os_glance_tasks_store.filesystem_store_datadir == (
            "/var/lib/glance/os_glance_tasks_store"
        )
        assert conf.glance_store.default_backend is None
        conf.set_override("weight", 3, group="b")
        assert conf.b.weight == 3
        with pytest.raises(cfg.NoSuchOptError):
            conf["nobody"]

    def test_a_dictionary_of_a_test(self):
        """Some tests register ``enabled_backends`` themselves, on a ConfigOpts of their own."""
        conf = cfg.ConfigOpts()
        conf.register_opt(cfg.DictOpt("enabled_backends", default={"x": "file"}))
        glance_store.register_store_opts(conf)
        assert conf.x.filesystem_store_chunk_size == 262144
        glance_store.register_store_opts(cfg.ConfigOpts())

    def test_a_driver_that_is_missing(self, conf, caplog):
        conf.set_override("enabled_backends", {"c": "nothing", "d": "broken"})
        glance_store.register_store_opts(conf)
        assert "no driver 'nothing'" in caplog.text
        assert "'broken' cannot be imported" in caplog.text

    def test_nothing_else_is_changed(self, service, conf):
        service.multi(a="file", reserved=RESERVED)
        assert conf.enabled_backends == {"a": "file"}


class TestRegistry:
    def test_every_scheme_has_every_store(self, service):
        count = service.multi(a="file", b="file", web="http", reserved=RESERVED)
        known = location.SCHEME_TO_CLS_BACKEND_MAP
        assert count == 10
        assert set(known["file"]) == set(known["filesystem"]) == {"a", "b", *RESERVED}
        assert set(known["https"]) == {"web"}
        entry = known["file"]["a"]
        assert entry["store"] is store("a")
        assert entry["store_entry"] == "file"
        assert entry["location_class"] is store("a").get_store_location_class()
        schemes = glance_store.get_known_schemes_for_multi_store()
        assert "http" in schemes
        assert "rbd" not in schemes

    def test_maps_are_rebound(self, service):
        """Callers assign other maps; those count from then on."""
        service.multi(a="file")
        schemes = glance_store.get_known_schemes_for_multi_store
        assert "file" in schemes()
        known = location.SCHEME_TO_CLS_BACKEND_MAP
        location.SCHEME_TO_CLS_BACKEND_MAP = {}
        assert "file" not in schemes()
        with pytest.raises(exceptions.UnknownScheme):
            store("a")
        with pytest.raises(exceptions.UnknownScheme):
            glance_store.get("file:///x", "a")
        location.SCHEME_TO_CLS_BACKEND_MAP = known
        assert store("a")

    def test_stores_come_and_go(self, service):
        """A name that is used again replaces its store in every scheme; others stay."""
        service.multi(a="file", b="file")
        before = store("b")
        service.multi(a="http")
        assert "a" not in location.SCHEME_TO_CLS_BACKEND_MAP["file"]
        assert store("a").get_schemes() == ("http", "https")
        assert location.SCHEME_TO_CLS_BACKEND_MAP["file"]["b"]["store"] is before
        with pytest.raises(exceptions.UnknownScheme, match="'b'"):
            store("b")  # which is not enabled any more

    def test_a_replaced_store_still_reads(self, service):
        service.multi(a="file")
        url = add("a", data=bytes(1 << 20))[0]
        data, size = glance_store.get(url, "a")
        service.multi(a="file")
        assert sum(map(len, data)) == size == 1 << 20

    def test_the_default_store(self, service, conf):
        service.multi(a="file")
        glance_store.verify_store()
        assert glance_store.add(conf, "x", io.BytesIO(b"x"), 1, None)[0].endswith("/a/x")
        for name in ("b", None):
            conf.set_override("default_backend", name, group="glance_store")
            with pytest.raises(RuntimeError):
                glance_store.verify_store()

    def test_reserved_stores_are_known_by_name(self, service):
        service.multi(a="file", reserved=RESERVED)
        assert multi_backend._RESERVED_STORES == RESERVED
        assert add("os_glance_staging_store")[-1] == {"store": "os_glance_staging_store"}

    def test_a_reserved_store_of_any_name(self, conf):
        """It has a directory of its own."""
        conf.set_override("enabled_backends", {})
        glance_store.register_store_opts(conf, {"mine": "file", **RESERVED})
        for name in ("mine", *RESERVED):
            assert conf[name].filesystem_store_datadir == f"/var/lib/glance/{name}"

    def test_weights(self, service):
        service.multi(a="file", b="file", options={"a": {"weight": 7}})
        assert glance_store.get_store_weight("a") == 7
        assert glance_store.get_store_weight("b") == 0
        service.set("b", weight=9)
        service.set("backend_defaults", weight=3)
        assert [glance_store.get_store_weight(name) for name in "ab"] == [7, 9]  # as they are now
        with pytest.raises(exceptions.UnknownScheme):
            glance_store.get_store_weight("c")

    def test_values_are_read_when_a_store_is_configured(self, service):
        service.multi(a="file")
        url = str(service.tmp_path / "later")
        service.set("a", filesystem_store_datadir=url)
        assert add("a", "one")[0].endswith("/a/one")
        store("a").configure()
        assert add("a", "two")[0] == f"file://{url}/two"

    def test_one_line_tells_which_library_serves(self, service, caplog, monkeypatch):
        caplog.set_level(logging.INFO)
        monkeypatch.setenv("PYTHONPATH", f"/other:{PATH}")
        service.multi(a="file")
        (line,) = [each for each in caplog.messages if "imgstore-glance" in each]
        assert glance_store.__imgstore__ in line
        assert str(PATH) in line
        assert "child" not in caplog.text

    def test_an_environment_that_is_not_passed_on(self, service, caplog, monkeypatch):
        """Programs that this one starts would use another library: the log says so."""
        monkeypatch.delenv("PYTHONPATH", raising=False)
        service.multi(a="file")
        assert "that this process starts" in caplog.text


class TestVerbs:
    def test_an_image(self, service):
        service.multi(a="file")
        url, size, _, _, metadata = add("a")
        assert (url, size) == (f"file://{service.tmp_path}/a/image", 4)
        assert metadata == {"store": "a"}
        assert content(url, "a") == b"data"
        assert content(url, "a", offset=1) == b"ata"
        assert content(url, "a", offset=1, chunk_size=2) == b"at"
        assert content(url, "a", chunk_size=0) == b"data"
        assert content(url, "a", chunk_size=99) == b"data"
        assert glance_store.get_size_from_uri_and_backend(url, "a") == 4
        with pytest.raises(exceptions.Duplicate):
            add("a")
        glance_store.delete(url, "a", None)
        for call in (glance_store.get, glance_store.delete):
            with pytest.raises(exceptions.NotFound):
                call(url, "a")

    def test_four_results_or_five(self, service):
        """An algorithm is recognised by its keyword, as text in fourth place, or among six."""
        service.multi(a="file")
        one = store("a")

        def source():
            return io.BytesIO(b"data")

        assert len(one.add("1", source(), 4)) == 4
        assert len(one.add("2", source(), 4, None)) == 4
        assert len(one.add("3", source(), 4, context=None, verifier=None)) == 4
        assert len(one.add("4", source(), 4, "sha256")) == 5
        assert len(one.add("5", source(), 4, hashing_algo="sha256")) == 5
        assert len(one.add("6", source(), 4, "sha256", None, None)) == 5
        assert len(one.add("7", source(), 4, hashing_algo=None)) == 4
        assert len(glance_store.add(None, "8", source(), 4, "a")) == 4

    def test_sources(self, service):
        """Short reads, and iterables; neither is closed."""
        service.multi(a="file")

        class Short(io.BytesIO):
            def read(self, n=-1):
                return super().read(min(n, 3) if n >= 0 else n)

        source = Short(b"0123456789")
        url = store("a").add("x", source, 0)[0]
        assert not source.closed
        assert content(url, "a") == b"0123456789"
        url = store("a").add("y", iter([b"ab", b"c"]), 0)[0]
        assert content(url, "a") == b"abc"

    def test_ids_are_made_text(self, service):
        service.multi(a="file")
        image_id = uuid.UUID(VOLUME)
        assert store("a").add(image_id, io.BytesIO(b"x"), 1)[0].endswith(f"/{VOLUME}")

    def test_what_is_read_can_be_added(self, service):
        service.multi(a="file", b="file")
        url = add("a", data=b"x" * 100_000)[0]
        data, size = glance_store.get(url, "a")
        assert store("b").add("copy", data, size)[1] == size

    def test_data_is_released_before_it_is_read(self, service):
        service.multi(a="file")
        url = add("a")[0]
        before = set(os.listdir("/proc/self/fd"))
        data, _ = glance_store.get(url, "a")
        assert iter(data) is data
        data.close()
        assert len(os.listdir("/proc/self/fd")) <= len(before)
        data, _ = glance_store.get(url, "a")
        assert next(data) == b"data"
        with pytest.raises(StopIteration):
            next(data)

    def test_a_path_is_no_url(self, service):
        """Glance passes paths, and takes UnknownScheme for "there is nothing"."""
        service.multi(a="file", reserved=RESERVED)
        for backend in ("a", None):
            for call in (glance_store.get, glance_store.delete):
                with pytest.raises(exceptions.UnknownScheme):
                    call("/tmp/image", backend)

    def test_sizes_need_a_store(self, service):
        service.multi(a="file", web="http")
        url = add("a")[0]
        for backend in (None, "", "web", "nothing"):
            with pytest.raises(exceptions.UnknownScheme):
                glance_store.get_size_from_uri_and_backend(url, backend)

    def test_metadata(self):
        """Dictionaries, lists and text; the text names what is not."""
        assert glance_store.check_location_metadata({"a": ["b", {"c": "d"}]}) is None
        for metadata, key in (({"a": 1}, "key a "), ({"a": ["b", None]}, r"key a\[1\] ")):
            with pytest.raises(exceptions.BackendException, match=key) as caught:
                glance_store.check_location_metadata(metadata)
            assert "<class '" in str(caught.value)

        class Stub:
            metadata = None

            def add(self, *args, **kwargs):
                return "url", 1, "md5", self.metadata

        stub = Stub()
        assert glance_store.store_add_to_backend("x", b"", 0, stub)[-1] is None
        for bad in (1, [], {"a": 1}):
            stub.metadata = bad
            with pytest.raises(exceptions.BackendException):
                glance_store.store_add_to_backend("x", b"", 0, stub)
            with pytest.raises(exceptions.BackendException):
                glance_store.store_add_to_backend_with_multihash("x", b"", 0, "md5", stub)

    def test_acls(self, service, monkeypatch):
        """Stores without ACLs are not asked; the others get who may."""
        service.multi(told="told", a="file")
        told = told_driver.ToldStore
        glance_store.set_acls_for_multi_store("file:///outside/x", "a", public=True)
        glance_store.set_acls_for_multi_store("memory://told/x", "told", public=True)
        assert told.calls == 0
        with pytest.raises(NotImplementedError):
            store("told").set_acls(
                location.get_location_from_uri_and_backend("memory://told/x", "told")
            )
        from imgstore import Capability  # noqa: PLC0415

        monkeypatch.setattr(told, "capabilities", told.capabilities | Capability.ACLS)
        glance_store.set_acls_for_multi_store("memory://told/x", "told", read_tenants=["p"])
        assert told.acls["read"] == ("p",)
        assert told.acls["public"] is False
        told.raises = Unavailable("away")
        with pytest.raises(exceptions.TimeoutError):
            glance_store.set_acls_for_multi_store("memory://told/x", "told")


class TestSearch:
    def test_the_surest_first(self, service):
        """Of two stores the one whose directory it is, wherever it stands in the list."""
        service.multi(a="file", b="file")
        url = add("b")[0]
        assert [name for name, _ in multi_backend._candidates(url, "file")] == ["b", "a"]
        assert content(url, None) == b"data"
        glance_store.delete(url, None)
        with pytest.raises(exceptions.NotFound):
            glance_store.get(url, None)

    def test_the_next_one_is_asked(self, service):
        """An image that a link leads to lies in the store that reads it."""
        service.multi(a="file", b="file")
        add("b")
        (service.tmp_path / "link").symlink_to(service.tmp_path / "b")
        assert content(f"file://{service.tmp_path}/link/image", None) == b"data"

    def test_reserved_stores_are_searched(self, service):
        service.multi(a="file", reserved=RESERVED)
        url = add("os_glance_staging_store")[0]
        glance_store.delete(url, None)

    def test_a_store_that_failed_hides_none(self, service):
        """The others are asked, and one whose directory it is knows that it is gone."""
        wrong = {"filesystem_store_file_perm": 688}
        service.multi(bad="file", a="file", options={"bad": wrong})
        url = add("a")[0]
        (service.tmp_path / "link").symlink_to(service.tmp_path / "a")
        assert content(f"file://{service.tmp_path}/link/image", None) == b"data"
        glance_store.delete(url, None)
        with pytest.raises(exceptions.NotFound):
            glance_store.get(url, None)

    def test_nobody_has_it(self, service):
        """A refusal is not taken for absence: the record stays then."""
        service.multi(a="file", told="told")
        with pytest.raises(exceptions.NotFound):
            glance_store.get("file:///elsewhere/x", None)
        with pytest.raises(exceptions.Forbidden, match="store_also_owns"):
            glance_store.delete("file:///elsewhere/x", None)
        with pytest.raises(exceptions.NotFound):
            glance_store.get("swift://h/c/x", None)
        for error, expected in (
            (NotFound("x"), exceptions.NotFound),
            (PermissionDenied("x"), exceptions.Forbidden),
            (Unavailable("x"), exceptions.RemoteServiceUnavailable),
        ):
            told_driver.ToldStore.raises = error
            with pytest.raises(expected):
                glance_store.get("memory://told/x", None)


class TestFailed:
    @pytest.fixture
    def failed(self, service):
        service.multi(
            a="file",
            r="rbd",
            s="s3",
            w="swift",
            c="cinder",
            v="vmware",
            web="http",
            t="told",
            options={
                "a": {"filesystem_store_file_perm": 688, "weight": 4},
                "r": {"rbd_store_features": ["nonsense"]},
                "c": {"cinder_catalog_info": "nonsense"},
                "web": {"http_denied_networks": ["nonsense"]},
                "t": {"told_needed": "refused"},
                "backend_defaults": {"swift_store_container": "images"},
            },
        )
        return {name: store(name) for name in ("a", "r", "s", "w", "c", "v", "web", "t")}

    def test_they_are_there(self, failed):
        """With their schemes, but without prefix and bit; none takes or gives anything."""
        for name, one in failed.items():
            assert not one.is_capable(BitMasks.WRITE_ACCESS)
            assert one.url_prefix is None
            for scheme in one.get_schemes():
                assert location.SCHEME_TO_CLS_BACKEND_MAP[scheme][name]["store"] is one
            with pytest.raises(exceptions.StoreAddDisabled):
                one.add("x", io.BytesIO(), 0)
            url = {"v": "vsphere://h/x", "c": f"cinder://{VOLUME}"}.get(
                name, f"{one.get_schemes()[0]}://h/x/y"
            )
            for call in (glance_store.get, glance_store.delete):
                with pytest.raises(exceptions.BadStoreConfiguration):
                    call(url, name)

    def test_glance_reads_their_settings(self, failed):
        """Every attribute of the list of stores, with values of [backend_defaults] too."""
        for name, attributes in {
            "a": ("datadir", "chunk_size", "thin_provisioning"),
            "r": ("chunk_size", "pool", "thin_provisioning"),
            "w": ("container", "large_object_size", "large_object_chunk_size"),
            "s": (
                "s3_store_large_object_size",
                "s3_store_large_object_chunk_size",
                "s3_store_thread_pools",
            ),
        }.items():
            for attribute in attributes:
                assert getattr(failed[name], attribute) is not None
        assert failed["w"].container == "images"
        assert failed["a"].weight == 4
        assert failed["c"].store_conf.cinder_volume_type is None
        assert failed["c"].store_conf.cinder_use_multipath is False

    def test_saving_an_image_goes_on(self, failed):
        """ACLs of stores that have none are nobody's concern, in failed stores either."""
        glance_store.set_acls_for_multi_store("file:///x/y", "a", public=True)
        glance_store.set_acls_for_multi_store("swift://h/c/o", "w", public=True)

    def test_acls_of_a_failed_store_are(self, service):
        """That nobody may read an image any more is not passed over."""
        service.multi(w="swift", options={"w": {"swift_store_multi_tenant": True}})
        service.set("w", swift_store_multiple_containers_seed=3)
        store("w").configure()
        with pytest.raises(exceptions.BadStoreConfiguration):
            glance_store.set_acls_for_multi_store("swift://h/c/o", "w")

    def test_they_are_repaired(self, failed, service):
        service.set("a", filesystem_store_file_perm=0)
        failed["a"].configure()
        assert add("a")[1] == 4

    def test_raised_on_request(self, failed):
        with pytest.raises(exceptions.BadStoreConfiguration, match="688"):
            failed["a"].configure(re_raise_bsc=True)


class TestAttributes:
    def test_units(self, service):
        """Bytes, whatever an option counts."""
        service.multi(
            a="file",
            r="rbd",
            s="s3",
            w="swift",
            options={
                "s": {**S3, "s3_store_large_object_size": 7},
                "w": {**SWIFT, "swift_store_large_object_size": 9, "swift_store_container": "c"},
                "r": {"rbd_store_chunk_size": 4, "rbd_store_pool": "p"},
                "backend_defaults": {"rbd_thin_provisioning": True},
            },
        )
        assert store("a").datadir == f"{service.tmp_path}/a"
        assert store("a").chunk_size == 65536  # unset, as Glance's users know it
        service.set("backend_defaults", filesystem_store_chunk_size=4096)
        store("a").configure()
        assert store("a").chunk_size == 4096
        assert (store("r").chunk_size, store("r").pool) == (4 << 20, "p")
        assert store("r").thin_provisioning is True
        assert store("s").s3_store_large_object_size == 7 << 20
        assert (store("w").large_object_size, store("w").container) == (9 * 1_024_000, "c")

    def test_bits(self, service):
        service.multi(a="file", web="http")
        assert store("a").capabilities == (
            BitMasks.READ_RANDOM | BitMasks.WRITE_ACCESS | BitMasks.DRIVER_REUSABLE
        )
        assert store("web").capabilities == BitMasks.READ_RANDOM | BitMasks.DRIVER_REUSABLE
        assert store("a").is_capable(BitMasks.RW_ACCESS, BitMasks.READ_CHUNK)

    def test_prefixes(self, service):
        """Of every place, up to a slash; also what was written before."""
        place = service.tmp_path
        service.multi(
            a="file",
            b="file",
            s="s3",
            w="swift",
            x="swift",
            y="swift",
            z="swift",
            c="cinder",
            v="vmware",
            web="http",
            r="rbd",
            options={
                "a": {"store_also_owns": ["file:///old"]},
                "b": {
                    "filesystem_store_datadir": None,
                    "filesystem_store_datadirs": [f"{place}/b1:1", f"{place}/b2:2"],
                },
                "s": S3,
                "w": SWIFT,
                "x": {**SWIFT, "swift_store_multi_tenant": True},
                "y": {**SWIFT, "swift_store_multiple_containers_seed": 2},
                "z": {
                    **SWIFT,
                    "swift_store_application_credential_id": "i",
                    "swift_store_application_credential_secret": "s",
                },
                "v": VMWARE,
                "r": {"store_also_owns": ["rbd://f/p"]},
            },
        )
        keys = "keys.example.org/v3/glance"
        swifts = ("swift+https", "swift", "swift+http")
        assert {name: store(name).url_prefix for name in service.conf.enabled_backends} == {
            "a": (f"file://{service.tmp_path}/a/", "file:///old/"),
            "b": (f"file://{place}/b2/", f"file://{place}/b1/"),
            "s": tuple(
                f"{each}://s3.example.org/images/" for each in ("s3+https", "s3", "s3+http")
            ),
            "w": (
                *(f"{each}://p%3Au:k/e%3Ay@{keys}/" for each in swifts),
                *(f"{each}://{keys}/" for each in swifts),
            ),
            "x": None,
            "y": (f"swift+https://p%3Au:k/e%3Ay@{keys}_", f"swift+https://{keys}_"),
            "z": tuple(f"{each}://{keys}/" for each in swifts),
            "c": "cinder://c",
            "v": ("vsphere://vc.example.org/folder/openstack_glance/",),
            "web": "http",
            "r": "rbd://" if importlib.util.find_spec("rados") else None,  # without it it fails
        }

    def test_a_cluster_that_is_configured(self, service, tmp_path):
        """Its fsid is taken from the Ceph configuration, and remembered."""
        pytest.importorskip("rados")
        conf = tmp_path / "ceph.conf"
        conf.write_text(f"[global]\nfsid = {VOLUME}\nmon_host = 127.0.0.1:1\n")
        service.multi(r="rbd", options={"r": {"rbd_store_ceph_conf": str(conf)}})
        assert store("r").url_prefix == f"rbd://{VOLUME}/images/"

    def test_volumes(self, service):
        """Whether one is a store's is asked of Cinder; any error is a no."""
        service.multi(c="cinder")
        assert store("c").is_image_associated_with_store(None, VOLUME) is False
        assert store("c").is_image_associated_with_store(None, "nonsense") is False

    def test_what_tests_of_glance_replace(self):
        from glance_store._drivers import cinder, filesystem, rbd, swift  # noqa: PLC0415

        assert rbd.rados is rbd.rbd is cinder.cinderclient is swift.swiftclient is None
        assert "url_prefix" in vars(cinder.Store)
        assert "is_image_associated_with_store" in vars(cinder.Store)
        for cls, name in (
            (rbd.Store, "get_connection"),
            (cinder.Store, "get_cinderclient"),
            (swift.BaseStore, "get_store_connection"),
            (filesystem.Store, "add"),
        ):
            assert callable(getattr(cls, name))


class TestFiles:
    def test_directories_are_made_at_the_start_and_never_again(self, service):
        """What vanishes is most often a share that is not mounted."""
        service.multi(a="file")
        directory = service.tmp_path / "a"
        assert directory.is_dir()
        directory.rmdir()
        with pytest.raises(exceptions.TimeoutError, match="not available"):
            add("a")
        assert not directory.exists()
        store("a").configure()
        assert directory.is_dir()

    def test_metadata_of_a_file(self, service, tmp_path):
        """What the metadata file has for a mount point, and the store."""
        path = tmp_path / "metadata.json"
        path.write_text(f'{{"id": "nfs1", "mountpoint": "{tmp_path}/a"}}')
        service.multi(a="file", options={"a": {"filesystem_store_metadata_file": str(path)}})
        found = add("a")[-1]
        assert found == {"id": "nfs1", "mountpoint": f"{tmp_path}/a", "store": "a"}
        found.clear()
        assert add("a", "other")[-1]["id"] == "nfs1"
