"""The manager: its stores as a mapping, the verbs' way to a store, drivers, and its end."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imgstore import Capability, Location, RequestContext, Store, StoreManager, errors
from imgstore.config.loading import installed_drivers, load_driver
from imgstore.data.opened import Opened
from imgstore.drivers.filesystem import FilesystemStore
from imgstore.drivers.memory import MemoryStore
from imgstore.layers import ReadOnly
from imgstore.manager import StoreInfo
from imgstore.model import Added, Leftover, Ownership


class RoomStore(MemoryStore):
    """A store whose borders, leftovers and faults are told to it."""

    driver = "room"

    def __init__(self, name: str, *, answer: Ownership, **common: Any) -> None:
        super().__init__(name, **common)
        self._answer = answer
        self.fault: Exception | None = None
        self.closed = 0
        self.askers: list[RequestContext | None] = []

    def _get(self, *args: Any, context: RequestContext | None, **kwargs: Any) -> Opened:
        self.askers.append(context)
        return super()._get(*args, context=context, **kwargs)

    def _size(self, location: Location, *, context: RequestContext | None) -> int:
        self.askers.append(context)
        return super()._size(location, context=context)

    def _add(self, *args: Any, context: RequestContext | None) -> Added:
        self.askers.append(context)
        return super()._add(*args, context=context)

    def _delete(self, location: Location, *, context: RequestContext | None) -> None:
        self.askers.append(context)
        super()._delete(location, context=context)

    def owns(self, location: Location) -> Ownership:
        return self._answer

    def _leftovers(self, older_than: timedelta) -> Iterator[Leftover]:
        if self.fault:
            raise self.fault
        yield Leftover(self.name, f"of {self.name}", datetime.now(timezone.utc))

    def _remove_leftover(self, leftover: Leftover) -> None:
        """Succeed."""

    def _check(self, *, write: bool = True) -> Iterable[str]:
        if self.fault:
            raise self.fault
        return ["dusty"]

    def _close(self) -> None:
        self.closed += 1
        if self.fault:
            raise self.fault


def room(name: str, answer: str = "yes", **common: Any) -> RoomStore:
    return RoomStore(name, answer=Ownership(answer), **common)


@pytest.fixture
def stores() -> Iterator[StoreManager]:
    with StoreManager([MemoryStore("fast"), MemoryStore("bulk")], default="fast") as manager:
        yield manager


class TestMapping:
    """Names and stores."""

    def test_it_is_a_mapping(self, stores: StoreManager) -> None:
        """Iteration gives names in order, values are stores, ``in`` tests names."""
        assert isinstance(stores, Mapping)
        assert list(stores) == list(stores.keys()) == ["fast", "bulk"]
        assert [store.name for store in stores.values()] == ["fast", "bulk"]
        assert dict(stores.items())["bulk"] is stores["bulk"]
        assert len(stores) == 2
        assert ("fast" in stores, "slow" in stores, stores["fast"] in stores) == (
            True,
            False,
            False,
        )

    def test_unknown_names(self, stores: StoreManager) -> None:
        """UnknownStore is a KeyError and lists the known names."""
        for name in ("slow", "", None, 3, []):
            with pytest.raises(errors.UnknownStore, match="choose one of: fast, bulk") as caught:
                stores[name]  # type: ignore[index]
            assert isinstance(caught.value, KeyError)

    def test_the_default(self, stores: StoreManager) -> None:
        """``default`` is the store itself, or None."""
        assert stores.default is stores["fast"]
        with StoreManager([MemoryStore("a")]) as others:
            assert others.default is None
        with StoreManager([]) as none:
            assert (list(none), none.default) == ([], None)

    def test_nothing_failed(self, stores: StoreManager) -> None:
        """Stores that were built elsewhere have no failures."""
        assert dict(stores.failures) == {}

    def test_info(self, tmp_path: Path) -> None:
        """``info`` tells what a store is."""
        fast = FilesystemStore("fast", datadir=str(tmp_path), weight=3, description="disk")
        with StoreManager([fast, MemoryStore("os_glance_x")], default="fast") as stores:
            rw = Capability.READ | Capability.WRITE | Capability.DELETE | Capability.RANGES
            prefix = f"file://{tmp_path}"
            assert stores.info("fast") == StoreInfo(
                "fast", "file", 3, "disk", rw, default=True, reserved=False, url_prefix=prefix
            )
            other = stores.info("os_glance_x")
            assert (other.default, other.reserved) == (False, True)
            with pytest.raises(errors.UnknownStore):
                stores.info("slow")

    def test_faults_are_told_at_once(self) -> None:
        """Equal names and an unknown default are one error with two lines."""
        with pytest.raises(errors.ConfigError) as caught:
            StoreManager([MemoryStore("a"), MemoryStore("a"), MemoryStore("b")], default="c")
        assert str(caught.value).splitlines() == [
            "2 faults in the configuration:",
            "  two stores are named 'a'; rename one",
            "  the default store 'c' is not one of them; choose one of: a, b",
        ]

    def test_a_read_only_default(self) -> None:
        """A default that cannot be written is refused."""
        with pytest.raises(errors.ConfigError, match="'a' is read-only"):
            StoreManager([ReadOnly(MemoryStore("a"))], default="a")

    def test_its_text(self, stores: StoreManager) -> None:
        """``repr`` names the stores."""
        assert repr(stores) == "<StoreManager ['fast', 'bulk']>"


class TestVerbs:
    """Which store does the work."""

    def test_an_image_from_add_to_delete(self, stores: StoreManager) -> None:
        """Without ``store=`` the default takes images, and locations find their store."""
        image = stores.add("a", b"0123456789", size=10)
        assert image.location.url == "memory://fast/a"
        assert stores.add("a", b"xyz", store="bulk").location.url == "memory://bulk/a"
        with stores.get(image.location, offset=2, length=3) as reader:
            assert reader.read() == b"234"
        with stores.get("memory://bulk/a", store="bulk") as reader:
            assert reader.read() == b"xyz"
        assert stores.size(image.location) == 10
        stores.delete(image.location)
        with pytest.raises(errors.NotFound):
            stores.size(image.location)
        assert stores.size("memory://bulk/a") == 3

    def test_copy(self, stores: StoreManager) -> None:
        """``copy`` goes from the location's store to the one that ``to`` names."""
        image = stores.add("a", b"data")
        copied = stores.copy(image.location, "b", to="bulk", algorithms=("md5",))
        assert (copied.store, copied.size, list(copied.digests)) == ("bulk", 4, ["md5"])
        with pytest.raises(errors.UnknownStore, match=r"copy.*'nowhere'"):
            stores.copy(image.location, "c", to="nowhere")
        with pytest.raises(TypeError):
            stores.copy(image.location, "c")  # type: ignore[call-arg]

    def test_what_a_store_cannot_do(self, stores: StoreManager) -> None:
        """A verb that the location's store lacks is its own error."""
        image = stores.add("a", b"")
        with pytest.raises(errors.Unsupported) as caught:
            stores.set_acls(image.location, public=True)
        assert (caught.value.store, caught.value.operation) == ("fast", "set_acls")

    def test_every_argument_reaches_the_store(self, stores: StoreManager) -> None:
        """Sinks, progress, digests, sizes and contexts are passed on."""
        seen: list[object] = []

        class Sink:
            def update(self, data: bytes) -> None:
                seen.append(bytes(data))

        def progress(done: int, total: int | None) -> None:
            seen.append((done, total))

        given: dict[str, Any] = {"algorithms": ["md5"], "sinks": [Sink()], "progress": progress}
        image = stores.add("a", b"data", size=4, max_size=4, **given)
        assert list(image.digests) == ["md5"]
        assert b"data" in seen
        assert (4, 4) in seen
        seen.clear()
        stores.copy(image.location, "b", to="bulk", size=4, max_size=4, **given)
        assert b"data" in seen
        with pytest.raises(errors.TooLarge):
            stores.add("c", b"data", max_size=3)
        with pytest.raises(errors.SizeMismatch):
            stores.copy(image.location, "c", to="bulk", size=3)

    def test_contexts_reach_the_store(self) -> None:
        """Whoever asks is known to the driver."""
        asker = RequestContext(project_id="p")
        one = room("a")
        with StoreManager([one], default="a") as stores:
            image = stores.add("x", b"data", context=asker)
            stores.get(image.location, context=asker).close()
            stores.size(image.location, context=asker)
            stores.copy(image.location, "y", to="a", context=asker)
            stores.delete(image.location, context=asker)
        # A copy reads and adds.
        assert one.askers == [asker] * 6

    def test_only_two_arguments_are_positional(self, stores: StoreManager) -> None:
        """All arguments after the subject have names."""
        calls: list[Callable[[], object]] = [
            lambda: stores.add("a", b"", "bulk"),  # type: ignore[misc]
            lambda: stores.get("memory://fast/a", "fast"),  # type: ignore[misc]
            lambda: stores.size("memory://fast/a", "fast"),  # type: ignore[misc]
            lambda: stores.delete("memory://fast/a", "fast"),  # type: ignore[misc]
            lambda: stores.leftovers(3),  # type: ignore[misc]
            lambda: stores.check("fast"),  # type: ignore[misc]
        ]
        for call in calls:
            with pytest.raises(TypeError):
                call()

    def test_add_without_a_default(self) -> None:
        """Without a default, ``add`` wants a name, and says so."""
        with (
            StoreManager([MemoryStore("a")]) as stores,
            pytest.raises(errors.InvalidArgument, match=r"add: no store is named.*store=….*: a"),
        ):
            stores.add("x", b"")

    def test_add_whose_default_failed(self, tmp_path: Path) -> None:
        """The error names the stores that failed."""
        path = tmp_path / "a.conf"
        text = "[DEFAULT]\nenabled_backends = a:memory, b:nope\n"
        path.write_text(f"{text}[glance_store]\ndefault_backend = b\n")
        with StoreManager.from_file(path, strict=False) as stores:
            with pytest.raises(errors.InvalidArgument, match="'b' failed"):
                stores.add("x", b"")
            with pytest.raises(errors.UnknownStore, match="'b' could not be configured") as caught:
                stores.add("x", b"", store="b")
            assert caught.value.__cause__ is stores.failures["b"]
            assert stores.check() == [f"store 'b': {stores.failures['b']}"]

    @pytest.mark.parametrize("verb", ["get", "size", "delete"])
    def test_a_name_opens_no_borders(self, stores: StoreManager, verb: str) -> None:
        """``store=`` selects a store; its borders stay closed to foreign locations."""
        image = stores.add("a", b"data")
        with pytest.raises(errors.InvalidLocation, match="outside this store") as caught:
            getattr(stores, verb)(image.location, store="bulk")
        assert (caught.value.store, caught.value.operation) == ("bulk", verb)
        with pytest.raises(errors.UnknownStore, match=f"{verb} memory://fast/a: there is no store"):
            getattr(stores, verb)(image.location, store="slow")
        assert stores.size(image.location) == 4

    @pytest.mark.parametrize(
        ("answers", "chosen"),
        [
            (["yes"], "s0"),
            (["no", "maybe"], "s1"),
            (["maybe", "yes"], "s1"),
            (["maybe", "maybe", "yes"], "s2"),
            (["yes", "yes"], "'s0', 's1'"),
            (["maybe", "no", "maybe"], "'s0', 's2'"),
            (["no", "no"], "in none of the stores .* 's0', 's1'; .*store_also_owns"),
        ],
        ids=str,
    )
    def test_whose_location_it_is(self, answers: list[str], chosen: str) -> None:
        """The only certain owner, else the only possible one; else the candidates are named."""
        rooms = [room(f"s{number}", answer) for number, answer in enumerate(answers)]
        with StoreManager(rooms) as stores:
            kind = errors.NotFound if chosen.startswith("s") else errors.InvalidLocation
            with pytest.raises(kind, match="size memory://x/y") as caught:
                stores.size("memory://x/y")
            if kind is errors.NotFound:
                assert caught.value.store == chosen
            else:
                assert caught.match(chosen)
                is_outside = "none" in chosen
                kind = errors.OutsideStore if is_outside else errors.InvalidLocation
                assert type(caught.value) is kind

    def test_former_places(self) -> None:
        """A store owns what ``also_owns`` says, for certain."""
        rooms = [room("a", "maybe"), room("b", "maybe", also_owns=["memory://old/"])]
        with (
            StoreManager(rooms) as stores,
            pytest.raises(errors.NotFound) as caught,
        ):
            stores.size("memory://old/x")
        assert caught.value.store == "b"

    def test_unknown_schemes(self, stores: StoreManager) -> None:
        """UnknownScheme says which schemes are read, and shows no credentials."""
        for verb in (stores.get, stores.size, stores.delete, stores.set_acls):
            with pytest.raises(
                errors.UnknownScheme, match=r"swift://.*they read: memory"
            ) as caught:
                verb("swift://user:hunter2@host/c/o")
            assert "hunter2" not in str(caught.value)
            assert caught.value.operation == verb.__name__

    def test_a_failed_store_might_have_read_it(self, tmp_path: Path) -> None:
        """Where a failed store may be the owner, the remedy names it; one that cannot is not."""
        path = tmp_path / "a.conf"
        text = "[DEFAULT]\nenabled_backends = a:memory, b:absent, c:http\n"
        path.write_text(f"{text}[c]\nhttp_read_timeout = x\n")
        with StoreManager.from_file(path, strict=False) as stores:
            with pytest.raises(errors.UnknownScheme, match="repair 'b', whose"):
                stores.get("swift://h/c/o")
            with pytest.raises(errors.UnknownScheme, match="repair 'b', 'c', whose"):
                stores.get("http://host/o")

    @pytest.mark.parametrize(
        "location", ["", "nonsense", "file://", "memory://a\0b", None, 3, b"x"]
    )
    def test_what_is_no_location(self, stores: StoreManager, location: Any) -> None:
        """Anything that is no URL is InvalidLocation with the operation's name."""
        for verb in (stores.get, stores.size, stores.delete):
            for name in (None, "fast"):
                with pytest.raises(errors.InvalidLocation) as caught:
                    verb(location, store=name)
                assert caught.value.operation == verb.__name__


class TestImages:
    """What an add returned, in place of a location."""

    def test_it_names_its_store(self) -> None:
        """Each verb that takes a location uses the store of an image, which URLs may leave open."""
        with StoreManager([room("a", "maybe"), room("b", "maybe"), MemoryStore("c")]) as stores:
            image = stores.add("one", b"data", store="b")
            with pytest.raises(errors.InvalidLocation, match="each of the stores 'a', 'b'"):
                stores.size(image.location)
            assert stores.size(image) == 4
            with stores.get(image, offset=1) as reader:
                assert reader.read() == b"ata"
            assert stores.copy(image, "two", to="c").store == "c"
            with pytest.raises(errors.Unsupported) as caught:
                stores.set_acls(image)
            assert caught.value.store == "b"
            assert stores.owner_of(image) == "b"
            with pytest.raises(errors.NotFound):
                stores.size(image, store="a")
            stores.delete(image)
            with pytest.raises(errors.NotFound):
                stores.size(image, store="b")

    def test_a_store_that_is_not_here(self, stores: StoreManager) -> None:
        """An image of a store that the manager has not is not looked for elsewhere."""
        image = stores.add("one", b"data")
        with pytest.raises(errors.UnknownStore, match="'gone'"):
            stores.size(replace(image, store="gone"))

    def test_a_row_of_a_database(self, stores: StoreManager) -> None:
        """Any object with a location will do, as text too; without a store it is found by that."""
        url = stores.add("one", b"data", store="bulk").location.url
        assert stores.size(SimpleNamespace(location=url)) == 4
        assert stores.size(SimpleNamespace(location=url, store=None)) == 4
        assert stores["bulk"].size(SimpleNamespace(location=url, store="whatever")) == 4


class TestOwners:
    """In which store an image lies whose location does not tell."""

    def test_borders_go_first(self) -> None:
        """A store that owns a location is not asked, nor is another one."""
        sure, other = (
            RoomStore("sure", answer=Ownership.YES),
            RoomStore("other", answer=Ownership.MAYBE),
        )
        with StoreManager([sure, other]) as stores:
            assert stores.owner_of("memory://sure/a") == "sure"
            assert sure.askers == other.askers == []

    def test_stores_that_may_own_it_are_asked(self) -> None:
        asker = RequestContext(token="t")
        rooms = [RoomStore(name, answer=Ownership.MAYBE) for name in ("one", "two")]
        with StoreManager([rooms[0], ReadOnly(rooms[1])]) as stores:
            url = rooms[1].add("a", b"1").location.url
            assert stores.owner_of(url, context=asker) == "two"
            assert asker in rooms[0].askers
            assert rooms[1].holds(url)
            assert not rooms[0].holds(url)
            with pytest.raises(errors.NotFound, match=r"owner_of memory://two/b: .*none"):
                stores.owner_of("memory://two/b")
            rooms[0]._images = rooms[1]._images
            with pytest.raises(errors.InvalidLocation, match="'one', 'two'"):
                stores.owner_of(url)

    def test_a_store_that_cannot_be_asked(self) -> None:
        """It may be the one."""

        class Deaf(RoomStore):
            def _size(self, location: Location, *, context: RequestContext | None) -> int:
                raise TimeoutError

        rooms = [kind(kind.__name__, answer=Ownership.MAYBE) for kind in (RoomStore, Deaf)]
        with StoreManager(rooms) as stores, pytest.raises(errors.TimedOut, match="'Deaf'"):
            stores.owner_of("memory://a/x")

    def test_nobody_reads_it(self) -> None:
        with StoreManager([MemoryStore("a")]) as stores:
            with pytest.raises(errors.UnknownScheme):
                stores.owner_of("rbd://x")
            with pytest.raises(errors.NotFound):
                stores.owner_of("memory://b/x")
            with pytest.raises(errors.InvalidLocation):
                stores.owner_of("nonsense")


class TestAllStores:
    """Verbs that go to every store."""

    def test_leftovers(self) -> None:
        """Leftovers of all stores or of one are listed and removed."""
        with StoreManager([room("a"), room("b")]) as stores:
            for verb in (stores.leftovers, stores.remove_leftovers):
                assert [each.store for each in verb(older_than=0)] == ["a", "b"]
                assert [each.store for each in verb(older_than=timedelta(0), store="b")] == ["b"]
                with pytest.raises(errors.UnknownStore, match=verb.__name__):
                    verb(older_than=0, store="c")
                with pytest.raises(errors.InvalidArgument):
                    verb(older_than=-1)

    def test_one_store_does_not_keep_the_others_from_cleaning(self) -> None:
        """All stores are served before the first error is raised."""
        rooms = [room("a"), room("b"), room("c")]
        rooms[0].fault = OSError(5, "broken")
        removed: list[str] = []
        rooms[2]._remove_leftover = lambda leftover: removed.append(leftover.name)  # type: ignore[method-assign]
        with StoreManager(rooms) as stores:
            with pytest.raises(errors.Unavailable) as caught:
                stores.remove_leftovers(older_than=0)
            assert caught.value.store == "a"
            assert removed == ["of c"]
            rooms[0].fault = None

    def test_check(self) -> None:
        """Every problem is told with its store; nothing is raised."""
        rooms = [room("a"), room("b")]
        with StoreManager([*rooms, MemoryStore("c")]) as stores:
            rooms[1].fault = OSError(5, "broken")
            assert stores.check() == [
                "store 'a': dusty",
                "store 'b': check: broken (EIO); try again later",
            ]
            assert stores.check(store="a") == ["store 'a': dusty"]
            assert stores.check(store="c") == []
            with pytest.raises(errors.UnknownStore):
                stores.check(store="d")
            rooms[1].fault = None


class TestEnd:
    """How it ends."""

    def test_close(self) -> None:
        """Closing closes every store once, and afterwards every verb raises ValueError."""
        rooms = [room("a"), room("b")]
        stores = StoreManager(rooms, default="a")
        with stores as same:
            assert same is stores
        stores.close()
        assert [each.closed for each in rooms] == [1, 1]
        verbs: list[Callable[[], object]] = [
            lambda: stores.add("x", b""),
            lambda: stores.get("memory://a/x"),
            lambda: stores.get("nonsense"),
            lambda: stores.size("memory://a/x", store="a"),
            lambda: stores.delete("memory://a/x", store="nowhere"),
            lambda: stores.copy("memory://a/x", "y", to="b"),
            lambda: stores.set_acls("memory://a/x"),
            lambda: stores.leftovers(older_than=0),
            lambda: stores.remove_leftovers(older_than=0),
            stores.check,
            lambda: stores.info("a"),
        ]
        for verb in verbs:
            with pytest.raises(ValueError, match="the store manager is closed") as caught:
                verb()
            assert not isinstance(caught.value, errors.ImgStoreError)

    def test_one_store_does_not_keep_the_others_open(self) -> None:
        """All stores are closed even if one cannot be; its error is raised."""
        rooms = [room("a"), room("b"), room("c")]
        rooms[1].fault = RuntimeError("stuck")
        with pytest.raises(RuntimeError, match="stuck"):
            StoreManager(rooms).close()
        assert [each.closed for each in rooms] == [1, 1, 1]

    def test_it_is_not_pickled(self, stores: StoreManager) -> None:
        """A manager stays in its process."""
        for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="pickled"):
                duplicate(stores)


def in_a_new_process(tmp_path: Path, code: str) -> str:
    """Run ``code`` where the distributions of ``tmp_path`` are installed, too."""
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(tmp_path)!r})\n{code}"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def install(tmp_path: Path, name: str, drivers: str) -> None:
    directory = tmp_path / f"{name}-1.0.dist-info"
    directory.mkdir()
    (directory / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (directory / "entry_points.txt").write_text(f"[imgstore.drivers]\n{drivers}\n")


class TestDrivers:
    """Drivers by their entry points."""

    def test_by_name(self) -> None:
        """A driver may have several names; listed is each once, in the order of names."""
        assert load_driver("file") is load_driver("filesystem") is FilesystemStore
        listed = installed_drivers()
        assert listed.count(FilesystemStore) == 1
        assert listed.index(FilesystemStore) < listed.index(MemoryStore)
        assert all(issubclass(driver, Store) for driver in listed)

    def test_unknown_names(self) -> None:
        """What is not there is named beside what is."""
        with pytest.raises(
            errors.DriverUnavailable, match=r"no driver 'flie'; installed are: .*file"
        ):
            load_driver("flie")

    def test_drivers_are_imported_when_they_are_configured(self, tmp_path: Path) -> None:
        """A configuration imports its own drivers only, and says why one cannot be."""
        install(
            tmp_path, "broken", "broken = broken_module:Store\nodd = os:path\nlost = os:nowhere"
        )
        (tmp_path / "broken_module.py").write_text("import no_such_sdk\n")
        (tmp_path / "a.conf").write_text("[DEFAULT]\nenabled_backends = a:memory\n")
        code = f"""
from imgstore import StoreManager, errors
from imgstore.config.loading import installed_drivers, load_driver
StoreManager.from_file({str(tmp_path / "a.conf")!r}).close()
print(*[name for name in ("broken_module", "imgstore.drivers.http") if name in sys.modules])
for name in ("broken", "odd", "lost"):
    try:
        load_driver(name)
    except errors.DriverUnavailable as exc:
        print(exc, type(exc.__cause__).__name__, sep=" | ")
print(*sorted(driver.driver for driver in installed_drivers()))
"""
        first, broken, odd, lost, listed = in_a_new_process(tmp_path, code).splitlines()
        assert first == ""
        assert "no_such_sdk" in broken
        assert broken.endswith("| ModuleNotFoundError")
        assert "'odd' (os:path) is not a subclass of Store" in odd
        assert lost.endswith("| AttributeError")
        assert {"file", "http", "memory"} <= set(listed.split())

    def test_two_packages_with_one_name(self, tmp_path: Path) -> None:
        """A name that means two drivers means none; twice the same driver is one."""
        install(tmp_path, "one", "twin = imgstore.drivers.memory:MemoryStore\nfile = other:Store")
        install(tmp_path, "two", "twin = imgstore.drivers.memory:MemoryStore")
        code = """
from imgstore.config.loading import load_driver
print(load_driver("twin").__name__)
try:
    load_driver("file")
except Exception as exc:
    print(exc)
"""
        twin, file = in_a_new_process(tmp_path, code).splitlines()
        assert twin == "MemoryStore"
        assert "registered more than once, as imgstore.drivers.filesystem:" in file
        assert "other:Store" in file


class Detached:
    """A row whose store cannot be read any more, as attributes of an ORM's rows may be."""

    location = "memory://one/image"

    @property
    def store(self) -> str:
        raise RuntimeError("detached")


def test_a_row_whose_store_cannot_be_read() -> None:
    """What its attribute raises is the cause of an error of this library."""
    row: Any = Detached()
    with (
        StoreManager([MemoryStore("one")]) as stores,
        pytest.raises(errors.InvalidLocation, match="the store of Detached") as caught,
    ):
        stores.size(row)
    assert isinstance(caught.value.__cause__, RuntimeError)
