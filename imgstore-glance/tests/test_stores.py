"""Named stores: options, the registry, the verbs, and the search for an image's store."""

from __future__ import annotations

import io
import logging
import os
import uuid

import glance_store
import pytest
import told_driver
from glance_store import exceptions, location, multi_backend
from oslo_config import cfg
from services import PATH, RESERVED, VOLUME, add, content, store

from imgstore.errors import NotFound, PermissionDenied, Unavailable


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
