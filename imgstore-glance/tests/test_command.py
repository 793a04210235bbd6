"""The command: the path, the file for containers, and what would change."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version

import glance_store
import imgstore_glance
import pytest
from glance_store import _serving
from imgstore_glance import checking, options
from imgstore_glance.__main__ import main
from services import HERE, PATH, RESERVED

CONFIG = """
[DEFAULT]
enabled_backends = fast:file, web:http, old:foreign
[glance_store]
default_backend = fast
[fast]
filesystem_store_datadir = {tmp}/fast
[web]
[old]
foreign_place = x
[os_glance_staging_store]
filesystem_store_datadir = {tmp}/staging
[oslo_messaging_notifications]
driver = noop
"""


def python(*arguments, **env):
    """Run another Python, which has imgstore and imgstore-glance but nothing of this one's path."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(python_path()), **env}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def config(tmp_path, text=CONFIG):
    path = tmp_path / "glance-api.conf"
    path.write_text(text.format(tmp=tmp_path))
    return str(path)


def test_a_path_of_its_own():
    """glance_store is not importable but from the path that the command prints."""
    told = python("-m", "imgstore_glance")
    assert told.stdout == f"{PATH}\n"
    assert os.listdir(told.stdout.strip()) == ["glance_store"]
    show = "import glance_store; print(glance_store.__imgstore__)"
    env = {"PYTHONPATH": os.pathsep.join([str(PATH), *python_path()])}
    assert python("-c", show, **env).stdout.strip() == glance_store.__imgstore__


def python_path():
    import imgstore  # noqa: PLC0415

    packages = (imgstore_glance, imgstore)
    return [os.path.dirname(os.path.dirname(each.__file__)) for each in packages]


def test_a_run_of_everything_tests_what_is_installed():
    """Only a person at work has the checkout tested."""
    is_checkout = PATH.is_relative_to(HERE.parent)
    assert not is_checkout or "IMGSTORE_WHEEL" not in os.environ


def test_a_file_for_containers(tmp_path):
    """Its line puts the path before all others, and the log needs no warning then."""
    text = python("-m", "imgstore_glance", "pth").stdout
    (tmp_path / _serving.PTH).write_text(text)
    found = (
        f"import site; site.addsitedir({str(tmp_path)!r}); import glance_store;"
        "print(glance_store.__file__)"
    )
    assert python("-c", found).stdout.strip() == str(PATH / "glance_store" / "__init__.py")


def test_children_that_find_the_same(tmp_path, monkeypatch):
    """By a file with this very path, or by a variable whose path holds in any directory."""
    switch = _serving.switch_of_children
    monkeypatch.setattr("site.getsitepackages", lambda: [str(tmp_path)])
    monkeypatch.setenv("PYTHONPATH", f"/other:{PATH}")
    assert switch(str(PATH)) == "PYTHONPATH"
    monkeypatch.chdir(PATH.parent)
    for value in (PATH.name, "", "/other"):
        monkeypatch.setenv("PYTHONPATH", value)
        assert switch(str(PATH)) is None
    (tmp_path / _serving.PTH).write_text("import sys; sys.path.insert(0, '/former')\n")
    assert switch(str(PATH)) is None
    (tmp_path / _serving.PTH).write_text(python("-m", "imgstore_glance", "pth").stdout)
    assert switch(str(PATH)) == _serving.PTH


def test_the_log_tells_of_children(tmp_path, monkeypatch, caplog):
    """Which variable has to reach them, and that the path of this process alone does not."""
    caplog.set_level("INFO")
    monkeypatch.setattr("site.getsitepackages", lambda: [str(tmp_path)])
    monkeypatch.setenv("PYTHONPATH", str(PATH))
    _serving.announce()
    (record,) = caplog.records
    assert "by PYTHONPATH: a program that is started without that variable uses" in record.message
    monkeypatch.delenv("PYTHONPATH")
    caplog.clear()
    _serving.announce()
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    (tmp_path / _serving.PTH).write_text(str(PATH))
    caplog.clear()
    _serving.announce()
    (record,) = caplog.records
    assert record.message.endswith(f"for every program of this environment by {_serving.PTH}")


def test_what_changes(tmp_path, capsys):
    """The libraries, and what each store does in another way; no store is asked or made."""
    assert main(["check", config(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "import glance_store, by this Python and in this environment: imgstore" in told
    assert "store 'web' verifies https servers" in told
    assert "store 'fast' reads and deletes only in its directories" in told
    assert "foreign" not in told
    assert os.listdir(tmp_path) == ["glance-api.conf"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[fast]\nfilesystem_store_file_perm = 688", "three octal digits"),
        ("[fast]\nfilesystem_store_datdir = /x", "did you mean"),
        ("[more]\n[DEFAULT]\nenabled_backends = a:nothing", "nothing"),
        ("[DEFAULT]\nenabled_backends = a", "not name:driver"),
        ("[glance_store]\ndefault_backend = nobody", "no store is named 'nobody'"),
    ],
)
def test_what_is_wrong(tmp_path, capsys, line, told):
    """Faults, and what nothing reads; the exit status says so."""
    text = CONFIG.replace("[old]\nforeign_place = x\n", "").replace(", old:foreign", "")
    assert main(["check", config(tmp_path, f"{text}\n{line}\n")]) == 1
    assert told in capsys.readouterr().out


def test_files_and_directories(tmp_path, capsys):
    """A directory stands for its files, of which later ones win; only what is named is read."""
    more = tmp_path / "glance-api.conf.d"
    more.mkdir()
    (more / "2.conf").write_text("[web]\nhttps_insecure = true\n")
    (more / "1.conf").write_text("[web]\nhttps_insecure = nonsense\n")
    first = config(tmp_path)
    assert main(["check", first]) == 0
    assert "store 'web' verifies" in capsys.readouterr().out
    assert main(["check", first, str(more)]) == 0
    assert "store 'web' verifies" not in capsys.readouterr().out
    assert main(["check", first, str(tmp_path / "missing.d")]) == 1
    assert "missing.d" in capsys.readouterr().out


CINDERS = """
[DEFAULT]
enabled_backends = one:cinder, two:cinder
[glance_store]
default_backend = one
[oslo_concurrency]
lock_path = {tmp}
"""


def check(tmp_path, capfd, text):
    status = main(["check", config(tmp_path, text)])
    told = capfd.readouterr()
    assert told.err == ""
    return status, told.out


def test_stores_that_cannot_be_beside_each_other(tmp_path, capfd, service, caplog):
    """The command says so, and the log of the service, which starts."""
    status, told = check(tmp_path, capfd, CINDERS)
    assert status == 1
    assert told.count("several cinder stores need credentials") == 2
    service.multi(one="cinder", two="cinder", options={"oslo_concurrency": {}})
    assert caplog.text.count("several cinder stores need credentials") == 2
    assert "store 'one'" in caplog.text


def test_nothing_is_configured(tmp_path, capfd):
    """Glance has its two default stores then, and no reserved ones."""
    status, told = check(tmp_path, capfd, "[DEFAULT]\ndebug = true\n")
    assert status == 0
    assert "store 'file'" in told
    assert "store 'http'" in told
    assert "os_glance" not in told


def test_what_changes_for_a_store_that_failed(tmp_path, capfd):
    text = CONFIG.replace("old:foreign", "s:s3").replace("[old]\nforeign_place = x", "[s]")
    text = text.replace("[s]", "[s]\ns3_store_host = s3.example.org\ns3_store_max_attempts = x")
    status, told = check(tmp_path, capfd, text)
    assert status == 1
    assert told.count("s3_store_max_attempts") == 1
    assert "store 's' uses https: s3_store_host has no scheme" in told


def test_nothing_else_is_written(tmp_path):
    """What the report tells is not logged beside it."""
    text = CONFIG + "[fast]\nfilesystem_store_datdir = /x\nstore_description = a #b\n"
    told = python("-m", "imgstore_glance", "check", config(tmp_path, text))
    assert (told.returncode, told.stderr) == (1, "")
    assert told.stdout.count("datdir") == 1


@pytest.mark.parametrize("name", ["ceph ssd", "röd", "glance_store"])
def test_names_that_are_no_fault(tmp_path, capfd, name):
    text = f"[DEFAULT]\nenabled_backends = {name}:file\n[glance_store]\ndefault_backend = {name}\n"
    status, told = check(tmp_path, capfd, text)
    assert (status, f"store {name!r} reads and deletes only" in told) == (0, True)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("enabled_backends = a:file, a:file", "listed twice"),
        ("enabled_backends = a/b:file", "cannot be the name"),
        ("enabled_backends = config_file:file", "the name of an option"),
        ("enabled_backends = a:nothing", "no driver 'nothing'"),
    ],
)
def test_names_and_drivers_that_are(tmp_path, capfd, line, told):
    """Each fault is told once, and a configuration that cannot be read has no stores."""
    status, text = check(tmp_path, capfd, f"[DEFAULT]\n{line}\n")
    assert (status, text.count(told)) == (1, 1)
    assert check(tmp_path, capfd, "no section")[0] == 1


def test_every_change_concerns_a_driver_and_its_settings():
    from imgstore.config import driver_options  # noqa: PLC0415

    for change in checking.CHANGES:
        for driver in change.drivers:
            defaults = {opt.name: opt.default for opt in driver_options(driver)}
            change.concerns(defaults)
    assert set(checking.RESERVED) == set(RESERVED)


class TestOptions:
    def test_lists(self):
        """The single form in one group, the other in one for each driver, as with glance_store."""
        ((group, single),) = options.list_single()
        assert group == "glance_store"
        names = [opt.name for opt in single]
        assert names[:2] == ["stores", "default_store"]
        assert len(names) == len(set(names))
        multi = dict(options.list_multi())
        assert [opt.name for opt in multi.pop("glance_store")] == ["default_backend"]
        assert list(multi) == list(options.DRIVERS)
        assert {"weight", "store_description"} <= {opt.name for opt in multi["file"]}
        assert glance_store.backend._list_opts()[0][0] == "glance_store"
        assert glance_store.multi_backend._list_config_opts()[1][0] == "file"

    def test_with_and_without_glance_store(self, monkeypatch):
        """Installed, its own entry points list them."""
        assert options.list_single_unless_listed() != []
        assert options.list_multi_unless_listed() != []
        monkeypatch.setattr(options, "distribution", lambda name: version("oslo.config"))
        assert options.list_single_unless_listed() == []
        assert options.list_multi_unless_listed() == []
