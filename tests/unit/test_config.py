"""Configuration: which value counts, which stores come out of it, and how faults are told."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from oslo_config import cfg

from imgstore import Store, StoreManager
from imgstore.config import list_opts, register_opts
from imgstore.config.building import Built, build
from imgstore.config.files import read_files
from imgstore.drivers.filesystem import FilesystemStore
from imgstore.drivers.memory import MemoryStore
from imgstore.errors import ConfigError, DriverUnavailable, InvalidArgument
from imgstore.secret import Secret


class VaultStore(MemoryStore):
    """A driver with every kind of option."""

    driver = "vault"
    OPTIONS: ClassVar[Mapping[str, cfg.Opt]] = {
        "host": cfg.StrOpt("vault_host", deprecated_name="vault_server"),
        "token": cfg.StrOpt("vault_token", secret=True),
        "pin": cfg.IntOpt("vault_pin", secret=True),
        "slots": cfg.IntOpt("vault_slots", default=3, min=0, max=9),
        "tags": cfg.ListOpt("vault_tags", default=["a", "b"]),
        "shelf": cfg.StrOpt("vault_shelf", default="/shelf"),
        "shelves": cfg.MultiStrOpt("vault_shelves", default=[]),
        "note": cfg.StrOpt("vault_note"),
    }
    alternatives = (frozenset({"shelf", "shelves"}),)
    made: ClassVar[list[VaultStore]] = []

    def __init__(
        self,
        name: str,
        *,
        host: str,
        token: Secret | None = None,
        shelf: str = "(none)",
        **others: Any,
    ) -> None:
        self.given = {"host": host, "token": token, "shelf": shelf}
        for keyword in ("pin", "slots", "tags", "shelves", "note"):
            self.given[keyword] = others.pop(keyword, "(not passed)")
        super().__init__(name, **others)
        if host == "refused":
            raise InvalidArgument("vault_host is refused", remedy="try another")
        if host == "broken":
            raise KeyError("a bug")
        self.made.append(self)

    @classmethod
    def reserved_defaults(cls, name: str) -> Mapping[str, Any]:
        return {"shelf": f"/reserved/{name}", "shelves": []}


class UnderVaultStore(VaultStore):
    """A driver that leaves its base's keywords to it."""

    def __init__(self, name: str, **keywords: Any) -> None:
        super().__init__(name, **keywords)


DRIVERS: dict[str, type[Store]] = {
    "vault": VaultStore,
    "undervault": UnderVaultStore,
    "memory": MemoryStore,
    "file": FilesystemStore,
    "filesystem": FilesystemStore,
}


def load(name: str) -> type[Store]:
    try:
        return DRIVERS[name]
    except KeyError:
        raise DriverUnavailable(f"there is no {name!r}") from None


def conf_of(tmp_path: Path, text: str) -> cfg.ConfigOpts:
    path = tmp_path / "images.conf"
    path.write_text(text)
    return read_files([path])


def configured(tmp_path: Path, text: str, **reserved: str) -> Built:
    return build(conf_of(tmp_path, text), reserved=reserved, load=load)


def vault(tmp_path: Path, text: str, *, shared: str = "") -> dict[str, Any]:
    """Return the settings of the store ``v`` with the lines ``text`` in its group."""
    lines = f"[DEFAULT]\nenabled_backends = v:vault\n[backend_defaults]\n{shared}\n[v]\n{text}\n"
    found = configured(tmp_path, lines)
    assert (found.whole, found.failures) == ([], {})
    return found.stores["v"].given  # type: ignore[attr-defined]


def faults(tmp_path: Path, text: str, **kwargs: Any) -> list[str]:
    """Return the lines of the error that a whole configuration raises."""
    path = tmp_path / "images.conf"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        StoreManager.from_file(path, **kwargs)
    lines = str(caught.value).splitlines()
    return lines if len(lines) == 1 else [line.strip() for line in lines[1:]]


class TestValues:
    """Which of several values counts."""

    def test_group_then_shared_then_default(self, tmp_path: Path) -> None:
        """A store's group wins over [backend_defaults], which wins over the option's default."""
        settings = vault(tmp_path, "vault_host = own", shared="vault_host = x\nvault_slots = 7")
        assert (settings["host"], settings["slots"], settings["tags"]) == ("own", 7, ["a", "b"])

    @pytest.mark.parametrize(
        ("own", "keyword", "value"),
        [
            ("vault_slots = 0", "slots", 0),
            ("vault_tags =", "tags", []),
            ("vault_note =", "note", None),
        ],
    )
    def test_nothing_is_a_value(
        self, tmp_path: Path, own: str, keyword: str, value: object
    ) -> None:
        """Zero and blank hide what [backend_defaults] says."""
        shared = "vault_slots = 7\nvault_tags = x\nvault_note = x"
        assert vault(tmp_path, f"vault_host = h\n{own}", shared=shared)[keyword] == value

    def test_unset_options_are_their_defaults(self, tmp_path: Path) -> None:
        """What nobody sets is the option's default, None included; no value turns into text."""
        settings = vault(tmp_path, "vault_host = h")
        assert (settings["token"], settings["pin"], settings["note"]) == (None, None, None)

    def test_the_applications_own_settings(self, tmp_path: Path) -> None:
        """Overrides and defaults that an application sets for a group count as set there."""
        text = (
            "[DEFAULT]\nenabled_backends=v:vault\n[backend_defaults]\nvault_slots=7\nvault_host=h"
        )
        conf = conf_of(tmp_path, text)
        conf.register_opts(list(VaultStore.OPTIONS.values()), group="v")
        conf.set_override("vault_note", "override", group="v")
        conf.set_default("vault_slots", 5, group="v")
        settings = build(conf, reserved=None, load=load).stores["v"].given  # type: ignore[attr-defined]
        assert (settings["note"], settings["slots"], settings["host"]) == ("override", 5, "h")

    def test_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """oslo.config's environment variables count as set in their group."""
        monkeypatch.setenv("OS_V__VAULT_SLOTS", "8")
        monkeypatch.setenv("OS_BACKEND_DEFAULTS__VAULT_NOTE", "env")
        settings = vault(tmp_path, "vault_host = h\nvault_slots = 2")
        assert (settings["slots"], settings["note"]) == (8, "env")

    def test_former_names_of_options(self, tmp_path: Path) -> None:
        """An option is found by its former name, in its group and in the shared one."""
        assert vault(tmp_path, "vault_server = old")["host"] == "old"
        assert vault(tmp_path, "", shared="vault_server = old")["host"] == "old"

    def test_secrets(self, tmp_path: Path) -> None:
        """Secret options arrive as Secret, numbers too."""
        settings = vault(tmp_path, "vault_host = h\nvault_token = hush\nvault_pin = 1234")
        assert isinstance(settings["token"], Secret)
        assert isinstance(settings["pin"], Secret)
        assert (settings["token"].reveal(), settings["pin"].reveal()) == ("hush", "1234")
        assert "hush" not in repr(settings)

    def test_dollar_signs(self, tmp_path: Path) -> None:
        """``$name`` is another option of the group, ``$$`` a dollar sign."""
        settings = vault(tmp_path, "vault_host = h\nvault_note = $vault_host costs $$5 \\$6")
        assert settings["note"] == "h costs $5 $6"

    @pytest.mark.parametrize(
        ("own", "shared", "shelf", "shelves"),
        [
            ("", "", "/shelf", []),
            ("vault_shelves = x", "", "(none)", ["x"]),
            ("vault_shelves = x", "vault_shelf = /s", "(none)", ["x"]),
            ("vault_shelf = /o", "vault_shelves = x", "/o", "(not passed)"),
            ("vault_shelf =", "vault_shelves = x", "(none)", ["x"]),
            ("vault_shelf = /o\nvault_shelves =", "", "/o", "(not passed)"),
            ("vault_shelf = /o\nvault_shelves = x", "", "/o", ["x"]),
            ("", "vault_shelves = x\nvault_shelves = y", "(none)", ["x", "y"]),
        ],
    )
    def test_alternatives(
        self, tmp_path: Path, own: str, shared: str, shelf: str, shelves: object
    ) -> None:
        """An alternative that is set hides defaults and shared settings of the others."""
        settings = vault(tmp_path, f"vault_host = h\n{own}", shared=shared)
        assert (settings["shelf"], settings["shelves"]) == (shelf, shelves)

    def test_a_comment_in_a_value_is_logged(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """`` #`` in an accepted value is kept and pointed out, without the value."""
        settings = vault(tmp_path, "vault_host = h # the first\nvault_token = a #b")
        assert settings["host"] == "h # the first"
        told = [
            record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING
        ]
        assert [text.partition(": ")[0] for text in told] == ["[v] vault_host", "[v] vault_token"]
        assert "a #b" not in caplog.text


class TestStores:
    """Which stores come out of it."""

    def test_several_stores(self, tmp_path: Path) -> None:
        """``enabled_backends`` names them in order; the common options are theirs."""
        text = """
            [DEFAULT]
            enabled_backends = b:memory, a:filesystem
            [glance_store]
            default_backend = a
            [backend_defaults]
            weight = 5
            [a]
            store_description = new
            store_also_owns = file:///old/place, file:///older
            [b]
            description = old name
            weight = 0
        """
        found = configured(tmp_path, text.replace("            ", ""))
        assert list(found.stores) == ["b", "a"]
        assert found.default == "a"
        a, b = found.stores["a"], found.stores["b"]
        assert (a.weight, a.description, b.weight, b.description) == (5, "new", 0, "old name")
        assert [prefix.url for prefix in a.also_owns] == ["file:///old/place", "file:///older"]
        assert not a.single

    def test_no_default(self, tmp_path: Path) -> None:
        """Without ``default_backend`` there is no default store."""
        found = configured(tmp_path, "[DEFAULT]\nenabled_backends = a:memory\n")
        assert (found.default, found.whole) == (None, [])

    def test_the_old_single_form(self, tmp_path: Path) -> None:
        """Without ``enabled_backends`` all options are in [glance_store], and nowhere else."""
        text = "[glance_store]\nstores = vault, file\nvault_host = h\ndefault_store = memory\n"
        found = configured(tmp_path, f"{text}[backend_defaults]\nvault_note = x\nweight = 3\n")
        assert list(found.stores) == ["vault", "file"]
        assert found.default == "vault"
        assert found.stores["vault"].single
        assert found.stores["vault"].weight == 0
        assert found.stores["vault"].given["note"] is None  # type: ignore[attr-defined]

    def test_the_old_single_form_by_default(self) -> None:
        """Nothing configured means files and the web; the default is the store of file URLs."""
        with StoreManager.from_conf(cfg.ConfigOpts()) as stores:
            assert list(stores) == ["file", "http"]
            assert stores.default is stores["file"]

    def test_one_driver_under_two_names(self, tmp_path: Path) -> None:
        """The names file and filesystem, and names of former releases, are one store."""
        names = "filesystem, file, glance.store.filesystem.Store, file"
        found = configured(
            tmp_path, f"[glance_store]\nstores = {names}\ndefault_store = filesystem"
        )
        assert list(found.stores) == ["file"]
        assert found.default == "file"

    def test_the_mere_default_scheme_is_no_fault(self, tmp_path: Path) -> None:
        """Where no store reads files and no default was chosen, there is none."""
        found = configured(tmp_path, "[glance_store]\nstores = memory\n")
        assert (found.default, found.whole) == (None, [])

    def test_an_empty_list_of_stores_is_as_if_unset(self, tmp_path: Path) -> None:
        """``enabled_backends =`` leaves the old single form in use."""
        text = "[DEFAULT]\nenabled_backends =\n[glance_store]\nstores = memory\n"
        assert list(configured(tmp_path, text).stores) == ["memory"]

    @pytest.mark.parametrize(
        "opt",
        [
            cfg.DictOpt("enabled_backends", help="the application's own"),
            cfg.StrOpt("enabled_backends"),
            cfg.ListOpt("enabled_backends"),
            cfg.MultiStrOpt("enabled_backends"),
        ],
        ids=lambda opt: type(opt).__name__,
    )
    def test_an_application_has_the_option_already(self, tmp_path: Path, opt: cfg.Opt) -> None:
        """Options that an application registered are used, whatever their type, and unchanged."""
        path = tmp_path / "images.conf"
        path.write_text("[DEFAULT]\nenabled_backends = a:memory, b:memory\n[a]\nweight = 3\n")
        conf = cfg.ConfigOpts()
        conf.register_opt(opt)
        conf.register_opt(cfg.StrOpt("weight", default="9"), group="b")
        conf([], default_config_files=[str(path)], default_config_dirs=[])
        before = conf.enabled_backends
        with StoreManager.from_conf(conf) as stores:
            assert list(stores) == ["a", "b"]
            assert (stores["a"].weight, stores["b"].weight) == (3, "9")
        assert conf.enabled_backends == before

    def test_options_can_be_registered_before_parsing(self, tmp_path: Path) -> None:
        """``register_opts`` makes the options known, once or twice, before parsing or after."""
        path = tmp_path / "images.conf"
        path.write_text("[DEFAULT]\nenabled_backends = a:file\n[backend_defaults]\nweight = 4\n")
        conf = cfg.ConfigOpts()
        register_opts(conf)
        register_opts(conf)
        assert conf.glance_store.default_store == "file"
        conf([], default_config_files=[str(path)], default_config_dirs=[])
        register_opts(conf)
        assert conf.enabled_backends == {"a": "file"}
        assert conf.backend_defaults.filesystem_store_chunk_size == 262144
        for _ in range(2):
            with StoreManager.from_conf(conf) as stores:
                assert stores["a"].weight == 4

    def test_no_global_state(self, tmp_path: Path) -> None:
        """oslo.config's global object stays out of it."""
        before = set(cfg.CONF)
        assert list(configured(tmp_path, "[DEFAULT]\nenabled_backends = a:memory\n").stores) == [
            "a"
        ]
        assert set(cfg.CONF) == before


class TestReserved:
    """Stores that an application needs for itself."""

    STAGING = "os_glance_staging_store"
    TASKS = "os_glance_tasks_store"

    def test_each_has_its_own_directory(self, tmp_path: Path) -> None:
        """Neither defaults nor shared settings bring reserved stores together with others."""
        shared = "filesystem_store_datadir = /shared\nfilesystem_store_chunk_size = 7"
        text = f"[DEFAULT]\nenabled_backends = a:file\n[backend_defaults]\n{shared}\n"
        conf = conf_of(tmp_path, text)
        reserved = {self.STAGING: "file", self.TASKS: "file"}
        with StoreManager.from_conf(conf, reserved=reserved) as stores:
            assert list(stores) == ["a", *reserved]
            assert [stores.info(name).url_prefix for name in stores] == [
                "file:///shared",
                f"file:///var/lib/glance/{self.STAGING}",
                f"file:///var/lib/glance/{self.TASKS}",
            ]
            assert [stores.info(name).reserved for name in stores] == [False, True, True]
        # What an application reads for itself is the truth, too.
        assert conf[self.TASKS].filesystem_store_datadir == f"/var/lib/glance/{self.TASKS}"
        assert conf.a.filesystem_store_datadir == FilesystemStore.OPTIONS["datadir"].default
        assert conf.enabled_backends == {"a": "file"}

    def test_shared_alternatives_do_not_reach_them(self, tmp_path: Path) -> None:
        """[backend_defaults] with several directories leaves reserved stores their own."""
        text = "[DEFAULT]\nenabled_backends = a:file\n[backend_defaults]\n"
        text += "filesystem_store_datadirs = /x:1\nfilesystem_store_datadirs = /y:2\n"
        found = configured(tmp_path, text, os_glance_tasks_store="file")
        prefixes = [store.url_prefix for store in found.stores.values()]
        assert prefixes == ["file:///y", f"file:///var/lib/glance/{self.TASKS}"]

    @pytest.mark.parametrize("option", ["filesystem_store_datadir", "filesystem_store_datadirs"])
    def test_their_own_group_wins(self, tmp_path: Path, option: str) -> None:
        """What a reserved store's group sets is used."""
        text = f"[{self.TASKS}]\n{option} = /tasks\n[glance_store]\nstores = file\n"
        found = configured(tmp_path, text, os_glance_tasks_store="file")
        assert found.stores[self.TASKS].url_prefix == "file:///tasks"
        assert (found.stores["file"].single, found.stores[self.TASKS].single) == (True, False)
        assert found.default == "file"

    def test_an_application_registered_the_plain_default(self, tmp_path: Path) -> None:
        """Not even an application's own registration moves a reserved store among the images."""
        conf = conf_of(tmp_path, "")
        conf.register_opts(list(FilesystemStore.OPTIONS.values()), group=self.TASKS)
        found = build(conf, reserved={self.TASKS: "file"}, load=load)
        assert found.stores[self.TASKS].url_prefix == f"file:///var/lib/glance/{self.TASKS}"

    def test_names(self, tmp_path: Path) -> None:
        """Reserved names are for reserved stores, and for them only."""
        text = "[DEFAULT]\nenabled_backends = os_glance_x:memory, a:memory\n"
        lines = faults(tmp_path, text, reserved={"tasks": "file"}, strict=False)
        assert len(lines) == 2
        assert "os_glance_x" in lines[0]
        assert "'tasks'" in lines[1]

    def test_a_driver_that_cannot(self, tmp_path: Path) -> None:
        """A driver that keeps no reserved stores is refused."""
        found = configured(tmp_path, "", os_glance_x="memory")
        assert "reserved" in str(found.failures["os_glance_x"][0])


class TestFaults:
    """What is wrong is told at once, with where it stands and what to do."""

    def test_all_at_once(self, tmp_path: Path) -> None:
        """Every fault has its own line with group, option and remedy."""
        text = """
            [DEFAULT]
            enabled_backends = a:file, a:memory, b:flie, c:file, d:file, glance_store:file, e
            [glance_store]
            default_backend = z
            [a]
            filesystem_store_chunk_size = many
            filesystem_store_threadpool_threshold = 101
            [c]
            filesystem_store_datadir = /x
            filesystem_store_datadirs = /y
            [d]
            filesystem_thin_provisioning = perhaps # not yet
        """
        lines = faults(tmp_path, text.replace("            ", ""))
        expected = [
            r"\[DEFAULT\] enabled_backends: 'a' is listed twice; ",
            r"\[DEFAULT\] enabled_backends: 'e' is not name:driver; ",
            r"\[DEFAULT\] enabled_backends: 'glance_store' is the name of a group .*; ",
            r"\[glance_store\] default_backend: no store is named 'z'; choose one of: a, b, c, d",
            r"\[a\] filesystem_store_chunk_size: .*'many'; write: integer",
            r"\[a\] filesystem_store_threadpool_threshold: .*100; write: integer",
            r"\[DEFAULT\] enabled_backends: store 'b': there is no driver 'flie'; installed are: ",
            r"\[c\] driver 'file': filesystem_store_datadir and filesystem_store_datadirs .*; keep",
            r"\[d\] filesystem_thin_\w+: .*'perhaps # not yet'; write: bool.* a line of its own",
        ]
        assert len(lines) == len(expected)
        for line, pattern in zip(lines, expected, strict=True):
            assert re.match(pattern, line), line

    def test_five_faults_leave_nothing_behind(self, tmp_path: Path) -> None:
        """A failed configuration closes what it built and creates no directory."""
        data = tmp_path / "data"
        text = "[DEFAULT]\nenabled_backends = v:vault, a:file, x:nope, b:vault\n[v]\nvault_host=h\n"
        VaultStore.made.clear()
        conf = conf_of(tmp_path, f"{text}[a]\nfilesystem_store_datadir = {data}\n")
        found = build(conf, reserved=None, load=load)
        assert set(found.failures) == {"x", "b"}
        found.close()
        with pytest.raises(ValueError, match="closed"):
            VaultStore.made[0].check()
        assert not data.exists()

    def test_an_interrupted_configuration_closes_its_stores(self, tmp_path: Path) -> None:
        """What no configuration can cause comes through, and the stores are closed."""

        def interrupted(name: str) -> type[Store]:
            if name == "stop":
                raise KeyboardInterrupt
            return VaultStore

        VaultStore.made.clear()
        conf = conf_of(tmp_path, "[DEFAULT]\nenabled_backends=v:vault,s:stop\n[v]\nvault_host=h\n")
        with pytest.raises(KeyboardInterrupt):
            build(conf, reserved=None, load=interrupted)
        with pytest.raises(ValueError, match="closed"):
            VaultStore.made[0].check()

    @pytest.mark.parametrize("driver", ["vault", "undervault"])
    @pytest.mark.parametrize("own", ["", "vault_host ="])
    def test_required_options(self, tmp_path: Path, driver: str, own: str) -> None:
        """A keyword without default, here or in a base class, is an option that has to be set."""
        found = configured(tmp_path, f"[DEFAULT]\nenabled_backends = v:{driver}\n[v]\n{own}\n")
        [fault] = found.failures["v"]
        told = f"[v] vault_host: the driver {driver!r} needs it; set it there, or in [backend_"
        assert str(fault).startswith(told)

    def test_a_constructor_refuses(self, tmp_path: Path) -> None:
        """What a driver says about its options is told with the group, its cause attached."""
        text = "[DEFAULT]\nenabled_backends = v:vault, w:vault\n[v]\nvault_host = refused\n"
        found = configured(tmp_path, f"{text}[w]\nvault_host = broken\n")
        [refused], [broken] = found.failures["v"], found.failures["w"]
        assert str(refused) == "[v] driver 'vault': vault_host is refused; try another"
        assert str(broken).startswith("[w] driver 'vault': KeyError")
        assert isinstance(broken.__cause__, KeyError)

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("DEFAULT", "of this library"),
            ("glance_store", "of this library"),
            ("Backend_Defaults", "of this library"),
            ("enabled_backends", "of this library"),
            ("weight", "of this library"),
            ("config_file", "in \\[DEFAULT\\]"),
            ("log_dir", "in \\[DEFAULT\\]"),
            ("workers", "in \\[DEFAULT\\]"),
            ("two words", "letters, digits"),
            ("a/b", "letters, digits"),
            ("-a", "letters, digits"),
            ("x" * 256, "letters, digits"),
        ],
    )
    def test_names_that_mean_something_else(self, tmp_path: Path, name: str, why: str) -> None:
        """A store's name is a group's name, so it is none that groups or options have."""
        path = tmp_path / "images.conf"
        path.write_text(f"[DEFAULT]\nenabled_backends = {name}:memory\nworkers = several\n")
        conf = cfg.ConfigOpts()
        conf.register_opts([cfg.StrOpt("log_dir"), cfg.IntOpt("workers")])
        conf([], default_config_files=[str(path)], default_config_dirs=[])
        with pytest.raises(ConfigError, match=why):
            StoreManager.from_conf(conf, strict=False)

    def test_names_that_differ_in_case(self, tmp_path: Path) -> None:
        """oslo.config gives one group to names that differ in case only: refused."""
        [line] = faults(tmp_path, "[DEFAULT]\nenabled_backends = Fast:memory, fast:memory\n")
        assert "'fast' and 'Fast' would share a group" in line

    @pytest.mark.parametrize("text", ["a", ":memory", "a:memory,", "a:memory, b"])
    def test_malformed_lists_of_stores(self, tmp_path: Path, text: str) -> None:
        """A list that is not of name:driver is refused, lenient or not."""
        for strict in (True, False):
            lines = faults(tmp_path, f"[DEFAULT]\nenabled_backends = {text}\n", strict=strict)
            assert "is not name:driver; write name:driver" in lines[0]

    def test_a_malformed_list_of_an_applications_option(self, tmp_path: Path) -> None:
        """The same for an option that an application registered."""
        path = tmp_path / "images.conf"
        path.write_text("[DEFAULT]\nenabled_backends = a:memory, a:file\n")
        conf = cfg.ConfigOpts()
        conf.register_opt(cfg.DictOpt("enabled_backends"))
        conf([], default_config_files=[str(path)], default_config_dirs=[])
        with pytest.raises(ConfigError, match=r"\[DEFAULT\] enabled_backends: Duplicate key a"):
            StoreManager.from_conf(conf, strict=False)

    def test_a_comment_behind_the_stores(self, tmp_path: Path) -> None:
        """A trailing comment becomes part of the driver's name, which the fault explains."""
        [line] = faults(tmp_path, "[DEFAULT]\nenabled_backends = a:file # the disk\n")
        assert "'file # the disk'" in line
        assert "a comment needs a line of its own" in line

    @pytest.mark.parametrize(
        ("own", "told"),
        [
            ("vault_note = $nowhere/x", r"\[v\] vault_note: .*\$nowhere, .*; write \$\$"),
            ("vault_note = ${nowhere}", r"\[v\] vault_note: .*\$nowhere, .*; write \$\$"),
            ("vault_note = $vault_note", r"\[v\] vault_note: .*; write \$\$"),
            ("vault_note = $glance_store", r"\[v\] vault_note: .*; write \$\$"),
            ("vault_slots = $vault_host", r"\[v\] vault_slots: .*; write: integer"),
        ],
    )
    def test_dollar_signs_that_lead_nowhere(self, tmp_path: Path, own: str, told: str) -> None:
        """A reference to what is not there is a fault, not an empty text."""
        text = f"[DEFAULT]\nenabled_backends = v:vault\n[v]\nvault_host = h\n{own}\n"
        [fault] = configured(tmp_path, text).failures["v"]
        assert re.match(told, str(fault)), fault

    def test_both_kinds_of_faults(self, tmp_path: Path) -> None:
        """What oslo.config refuses does not hide what the driver refuses."""
        own = "[v]\nvault_host = refused\nvault_slots = many\n"
        found = configured(tmp_path, f"[DEFAULT]\nenabled_backends = v:vault\n{own}")
        slots, host = found.failures["v"]
        assert str(slots).startswith("[v] vault_slots: ")
        assert str(host).startswith("[v] driver 'vault': vault_host is refused")

    def test_a_store_with_half_its_values_does_not_stay(self, tmp_path: Path) -> None:
        """A constructor that was only asked for faults leaves no store behind."""
        VaultStore.made.clear()
        own = "[v]\nvault_host = h\nvault_slots = many\n"
        found = configured(tmp_path, f"[DEFAULT]\nenabled_backends = v:vault\n{own}")
        assert (len(found.failures["v"]), found.stores) == (1, {})
        with pytest.raises(ValueError, match="closed"):
            VaultStore.made[0].check()

    def test_an_alternative_that_cannot_be_read(self, tmp_path: Path) -> None:
        """A faulty value of an alternative is told, and not that of the one it replaces."""
        text = "[DEFAULT]\nenabled_backends = v:vault\n[backend_defaults]\nvault_shelves = $x\n"
        found = configured(tmp_path, f"{text}[v]\nvault_host = h\nvault_shelf = $nowhere\n")
        [fault] = found.failures["v"]
        assert str(fault).startswith("[v] vault_shelf: its value refers to $nowhere")

    def test_references_in_the_librarys_options(self, tmp_path: Path) -> None:
        """The same for the options that are not of one store."""
        lines = faults(tmp_path, "[glance_store]\nstores = $nothing\ndefault_store = $nil\n")
        assert [line.partition(":")[0] for line in lines] == [
            "[glance_store] stores",
            "[glance_store] default_store",
        ]
        [line] = faults(tmp_path, "[DEFAULT]\nenabled_backends = $nothing\n")
        assert line.startswith("[DEFAULT] enabled_backends: its value refers to $nothing")
        text = "[DEFAULT]\nenabled_backends = a:memory\n[glance_store]\ndefault_backend = $no\n"
        [line] = faults(tmp_path, text)
        assert line.startswith("[glance_store] default_backend: its value refers to $no")

    @pytest.mark.parametrize(
        "own", ["vault_pin = hunter2", "vault_token = hunter2$hunter2", "vault_pin = hunter2 # x"]
    )
    def test_secrets_are_not_shown(
        self, tmp_path: Path, own: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Neither faults, nor their causes, nor the log show any of a secret's value."""
        caplog.set_level(logging.DEBUG)
        text = f"[DEFAULT]\nenabled_backends = v:vault\n[v]\nvault_host = h\n{own}\n"
        [fault] = configured(tmp_path, text).failures["v"]
        assert "it is a secret" in str(fault)
        assert (fault.__cause__, fault.__context__) == (None, None)
        assert "hunter2" not in f"{fault!r} {fault} {caplog.text}"

    @pytest.mark.parametrize(
        "text",
        [
            "[DEFAULT]\nenabled_backends = a:file, w:http\n[glance_store]\ndefault_backend = w\n",
            "[glance_store]\nstores = file,http\ndefault_store = https\n",
        ],
    )
    def test_a_read_only_default(self, tmp_path: Path, text: str) -> None:
        """A store that images cannot be added to is no default."""
        [line] = faults(tmp_path, text, strict=False)
        assert re.match(r"\[glance_store\] default_\w+: the store '\w+' is read-only; choose", line)

    def test_a_default_scheme_that_no_store_reads(self, tmp_path: Path) -> None:
        """``default_store`` is a URL scheme, not the name of a driver."""
        [line] = faults(tmp_path, "[glance_store]\nstores = file\ndefault_store = swift\n")
        assert line == (
            "[glance_store] default_store: no store reads swift:// URLs; "
            "choose one of: file, filesystem"
        )

    def test_lenient(self, tmp_path: Path) -> None:
        """With ``strict=False`` healthy stores work and ``failures`` has the others."""
        path = tmp_path / "images.conf"
        text = "[DEFAULT]\nenabled_backends = a:memory, b:file, c:swift, d:nope\n"
        path.write_text(f"{text}[glance_store]\ndefault_backend = b\n[b]\nweight = heavy\n")
        with StoreManager.from_file(path, strict=False) as stores:
            assert list(stores) == ["a"]
            assert list(stores.failures) == ["b", "c", "d"]
            assert stores.default is None
            assert type(stores.failures["b"]) is ConfigError
            assert type(stores.failures["d"]) is DriverUnavailable
            with pytest.raises(TypeError):
                stores.failures["a"] = ConfigError()  # type: ignore[index]

    def test_missing_drivers_alone_have_their_class(self, tmp_path: Path) -> None:
        """DriverUnavailable, with what is installed, if nothing else is wrong."""
        path = tmp_path / "images.conf"
        path.write_text("[DEFAULT]\nenabled_backends = a:nope, b:nada, c:memory\n")
        with pytest.raises(DriverUnavailable, match=r"(?s)'nope'; installed are: .*'nada'"):
            StoreManager.from_file(path)


class TestFiles:
    """Which files are read."""

    def test_later_files_win(self, tmp_path: Path) -> None:
        """Files are read in order; a directory stands for its sorted ``*.conf``."""
        (tmp_path / "first.conf").write_text(
            "[DEFAULT]\nenabled_backends=a:memory\n[a]\nweight=1\n"
        )
        directory = tmp_path / "conf.d"
        directory.mkdir()
        (directory / "20.conf").write_text("[a]\nweight = 20\n")
        (directory / "10.conf").write_text("[a]\nweight = 10\ndescription = ten\n")
        (directory / "99.bak").write_text("[a]\nweight = 99\n")
        with StoreManager.from_file(str(tmp_path / "first.conf"), directory) as stores:
            assert (stores["a"].weight, stores["a"].description) == (20, "ten")

    def test_nothing_else_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither the command line nor files in default places."""
        path, other = tmp_path / "a.conf", tmp_path / "imgstore.conf"
        path.write_text("[DEFAULT]\nenabled_backends = a:memory\n")
        other.write_text("[a]\nweight = 9\n")
        for variable in ("HOME", "XDG_CONFIG_HOME", "SNAP", "SNAP_COMMON"):
            monkeypatch.setenv(variable, str(tmp_path))
        monkeypatch.chdir(tmp_path)
        for name in ("imgstore", ".imgstore"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "imgstore.conf").write_text("[a]\nweight = 9\n")
        monkeypatch.setattr(sys, "argv", ["imgstore", "--config-file", str(other), "--help"])
        with StoreManager.from_file(path) as stores:
            assert stores["a"].weight == 0

    def test_missing_files(self, tmp_path: Path) -> None:
        """Every missing file is named."""
        with pytest.raises(ConfigError, match=r"one\.conf.*two\.conf"):
            StoreManager.from_file(tmp_path / "one.conf", tmp_path / "two.conf")

    def test_no_file(self, tmp_path: Path) -> None:
        """No file, or a directory without any, is not an empty configuration."""
        for paths in ((), (tmp_path,)):
            with pytest.raises(ConfigError, match="no configuration file"):
                StoreManager.from_file(*paths)

    def test_a_line_that_is_none(self, tmp_path: Path) -> None:
        """The position is told, not the line, which may hold a password."""
        path = tmp_path / "a.conf"
        path.write_text("[a]\nweight = 1\nvault_token hunter2\n")
        with pytest.raises(ConfigError, match=rf"{path}, line 3: ") as caught:
            StoreManager.from_file(path)
        assert "hunter2" not in str(caught.value)
        assert caught.value.__suppress_context__

    @pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
    def test_other_encodings(self, tmp_path: Path, encoding: str) -> None:
        """The file that has another encoding is named, with what is expected of it."""
        for name, written in (("1.conf", "utf-8"), ("2.conf", encoding), ("3.conf", "utf-8")):
            (tmp_path / name).write_text("[DEFAULT]\nwho = Größe\n", encoding=written)
        with pytest.raises(ConfigError) as caught:
            StoreManager.from_file(tmp_path)
        told = f"{tmp_path / '2.conf'}: not text in utf-8; save it so"
        assert (str(caught.value), caught.value.__cause__) == (told, None)

    @pytest.mark.parametrize("data", [b"[a]\nb = \xff\xfe\n", None], ids=["binary", "directory"])
    def test_what_is_no_text(self, tmp_path: Path, data: bytes | None) -> None:
        """Files that cannot be read as text are named."""
        path = tmp_path / "conf.d" / "a.conf"
        path.parent.mkdir()
        if data is None:
            path.mkdir()
        else:
            path.write_bytes(data)
        with pytest.raises(ConfigError, match=r"a\.conf"):
            StoreManager.from_file(path.parent)


class TestSample:
    """The sample configuration."""

    def test_options(self) -> None:
        """Every option of every installed driver is listed once, in a stable order, as a copy."""
        listed = list_opts()
        assert [group and group.name for group, _ in listed] == [
            None,
            "glance_store",
            "backend_defaults",
        ]
        names = [[opt.dest for opt in opts] for _, opts in listed]
        assert names[0] == ["enabled_backends"]
        assert names[1] == ["default_backend", "stores", "default_store"]
        assert names[2][:3] == ["weight", "store_description", "store_also_owns"]
        assert len(names[2]) == len(set(names[2]))
        assert {opt.dest for opt in FilesystemStore.OPTIONS.values()} < set(names[2])
        assert [[opt.dest for opt in opts] for _, opts in list_opts()] == names
        assert all(
            opt is not own for opt in listed[2][1] for own in FilesystemStore.OPTIONS.values()
        )
        assert all(opt.help for _, opts in listed for opt in opts)

    def test_generator(self, tmp_path: Path) -> None:
        """oslo-config-generator prints a complete sample, and what it prints loads."""
        sample = tmp_path / "sample.conf"
        command = [sys.executable, "-m", "oslo_config.generator", "--namespace", "imgstore"]
        code = "import sys; from oslo_config.generator import main; main(sys.argv[1:])"
        command[1:3] = ["-c", code]
        subprocess.run(
            [*command, "--output-file", str(sample)],
            check=True,
            timeout=60,
            env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
        )
        text = sample.read_text()
        for _, opts in list_opts():
            for opt in opts:
                assert re.search(rf"(?m)^#{opt.dest} =", text), opt.dest
        assert "a group of its own" in " ".join(text.replace("#", "").split())
        # Each default that can be written down is understood.
        settings = re.sub(r"(?m)^#(\w+ =.*[^>\n])$", r"\1", text)
        assert settings.count("\nfilesystem_") >= 9
        sample.write_text(settings.replace("default_backend = <None>", ""))
        with StoreManager.from_file(sample) as stores:
            assert list(stores) == ["file", "http"]


class TestUnreadable:
    """An option that cannot be read is one fault, whatever the driver makes of its absence."""

    # Values of secrets are masked in the log for as long as a store lives: none is a plain letter.
    WHOLE: ClassVar[Mapping[str, str]] = {
        "file": "filesystem_store_datadir = /srv",
        "s3": "s3_store_host = https://s3.example.org\ns3_store_bucket = images\n"
        "s3_store_access_key = hush1\ns3_store_secret_key = hush2\ns3_store_session_token = hush3",
        "swift": "swift_store_auth_address = https://identity.example.org/v3\n"
        "swift_store_user = hush4:hush5\nswift_store_key = hush6",
        "cinder": "cinder_store_auth_address = https://identity.example.org/v3\n"
        "cinder_store_user_name = a\ncinder_store_password = hush7\ncinder_store_project_name = c",
        "vmware": "vmware_server_host = h\nvmware_server_username = a\n"
        "vmware_server_password = hush8\nvmware_datastores = a:b",
    }

    @pytest.mark.parametrize("driver", WHOLE)
    def test_it_is_told_once(self, tmp_path: Path, driver: str) -> None:
        """Each option of a correct store with a wrong ``$``: one fault, which names it."""
        lines = self.WHOLE[driver].splitlines()
        for wrong in range(len(lines)):
            name = lines[wrong].partition(" = ")[0]
            broken = [*lines[:wrong], f"{name} = a$nowhere", *lines[wrong + 1 :]]
            text = "\n".join([f"[DEFAULT]\nenabled_backends = x:{driver}\n[x]", *broken])
            [told] = faults(tmp_path, text)
            assert told.startswith(f"[x] {name}: ")

    def test_other_faults_are_told_beside_it(self, tmp_path: Path) -> None:
        """What a driver refuses for another reason stands beside it."""
        text = "[DEFAULT]\nenabled_backends = x:s3\n[x]\n" + self.WHOLE["s3"]
        text = text.replace("key = hush2", "key = hush2$x").replace("= https://s3", "= ftp://s3")
        told = faults(tmp_path, text)
        assert [each.partition("; ")[0] for each in told] == [
            "[x] s3_store_secret_key: its value cannot be used (it is a secret and not shown)",
            "[x] driver 's3': s3_store_host: 'ftp://s3.example.org' is not an endpoint",
        ]

    @pytest.mark.parametrize(("written", "found"), [("vhost", "'vhost'"), ("", "empty")])
    def test_choices(self, tmp_path: Path, written: str, found: str) -> None:
        """What can be chosen is listed, and not the type of the option."""
        text = "[DEFAULT]\nenabled_backends = x:s3\n[x]\n" + self.WHOLE["s3"]
        assert faults(tmp_path, f"{text}\ns3_store_bucket_url_format = {written}\n") == [
            (
                f"[x] s3_store_bucket_url_format: it is {found}; "
                "choose one of: auto, virtual, path, or leave the option out"
            )
        ]

    def test_nothing_to_choose_from(self, tmp_path: Path) -> None:
        """Where there is no choice the remedy is another one."""
        text = "[DEFAULT]\nenabled_backends = x\n[glance_store]\ndefault_backend = y\n"
        _, told = faults(tmp_path, text)
        assert told == (
            "[glance_store] default_backend: no store is named 'y'; "
            "name it in [DEFAULT] enabled_backends, or leave the default out"
        )
        [told] = faults(tmp_path, "[glance_store]\nstores =\ndefault_store = y\n")
        assert told == (
            "[glance_store] default_store: no store reads y:// URLs; "
            "name a driver that does in [glance_store] stores"
        )

    @pytest.mark.parametrize("first", ["[DEFAULT]", "# a comment", "weight = 1"])
    def test_a_byte_order_mark(self, tmp_path: Path, first: str) -> None:
        """A file that an editor began with a byte order mark is said to have one."""
        path = tmp_path / "images.conf"
        path.write_text(f"{first}\nenabled_backends = a:memory\n", encoding="utf-8-sig")
        with pytest.raises(ConfigError, match=r"; save the file without the byte order"):
            StoreManager.from_file(path)
