"""The RBD driver as far as it needs no cluster; the rest is in tests/functional/test_rbd*.py."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from imgstore import errors
from imgstore.boundary.settings import read_options
from imgstore.drivers.rbd import RbdStore, states
from imgstore.drivers.rbd.options import OPTIONS
from imgstore.drivers.rbd.settings import Settings, read

MIB = 1024 * 1024
HAS_MODULES = all(map(importlib.util.find_spec, ("rados", "rbd")))


def settings(**given: Any) -> Settings:
    values = {keyword: given.get(keyword, opt.default) for keyword, opt in OPTIONS.items()}
    return read(read_options(OPTIONS, values))


class TestSettings:
    def test_defaults_are_those_of_the_incumbent(self) -> None:
        found = settings()
        assert (found.pool, found.user, found.conf, found.order) == ("images", None, "", 23)
        assert (found.thin, found.connect_timeout, found.features) == (False, -1, None)
        assert (found.window, found.trash_delay, found.data_pool) == (32 * MIB, 0, None)

    @pytest.mark.parametrize(
        ("given", "bits"),
        [
            ("", None),
            ("layering", 1),
            ("fast-diff, object-map, exclusive-lock", 29),
            (("layering",), 1),
        ],
    )
    def test_features(self, given: Any, bits: int | None) -> None:
        assert settings(features=given).features == bits

    @pytest.mark.parametrize(
        ("given", "fault"),
        [
            ({"pool": ""}, "rbd_store_pool is ''; write a name"),
            ({"pool": "a/b"}, "rbd_store_pool is 'a/b'"),
            ({"namespace": "a/b"}, "rbd_store_namespace is 'a/b'"),
            ({"user": "client.glance"}, "leave out the prefix client."),
            ({"features": "layering,journal"}, "unknown journal; choose of layering"),
            ({"features": "object-map"}, "object-map needs exclusive-lock"),
            ({"chunk_size": 0}, "rbd_store_chunk_size: Should be greater than or equal to 1"),
            ({"io_depth": "many"}, "rbd_store_io_depth: "),
            ({"trash_delay": -1}, "rbd_store_trash_delay: "),
        ],
    )
    def test_faults_name_option_and_remedy(self, given: dict[str, Any], fault: str) -> None:
        with pytest.raises(errors.ConfigError) as caught:
            settings(**given)
        assert fault in str(caught.value)

    def test_faults_are_reported_together(self) -> None:
        with pytest.raises(errors.ConfigError, match=r"rbd_store_pool.*rbd_store_features"):
            settings(pool="", features="none-such")


def test_without_the_modules_the_constructor_says_what_to_install() -> None:
    """The distribution has them for its own Python only."""
    if HAS_MODULES:
        with RbdStore("rbd") as store:
            assert store.capabilities
        return
    with pytest.raises(errors.DriverUnavailable, match="python3-rados and python3-rbd"):
        RbdStore("rbd")


class TestMarks:
    """Clones inherit marks, so that they hold the id of the image that is meant."""

    class Image:
        def id(self) -> str:
            return "10ab"

    def test_deletions(self) -> None:
        mark = states.mark_of_deletion(self.Image())
        assert states.deleted_at(mark, "10ab")
        for other in (mark, "", "delete 10ab", "delete 10ab soon", "add 10ab", "copy 10ab 17"):
            assert states.deleted_at(other, "10ac" if other == mark else "10ab") is None

    def test_copies(self) -> None:
        mark = states.mark_of_copy(self.Image(), "two words")
        assert states.renamed_to(mark, "10ab") == "two words"
        assert states.renamed_to(mark, "10ac") is None
        assert states.renamed_to("add 10ab", "10ab") is None
