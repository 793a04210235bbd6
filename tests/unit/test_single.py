"""Stores one by one: their options, building, what is told of them, and where they lie."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from imgstore import Location, Store, StoreManager, errors
from imgstore.config import build_store, driver_options, register_store_opts
from imgstore.drivers.cinder import CinderStore
from imgstore.drivers.filesystem import FilesystemStore
from imgstore.drivers.memory import MemoryStore
from imgstore.drivers.rbd import RbdStore
from imgstore.drivers.s3 import S3Store
from imgstore.drivers.swift import SwiftStore
from imgstore.drivers.vmware import VmwareStore
from imgstore.model import Ownership

HAS_CEPH = all(map(importlib.util.find_spec, ("rados", "rbd")))
VOLUME = "3c2ae8a1-93a7-41f6-a1d2-64ac1d2eb5a0"
RESERVED = "os_glance_staging_store"
KEY = "hunter2"


def s3(**given: Any) -> Store:
    return S3Store("s", host="https://s3.example.org", bucket="images", **given)


def swift(**given: Any) -> Store:
    login = {"auth_address": "https://keys.example.org/v3", "user": "p:u", "key": KEY}
    return SwiftStore("s", **login | given)


def rbd(**given: Any) -> Store:
    return RbdStore("s", **given)


def cinder(**given: Any) -> Store:
    return CinderStore("s", lock_path="/tmp", **given)


def vmware(**given: Any) -> Store:
    return VmwareStore(
        "s",
        server_host="vc.example.org",
        server_username="u",
        server_password=KEY,
        datastores=["DC0:one:10"],
        **given,
    )


def file(**given: Any) -> Store:
    return FilesystemStore("s", **({} if "datadirs" in given else {"datadir": "/srv/a"}) | given)


class Picky(MemoryStore):
    """Has written no location of its own scheme, and could have written every other."""

    schemes = ("memory", "cinder")

    def owns(self, location: Location) -> Ownership:
        if location.scheme == "memory":
            raise errors.InvalidLocation("nothing at all is well-formed")
        return Ownership.NO


def conf_of(tmp_path: Path, text: str) -> cfg.ConfigOpts:
    path = tmp_path / "images.conf"
    path.write_text(text)
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(path)], default_config_dirs=[])
    return conf


class TestLocations:
    @pytest.mark.parametrize(
        ("make", "malformed", "elsewhere"),
        [
            (file, "file://host/path", None),
            (s3, "s3://only/two", "s3://elsewhere.example.org/images/x"),
            (swift, "swift://x/y", "swift://elsewhere.example.org/v3/glance/x"),
            *[(rbd, "rbd://a/b", None)] * HAS_CEPH,
            (cinder, "cinder://s/no-volume", f"cinder://another/{VOLUME}"),
            (
                vmware,
                "vsphere://vc.example.org/x",
                "vsphere://b/folder/openstack_glance/x?dsName=o",
            ),
        ],
    )
    def test_malformed_is_not_outside(
        self, make: Callable[[], Store], malformed: str, elsewhere: str | None
    ) -> None:
        """Another store's location is OutsideStore; one that no store wrote is not."""
        with make() as store:
            for verb in (store.get, store.size, store.delete, store.holds):
                if verb == store.holds:
                    assert not verb(malformed)
                    continue
                with pytest.raises(errors.InvalidLocation) as caught:
                    verb(malformed)
                assert type(caught.value) is errors.InvalidLocation
                if elsewhere:
                    with pytest.raises(errors.OutsideStore, match="store_also_owns"):
                        verb(elsewhere)
            told = str(caught.value).rpartition(": ")[2]
            with StoreManager([store]) as stores:
                for verb in (stores.get, stores.size, stores.delete):
                    with pytest.raises(errors.InvalidLocation) as caught:
                        verb(malformed)
                    assert type(caught.value) is errors.InvalidLocation
                    assert told in str(caught.value)
                    if elsewhere:
                        with pytest.raises(errors.OutsideStore, match="store_also_owns"):
                            verb(elsewhere)

    def test_malformed_for_some_stores(self) -> None:
        """Of stores that read one scheme, one may know what another never wrote."""
        with StoreManager([cinder(), Picky("p")]) as stores:
            with pytest.raises(errors.OutsideStore, match="'s', 'p'"):
                stores.size("cinder://s/no-volume")
            with pytest.raises(errors.InvalidLocation, match="nothing at all") as caught:
                stores.size("memory://x/y")
            assert type(caught.value) is errors.InvalidLocation

    def test_a_link_that_leads_outside(self, tmp_path: Path) -> None:
        """The file system tells what the location does not."""
        (tmp_path / "a").mkdir()
        (tmp_path / "b").touch()
        (tmp_path / "a" / "link").symlink_to(tmp_path / "b")
        with (
            FilesystemStore("s", datadir=tmp_path / "a") as store,
            pytest.raises(errors.OutsideStore, match="store_also_owns"),
        ):
            store.get(f"file://{tmp_path}/a/link")

    @pytest.mark.parametrize(
        ("make", "given", "prefixes"),
        [
            (file, {}, ["file:///srv/a/"]),
            (
                file,
                {"datadirs": ["/srv/b:1", "/srv/c:2"], "also_owns": ["file:///old", "file:///o/"]},
                ["file:///srv/c/", "file:///srv/b/", "file:///old/", "file:///o/"],
            ),
            (
                s3,
                {},
                [f"{scheme}://s3.example.org/images/" for scheme in ("s3+https", "s3", "s3+http")],
            ),
            (s3, {"key_prefix": "x-", "also_owns": ["s3://k:s@h/b"]}, ["s3://h/b/"]),
            (
                swift,
                {"container": "c"},
                [
                    f"{scheme}://keys.example.org/v3/c/"
                    for scheme in ("swift+https", "swift", "swift+http")
                ],
            ),
            (swift, {"multiple_containers_seed": 2}, []),
            (swift, {"multi_tenant": True}, []),
            (cinder, {}, ["cinder://s/"]),
            (cinder, {"single": True}, []),
            (vmware, {}, []),  # the same path may be in another datastore
            *[(rbd, {"also_owns": ["rbd://f/p"]}, ["rbd://f/p/"])] * HAS_CEPH,
            (lambda: MemoryStore("s"), {}, ["memory://s/"]),
        ],
    )
    def test_prefixes_are_surely_the_stores(
        self, make: Callable[..., Store], given: dict[str, Any], prefixes: list[str]
    ) -> None:
        """Every place has one, up to a slash, and what begins with one is owned."""
        with make(**given) as store:
            assert store.url_prefixes == tuple(prefixes)
            for prefix in prefixes:
                location = Location.parse(f"{prefix}{VOLUME}")
                if not location.url.startswith("rbd"):
                    assert store.ownership(location).value == "yes"

    def test_prefixes_of_places_in_others(self) -> None:
        """The longest prefix tells the store."""
        outer, inner = file(), file(datadir="/srv/a/b")
        location = Location.parse("file:///srv/a/b/x")
        found = {prefix: store for store in (outer, inner) for prefix in store.url_prefixes}
        longest = max(filter(location.url.startswith, found), key=len)
        assert found[longest] is inner
        assert outer.ownership(location) is Ownership.MAYBE
        assert inner.ownership(location) is Ownership.YES

    if HAS_CEPH:

        def test_a_cluster_that_is_only_configured_has_no_prefix(self, tmp_path: Path) -> None:
            """It may have another fsid."""
            (tmp_path / "ceph.conf").write_text(f"[global]\nfsid = {VOLUME}\n")
            with rbd(ceph_conf=str(tmp_path / "ceph.conf")) as store:
                assert store.url_prefix == f"rbd://{VOLUME}/images/"
                assert store.url_prefixes == ()


class TestSettings:
    def test_values_as_their_types_have_them(self) -> None:
        """Given ones, else defaults, by the names of the options."""
        with file(datadir=Path("/srv/a"), chunk_size="1024", weight=3, description="d") as store:
            found = store.settings
            assert found["filesystem_store_datadir"] == "/srv/a"
            assert found["filesystem_store_chunk_size"] == 1024
            assert found["filesystem_thin_provisioning"] is False
            assert (found["weight"], found["store_description"]) == (3, "d")
            found["store_also_owns"].append("another")
            assert store.settings["store_also_owns"] == []

    def test_an_alternative_that_is_not_used(self) -> None:
        """The default of an option that another one replaces is no setting."""
        with file(datadirs=["/srv/b"]) as store:
            assert store.settings["filesystem_store_datadirs"] == ["/srv/b"]
            assert "filesystem_store_datadir" not in store.settings

    def test_nothing_secret(self) -> None:
        """Neither secret options, nor credentials in URLs, proxies, hosts and former places."""
        from imgstore.drivers.http import HttpStore  # noqa: PLC0415

        with (
            s3(access_key="AK", secret_key=KEY, also_owns=[f"s3://k:{KEY}@h/b"]) as one,
            swift() as two,
            HttpStore("h", proxy_information={"http": f"u:{KEY}@proxy:80"}) as three,
        ):
            for store in (one, two, three):
                assert KEY not in str(store.settings)
            assert "s3_store_secret_key" not in one.settings
            assert "s3_store_session_token" not in one.settings  # which is not set
            assert one.settings["store_also_owns"] == ["s3://h/b"]
            assert two.settings["swift_store_auth_address"] == "https://keys.example.org/v3"
            assert three.settings["http_proxy_information"] == {"http": "proxy:80"}

    def test_a_description_may_tell_a_url(self) -> None:
        """It stays readable, and its credentials are left out like those of all settings."""
        text = f"see https://u:{KEY}@wiki/a and //v:{KEY}@share, not http://h:1/~x: ask ops@h"
        with file(description=text) as store:
            found = store.settings["store_description"]
        assert found == "see https://wiki/a and //share, not http://h:1/~x: ask ops@h"

    @pytest.mark.parametrize(
        ("driver", "line"),
        [
            ("http", "http_proxy_information = http://u:{key}@proxy:3128"),
            ("http", "http_proxy_information = http://u:{key}@proxy:3128, https:p:1"),
            ("http", "http_proxy_information = http:u:a,{key}@proxy:3128"),
            ("http", "http_proxy_information = http:u:{key},z:b@proxy:3128"),
            ("http", "http_allowed_hosts = u:{key},z@h"),
            ("s3", "s3_store_host = //u:{key}@h"),
            ("s3", "s3_store_host = https://{key}/x@h"),
            ("s3", "s3_store_bucket = https://u:{key}@h/b"),
            ("s3", "store_also_owns = s3://K:{key},x@h/b"),
            ("s3", "store_also_owns = s3://K:x,{key}@h/b"),
            ("s3", "store_also_owns = K:{key}@h/b"),
            ("s3", "store_also_owns = s3+https:K:{key}@h/b"),
            ("swift", "swift_store_auth_address = //p:{key}@h/v3"),
            ("swift", "store_also_owns = swift+https://p:u:x,{key}@h/v3/c"),
            ("swift", "swift_store_endpoint = https://p:{key}@h/v1/AUTH_x"),
            ("cinder", "cinder_endpoint_template = https://u:{key}@h/%(tenant)s"),
            ("vmware", "vmware_server_host = //root:{key}@vc"),
            ("file", "store_description = see //u:{key}@wiki\nfilesystem_store_timeout = -1"),
        ],
    )
    def test_nothing_secret_of_a_store_that_failed(
        self, tmp_path: Path, driver: str, line: str
    ) -> None:
        """Values that the driver refused, and credentials in the pieces of a list, too."""
        text = f"[DEFAULT]\nenabled_backends = a:{driver}\n[a]\n{line.format(key=KEY)}\n"
        with StoreManager.from_conf(conf_of(tmp_path, text), strict=False) as stores:
            failure = stores.failures["a"]
        assert failure.settings["weight"] == 0
        assert KEY not in f"{failure.settings} {failure}"

    def test_what_cannot_be_read_has_no_setting(self, tmp_path: Path) -> None:
        """Not even the default, nor that of an option in whose place it stands."""
        conf = conf_of(
            tmp_path,
            "[DEFAULT]\nenabled_backends = a:file, b:file\n"
            "[a]\nfilesystem_store_chunk_size = lots\nfilesystem_store_fsync = maybe\n"
            "weight = heavy\nfilesystem_store_timeout = 7\n"
            "[b]\nfilesystem_store_datadirs = $nothing\n",
        )
        with StoreManager.from_conf(conf, strict=False) as stores:
            one, two = (stores.failures[name].settings for name in "ab")
        unread = {"filesystem_store_chunk_size", "filesystem_store_fsync", "weight"}
        assert unread.isdisjoint(one)
        assert one["filesystem_store_timeout"] == 7
        assert one["filesystem_store_datadir"] == "/var/lib/glance/images"
        assert {"filesystem_store_datadirs", "filesystem_store_datadir"}.isdisjoint(two)

    def test_info_has_them(self) -> None:
        with StoreManager([file()]) as stores:
            assert stores.info("s").settings == stores["s"].settings

    def test_a_store_that_failed_tells_its_own(self, tmp_path: Path) -> None:
        """Its error has the driver, the schemes and the settings as far as they can be read."""
        conf = conf_of(
            tmp_path,
            "[DEFAULT]\nenabled_backends = a:file, b:file, c:nothing\n"
            "[backend_defaults]\nweight = 7\n"
            "[a]\nfilesystem_store_chunk_size = 0\nfilesystem_store_datadir = /srv/a\n"
            "[b]\nfilesystem_store_file_perm = 688\n",
        )
        with StoreManager.from_conf(conf, strict=False) as stores:
            one, two, three = (stores.failures[name] for name in "abc")
        for failure in (one, two):
            assert (failure.driver, failure.schemes) == ("file", ("file", "filesystem"))
            assert failure.settings["weight"] == 7
        assert one.settings["filesystem_store_datadir"] == "/srv/a"
        assert two.settings["filesystem_store_file_perm"] == 688
        assert (three.driver, three.schemes, three.settings) == (None, (), {})


class TestOne:
    def test_options_are_copies(self) -> None:
        """Those of every store, then those of the driver, whose old name will do."""
        found = driver_options("file")
        names = [opt.name for opt in found]
        assert names[:3] == ["weight", "store_description", "store_also_owns"]
        assert "filesystem_store_datadir" in names
        found[0].default = 9
        assert driver_options("file")[0].default == 0
        old = [opt.name for opt in driver_options("glance.store.filesystem.Store")]
        assert old == names
        with pytest.raises(errors.DriverUnavailable):
            driver_options("nothing")

    def test_registered_before_building(self) -> None:
        """A ConfigOpts that was never called takes overrides at once; twice is as good as once."""
        conf = cfg.ConfigOpts()
        for _ in range(2):
            register_store_opts(conf, "fast", "file")
            register_store_opts(conf, RESERVED, "file")
        assert conf[RESERVED].filesystem_store_datadir == f"/var/lib/glance/{RESERVED}"
        assert conf.backend_defaults.filesystem_store_datadir == "/var/lib/glance/images"
        conf.set_override("filesystem_store_datadir", "/srv/fast", group="fast")
        conf.set_override("weight", 5, group="backend_defaults")
        with build_store(conf, "fast", "file") as store:
            assert (store.name, store.url_prefix, store.weight) == ("fast", "file:///srv/fast", 5)
        with build_store(conf, RESERVED, "file") as store:
            assert store.url_prefix == f"file:///var/lib/glance/{RESERVED}"

    def test_single(self, tmp_path: Path) -> None:
        """The options of a single store are in [glance_store], and it is named like its driver."""
        conf = conf_of(tmp_path, "[glance_store]\nfilesystem_store_datadir = /srv/one\n")
        register_store_opts(conf, "file", "file", single=True)
        assert conf.glance_store.filesystem_store_datadir == "/srv/one"
        with build_store(conf, "x", "filesystem", single=True) as store:
            assert (store.name, store.single, store.url_prefix) == ("file", True, "file:///srv/one")

    def test_values_of_now(self, tmp_path: Path) -> None:
        """They are read when a store is built."""
        conf = conf_of(tmp_path, "[fast]\nfilesystem_store_datadir = /srv/one\n")
        with build_store(conf, "fast", "file") as before:
            conf.set_override("filesystem_store_datadir", "/srv/two", group="fast")
            with build_store(conf, "fast", "file") as after:
                assert before.url_prefix == "file:///srv/one"
                assert after.url_prefix == "file:///srv/two"

    def test_faults(self, tmp_path: Path) -> None:
        """All of a store's, with what it would have been."""
        conf = conf_of(
            tmp_path,
            "[bad]\nfilesystem_store_chunk_size = 0\nfilesystem_store_timeout = -1\n",
        )
        with pytest.raises(errors.ConfigError, match=r"chunk_size(.|\n)*timeout") as caught:
            build_store(conf, "bad", "file")
        assert (caught.value.driver, caught.value.schemes[0]) == ("file", "file")
        assert caught.value.settings["filesystem_store_file_perm"] == 0
        with pytest.raises(errors.DriverUnavailable, match="nothing"):
            build_store(conf, "bad", "nothing")

    @pytest.mark.parametrize("name", ["glance_store", "weight", "ceph ssd", "röd", "-x", "a.b"])
    def test_names(self, tmp_path: Path, name: str) -> None:
        """An application that lists its stores itself may have named them before."""
        conf = conf_of(tmp_path, f"[{name}]\nfilesystem_store_datadir = /srv/one\nweight = 3\n")
        register_store_opts(conf, name, "file")
        assert conf[name].weight == 3
        with build_store(conf, name, "file") as store:
            assert (store.name, store.url_prefix) == (name, "file:///srv/one")

    def test_names_that_no_store_can_have(self, tmp_path: Path) -> None:
        """That of an option, which the group would hide, and one that no URL can hold."""
        conf = conf_of(tmp_path, "[DEFAULT]\ndebug = x\n")
        conf.register_opt(cfg.StrOpt("debug"))
        for call in (register_store_opts, build_store):
            with pytest.raises(errors.ConfigError, match="option in"):
                call(conf, "debug", "file")
        assert conf.debug == "x"
        with pytest.raises(errors.ConfigError, match="a/b"):
            build_store(conf, "a/b", "file")
