"""Many threads at one store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from imgstore import Capability, ImageReader, Store, StoredImage, errors
from imgstore.data.sources import Source
from imgstore.testing.doubles import Paused
from imgstore.testing.harness import (
    WAIT,
    Harness,
    Place,
    content,
    difference,
    needs,
    new_id,
    pattern,
)

T = TypeVar("T")


def in_threads(count: int, call: Callable[[int], T]) -> list[T]:
    """Call with 0, 1, 2… in as many threads, all at once, and return what they return."""
    barrier = threading.Barrier(count)

    def run(number: int) -> T:
        barrier.wait(WAIT)
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return [future.result(WAIT) for future in [pool.submit(run, n) for n in range(count)]]


class Concurrency(Harness, is_part=True):
    """Stores are used from many threads."""

    @needs(Capability.WRITE)
    def test_one_of_many_adds_of_an_id_wins(self, store: Store) -> None:
        """Of simultaneous adds of one id exactly one wins, and the bytes are the winner's."""
        for size in (1000, self.large):
            image_id = new_id()

            def add(
                number: int, image_id: str = image_id, size: int = size
            ) -> tuple[int, StoredImage] | None:
                try:
                    return number, store.add(image_id, pattern(size + number))
                except errors.AlreadyExists:
                    return None

            ((number, image),) = filter(None, in_threads(self.threads, add))
            assert image.size == size + number
            assert not difference(content(store, image.location), pattern(size + number))
            assert store.leftovers(older_than=0) == []

    @needs(Capability.WRITE)
    def test_one_of_two_overlapping_adds_wins(self, store: Store) -> None:
        """An add that starts and ends during another add of its id: one of them wins."""
        image_id = new_id()
        slow, fast = pattern(self.large), pattern(self.large + 1)
        source = Paused(slow)

        def add(source: Source) -> StoredImage | errors.AlreadyExists:
            try:
                return store.add(image_id, source)
            except errors.AlreadyExists as exc:
                return exc

        with ThreadPoolExecutor(1) as pool:
            try:
                future = pool.submit(add, source)
                source.reached.wait(WAIT)
                outcome = add(fast)
            finally:
                source.go_on.set()
            outcomes = (outcome, fast), (future.result(WAIT), slow)
        ((image, data),) = (
            (image, data) for image, data in outcomes if isinstance(image, StoredImage)
        )
        assert not difference(content(store, image.location), data)

    @needs(Capability.WRITE)
    def test_threads_do_not_disturb_each_other(self, store: Store) -> None:
        """Adds, reads, sizes and deletes of different images run side by side."""

        def work(number: int) -> None:
            for turn in range(3):
                data = pattern(100_000 * (turn + 1) + number)
                image = store.add(new_id(), iter([data[:77], data[77:]]), size=len(data))
                assert store.size(image.location) == len(data)
                assert not difference(content(store, image.location), data)
                if Capability.DELETE in self.capabilities:
                    store.delete(image.location)

        in_threads(self.threads, work)

    def test_one_image_is_read_by_many(self, store: Store, place: Place) -> None:
        """Every thread gets the whole image, by way of readers of its own."""
        data = pattern(self.large)
        location = place(data)

        def read(number: int) -> bytes:
            with store.get(location) as reader:
                return b"".join(iter(lambda: reader.read(100_000 + number), b""))

        for got in in_threads(self.threads, read):
            assert not difference(got, data)

    @needs(Capability.RANGES)
    def test_ranges_are_read_by_many(self, store: Store, place: Place) -> None:
        """Threads that read different parts put the image together."""
        data = pattern(self.large)
        location = place(data)
        length = len(data) // self.threads + 1

        def read(number: int) -> bytes:
            with store.get(location, offset=number * length, length=length) as reader:
                return reader.read()

        assert not difference(b"".join(in_threads(self.threads, read)), data)

    @needs(Capability.DELETE)
    def test_one_of_many_deletes_wins(self, store: Store, place: Place) -> None:
        """Simultaneous deletes: the image is gone, and those that came late are told so."""
        location = place(pattern(1000))

        def delete(_: int) -> bool:
            try:
                store.delete(location)
            except errors.NotFound:
                return False
            return True

        assert any(in_threads(self.threads, delete))

    @needs(Capability.DELETE)
    def test_readers_see_a_delete_or_the_image(self, store: Store, place: Place) -> None:
        """Threads that read while the image is deleted get every byte or an error."""
        data = pattern(self.large)
        location = place(data)

        def work(number: int) -> bytes | None:
            if number == 0:
                with suppress(errors.InUse):
                    store.delete(location)
                return None
            try:
                with store.get(location) as reader:
                    return reader.read()
            except errors.StoreError:
                return None

        for got in in_threads(self.threads, work):
            assert got is None or not difference(got, data)

    def test_a_store_closes_under_its_readers(self, store: Store, place: Place) -> None:
        """Closing a store while threads read ends each read with all its bytes or ValueError."""
        data = pattern(self.large)
        location = place(data)
        readers = [store.get(location) for _ in range(self.threads)]

        def read(number: int) -> bytes | None:
            if number == self.threads:
                store.close()
                return None
            return _whole_or_none(readers[number])

        for got in in_threads(self.threads + 1, read):
            assert got is None or not difference(got, data)
        assert all(reader.closed for reader in readers)


def _whole_or_none(reader: ImageReader) -> bytes | None:
    try:
        return reader.read()
    except ValueError:
        return None
