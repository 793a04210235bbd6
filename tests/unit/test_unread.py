"""What configuration files say and nothing reads is told, and what is for others is not."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from oslo_config import cfg

from imgstore import StoreManager
from imgstore.config import problems
from imgstore.errors import ConfigError

DATA = Path(__file__).with_name("data")
CORRECT = [DATA / "glance-api.conf", *sorted(DATA.joinpath("documents").glob("*.conf"))]
FAST = "[DEFAULT]\nenabled_backends = fast:file\n"
OWN = f"{FAST}[fast]\nfilesystem_store_datadir = /srv/fast\n"

CASES = {
    "option": (
        f"{FAST}[fast]\nfilesystem_store_datdir = /srv/fast\n",
        (
            "[fast] filesystem_store_datdir: the driver 'file' has no such option; "
            "did you mean filesystem_store_datadir?"
        ),
    ),
    "upper case": (
        f"{OWN}WEIGHT = 5\n",
        "[fast] WEIGHT: the driver 'file' has no such option; did you mean weight?",
    ),
    "hyphens": (
        f"{OWN}store-description = five\n",
        (
            "[fast] store-description: the driver 'file' has no such option; "
            "did you mean store_description?"
        ),
    ),
    "another driver's": (
        f"{OWN}rbd_store_pool = images\n",
        "[fast] rbd_store_pool: the driver 'file' has no such option; remove it",
    ),
    "in shared settings": (
        f"{OWN}[backend_defaults]\nfilesystem_store_chunksize = 5\n",
        (
            "[backend_defaults] filesystem_store_chunksize: no driver has such an option; "
            "did you mean filesystem_store_chunk_size?"
        ),
    ),
    "of the library": (
        f"{OWN}[glance_store]\ndefault_backnd = fast\n",
        (
            "[glance_store] default_backnd: no driver has such an option; "
            "did you mean default_backend?"
        ),
    ),
    "of a single store": (
        "[glance_store]\nfilesystem_store_datdir = /srv\nstores = file\n",
        (
            "[glance_store] filesystem_store_datdir: no driver has such an option; "
            "did you mean filesystem_store_datadir?"
        ),
    ),
    "like nothing": (
        f"{OWN}favourite_colour = red\n",
        "[fast] favourite_colour: the driver 'file' has no such option; remove it",
    ),
    "a line of a secret": (
        f"{OWN}MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCB = red\n",
        "[fast] an option: the driver 'file' has no such option; remove it",
    ),
    "group": (
        f"{FAST}[fsat]\nfilesystem_store_datadir = /srv/fast\n",
        "[fsat]: no store is named so, and nothing reads it; did you mean [fast]?",
    ),
    "group of a store for the web": (
        "[DEFAULT]\nenabled_backends = web:http\n[wbe]\nhttp_allowed_hosts = example.org\n",
        "[wbe]: no store is named so, and nothing reads it; did you mean [web]?",
    ),
    "shared group": (
        f"{OWN}[backend_default]\nfilesystem_store_chunk_size = 5\n",
        (
            "[backend_default]: no store is named so, and nothing reads it; "
            "did you mean [backend_defaults]?"
        ),
    ),
    "group of the library": (
        f"{OWN}[glance-store]\ndefault_backend = fast\n",
        "[glance-store]: no store is named so, and nothing reads it; did you mean [glance_store]?",
    ),
    "default group": (
        "[Default]\nenabled_backends = fast:file\n[fast]\nfilesystem_store_datadir = /srv\n",
        "[default]: nothing reads it; did you mean [DEFAULT]?",
    ),
    "group of a store that is not listed": (
        f"{OWN}[archive]\nweight = 5\nswift_store_container = images\n",
        (
            "[archive]: its options are those of a store, and no store is named so; "
            "name it in [DEFAULT] enabled_backends, or remove the group"
        ),
    ),
    "no group": (
        FAST,
        (
            "[fast]: there is no such group, although a store is named so, and only "
            "[backend_defaults] and defaults count; write the group; it may be empty"
        ),
    ),
    "stores in another group": (
        (
            "[glance_store]\nstores = file\nenabled_backends = fast:file\n[fast]\n"
            "filesystem_store_datadir = /srv\n"
        ),
        "[glance_store] enabled_backends: nothing reads it there; write it in [DEFAULT]",
    ),
    "misspelt stores": (
        "[DEFAULT]\nenabled_backend = fast:file\n[fast]\nfilesystem_store_datadir = /srv\n",
        "[DEFAULT] enabled_backend: there is no such option; did you mean enabled_backends?",
    ),
    "default of single stores": (
        f"{OWN}[glance_store]\ndefault_store = fast\n",
        (
            "[glance_store] default_store: nothing reads it where enabled_backends is set; "
            "did you mean default_backend?"
        ),
    ),
    "default of several stores": (
        "[glance_store]\nstores = file\ndefault_backend = file\n",
        (
            "[glance_store] default_backend: nothing reads it where enabled_backends is not set; "
            "did you mean default_store?"
        ),
    ),
    "default in another group": (
        "[DEFAULT]\nenabled_backends = fast:file\ndefault_backend = fast\n[fast]\n",
        "[DEFAULT] default_backend: nothing reads it there; write it in [glance_store]",
    ),
    "nothing": (
        "[database]\nconnection = mysql://\n",
        (
            "no store is configured: neither [DEFAULT] enabled_backends nor an option in "
            "[glance_store] is set, and the stores file and http have their defaults; "
            "set [DEFAULT] enabled_backends, or [glance_store] stores"
        ),
    ),
    "an empty file": (
        "",
        (
            "no store is configured: neither [DEFAULT] enabled_backends nor an option in "
            "[glance_store] is set, and the stores file and http have their defaults; "
            "set [DEFAULT] enabled_backends, or [glance_store] stores"
        ),
    ),
    "shared settings of single stores": (
        "[glance_store]\nstores = file\n[backend_defaults]\nfilesystem_store_datadir = /srv\n",
        (
            "[backend_defaults]: nothing reads it where enabled_backends is not set; "
            "set [DEFAULT] enabled_backends, or write its options in [glance_store]"
        ),
    ),
    "option of a store in [DEFAULT]": (
        f"{FAST}filesystem_store_datadir = /srv\n[fast]\n",
        "[DEFAULT] filesystem_store_datadir: nothing reads it there; write it in the store's group",
    ),
    "option of a single store in [DEFAULT]": (
        "[DEFAULT]\nfilesystem_store_datadir = /srv\n[glance_store]\nstores = file\n",
        "[DEFAULT] filesystem_store_datadir: nothing reads it there; write it in [glance_store]",
    ),
}
EACH_CASE = pytest.mark.parametrize(("text", "told"), CASES.values(), ids=CASES)


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_masked() -> None:
    """What stores of other tests have as secrets, a letter maybe, is masked while they live."""
    gc.collect()


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "images.conf"
    path.write_text(text)
    return path


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    ours = (each for each in caplog.records if each.name.startswith("imgstore"))
    return [each.getMessage() for each in ours if each.levelno >= logging.WARNING]


@EACH_CASE
def test_problems_tells(tmp_path: Path, text: str, told: str) -> None:
    """Each line is one line, with what may be meant; and there is no second one of it."""
    assert problems(written(tmp_path, text)) == [told]


@EACH_CASE
def test_the_log_and_check_tell(
    tmp_path: Path, text: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A manager is built in spite of it; it warns, and its check begins with the line."""
    with StoreManager.from_file(written(tmp_path, text)) as stores:
        assert warnings(caplog) == [told]
        assert stores.check(write=False)[0] == told
        for name in stores:
            found = stores.check(write=False, store=name)
            assert (told in found) == told.startswith(f"[{name}]")


@EACH_CASE
def test_strict_options_refuse(
    tmp_path: Path, text: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With ``strict_options`` what is unread is a fault, lenient or not."""
    path = written(tmp_path, text)
    for strict in (True, False):
        with pytest.raises(ConfigError) as caught:
            StoreManager.from_file(path, strict=strict, strict_options=True)
        assert str(caught.value) == told
    assert warnings(caplog) == []


@pytest.mark.parametrize("path", CORRECT, ids=lambda path: path.stem)
def test_correct_files_are_complete(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whole files of services and operators' documents say nothing that nothing reads."""
    found = problems(path)
    assert found == []
    StoreManager.from_file(path, strict=False).close()
    told = [text for text in warnings(caplog) if "a comment needs a line of its own" not in text]
    assert told == []


def test_where_a_guide_says_default(tmp_path: Path) -> None:
    """A file of Swift's accounts that a guide puts into [DEFAULT] is noted there."""
    text = "[DEFAULT]\nswift_store_config_file = a.ini\n[glance_store]\nstores = swift\n"
    told = problems(written(tmp_path, f"{text}default_store = swift\n"))
    assert told == [
        "[DEFAULT] swift_store_config_file: nothing reads it there; write it in [glance_store]"
    ]


def test_groups_of_other_services(tmp_path: Path) -> None:
    """Names that are only like ours are others', in groups that are called nearly as ours are."""
    text = f"{OWN}[glance]\nswift_container = glance\nswift_temp_url_duration = 5\nstores = 5\n"
    text += "[vmware]\nvmware_api_retry_count = 5\nhost_ip = 10.0.0.1\n"
    text += "[policy]\ndescription = whose\nweight = 5\n[fast_lane]\nweight = 5\nlanes = 2\n"
    assert problems(written(tmp_path, text)) == []


def test_a_group_that_is_like_a_missing_one(tmp_path: Path) -> None:
    """A group of others whose name is like a store's does not hide that the store has none."""
    text = f"{FAST}[fasti]\nhttp_fasti = 5\nlanes = 2\n"
    [told] = problems(written(tmp_path, text))
    assert told.startswith("[fast]: there is no such group")


def test_a_default_of_others_in_default(tmp_path: Path) -> None:
    """Where the default is set [DEFAULT] may have an option of that name for others."""
    text = f"{OWN}[glance_store]\ndefault_backend = fast\n".replace(
        "[fast]", "default_backend = redis\n[fast]", 1
    )
    assert problems(written(tmp_path, text)) == []


def test_drivers_that_are_not_in_use_are_not_imported() -> None:
    """A service's whole file is looked through by the drivers that it configures."""
    code = (
        "import sys; from imgstore import StoreManager\n"
        "StoreManager.from_file(sys.argv[1]).close()\n"
        "print([name for name in ('s3', 'rbd') if f'imgstore.drivers.{name}' in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(DATA / "glance-api.conf")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"


def test_former_names_are_known(tmp_path: Path) -> None:
    """What a driver had under another name, and what glance_store had, is no mistake."""
    text = "[DEFAULT]\nenabled_backends = v:vmware\n[v]\nvmware_api_insecure = true\n"
    text += "description = old\nvmware_server_host = h\nvmware_server_username = u\n"
    text += "vmware_server_password = hush\nvmware_datastores = a:b\n"
    text += "[glance_store]\nstore_capabilities_update_min_interval = 0\ndefault_backend = v\n"
    assert problems(written(tmp_path, text)) == []


def test_all_at_once_beside_faults(tmp_path: Path) -> None:
    """Unread are told behind faults, and one error has all of them; secrets stay unsaid."""
    text = "[DEFAULT]\nenabled_backends = a:file, b:s3\n[a]\nweight = many\nwieght = 5\n"
    text += "[b]\ns3_store_acess_key = hunter2\ns3_store_secret_key = hunter2$x\n"
    path = written(tmp_path, text)
    told = problems(path)
    assert [each.partition(": ")[0] for each in told] == [
        "[a] weight",
        "[b] s3_store_host",
        "[b] s3_store_bucket",
        "[b] s3_store_secret_key",
        "[a] wieght",
        "[b] s3_store_acess_key",
    ]
    with pytest.raises(ConfigError, match=r"^6 faults") as caught:
        StoreManager.from_file(path, strict_options=True)
    assert "hunter2" not in f"{told} {caught.value}"


def test_a_missing_driver_may_have_the_option(tmp_path: Path) -> None:
    """What only a driver that is missing could read is not noted, unless it is misspelt."""
    text = "[DEFAULT]\nenabled_backends = a:vault\n[a]\nvault_host = x\n"
    text += "[backend_defaults]\nvault_port = 5\nwieght = 5\n"
    missing, line = problems(written(tmp_path, text))
    assert "there is no driver 'vault'" in missing
    assert line.startswith("[backend_defaults] wieght: ")


def test_an_applications_own_options(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What an application registered is its own, wherever it stands."""
    text = f"{OWN}favourite_colour = red\n[archive]\nfilesystem_store_datadir = /x\n"
    text = text.replace("fast:file\n", "fast:file\ndefault_backend = 5\n", 1)
    conf = cfg.ConfigOpts()
    conf.register_opt(cfg.StrOpt("favourite_colour"), group="fast")
    conf.register_opt(cfg.StrOpt("filesystem_store_datadir"), group="archive")
    conf.register_opt(cfg.StrOpt("default_backend"))
    path = written(tmp_path, text)
    conf([], default_config_files=[str(path)], default_config_dirs=[])
    StoreManager.from_conf(conf, strict_options=True).close()
    assert warnings(caplog) == []
    assert len(problems(path)) == 3


def test_an_application_without_files(caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing was read nothing can be misspelt; what an application sets is a group."""
    StoreManager.from_conf(cfg.ConfigOpts(), strict_options=True).close()
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[], default_config_dirs=[])
    StoreManager.from_conf(conf, strict_options=True).close()
    assert warnings(caplog) == []


def test_what_an_application_sets_is_set(tmp_path: Path) -> None:
    """A store whose options an application sets needs no group in a file."""
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(written(tmp_path, FAST))], default_config_dirs=[])
    conf.register_opt(cfg.StrOpt("filesystem_store_datadir"), group="fast")
    conf.set_override("filesystem_store_datadir", "/srv", group="fast")
    StoreManager.from_conf(conf, strict_options=True).close()


def test_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables make up a store's group, and may be misspelt as well."""
    path = written(tmp_path, FAST)
    monkeypatch.setenv("OS_FAST__FILESYSTEM_STORE_DATADIR", "/srv")
    assert problems(path) == []
    monkeypatch.setenv("OS_FAST__WIEGHT", "5")
    [told] = problems(path)
    assert told.startswith("[fast] wieght (OS_FAST__WIEGHT): the driver 'file' has no such option")
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(path)], default_config_dirs=[], use_env=False)
    with pytest.raises(ConfigError, match=r"^\[fast\]: there is no such group"):
        StoreManager.from_conf(conf, strict_options=True)


def test_reserved_stores(tmp_path: Path) -> None:
    """A store of the application's own needs no group; in its group options are its driver's."""
    staging = "os_glance_staging_store"
    path = written(tmp_path, OWN)
    StoreManager.from_file(path, reserved={staging: "file"}, strict_options=True).close()
    path = written(tmp_path, f"{OWN}[{staging}]\nfilesystem_store_datdir = /x\n")
    assert problems(path) == []  # whose options these are only the application knows
    with pytest.raises(ConfigError, match=rf"^\[{staging}\] filesystem_store_datdir: "):
        StoreManager.from_file(path, reserved={staging: "file"}, strict_options=True)


def test_names_of_groups_in_another_case(tmp_path: Path) -> None:
    """The case of a group's name does not count."""
    text = "[DEFAULT]\nenabled_backends = Fast:file\n[FAST]\nfilesystem_store_datadir = /srv\n"
    assert problems(written(tmp_path, text)) == []


def test_later_files_count(tmp_path: Path) -> None:
    """A group may stand in any of the files, and a mistake in two files is told once."""
    first, second = tmp_path / "1.conf", tmp_path / "2.conf"
    first.write_text(f"{FAST}[backend_defaults]\nwieght = 5\n")
    second.write_text("[fast]\n[backend_defaults]\nwieght = 5\n")
    assert len(problems(tmp_path)) == 1


def test_a_default_that_cannot_be_one(tmp_path: Path) -> None:
    """A read-only default and one that nothing reads are found without a store."""
    text = "[DEFAULT]\nenabled_backends = web:http\n[glance_store]\ndefault_backend = web\n"
    assert "the store 'web' is read-only" in problems(written(tmp_path, text))[0]
    text = "[glance_store]\nstores = file\ndefault_store = swift\n"
    assert "no store reads swift:// URLs" in problems(written(tmp_path, text))[0]


@pytest.mark.parametrize("text", ["[a", "b = c\n"])
def test_files_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    """What is no configuration file is a problem, not an error."""
    [told] = problems(written(tmp_path, text))
    assert "images.conf, line 1: " in told
    assert "absent.conf" in problems(tmp_path / "absent.conf")[0]


def test_an_unreadable_list_of_stores(tmp_path: Path) -> None:
    """Groups of stores that the list may mean are not noted."""
    text = f"{OWN}[bulk]\nfilesystem_store_datadir = /bulk\n".replace("fast:file", "fast:file,bulk")
    [told] = problems(written(tmp_path, text))
    assert "'bulk' is not name:driver" in told


REFERENCES = """[DEFAULT]
tenant_name = d
[ref1]
auth_adress = https://keys.example.org
auth_address = https://keys.example.org
user = p:u
key = k
project_id = 5
favourite_colour = red
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCB =
"""


@pytest.mark.parametrize("is_single", [False, True])
def test_keys_of_a_file_of_references(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, is_single: bool
) -> None:
    """A file that an option names is looked through as well; its values are not shown."""
    named = tmp_path / "references.ini"
    named.write_text(REFERENCES)
    group = "glance_store" if is_single else "objects"
    text = "" if is_single else "[DEFAULT]\nenabled_backends = objects:swift\n"
    text += f"[{group}]\nswift_store_config_file = references.ini\n"
    path = written(tmp_path, text + ("stores = swift\ndefault_store = swift\n" * is_single))
    start = f"[{group}] swift_store_config_file {named}"
    found = [
        f"{start}: [DEFAULT] tenant_name: no reference has such a key; remove it",
        f"{start}: [ref1] auth_adress: no reference has such a key; did you mean auth_address?",
        f"{start}: [ref1] favourite_colour: no reference has such a key; remove it",
        f"{start}: [ref1] a key: no reference has such a key; remove it",
    ]
    assert problems(path) == found
    with StoreManager.from_file(path) as stores:
        assert warnings(caplog) == found
        assert stores._unread.keys() == {group}
    with pytest.raises(ConfigError, match="4 faults"):
        StoreManager.from_file(path, strict_options=True)
    named.write_text("no INI file")
    assert problems(path) == []  # the driver refuses it
