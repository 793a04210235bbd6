"""The library half: what the verbs make of the hooks."""

from __future__ import annotations

import errno
import hashlib
import io
import traceback
from datetime import datetime, timedelta, timezone

import pytest

from imgstore import Capability, Location, RequestContext, errors
from imgstore.data.opened import Opened
from imgstore.drivers.memory import MemoryStore
from imgstore.model import Added, Leftover, Ownership, StoredImage
from imgstore.store import Store

AT = Location.parse("fake://key:hunter2@host/image")
EVERYTHING = ~Capability(0)


class SdkError(Exception):
    pass


LONG_AGO = datetime(2020, 1, 1, tzinfo=timezone.utc)


class SdkDenied(SdkError):
    pass


class SdkRange(SdkError):
    pass


class SdkSecret(SdkError):
    pass


class FakeStore(Store):
    """A driver whose hooks do what a test says, and remember how they were called."""

    driver = "fake"
    schemes = ("fake",)
    capabilities = EVERYTHING

    def __init__(self, name="fake", *, raises=None, **common):
        super().__init__(name, **common)
        self.raises = raises
        self.calls = []
        self.copies = True
        self.read_all = True

    def _called(self, hook, *arguments):
        self.calls.append((hook, *arguments))
        if self.raises is not None:
            raise self.raises

    def owns(self, location):
        return Ownership.YES if location.rest.startswith("host/") else Ownership.NO

    def _get(self, location, offset, length, *, if_version, context):
        self._called("get", location, offset, length, if_version, context)
        return Opened(iter([b"data"[offset:]]), 4, "v1")

    def _size(self, location, *, context):
        self._called("size", location, context)
        return 4

    def _add(self, image_id, body, *, context):
        self._called("add", image_id, context)
        while self.read_all and body.read(1 << 20):
            pass
        return Added(Location.parse(f"fake://host/{image_id}"), {"mine": "x"})

    def _delete(self, location, *, context):
        self._called("delete", location, context)

    def _copy(self, location, origin, image_id, *, context):
        self._called("copy", location, origin, image_id, context)
        return Added(Location.parse(f"fake://host/{image_id}")) if self.copies else None

    def _set_acls(self, location, *, public, read, write, context):
        self._called("set_acls", location, public, read, write, context)

    def _leftovers(self, older_than):
        self._called("leftovers", older_than)
        for key in ("one", "two"):
            yield Leftover(self.name, key, LONG_AGO, key=key)

    def _remove_leftover(self, leftover):
        self._called("remove", leftover.key)
        if leftover.key == "one":
            raise errors.NotFound("alive after all")

    def _check(self, *, write):
        self._called("check")
        yield "the bucket is missing; create it"

    def _classify(self, exc):
        if isinstance(exc, SdkDenied):
            return errors.PermissionDenied
        if isinstance(exc, SdkSecret):
            return errors.Unavailable("the service failed", remedy="try later")
        if isinstance(exc, SdkRange):
            return errors.InvalidRange
        return None


VERBS = {
    "add": lambda store: store.add("image", b"data"),
    "get": lambda store: store.get(AT),
    "size": lambda store: store.size(AT),
    "delete": lambda store: store.delete(AT),
    "copy": lambda store: store.copy(AT, "image"),
    "set_acls": lambda store: store.set_acls(AT),
    "leftovers": lambda store: store.leftovers(older_than=0),
    "remove_leftovers": lambda store: store.remove_leftovers(older_than=0),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("make", "expected", "reason"),
    [
        (lambda: SdkDenied("no"), errors.PermissionDenied, "SdkDenied: no"),
        (lambda: SdkSecret("token=hunter2"), errors.Unavailable, "the service failed"),
        (lambda: SdkError("two\nlines"), errors.StoreError, "SdkError: two lines"),
        (SdkError, errors.StoreError, "SdkError"),
        (lambda: errors.InUse("a clone"), errors.InUse, "a clone"),
        (lambda: KeyError("odd"), errors.StoreError, "KeyError: 'odd'"),
        (StopIteration, errors.StoreError, "StopIteration"),
    ],
    ids=["class", "instance", "unknown", "silent", "ours", "builtin", "StopIteration"],
)
def test_errors_are_translated_with_context(verb, make, expected, reason):
    """Every verb raises errors of the tree that say where and doing what, from the SDK's own."""
    raised = make()
    store = FakeStore(raises=raised)
    if verb in {"leftovers", "remove_leftovers"} and isinstance(raised, StopIteration):
        reason = "RuntimeError: generator raised StopIteration"  # PEP 479
    with pytest.raises(expected) as caught:
        VERBS[verb](store)
    error = caught.value
    assert type(error) is expected
    assert error.reason == reason
    assert (error.store, error.operation) == ("fake", verb)
    assert error.image_id == ("image" if verb in {"add", "copy"} else None)
    assert error.location == (None if "left" in verb or verb == "add" else AT)
    assert "hunter2" not in f"{error} {error!r}"
    if not isinstance(raised, errors.ImgStoreError | StopIteration):
        cause = error.__cause__
        assert cause is not None
        assert cause is raised or type(raised) is SdkSecret
        assert type(cause).__name__ == type(raised).__name__
        if error.location is not None:  # it holds the secret
            assert "hunter2" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOENT, errors.NotFound),
        (errno.EEXIST, errors.AlreadyExists),
        (errno.EACCES, errors.PermissionDenied),
        (errno.EPERM, errors.PermissionDenied),
        (errno.EROFS, errors.PermissionDenied),
        (errno.ENOSPC, errors.StorageFull),
        (errno.EDQUOT, errors.StorageFull),
        (errno.EFBIG, errors.StorageFull),
        (errno.EBUSY, errors.InUse),
        (errno.EIO, errors.Unavailable),
        (errno.ESTALE, errors.Unavailable),
        (errno.ECONNREFUSED, errors.Unavailable),
        (errno.ECONNRESET, errors.Unavailable),
        (errno.EPIPE, errors.Unavailable),
        (errno.EHOSTUNREACH, errors.Unavailable),
        (errno.EMFILE, errors.Unavailable),
        (errno.ETIMEDOUT, errors.TimedOut),
        (errno.EOPNOTSUPP, errors.Unsupported),
        (errno.EBADMSG, errors.StoreError),
    ],
)
def test_errno_decides_where_the_driver_does_not(number, expected):
    """System errors become the class that tells a caller what to do."""
    with pytest.raises(errors.StoreError) as caught:
        FakeStore(raises=OSError(number, "text")).size(AT)
    assert type(caught.value) is expected
    assert errno.errorcode[number] in str(caught.value)


def test_a_time_out_without_a_number_is_a_time_out():
    """``socket.timeout`` has no errno."""
    with pytest.raises(errors.TimedOut):
        FakeStore(raises=TimeoutError("timed out")).size(AT)


@pytest.mark.parametrize("raised", [MemoryError("full"), KeyboardInterrupt(), SystemExit(2)])
@pytest.mark.parametrize("verb", VERBS)
def test_what_is_not_the_backends_is_not_translated(verb, raised):
    """Want of memory, and what is no Exception, comes through as it is."""
    with pytest.raises(type(raised)) as caught:
        VERBS[verb](FakeStore(raises=raised))
    assert caught.value is raised


class WrappingStore(FakeStore):
    """A driver whose SDK wraps whatever its callbacks raise."""

    def _add(self, image_id, body, *, context):
        try:
            return super()._add(image_id, body, context=context)
        except BaseException as exc:
            raise SdkDenied("the upload failed") from exc


class SwallowingStore(FakeStore):
    """A driver whose SDK takes any failure of its callbacks for the end."""

    def _add(self, image_id, body, *, context):
        try:
            return super()._add(image_id, body, context=context)
        except BaseException:
            return Added(Location.parse(f"fake://host/{image_id}"))


@pytest.mark.parametrize("driver", [WrappingStore, SwallowingStore])
@pytest.mark.parametrize(
    "error", [RuntimeError("x"), OSError(28, "x"), KeyboardInterrupt(), errors.NotFound("x")]
)
def test_the_callers_error_survives_an_sdk(driver, error):
    """Whatever an SDK makes of it, what the caller's objects raise comes through as it is."""

    def progress(*_):
        raise error

    with pytest.raises(type(error)) as caught:
        driver().add("image", b"data", progress=progress)
    assert caught.value is error
    if isinstance(error, errors.NotFound):
        assert error.store is None


@pytest.mark.parametrize("driver", [FakeStore, WrappingStore])
def test_the_callers_invalid_argument_is_the_callers(driver):
    """An error of our own tree that a sink raises gets no context of the store."""
    error = errors.InvalidArgument("not a disk image")

    class Inspector:
        def update(self, data):
            raise error

    with pytest.raises(errors.InvalidArgument) as caught:
        driver().add("image", b"data", sinks=[Inspector()])
    assert caught.value is error
    assert str(error) == "not a disk image"


@pytest.mark.parametrize("driver", [WrappingStore, SwallowingStore])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"size": 3}, errors.SizeMismatch),
        ({"size": 5}, errors.SizeMismatch),
        ({"max_size": 3}, errors.TooLarge),
    ],
)
def test_a_driver_that_swallows_the_error(driver, arguments, expected):
    """A failed check of sizes is the error, whatever an SDK or driver makes of it."""
    for source in (b"data", io.BytesIO(b"data"), iter([b"data"])):
        with pytest.raises(expected) as caught:
            driver().add("image", source, **arguments)
        assert (caught.value.store, caught.value.operation) == ("fake", "add")


def test_a_driver_that_does_not_read_to_the_end():
    """A commit before the end of the source is no success."""
    store = FakeStore()
    store.read_all = False
    with pytest.raises(errors.IntegrityError) as caught:
        store.add("image", b"data")
    assert caught.value.indeterminate
    with pytest.raises(errors.DigestMismatch) as caught:
        store.add("image", iter([]), expected={"md5": "0" * 32})
    assert caught.value.indeterminate


def test_an_sdk_error_at_the_end_is_an_empty_range():
    """A backend that refuses a range which starts at the end need not be asked twice by users."""

    class Ranges(FakeStore):
        def _get(self, location, offset, length, *, if_version, context):
            if offset >= 4:
                raise self.refusal
            return super()._get(location, offset, length, if_version=if_version, context=context)

    store = Ranges()
    for refusal in (SdkRange("416"), errors.InvalidRange("416")):
        store.refusal = refusal
        with store.get(AT, offset=4) as reader:
            assert (reader.read(), reader.size, reader.image_size) == (b"", 0, 4)
        with pytest.raises(errors.InvalidRange) as caught:
            store.get(AT, offset=5)
        assert caught.value.operation == "get"
    store.refusal = SdkDenied("no")
    with pytest.raises(errors.PermissionDenied):
        store.get(AT, offset=4)


def test_hooks_get_what_the_verbs_were_given():
    """Locations keep their credentials, contexts are made ours, ranges are passed on."""
    store, context = FakeStore(), RequestContext("token")
    store.get(str(AT.reveal_url()), offset=1, length=2, context=context)
    store.size(AT, context=context)
    store.delete(AT, context=context)
    store.add("image", b"", context=context)
    store.set_acls(AT, public=True, read=["p"], write=["q"], context=context)
    store.get(AT, length=0, context=context)
    assert store.calls == [
        ("get", AT, 1, 2, None, context),
        ("size", AT, context),
        ("delete", AT, context),
        ("add", "image", context),
        ("set_acls", AT, True, ("p",), ("q",), context),
        ("size", AT, context),
    ]
    assert store.calls[0][1].reveal_url() == AT.reveal_url()


@pytest.mark.parametrize("missing", list(Capability))
def test_a_missing_capability_reaches_no_hook(missing):
    """What a store cannot do is Unsupported, before its hooks are asked."""
    verbs = {
        Capability.READ: ["get", "size", "copy"],
        Capability.WRITE: ["add"],
        Capability.DELETE: ["delete"],
        Capability.RANGES: [],
        Capability.ACLS: ["set_acls"],
        Capability.COPY: [],
    }
    store = FakeStore()
    store.capabilities = EVERYTHING & ~missing
    for verb in verbs[missing]:
        with pytest.raises(errors.Unsupported) as caught:
            VERBS[verb](store)
        assert missing.name in str(caught.value)
    if missing is Capability.RANGES:
        for arguments in ({"offset": 1}, {"length": 1}, {"length": 0}):
            with pytest.raises(errors.Unsupported):
                store.get(AT, **arguments)
    assert store.calls == []


@pytest.mark.parametrize("verb", ["get", "size", "delete", "set_acls", "copy"])
def test_foreign_locations_reach_no_hook(verb):
    """A location outside the store is refused without I/O, naming the remedy."""
    store = FakeStore()
    arguments = ("image",) if verb == "copy" else ()
    for url in ("fake://key:hunter2@other/image", "file:///image", "fake://hosts/image"):
        with pytest.raises(errors.InvalidLocation) as caught:
            getattr(store, verb)(url, *arguments)
        assert "hunter2" not in str(caught.value)
        assert caught.value.store == "fake"
    assert store.calls == []


def test_former_places_are_owned():
    """``also_owns`` serves images of former places, by whole path segments."""
    store = FakeStore(also_owns=["fake://old/dir/"])
    assert store.size("fake://old/dir/image") == 4
    assert store.size("fake://user:pw@old/dir/image") == 4
    for url in ("fake://old/directory/image", "fake://old", "fake://other/dir/image"):
        with pytest.raises(errors.InvalidLocation):
            store.size(url)
    with pytest.raises(errors.InvalidArgument, match="store_also_owns: number 1: not a URL"):
        FakeStore(also_owns=["no url"])


def test_metadata_is_the_drivers_and_the_stores_name():
    """What the driver tells is kept; the name is added, except in the old single form."""
    assert FakeStore("fast").add("image", b"").metadata == {"mine": "x", "store": "fast"}
    assert FakeStore("fast", single=True).add("image", b"").metadata == {"mine": "x"}


def test_the_backend_copies_where_nobody_wants_the_bytes():
    """A copy by the backend has no digests; whoever wants bytes or checks gets a stream."""
    store, origin, context = FakeStore(), FakeStore("origin"), RequestContext("token")
    image = origin.copy(AT, "copy", to=store, context=context)
    assert image == StoredImage(
        Location.parse("fake://host/copy"), 4, {}, "fake", {"store": "fake"}
    )
    assert store.calls[0] == ("copy", AT, origin, "copy", context)
    assert all(call[-1] == context for call in store.calls)
    assert origin.calls == []
    for arguments in (
        {"progress": lambda *_: None},
        {"sinks": [hashlib.md5()]},
        {"size": 4},
        {"max_size": 4},
    ):
        store.calls.clear()
        assert "sha256" in origin.copy(AT, "copy", to=store, **arguments).digests
        assert store.calls == [("add", "copy", None)]
    store.copies = False
    assert "sha256" in origin.copy(AT, "copy", to=store).digests


def test_a_copy_by_the_backend_checks_its_arguments():
    """Ids, algorithms, locations and capabilities are checked as in an add."""
    store = FakeStore()
    with pytest.raises(errors.InvalidArgument):
        store.copy(AT, "a/b")
    with pytest.raises(errors.InvalidArgument):
        store.copy(AT, "image", algorithms=("nope",))
    with pytest.raises(errors.InvalidLocation):
        store.copy("fake://other/image", "image")
    read_only = FakeStore("target")
    read_only.capabilities = EVERYTHING & ~Capability.WRITE
    with pytest.raises(errors.Unsupported) as caught:
        store.copy(AT, "image", to=read_only)
    assert caught.value.store == "target"
    assert store.calls == []


def test_removing_leftovers_passes_over_what_came_alive():
    """What turns out to be gone or alive is not reported as removed."""
    store = FakeStore()
    assert [each.key for each in store.leftovers(older_than=60)] == ["one", "two"]
    assert store.calls == [("leftovers", timedelta(seconds=60))]
    assert [each.key for each in store.remove_leftovers(older_than=timedelta(1))] == ["two"]


def test_a_leftover_that_an_sdk_says_is_gone_hinders_nobody():
    """What is gone is passed over, in whatever words the backend says so."""

    class Raw(MemoryStore):
        def _leftovers(self, older_than):
            old = datetime.now(timezone.utc) - timedelta(days=1)
            return [Leftover(self.name, name, old) for name in ("gone", "there")]

        def _remove_leftover(self, leftover):
            if leftover.name == "gone":
                raise LookupError(leftover.name)

        def _classify(self, exc):
            return errors.NotFound if isinstance(exc, LookupError) else None

    with Raw("memory") as store:
        assert [each.name for each in store.remove_leftovers(older_than=0)] == ["there"]


def test_a_removal_may_change_what_is_listed():
    """All leftovers are listed before the first one is removed."""

    class Lazy(MemoryStore):
        def __init__(self):
            super().__init__("memory")
            old = datetime.now(timezone.utc) - timedelta(days=1)
            self.drafts = {name: Leftover(self.name, name, old) for name in ("one", "two")}

        def _leftovers(self, older_than):
            yield from self.drafts.values()

        def _remove_leftover(self, leftover):
            del self.drafts[leftover.name]

    with Lazy() as store:
        removed = store.remove_leftovers(older_than=0)
        assert [each.name for each in removed] == ["one", "two"]
        assert store.leftovers(older_than=0) == []


def test_a_driver_that_ignores_the_age_is_no_danger():
    """What is younger is not passed on, and not removed: it may be an add under way."""
    removed = []

    class Ageless(FakeStore):
        def _leftovers(self, older_than):
            now = datetime.now(timezone.utc)
            yield Leftover(self.name, "new", now)
            yield Leftover(self.name, "old", now - timedelta(hours=2))
            yield Leftover(self.name, "other zone", now.astimezone(timezone(timedelta(hours=9))))
            yield Leftover(self.name, "ahead", now + timedelta(hours=2))

        def _remove_leftover(self, leftover):
            removed.append(leftover.name)

    store = Ageless()
    assert [each.name for each in store.leftovers(older_than=3600)] == ["old"]
    assert [each.name for each in store.remove_leftovers(older_than=3600)] == removed == ["old"]
    assert store.leftovers(older_than=timedelta.max) == []
    everything = ["new", "old", "other zone", "ahead"]
    assert [each.name for each in store.leftovers(older_than=0)] == everything


def test_a_leftover_has_a_time_zone():
    """A time that may be any hour of the day ends the listing, and nothing is removed."""

    class Naive(FakeStore):
        def _leftovers(self, older_than):
            yield Leftover(self.name, "naive", datetime(2020, 1, 1))  # noqa: DTZ001

        def _remove_leftover(self, leftover):
            pytest.fail("was removed")

    for verb in (Naive().leftovers, Naive().remove_leftovers):
        with pytest.raises(errors.StoreError, match="no time zone"):
            verb(older_than=3600)
    with pytest.raises(ValueError, match="no time zone"):
        Leftover("store", "naive", datetime(2020, 1, 1))  # noqa: DTZ001


def test_a_leftover_that_stays_keeps_no_other():
    """It is reported when the others are removed; only a backend that is away ends the clean-up."""
    tried = []

    class Stuck(FakeStore):
        def _remove_leftover(self, leftover):
            tried.append(leftover.key)
            if leftover.key == "one":
                raise failure

    for failure in (
        errors.InUse("a clone"),
        errors.StoreError("no"),
        errors.PermissionDenied("alien"),
    ):
        tried.clear()
        with pytest.raises(type(failure), match=failure.reason):
            Stuck().remove_leftovers(older_than=60)
        assert tried == ["one", "two"]
    failure = errors.Unavailable("away")
    with pytest.raises(errors.Unavailable):
        Stuck().remove_leftovers(older_than=60)
    assert tried == ["one", "two", "one"]


def test_check_reports_instead_of_raising():
    """Faults are texts; a backend that fails to answer is one of them."""
    assert FakeStore().check() == ["the bucket is missing; create it"]
    (fault,) = FakeStore(raises=SdkDenied("no")).check()
    assert fault.startswith("store 'fake': check: SdkDenied: no; ")


def test_a_store_without_optional_hooks():
    """A driver fills in four hooks; the rest has answers of its own."""
    with MemoryStore("memory") as store:
        assert store.leftovers(older_than=0) == store.remove_leftovers(older_than=0) == []
        assert store.check() == []
        assert store.unwrapped is store
        with pytest.raises(errors.ConfigError):
            store.reserved_defaults("os_glance_staging_store")
    with pytest.raises(TypeError):
        Store("abstract")


def test_ids_in_errors_are_safe():
    """An id that is refused is shown escaped and cut, and is no part of the error's context."""
    for image_id in ("x\n" * 1000, "\x1b[31m", "a/b"):
        with pytest.raises(errors.InvalidArgument) as caught:
            FakeStore().add(image_id, b"")
        assert caught.value.image_id is None
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400
