"""The configuration examples of operators' documents load as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest
from oslo_config import cfg

from imgstore import StoreManager
from imgstore.drivers.cinder import CinderStore
from imgstore.drivers.filesystem import FilesystemStore
from imgstore.drivers.http import HttpStore
from imgstore.drivers.swift import SwiftStore
from imgstore.drivers.swift.settings import Settings
from imgstore.drivers.vmware import VmwareStore
from imgstore.errors import ConfigError, DriverUnavailable

DATA = Path(__file__).with_name("data")
DOCUMENTS = sorted(DATA.joinpath("documents").glob("*.conf"))
# It leaves out where tokens are got; glance_store refuses it, too.
FAULTS = {"swift-single": ConfigError}
RESERVED = {"os_glance_staging_store": "file", "os_glance_tasks_store": "file"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_every_example_is_read(path: Path) -> None:
    """Each store of an example works, or its driver is said to be missing."""
    with StoreManager.from_file(path, strict=False) as stores:
        assert len(stores) + len(stores.failures) > 0
        for error in stores.failures.values():
            assert type(error) is FAULTS.get(path.stem, DriverUnavailable)


@pytest.mark.parametrize("path", [p for p in DOCUMENTS if p.name.startswith("file-")], ids=str)
def test_every_file_example_loads(path: Path) -> None:
    """Examples with nothing but files and web servers load strictly and have a default."""
    with StoreManager.from_file(path) as stores:
        assert isinstance(stores.default, FilesystemStore)
        assert not stores.failures


@pytest.mark.parametrize("name", ["file-datadirs", "file-datadirs-single"])
def test_directories_come_by_priority(name: str) -> None:
    """``filesystem_store_datadirs`` needs no blanking of ``filesystem_store_datadir``."""
    with StoreManager.from_file(DATA / "documents" / f"{name}.conf") as stores:
        assert stores.default is not None
        assert [(each.path, each.priority) for each in stores.default.datadirs] == [
            ("/var/glance/store2", 200),
            ("/var/glance/store1", 100),
            ("/var/glance/store", 0),
        ]


def test_the_defaults_of_the_documents() -> None:
    """The documents' own defaults are the defaults."""
    with StoreManager.from_file(DATA / "documents" / "file-datadir.conf") as stores:
        assert list(stores) == ["store1_id", "store2_id"]
        assert stores.info("store1_id").url_prefix == "file:///var/lib/glance/images"
        assert isinstance(stores["store2_id"], HttpStore)


def test_drivers_by_their_former_names() -> None:
    """``glance.store.<x>.Store`` means the driver of that name; single stores are named so too."""
    with StoreManager.from_file(DATA / "documents" / "file-single.conf") as stores:
        assert list(stores) == ["file", "http"]
        assert all(store.single for store in stores.values())


@pytest.mark.parametrize(
    ("document", "name", "prefix", "url", "names"),
    [
        (
            "multistore",
            "swift-0",
            "swift+https://identity.example.org/glance",
            "https://identity.example.org/v3",
            ("service", "glance"),
        ),
        (
            "rbd-swift-single",
            "swift",
            "swift+http://keystone.example.com:5000/v2.0/glance",
            "http://keystone.example.com:5000/v3",
            ("2ec7966596504f59acc3a76b3b9d9291", "glance-user"),
        ),
        (
            "swift-accounts",
            "swift",
            "swift+config://my_objectstore_reference_1/glance",
            "http://keystone.example.com:5000/v3",
            ("2ec7966596504f59acc3a76b3b9d9291", "glance-user"),
        ),
        (
            "swift-guide",
            "accounts",
            "swift+config://ref2/glance",
            "http://localhost:5000/v3",
            ("project_name", "user_name2"),
        ),
        (
            "swift-guide",
            "spread",
            "swift+config://ref1/glance_",
            "http://localhost:5000/v3",
            ("tenant", "user1"),
        ),
    ],
)
def test_accounts_of_swift_examples(
    document: str, name: str, prefix: str, url: str, names: tuple[str, str]
) -> None:
    """What is configured for API v2 of Keystone logs in at v3, and locations stay as they were."""
    with StoreManager.from_file(DATA / "documents" / f"{document}.conf", strict=False) as stores:
        assert stores.info(name).url_prefix == prefix
        account = swift(stores, name).account
        assert account is not None
        assert (account.url, account.names()) == (url, names)


def test_options_of_swift_examples() -> None:
    """Flags, counts and lists of the examples mean what their documents say."""
    documents = DATA / "documents"
    image = "fdae39a1-bac5-4238-aba4-69bcc726e848"
    with StoreManager.from_file(documents / "swift-guide.conf") as stores:
        assert stores.default is stores["accounts"]
        assert stores["accounts"].read_retries == 0
        assert not swift(stores, "accounts").creates_container
        spread = swift(stores, "spread")
        assert spread.container_of(image) == "glance_fda"
        assert spread.endpoint == "https://www.my-domain.com/v1/path_up_to_container"
        tenants = swift(stores, "tenants")
        assert tenants.container_of(image) == f"glance_{image}"
        assert tenants.admins == ("service:glance", "*:admin")
    with StoreManager.from_file(documents / "swift-accounts.conf") as stores:
        assert stores.default is stores["swift"]
        assert stores["swift"].single
        assert stores["swift"].read_retries == 5
        assert swift(stores, "swift").creates_container
    with StoreManager.from_file(documents / "multistore.conf", strict=False) as stores:
        assert swift(stores, "swift-0").interface == "internal"


def test_a_tutorial_that_leaves_out_where_tokens_are_got() -> None:
    """The fault says what to set, and the other stores work."""
    path = DATA / "documents" / "swift-single.conf"
    with StoreManager.from_file(path, strict=False) as stores:
        assert list(stores) == ["file", "http"]
        assert stores.default is None
        assert "swift_store_auth_address" in str(stores.failures["swift"])
    with pytest.raises(ConfigError, match=r"\[glance_store\].*swift_store_config_file"):
        StoreManager.from_file(path)


def swift(stores: StoreManager, name: str) -> Settings:
    made = stores[name]
    assert isinstance(made, SwiftStore)
    return made._settings


def test_a_whole_service_configuration() -> None:
    """A service's own file loads unchanged, whatever else it holds."""
    with StoreManager.from_file(DATA / "glance-api.conf", reserved=RESERVED) as stores:
        assert list(stores) == ["fast", "archive", "web", *RESERVED]
        assert stores.default is stores["fast"]
        fast, archive = stores.info("fast"), stores.info("archive")
        assert (fast.weight, archive.weight, stores.info("web").weight) == (100, 5, 5)
        assert fast.description == "SSDs 100% local, US$ 1 per GiB"
        assert archive.description == "Two big disks"
        assert fast.url_prefix == "file:///srv/glance/fast"
        assert archive.url_prefix == "file:///srv/glance/archive-1"
        prefixes = [stores.info(name).url_prefix for name in RESERVED]
        assert prefixes == ["file:///srv/glance/staging", "file:///srv/glance/tasks"]


def test_an_applications_own_options_are_left_alone() -> None:
    """An application reads its own groups of the same file as if nobody else had."""
    conf = cfg.ConfigOpts()
    conf.register_opts([cfg.StrOpt("state_path"), cfg.StrOpt("transport_url")])
    conf.register_opts([cfg.StrOpt("connection"), cfg.StrOpt("slave_connection")], "database")
    conf.register_opts([cfg.StrOpt("password", secret=True)], "keystone_authtoken")
    path = str(DATA / "glance-api.conf")
    conf([], default_config_files=[path], default_config_dirs=[])
    with StoreManager.from_conf(conf, reserved=RESERVED):
        assert conf.state_path == "/srv/glance"
        assert conf.database.connection == conf.database.slave_connection
        assert "s3cr%25t$x@db" in conf.database.connection
        assert conf.keystone_authtoken.password == "pa$w%rd #1; with = everything"


@pytest.mark.parametrize(
    ("document", "name", "service", "datastores"),
    [
        (
            "vmware-guide",
            "vsphere",
            "www.my-domain.com",
            [
                ("datacenter1:datastore1", 0),
                ("dc_folder/datacenter2:datastore2", 100),
                ("datacenter1:datastore3", 200),
            ],
        ),
        (
            "vmware-single",
            "vmware",
            "1.2.3.4",
            [("datacenter_name:datastore_name1", 10), ("datacenter_name:datastore_name2", 0)],
        ),
    ],
)
def test_datastores_of_vmware_examples(
    document: str, name: str, service: str, datastores: list[tuple[str, int]]
) -> None:
    """Each line is a datastore; a scheme names the default store of the single form."""
    with StoreManager.from_file(DATA / "documents" / f"{document}.conf") as stores:
        store = stores[name]
        assert store is stores.default
        assert store.url_prefix == f"vsphere://{service}/folder/openstack_glance"
        assert isinstance(store, VmwareStore)
        found = store._settings.datastores
        assert [(str(datastore), weight) for datastore, weight in found] == datastores


def without_comments(path: Path) -> str:
    """Return a document without what follows values: it would be part of them."""
    return "\n".join(line.partition(" #")[0] for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    ("document", "types"),
    [
        ("cinder-multiattach", {"fast": "glance-multiattach"}),
        ("cinder-1-fresh", {"fast": "glance-fast", "slow": "glance-slow"}),
        ("cinder-2-before", {"cinder": "glance-old"}),
        ("cinder-2-after", {"old": "glance-old", "new": "glance-new"}),
        ("cinder-3-before", {"cinder": None}),
        ("cinder-3-after", {"old": None, "new": "glance-new"}),
        ("cinder-4-after", {"old": "glance-old", "new": "glance-new"}),
        ("cinder-5-before", {"cinder": None}),
        ("cinder-5-after", {"new": "glance-new"}),
    ],
)
def test_volume_types_of_cinder_examples(
    tmp_path: Path, document: str, types: dict[str, str | None]
) -> None:
    """Each upgrade loads, before and after; ``volumev2`` means what replaced it."""
    path = tmp_path / "glance-api.conf"
    path.write_text(without_comments(DATA / "documents" / f"{document}.conf"))
    with StoreManager.from_file(path) as stores:
        cinder = {name: store for name, store in stores.items() if store.driver == "cinder"}
        for store in cinder.values():
            assert isinstance(store, CinderStore)
            assert store._settings.catalog.service_type == "volumev3"
            has_user = document not in {"cinder-5-before", "cinder-multiattach"}
            assert (store._settings.credentials is not None) == has_user
        found = {name: store._settings.volume_type for name, store in cinder.items()}
        assert found == types
        assert stores.default in cinder.values()


def test_several_cinder_stores_need_credentials(tmp_path: Path) -> None:
    """Without them a volume's type cannot be asked for."""
    text = without_comments(DATA / "documents" / "cinder-1-fresh.conf")
    path = tmp_path / "glance-api.conf"
    path.write_text(text.replace("cinder_store_password = admin", "", 1))
    with pytest.raises(ConfigError, match=r"\[fast\].*set cinder_store_password"):
        StoreManager.from_file(path)
    with StoreManager.from_file(path, strict=False) as stores:
        assert (list(stores), list(stores.failures)) == (["slow"], ["fast"])
