"""The VMware store as far as it needs no server."""

from __future__ import annotations

from typing import Any

import pytest

from imgstore import Location, errors
from imgstore.boundary.settings import read_options
from imgstore.drivers.vmware import VmwareStore
from imgstore.drivers.vmware.options import OPTIONS
from imgstore.drivers.vmware.places import Datastore, Place
from imgstore.drivers.vmware.settings import Settings, read
from imgstore.model import Ownership

DEFAULTS: dict[str, Any] = {name: opt.default for name, opt in OPTIONS.items()}
GIVEN: dict[str, Any] = {
    "server_host": "vcenter.example.org",
    "server_username": "user",
    "server_password": "pass:w@rd",
    "datastores": ["DC0:one"],
}


def settings(**options: Any) -> Settings:
    return read(read_options(OPTIONS, DEFAULTS | GIVEN | options))


@pytest.mark.parametrize(
    ("host", "port", "service"),
    [
        ("vcenter.example.org", None, "vcenter.example.org"),
        ("10.0.0.1:443", None, "10.0.0.1"),
        ("10.0.0.1:8443", None, "10.0.0.1:8443"),
        ("10.0.0.1", 8443, "10.0.0.1:8443"),
        ("10.0.0.1:8443", 8443, "10.0.0.1:8443"),
        ("fd00::7", None, "[fd00::7]"),
        ("[fd00::7]", 8443, "[fd00::7]:8443"),
        ("[fd00::7]:8443", None, "[fd00::7]:8443"),
    ],
)
def test_any_form_of_host_is_read(host: str, port: int | None, service: str) -> None:
    assert settings(server_host=host, server_port=port).service == service


@pytest.mark.parametrize(
    ("text", "datastore", "weight"),
    [
        ("datacenter1:datastore1", ("datacenter1", "datastore1"), 0),
        ("dc_folder/datacenter2:datastore2:100", ("dc_folder/datacenter2", "datastore2"), 100),
        (r"a\:b:c\:d:7", ("a:b", "c:d"), 7),
    ],
)
def test_datastores_of_the_documents(text: str, datastore: tuple[str, str], weight: int) -> None:
    assert settings(datastores=[text]).datastores == [(Datastore(*datastore), weight)]


def test_the_older_pair_is_one_datastore() -> None:
    found = settings(datastores=None, datastore_name="local")
    assert found.datastores == [(Datastore("ha-datacenter", "local"), 0)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"server_host": None}, "vmware_server_host"),
        ({"server_host": "user:s3cret@host"}, "vmware_server_host"),
        ({"server_host": "host:70000"}, "vmware_server_host"),
        ({"server_host": "host:1", "server_port": 2}, "vmware_server_port"),
        ({"server_username": None}, "vmware_server_username"),
        ({"server_password": ""}, "vmware_server_password"),
        ({"datastores": None}, "vmware_datastores"),
        ({"datastores": ["one"]}, "vmware_datastores"),
        ({"datastores": ["dc:one:heavy"]}, "vmware_datastores"),
        ({"datastores": ["dc:one:1", "dc:one:2"]}, "more than once"),
        ({"datastores": ["dc:one:1", "dc:two", "dc:one:1"]}, "'dc:one' more than once"),
        ({"datastores": ["dc:one", "/dc/:one"]}, "more than once"),
        ({"datastore_name": "two"}, "both"),
        ({"store_image_dir": "/"}, "vmware_store_image_dir"),
        ({"store_image_dir": "a/../b"}, "vmware_store_image_dir"),
        ({"api_retry_count": 0}, "vmware_api_retry_count"),
        ({"read_timeout": 0}, "vmware_read_timeout"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.ConfigError, match=said) as caught:
        settings(**options)
    assert "s3cret" not in str(caught.value)


def test_secrets_are_not_shown() -> None:
    assert "pass:w@rd" not in repr(settings())


@pytest.mark.parametrize(
    ("datacenter", "url"),
    [
        ("DC0", "vsphere://host/folder/openstack_glance/id?dsName=my+store&dcPath=DC0"),
        ("F0/DC 1", "vsphere://host/folder/openstack_glance/id?dsName=my+store&dcPath=F0%2FDC+1"),
        ("", "vsphere://host/folder/openstack_glance/id?dsName=my+store"),
    ],
)
def test_urls_are_those_of_glance_store(datacenter: str, url: str) -> None:
    place = Place("host", Datastore(datacenter, "my store"), "openstack_glance/id")
    assert place.location.url == url
    assert Place.of(Location.parse(url)) == place
    assert place.full == "[my store] openstack_glance/id"


def test_the_order_of_the_query_does_not_matter() -> None:
    one = Place.of(Location.parse("vsphere://host/folder/a/b?dcPath=%2FDC0&dsName=c"))
    assert one is not None
    assert one.datastore.key == ("DC0", "c")
    assert (one.directory, one.name) == ("a", "b")


@pytest.mark.parametrize(
    "url",
    [
        "vsphere://host/folder/a/b",
        "vsphere://host/folder/a/../b?dsName=c",
        "vsphere:///folder/a?dsName=c",
        "vsphere://host/else/a?dsName=c",
        "vsphere://host/folder/?dsName=c",
        "vsphere://host/folder/a?dsName=",
    ],
)
def test_what_names_no_file(url: str) -> None:
    assert Place.of(Location.parse(url)) is None


HERE = "vsphere://vcenter.example.org/folder/openstack_glance"


@pytest.mark.parametrize(
    ("url", "owned"),
    [
        (f"{HERE}/id?dsName=one&dcPath=DC0", Ownership.YES),
        (f"{HERE}/id?dcPath=%2FDC0%2F&dsName=one", Ownership.YES),
        (f"{HERE.replace('.org', '.ORG:443')}/id?dsName=one&dcPath=DC0", Ownership.YES),
        (f"{HERE}/id?dsName=one&dcPath=DC1", Ownership.MAYBE),
        (f"{HERE}/id?dsName=two&dcPath=DC0", Ownership.MAYBE),
        (f"{HERE}/id?dsName=one", Ownership.MAYBE),
        (f"{HERE}/inner/id?dsName=one&dcPath=DC0", Ownership.NO),
        (f"{HERE}/.imgstore-1?dsName=one&dcPath=DC0", Ownership.NO),
        (f"{HERE}2/id?dsName=one&dcPath=DC0", Ownership.NO),
        (f"{HERE}/id", Ownership.NO),
        ("vsphere://vcenter.example.org:8443/folder/openstack_glance/id?dsName=one", Ownership.NO),
        ("vsphere://elsewhere.example.org/folder/openstack_glance/id?dsName=one", Ownership.NO),
    ],
)
def test_what_a_store_owns(url: str, owned: Ownership) -> None:
    """Told from the location alone: images may lie in datastores that take no new ones."""
    with VmwareStore("vmware", **GIVEN) as store:
        assert store.ownership(Location.parse(url)) is owned
