"""Locations: URLs, the two maps, and the single form, which needs only the scheme."""

from __future__ import annotations

import io
import json
from pathlib import Path
from urllib.parse import urlencode

import glance_store
import pytest
from glance_store import backend, exceptions, location
from glance_store._drivers import filesystem
from oslo_config import cfg
from services import HAS_CEPH, VMWARE

import imgstore
from imgstore.model import Ownership

RECORDED = json.loads((Path(__file__).parent / "incumbent.json").read_text())


class TestLocations:
    def test_attributes(self, service):
        service.multi(s="s3")
        url = "s3://key:sec/ret@h/b/k"
        at = location.get_location_from_uri_and_backend(url, "s")
        assert (at.store_name, at.backend_group, at.image_id) == ("s3", "s", None)
        assert at.get_store_uri() == url  # with the credentials that rows of old have
        assert at.get_uri() is None
        assert at.store_location.backend_group == "s"

    def test_unknown(self, service):
        service.multi(a="file", web="http")
        for url, name in (("/a/b", "a"), ("rbd://x", "a"), ("http://h/x", "a"), ("file:///x", "z")):
            with pytest.raises(exceptions.UnknownScheme):
                location.get_location_from_uri_and_backend(url, name)
        with pytest.raises(exceptions.UnknownScheme, match="'a'"):
            location.get_location_from_uri_and_backend("http://h/x", "a")
        with pytest.raises(exceptions.BadStoreUri):
            location.get_location_from_uri_and_backend("http://", "web")
        assert location.get_location_from_uri_and_backend("HTTP://h/x", "web")

    def test_files(self, service):
        service.multi(a="file")
        at = location.get_location_from_uri_and_backend("file:///a/b", "a")
        assert (at.store_location.scheme, at.store_location.path) == ("file", "/a/b")
        made = filesystem.StoreLocation({"scheme": "file", "path": "/a/b"}, cfg.CONF)
        assert made.get_uri() == "file:///a/b"
        with pytest.raises(exceptions.NotFound):
            glance_store.get_store_from_store_identifier("a").get_size(
                location.get_location_from_uri_and_backend(f"file://{service.tmp_path}/a/x", "a")
            )

    def test_schemes_that_are_valid(self):
        check = location.StoreLocation.validate_schemas
        check("cinder://x", valid_schemas=("cinder://",))
        with pytest.raises(exceptions.BadStoreUri):
            check("cinder://x", valid_schemas=("http://", "https://"))

    def test_maps_are_merged(self):
        location.register_scheme_map({"a": {"store": 1}})
        location.register_scheme_map({"b": {"store": 2}, "a": {"store": 3}})
        assert location.SCHEME_TO_CLS_MAP == {"a": {"store": 3}, "b": {"store": 2}}
        location.register_scheme_backend_map({"a": {"x": {"store": 1}}})
        location.register_scheme_backend_map({"a": {"y": {"store": 2}}})
        assert set(location.SCHEME_TO_CLS_BACKEND_MAP["a"]) == {"x", "y"}


class TestSingle:
    def test_stores(self, service):
        """Each driver once, by its new name or its old one."""
        drivers = ("file", "glance.store.filesystem.Store", "http", "glance.store.http.Store", "no")
        assert service.single(*drivers, "filesystem") == 2
        known = glance_store.get_known_schemes()
        assert set(known) == {"file", "filesystem", "http", "https"}
        service.set("glance_store", default_store="file")
        glance_store.verify_default_store()
        service.set("glance_store", default_store="rbd")
        with pytest.raises(RuntimeError):
            glance_store.verify_default_store()
        location.SCHEME_TO_CLS_MAP = {}
        assert "file" not in glance_store.get_known_schemes()

    def test_verbs(self, service, conf):
        service.single("file")
        source = io.BytesIO(b"data")
        url, size, _, _, metadata = glance_store.add_to_backend_with_multihash(
            conf, "x", source, 4, "sha256"
        )
        assert (url, size, metadata) == (f"file://{service.tmp_path}/single/x", 4, {})
        found = glance_store.add_to_backend(conf, "y", io.BytesIO(b"data"), 4, scheme="file")
        assert found == (f"file://{service.tmp_path}/single/y", 4, _md5(), {})
        data, size = glance_store.get_from_backend(url, offset=1, chunk_size=2)
        assert (list(data), size) == ([b"at"], 2)
        assert glance_store.get_size_from_backend(url) == 4
        assert glance_store.get_store_from_location(url) == "file"
        assert glance_store.get_store_from_uri(url).url_prefix is None
        assert glance_store.get_store_from_uri(url).weight == 0
        glance_store.set_acls(url, public=True)
        glance_store.delete_from_backend(url, None)
        with pytest.raises(exceptions.NotFound):
            glance_store.get_from_backend(url)
        for call in (
            glance_store.get_from_backend,
            glance_store.get_size_from_backend,
            glance_store.delete_from_backend,
            glance_store.get_store_from_uri,
            glance_store.get_store_from_scheme,
            glance_store.get_store_from_location,
        ):
            with pytest.raises(exceptions.UnknownScheme):
                call("/a/path")

    def test_a_configuration_of_its_own(self, tmp_path):
        """Glance makes one for staging that was never called, and one store on it."""
        conf = cfg.ConfigOpts()
        for _ in range(2):
            backend.register_opts(conf)
        assert conf.glance_store.stores == ["file", "http"]
        conf.set_override("filesystem_store_datadir", str(tmp_path / "s"), group="glance_store")
        staging = backend._load_store(conf, "file")
        staging.configure()
        assert staging.add("x", io.BytesIO(b"data"), 0)[0] == f"file://{tmp_path}/s/x"
        assert staging.datadir == f"{tmp_path}/s"
        at = location.Location(
            "file", staging.get_store_location_class(), conf, f"file://{tmp_path}/s/x"
        )
        assert staging.get_size(at) == 4
        assert backend._load_store(conf, "nothing") is None
        assert backend._load_store(conf, "file", invoke_load=False) is filesystem.Store
        assert [name for name, _ in backend._load_stores(conf)] == ["file", "http"]

    def test_it_refuses_before_it_is_configured(self):
        conf = cfg.ConfigOpts()
        backend.register_opts(conf)
        with pytest.raises(exceptions.StoreAddDisabled, match="not configured"):
            backend._load_store(conf, "file").add("x", io.BytesIO(), 0)


def _md5():
    return "8d777f385d3dfec8815d20f7496026dc"


class TestRecorded:
    """URLs as glance_store 5.7.0 makes them, and metadata of files; ``record_incumbent.py`` did it.

    Where images need a server, the functional tests add some, and compare all that is written.
    """

    @pytest.mark.parametrize("case", RECORDED["file"], ids=str)
    def test_files(self, service, tmp_path, case):
        text = json.dumps(case["options"]).replace("<tmp>", str(tmp_path))
        options = json.loads(text)
        for name, content in json.loads(
            json.dumps(case["files"]).replace("<tmp>", str(tmp_path))
        ).items():
            Path(name).write_text(content)
        if case["single"]:
            service.single("file", **options)
            found = glance_store.add_to_backend_with_multihash(
                service.conf, case["id"], io.BytesIO(b"data"), 4, "sha512"
            )
        else:
            service.multi(fast="file")
            service.conf.clear_override("filesystem_store_datadir", group="fast")
            service.set("fast", **options)
            glance_store.get_store_from_store_identifier("fast").configure()
            found = glance_store.add_with_multihash(
                service.conf, case["id"], io.BytesIO(b"data"), 4, "fast", "sha512"
            )
        assert json.loads(json.dumps(found).replace(str(tmp_path), "<tmp>")) == case["result"]

    @pytest.mark.parametrize("case", RECORDED["swift"], ids=str)
    def test_swift(self, service, case):
        """The credentials too: without them glance_store could not read it again."""
        scheme, _, address = case["address"].partition("://")
        service.multi(
            w="swift",
            options={
                "w": {
                    "swift_store_auth_address": case["address"],
                    "swift_store_user": case["user"],
                    "swift_store_key": case["key"],
                }
            },
        )
        one = glance_store.get_store_from_store_identifier("w")
        own = one.url_prefix[0]
        assert f"{own}id1" == case["url"]
        assert scheme in own
        assert address.rstrip("/") in own

    @pytest.mark.parametrize("case", RECORDED["s3"], ids=str)
    def test_s3(self, service, case):
        options = {"s3_store_host": case["host"], "s3_store_bucket": "images"}
        service.multi(s="s3", options={"s": options})
        own = glance_store.get_store_from_store_identifier("s").url_prefix[0]
        assert f"{own}id1" == case["url"]

    if HAS_CEPH:

        @pytest.mark.parametrize("case", RECORDED["rbd"], ids=str)
        def test_rbd(self, service, case, tmp_path):
            """The cluster, the pool and the image; behind them is always the snapshot."""
            conf = tmp_path / "ceph.conf"
            conf.write_text(f"[global]\nfsid = {case['fsid']}\nmon_host = 127.0.0.1:1\n")
            pool = case["pool"].partition("/")[0]  # rows of old may have more than a store can
            options = {"rbd_store_ceph_conf": str(conf), "rbd_store_pool": pool}
            service.multi(r="rbd", options={"r": options})
            own = glance_store.get_store_from_store_identifier("r").url_prefix
            assert own == f"rbd://{case['fsid']}/{pool}/"
            if pool == case["pool"]:
                assert f"{own}{case['image']}/snap" == case["url"]
            assert_read(service, case["url"], "r")

    @pytest.mark.parametrize("case", RECORDED["cinder"], ids=str)
    def test_cinder(self, service, case):
        """Glance puts a slash and the volume behind what the store says; of old there was none."""
        name = case["store"] or "bricks"
        service.multi(**{name: "cinder"})
        own = glance_store.get_store_from_store_identifier(name).url_prefix
        expected = f"{own}/{case['volume']}" if case["store"] else f"cinder://{case['volume']}"
        assert expected == case["url"]
        assert_read(service, case["url"], name)

    @pytest.mark.parametrize("case", RECORDED["vmware"], ids=str)
    def test_vmware(self, service, case):
        """The datastore stands behind the image's name, where no prefix tells it."""
        options = {
            **VMWARE,
            "vmware_server_host": case["host"],
            "vmware_datastores": [f"{case['datacenter']}:{case['datastore']}"],
        }
        service.multi(v="vmware", options={"v": options})
        (own,) = glance_store.get_store_from_store_identifier("v").url_prefix
        query = urlencode({"dsName": case["datastore"], "dcPath": case["datacenter"]})
        assert f"{own.rpartition('/openstack_glance')[0]}/{case['path']}?{query}" == case["url"]
        assert_read(service, case["url"], "v")


def assert_read(service, url, name):
    """The store reads such a URL: what keeps an image from being opened is not the URL."""
    assert location.get_location_from_uri_and_backend(url, name).get_store_uri() == url
    store = glance_store.get_store_from_store_identifier(name)
    assert store._use("get").ownership(imgstore.Location.parse(url)) is not Ownership.NO
