"""Drivers that others wrote for glance_store, and the kit that they import."""

from __future__ import annotations

import io

import foreign_driver
import glance_store
import pytest
from glance_store import _loading, backend, capabilities, driver, exceptions, location
from glance_store.capabilities import BitMasks
from glance_store.common import utils
from oslo_config import cfg

OPTIONS = [cfg.StrOpt("kit_a", default="x"), cfg.IntOpt("kit_b", default=1)]


@pytest.fixture(autouse=True)
def empty():
    foreign_driver.IMAGES.clear()


class TestForeign:
    """A driver that is registered as ``glance_store.drivers`` works, in both forms."""

    def test_named(self, service):
        options = {"backend_defaults": {"foreign_place": "there"}, "mine": {"weight": 7}}
        assert service.multi(mine="foreign", a="file", options=options) == 3
        store = glance_store.get_store_from_store_identifier("mine")
        assert (store.url_prefix, store.weight) == ("foreign://there/", 7)
        found = glance_store.add_with_multihash(None, "x", io.BytesIO(b"data"), 4, "mine", "sha256")
        assert (found[0], found[1], found[4]) == ("foreign://there/x", 4, {"store": "mine"})
        assert len(found[3]) == 64
        assert len(store.add("y", io.BytesIO(b"data"), 4)) == 4
        data, size = glance_store.get(found[0], "mine")
        assert (b"".join(data), size) == (b"data", 4)
        assert glance_store.get_size_from_uri_and_backend(found[0], "mine") == 4
        assert glance_store.get(found[0], None)[1] == 4
        with pytest.raises(exceptions.Duplicate):
            store.add("x", io.BytesIO(b"data"), 4)
        with pytest.raises(exceptions.StoreRandomGetNotSupported):
            glance_store.get(found[0], "mine", offset=1)
        glance_store.set_acls_for_multi_store(found[0], "mine", public=True)
        glance_store.delete(found[0], "mine")
        with pytest.raises(exceptions.NotFound):
            glance_store.delete(found[0], "mine")

    def test_single(self, service, conf):
        assert service.single("foreign", "file", foreign_place="place") == 2
        url = glance_store.add_to_backend(conf, "x", io.BytesIO(b"data"), 4, scheme="foreign")[0]
        assert url == "foreign://place/x"
        assert glance_store.get_size_from_backend(url) == 4
        assert glance_store.get_store_from_uri(url).url_prefix is None

    def test_one_that_refuses_its_configuration(self, service):
        """It reads, and takes nothing."""
        service.multi(mine="foreign", options={"mine": {"foreign_is_broken": True}})
        with pytest.raises(exceptions.StoreAddDisabled):
            glance_store.add(None, "x", io.BytesIO(), 0, "mine")
        store = glance_store.get_store_from_store_identifier("mine")
        with pytest.raises(exceptions.BadStoreConfiguration):
            store.configure(re_raise_bsc=True)

    def test_one_that_threads_may_not_share(self, service, monkeypatch):
        """Each use gets an object of its own, configured; otherwise it is one for all."""
        find = glance_store.get_store_from_store_identifier
        service.multi(mine="foreign")
        assert find("mine") is find("mine")
        monkeypatch.setattr(foreign_driver.Store, "_CAPABILITIES", BitMasks.RW_ACCESS)
        service.multi(mine="foreign")
        one, two = find("mine"), find("mine")
        assert one is not two
        assert one.url_prefix == two.url_prefix == "foreign://here/"
        url = glance_store.add(None, "x", io.BytesIO(b"data"), 4, "mine")[0]
        assert glance_store.get(url, None)[1] == 4
        service.single("foreign", foreign_place="place")
        first, second = (glance_store.get_store_from_scheme("foreign") for _ in range(2))
        assert first is not second

    def test_one_of_imgstore(self, service):
        """What is registered with imgstore works as well."""
        service.multi(told="told", m="memory")
        assert glance_store.add(None, "x", io.BytesIO(b"y"), 0, "m")[0] == "memory://m/x"
        assert glance_store.get_store_from_store_identifier("told").url_prefix == (
            "memory://told/",
        )

    def test_one_that_reads_nothing(self):
        class Nothing(driver.Store):
            def get_schemes(self):
                return ()

        from glance_store import _serving  # noqa: PLC0415

        with pytest.raises(exceptions.BackendException):
            _serving.entries(Nothing(cfg.ConfigOpts()), "nothing")

    def test_options(self):
        """They are listed with those of imgstore's drivers, in both forms."""
        ((_, single),) = backend._list_opts()
        names = [opt.name for opt in single]
        assert {"foreign_place", "foreign_is_broken"} < set(names)
        assert len(names) == len(set(names))
        multi = dict(glance_store.multi_backend._list_config_opts())
        assert [opt.name for opt in multi["foreign"]] == ["foreign_place", "foreign_is_broken"]

    def test_one_with_a_signature_of_its_own(self, service, installed):
        """Its constructor is called by position, and with the configuration alone if unnamed."""

        class Own(foreign_driver.Store):
            __module__ = foreign_driver.__name__
            _CAPABILITIES = BitMasks.RW_ACCESS

            def __init__(self, conf, *backend_group):
                self.given = backend_group
                super().__init__(conf, *backend_group)

        installed(Own)
        service.multi(mine="foreign")
        assert glance_store.get_store_from_store_identifier("mine").given == ("mine",)
        service.single("foreign")
        assert glance_store.get_store_from_scheme("foreign").given == ()

    def test_one_that_derives_from_nothing_of_ours(self, service, installed):
        """What its class declares is registered all the same."""

        class Own:
            OPTIONS = [cfg.StrOpt("own_option", default="x")]

            def __init__(self, conf, backend=None):
                self.conf = conf

            def get_schemes(self):
                return ("foreign",)

            def configure(self, **given):
                pass

            def get_store_location_class(self):
                return foreign_driver.StoreLocation

            def is_capable(self, *bits):
                return True

            def delete(self, at, context=None):
                return "gone"

        installed(Own)
        assert service.multi(mine="foreign") == 1
        assert (service.conf.mine.own_option, service.conf.mine.weight) == ("x", 0)
        assert glance_store.delete("foreign://x", None) == "gone"
        assert service.single("foreign") == 1
        assert service.conf.glance_store.own_option == "x"

    def test_acls(self, service, monkeypatch):
        """Who may is told in lists, as drivers join them."""
        told = []

        def set_acls(store, at, public, read_tenants, write_tenants, context):
            told.append((read_tenants, write_tenants))

        monkeypatch.setattr(foreign_driver.Store, "set_acls", set_acls)
        service.multi(mine="foreign")
        glance_store.set_acls_for_multi_store("foreign://x", "mine")
        glance_store.set_acls_for_multi_store("foreign://x", "mine", read_tenants=["p"])
        service.single("foreign")
        glance_store.set_acls("foreign://x", write_tenants=["q"])
        assert told == [([], []), (["p"], []), ([], ["q"])]


@pytest.fixture
def installed(monkeypatch):
    """Return a function that puts a class in the place of the driver's; it is loaded anew."""
    _loading.foreign_drivers.cache_clear()
    yield lambda cls: monkeypatch.setattr(foreign_driver, "Store", cls)
    _loading.foreign_drivers.cache_clear()


class TestStar:
    def test_names_of_the_module(self):
        """They are those that the package takes from it, and those that it shares."""
        found = {}
        exec("from glance_store.multi_backend import *", found)
        for name in ("create_multi_stores", "add", "get", "delete", "store_add_to_backend"):
            assert found[name] is getattr(glance_store, name)


class TestKit:
    def test_values_of_a_group(self):
        """The group's if it is set, else the shared ones, else the default."""
        conf = cfg.ConfigOpts()
        found = driver.BackendGroupConfiguration(OPTIONS, "mine", conf)
        assert (found.kit_a, found.kit_b, found.get("kit_b"), found.get("no")) == ("x", 1, 1, None)
        conf.set_override("kit_a", "shared", group="backend_defaults")
        assert found.kit_a == "shared"
        conf.set_override("kit_a", "own", group="mine")
        assert found.kit_a == "own"
        found.set_default(opt_name="kit_b", default=5)
        assert (found.kit_b, conf.backend_defaults.kit_b, conf.mine.kit_b) == (5, 5, 1)
        assert found.get("no", 7) == found.get(key="no", default=7) == 7
        assert found.conf is conf
        assert (found.backend_conf.kit_a, found.shared_backend_conf.kit_a) == ("own", "shared")
        found.append_config_values([cfg.StrOpt("kit_c", default="z")])
        assert found.kit_c == "z"
        with pytest.raises(AttributeError):
            assert found.no
        conf = cfg.ConfigOpts()
        single = driver.BackendGroupConfiguration(OPTIONS, conf=conf)
        conf.set_override("kit_a", "one", group="glance_store")
        assert single.kit_a == single.backend_conf.kit_a == "one"
        single.set_default("kit_b", 6)
        assert single.kit_b == 6
        assert driver.SHARED_CONF_GROUP == "backend_defaults"

    def test_a_store_without_verbs(self):
        conf = cfg.ConfigOpts()
        store = driver.Store(conf, "mine")
        assert (store.weight, store.url_prefix, store.backend_group) == (0, None, "mine")
        assert conf.mine.store_description == ""
        assert driver.Store(conf).weight == 0
        store.configure()
        for call in (
            store.get_schemes,
            lambda: store.get(None),
            lambda: store.get_size(None),
            lambda: store.add("x", None, 0),
            lambda: store.delete(None),
            lambda: store.set_acls(None),
        ):
            with pytest.raises(NotImplementedError):
                call()
        assert store.READ_CHUNKSIZE == store.WRITE_CHUNKSIZE == 4 << 20

    def test_bits(self):
        numbers = {each.name: each.value for each in BitMasks}
        assert numbers == {
            "NONE": 0,
            "ALL": 255,
            "READ_ACCESS": 1,
            "READ_OFFSET": 3,
            "READ_CHUNK": 5,
            "READ_RANDOM": 7,
            "WRITE_ACCESS": 8,
            "WRITE_OFFSET": 24,
            "WRITE_CHUNK": 40,
            "WRITE_RANDOM": 56,
            "RW_ACCESS": 9,
            "RW_OFFSET": 27,
            "RW_CHUNK": 45,
            "RW_RANDOM": 63,
            "DRIVER_REUSABLE": 64,
        }
        store = capabilities.StoreCapability()
        assert store.capabilities == 0
        store.set_capabilities(BitMasks.READ_RANDOM, BitMasks.WRITE_ACCESS)
        assert store.is_capable(BitMasks.RW_ACCESS, BitMasks.READ_OFFSET)
        store.unset_capabilities(BitMasks.WRITE_ACCESS)
        assert not store.is_capable(BitMasks.READ_ACCESS, BitMasks.WRITE_ACCESS)
        assert store.contains(BitMasks.ALL, BitMasks.RW_RANDOM)
        store.update_capabilities()

    def test_checked(self):
        """What lacks a bit is refused by what is called."""

        class Store(capabilities.StoreCapability):
            @capabilities.check
            def get(self, location, offset=0, chunk_size=None):
                return "got"

            @capabilities.check
            def add(self):
                return "added"

            @capabilities.check
            def delete(self):
                return "deleted"

        store = Store()
        for call, refusal in (
            (lambda: store.get(1), exceptions.StoreGetNotSupported),
            (store.add, exceptions.StoreAddDisabled),
            (store.delete, exceptions.StoreDeleteNotSupported),
        ):
            with pytest.raises(refusal):
                call()
        for given in ({"offset": 1}, {"chunk_size": 1}):
            with pytest.raises(exceptions.StoreRandomGetNotSupported):
                store.get(1, **given)
        store.set_capabilities(BitMasks.RW_ACCESS)
        assert (store.get(1), store.add(), store.delete()) == ("got", "added", "deleted")
        for given in ({"offset": 1}, {"chunk_size": 1}):
            with pytest.raises(exceptions.StoreRandomGetNotSupported):
                store.get(1, **given)
        store.set_capabilities(BitMasks.READ_RANDOM)
        assert store.get(1, offset=1, chunk_size=2) == "got"

    def test_indexable(self):
        """Subclasses give the next chunk; a position is looked for in the last one, or there."""

        class Chunks(backend.Indexable):
            def another(self):
                return next(iter(self), b"")

        found = Chunks(iter([b"abc", b"def"]), 6)
        assert len(found) == 6
        assert [found[i:] for i in (0, 1, 3, 5, 6)] == [b"abc", b"bc", b"def", b"f", b""]
        assert list(backend.Indexable([b"a", b"b"], 2)) == [b"a", b"b"]
        assert backend.Indexable(io.BytesIO(b"q"), None).getvalue() == b"q"
        assert len(backend.Indexable([b"x"], None)) == 0
        measured = io.BytesIO(b"q")

        class Measured:
            len = 5

        assert len(backend.Indexable(Measured(), 0)) == 5
        with pytest.raises(NotImplementedError):
            assert backend.Indexable(measured, 1)[0:]

    def test_utilities(self):
        assert list(utils.chunkiter(io.BytesIO(b"abc"), 2)) == [b"ab", b"c"]
        assert list(utils.chunkreadable(io.BytesIO(b"abc"))) == [b"abc"]
        assert utils.chunkreadable([b"x"]) == [b"x"]
        assert utils.get_hasher(hash_algo="md5", usedforsecurity=False).hexdigest()[:4] == "d41d"
        uuid = "3c2ae8a1-93a7-41f6-a1d2-64ac1d2eb5a0"
        assert utils.is_uuid_like(uuid)
        plain = uuid.replace("-", "")
        others = (uuid.upper(), plain, f"{{{uuid}}}", f"urn:uuid:{uuid}", uuid[:-1])
        for text in (*others, "x", "", None, 7):
            assert not utils.is_uuid_like(text)

    def test_locks(self):
        pytest.importorskip("oslo_concurrency")

        @utils.synchronized("one")
        def locked():
            return "done"

        assert locked() == "done"

    def test_results_of_add(self):
        """Four, or five if the algorithm is there: a text, or whatever all six arguments have."""

        class Adds:
            @driver.back_compat_add
            def add(self, image_id, image_file, image_size, hashing_algo, context=None, verifier=0):
                return image_id, image_size, "md5", hashing_algo, (context, verifier)

        add = Adds().add
        assert add(1, 2, 3) == (1, 3, "md5", (None, 0))
        assert add(1, 2, 3, "a") == (1, 3, "md5", "a", (None, 0))
        assert add(1, 2, 3, {"c": 1}, verifier=2) == (1, 3, "md5", ({"c": 1}, 2))
        assert add(1, 2, 3, 5, context=1, verifier=2) == (1, 3, "md5", 5, (1, 2))
        assert add(1, 2, 3, 5, 1, 2) == (1, 3, "md5", 5, (1, 2))
        assert add(1, image_file=2, image_size=3, context=4) == (1, 3, "md5", (4, 0))

    def test_locations(self):
        """A class of another's location makes a URL of what it is told, or reads one."""
        at = location.Location(
            "foreign", foreign_driver.StoreLocation, cfg.CONF, store_specs={"name": "a/b"}
        )
        assert at.get_store_uri() == "foreign://a/b"
        at = location.Location("foreign", foreign_driver.StoreLocation, None, uri="foreign://c/d")
        assert at.store_location.name == "c/d"
        with pytest.raises(exceptions.BadStoreUri):
            location.Location("foreign", foreign_driver.StoreLocation, None, uri="file://c/d")
        assert location.StoreLocation({"a": 1}, None).specs == {"a": 1}
        for call in (
            location.StoreLocation(None, None).get_uri,
            lambda: location.StoreLocation(None, None).parse_uri("x"),
        ):
            with pytest.raises(NotImplementedError):
                call()
