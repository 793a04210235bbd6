"""Layers pass on or refuse everything."""

from __future__ import annotations

import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from imgstore import Capability, Location, errors
from imgstore.data.streams import Body
from imgstore.driver import Driver
from imgstore.drivers.filesystem import FilesystemStore
from imgstore.drivers.memory import MemoryStore
from imgstore.layers import Layer, Limited, ReadOnly
from imgstore.model import Added

WAIT = 30
MIB = 1024 * 1024
HOOKS = {
    name: member
    for name, member in vars(Driver).items()
    if (inspect.isfunction(member) or isinstance(member, property)) and name != "__init__"
}


def test_layers_override_every_hook():
    """A hook that is new must be passed on or refused: nothing may reach Store's own answer."""
    assert {"owns", "_get", "_size", "_add", "_delete", "_classify", "_close"}.issubset(HOOKS)
    assert set(HOOKS).issubset(vars(Layer))


@pytest.mark.parametrize("hook", sorted(HOOKS))
@pytest.mark.parametrize("layers", [[Layer], [Layer, Layer], [lambda s: Limited(s, 9)]])
def test_hooks_are_passed_on_as_they_are(hook, layers):
    """A layer gives the hook's arguments to the store inside, and its answer to the caller."""
    calls, answer = [], object()
    inner = MemoryStore("memory")
    member = HOOKS[hook]
    if isinstance(member, property):
        inner.__class__ = type("Driver", (MemoryStore,), {hook: property(lambda _: answer)})
    elif hook != "_close":
        setattr(inner, hook, lambda *args, **kwargs: calls.append((args, kwargs)) or answer)
    outer = inner
    for layer in layers:
        outer = layer(outer)
    if isinstance(member, property):
        assert getattr(outer, hook) is answer
        return
    if hook == "_close":
        outer._close()
        assert inner._closed
        return
    parameters = list(inspect.signature(member).parameters.values())[1:]
    args = [object() for p in parameters if p.kind is not p.KEYWORD_ONLY]
    kwargs = {p.name: object() for p in parameters if p.kind is p.KEYWORD_ONLY}
    if hook == "_add":
        args[1] = Body(b"")
    if hook == "_get":
        answer = type("Opened", (), {"close": staticmethod(lambda: None)})()
    found = getattr(outer, hook)(*args, **kwargs)
    assert calls == [(tuple(args), kwargs)]
    assert found is answer or (hook in {"_set_acls", "_delete", "_remove_leftover"} and not found)


def test_a_layer_is_what_the_store_inside_is():
    """Name, weight, description, capabilities, schemes, former places: all are the inner's."""
    inner = MemoryStore(
        "memory", weight=7, description="fast", also_owns=["memory://old"], single=True
    )
    inner.read_retries = 9
    for layer in (Layer(inner), Limited(ReadOnly(inner), 2)):
        for name in ("name", "driver", "weight", "description", "single", "schemes"):
            assert getattr(layer, name) == getattr(inner, name)
        assert (layer.also_owns, layer.read_retries) == (inner.also_owns, 9)
        assert layer.url_prefix == "memory://memory/"
        assert layer.unwrapped is inner
        for url in ("memory://memory/x", "memory://old/x", "memory://other/x", "file:///x"):
            location = Location.parse(url)
            assert layer.ownership(location) is inner.ownership(location)


def test_closing_a_layer_closes_the_store_inside():
    """The store inside ends with its layers, and their readers with them."""
    inner = MemoryStore("memory")
    with Limited(Layer(inner), 2) as store:
        at = store.add("image", bytes(3 * MIB)).location
        reader = store.get(at)
    assert reader.closed
    with pytest.raises(ValueError, match="closed"):
        inner.size(at)


@pytest.fixture
def memory():
    with MemoryStore("memory") as store:
        yield store


@pytest.fixture
def large(memory):
    """An image of several chunks, so that its reader is not done at once."""
    return memory.add("large", bytes(5 * MIB)).location


class TestReadOnly:
    def test_nothing_but_reading(self, memory, large):
        """Whatever changes the store is Unsupported, and nothing changes."""
        store = ReadOnly(memory)
        assert store.capabilities == Capability.READ | Capability.RANGES
        for change in (
            lambda: store.add("image", b"data"),
            lambda: store.delete(large),
            lambda: store.copy(large, "copy"),
            lambda: memory.copy(large, "copy", to=store),
            lambda: store.set_acls(large, public=True),
        ):
            with pytest.raises(errors.Unsupported):
                change()
        assert list(memory._images) == [large.url]
        with store.get(large, offset=5, length=5) as reader:
            assert reader.read() == bytes(5)

    def test_what_is_less_stays_less(self, memory):
        """A layer gives no capability that the store inside has not."""
        memory.capabilities = Capability.READ | Capability.DELETE
        assert ReadOnly(memory).capabilities == Capability.READ

    def test_leftovers_are_listed_but_stay(self, tmp_path):
        """Leftovers of a read-only store are not removed."""

        class Leaving(MemoryStore):
            def _leftovers(self, older_than):
                yield "leftover"

        store = ReadOnly(Leaving("memory"))
        assert store.leftovers(older_than=0) == ["leftover"]
        with pytest.raises(errors.Unsupported):
            store.remove_leftovers(older_than=0)


class TestLimited:
    @pytest.mark.parametrize(("limit", "timeout"), [(0, 1), (-1, 1), (1, -1)])
    def test_a_limit_is_positive(self, memory, limit, timeout):
        """A limit below one, or a negative time-out, is refused."""
        with pytest.raises(errors.InvalidArgument):
            Limited(memory, limit, timeout=timeout)

    def test_a_reader_holds_its_slot_until_its_end(self, memory, large):
        """The slot is held while bytes are to come; whoever waits too long is Throttled."""
        store = Limited(memory, 1, timeout=0.01)
        reader = store.get(large)
        reader.read(1)
        for verb in (
            lambda: store.get(large),
            lambda: store.size(large),
            lambda: store.delete(large),
            lambda: store.add("image", b""),
        ):
            with pytest.raises(errors.Throttled) as caught:
                verb()
            assert caught.value.retryable
            assert caught.value.store == "memory"
            assert caught.value.remedy
        reader.read()
        assert store.size(large) == 5 * MIB

    @pytest.mark.parametrize("end", ["close", "drop", "exhaust", "with"])
    def test_every_end_of_a_reader_gives_its_slot_back_once(self, memory, large, end):
        """Closing, twice as well, dropping and reading to the end give back one slot."""
        store = Limited(memory, 2, timeout=0.01)
        for _ in range(5):
            reader = store.get(large)
            if end == "close":
                reader.close()
            elif end == "exhaust":
                reader.read()
            elif end == "with":
                with reader:
                    reader.read(5)
            reader.close()
            del reader
        readers = [store.get(large), store.get(large)]
        with pytest.raises(errors.Throttled):
            store.get(large)
        del readers

    def test_a_reader_that_is_dropped_gives_its_slot_back(self, memory, large):
        """An abandoned reader's slot is free as soon as nobody refers to it."""
        store = Limited(memory, 1, timeout=5)
        for _ in range(3):
            store.get(large).read(1)

    def test_failures_give_the_slot_back(self, memory, large):
        """What fails, by the store's or the caller's fault, holds no slot."""
        store = Limited(memory, 1, timeout=0.01)
        missing = "memory://memory/missing"

        def failing():
            yield b"data"
            raise KeyboardInterrupt

        for _ in range(3):
            for verb in (store.get, store.size, store.delete):
                with pytest.raises(errors.NotFound):
                    verb(missing)
            with pytest.raises(errors.InvalidRange):
                store.get(large, offset=1 << 40)
            with pytest.raises(KeyboardInterrupt):
                store.add("image", failing())
        assert store.size(large) == 5 * MIB

    def test_an_add_holds_its_slot_until_it_ends(self, memory):
        """The slot is taken while the source is read and free after the commit."""
        store = Limited(memory, 1, timeout=0.01)

        def source():
            yield b"da"
            with pytest.raises(errors.Throttled):
                store.size("memory://memory/other")
            yield b"ta"

        assert store.add("image", source()).size == 4
        assert store.size("memory://memory/image") == 4

    def test_no_more_than_the_limit_at_once(self, memory):
        """Many threads: never more inside than the limit, and all get their turn."""
        inside, most, lock = [0], [0], threading.Lock()

        class Watched(Layer):
            def _add(self, image_id, body, *, context):
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                try:
                    return super()._add(image_id, body, context=context)
                finally:
                    with lock:
                        inside[0] -= 1

        store = Limited(Watched(memory), 3, timeout=WAIT)
        with ThreadPoolExecutor(12) as pool:
            futures = [pool.submit(store.add, f"image-{n}", bytes(MIB)) for n in range(24)]
            assert {future.result(WAIT).size for future in futures} == {MIB}
        assert 1 <= most[0] <= 3

    @pytest.mark.parametrize("wrap", [lambda s: s, Layer, lambda s: Limited(s, 1, timeout=0.01)])
    def test_a_copy_inside_the_store_needs_one_slot(self, memory, large, wrap):
        """With a limit of one, images are copied inside their store, layered or not."""
        store = wrap(Limited(memory, 1, timeout=0.01))
        for number in range(3):
            assert store.copy(large, f"copy-{number}").size == 5 * MIB
        with store.get(large) as reader:
            assert store.add("from-reader", reader).size == 5 * MIB
        with store.get(large, offset=7) as reader:
            reader.read(MIB)
            assert store.add("from-rest", reader).size == 4 * MIB - 7
        assert store.size(large) == 5 * MIB

    def test_many_copies_inside_the_store_do_not_deadlock(self, memory, large):
        """More copies at once than slots: each ends."""
        store = Limited(memory, 2, timeout=WAIT)
        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(store.copy, large, f"copy-{n}") for n in range(16)]
            assert {future.result(WAIT).size for future in futures} == {5 * MIB}

    def test_a_file_is_copied_inside_its_store(self, tmp_path):
        """The same for a store whose readers are files."""
        with Limited(
            FilesystemStore("file", datadir=str(tmp_path), fsync=False), 1, timeout=0.01
        ) as store:
            at = store.add("image", bytes(range(256)) * 8192).location
            assert store.copy(at, "copy").size == 2 * MIB
            with store.get(at) as reader:
                assert store.add("other", reader).size == 2 * MIB
            assert store.size(at) == 2 * MIB

    def test_a_resumed_read_keeps_to_the_limit(self, memory, large):
        """Opening again gives the slot back and takes one; afterwards none is missing."""
        broken = [2]

        class Breaking(Layer):
            def _get(self, *args, **kwargs):
                opened = super()._get(*args, **kwargs)
                if broken[0]:
                    broken[0] -= 1
                    chunks = opened.chunks
                    opened.chunks = self._break(next(chunks))
                return opened

            def _break(self, first):
                yield first
                raise ConnectionResetError(104, "reset")

        store = Limited(Breaking(memory), 1, timeout=0.01)
        with store.get(large) as reader:
            assert reader.read() == bytes(5 * MIB)
        assert broken == [0]
        for _ in range(2):
            assert store.size(large) == 5 * MIB
        reader = store.get(large)
        with pytest.raises(errors.Throttled):
            store.size(large)
        reader.close()

    def test_a_copy_by_the_backend_holds_one_slot(self, memory, large):
        """A copy that the backend makes takes a slot while it lasts."""
        seen = []

        class Copying(Layer):
            def __init__(self, store):
                super().__init__(store)
                self.capabilities |= Capability.COPY

            def _copy(self, location, origin, image_id, *, context):
                with pytest.raises(errors.Throttled):
                    store.size(location)
                seen.append(origin)
                return Added(location, size=5 * MIB)

        store = Limited(Copying(memory), 1, timeout=0.01)
        assert store.copy(large, "copy").size == 5 * MIB
        assert seen == [memory]
        assert store.leftovers(older_than=timedelta(0)) == []


@pytest.mark.parametrize("layer", [ReadOnly, lambda store: Limited(store, 1)])
def test_a_closed_store_is_closed_through_its_layers(layer):
    """Closing the store inside closes what stands around it."""
    store = MemoryStore("memory")
    image = store.add("image", b"data")
    outside = layer(store)
    store.close()
    with pytest.raises(ValueError, match="closed"):
        outside.get(image.location)
