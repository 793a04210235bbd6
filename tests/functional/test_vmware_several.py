"""One id in several datastores: adds that are killed or stopped in the moment of their commit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers.process import until
from servers.vmware_stores import files, login
from servers.vsphere import VSphere

from imgstore import Location, errors
from imgstore.drivers.vmware import VmwareStore
from imgstore.testing.harness import content

pytestmark = pytest.mark.servers("vsphere")

FIRST, SECOND = "DC0:images", "F0/DC1:images"
ADD = """
import sys
from imgstore import errors
from imgstore.drivers.vmware import VmwareStore

host, user, password, ca, *datastores = sys.argv[1:]
with VmwareStore("vmware", server_host=host, server_username=user, server_password=password,
                 ca_file=ca, datastores=datastores) as store:
    try:
        store.add("image", b"theirs")
    except errors.StoreError as exc:
        print(type(exc).__name__, exc.retryable, exc.indeterminate)
    else:
        print("added")
"""

Make = Callable[..., VmwareStore]
Begin = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def make(vsphere: VSphere) -> Iterator[Make]:
    """Make stores in the same two datastores, of which the first one named is preferred."""
    with contextlib.ExitStack() as stack:

        def make(*datastores: str, read_timeout: float = 1.5) -> VmwareStore:
            weighted = [f"{name}:{-index}" for index, name in enumerate(datastores)]
            known = {**login(vsphere), "read_timeout": read_timeout, "task_poll_interval": 1}
            return stack.enter_context(VmwareStore("vmware", datastores=weighted, **known))

        yield make


@pytest.fixture
def ready(vsphere: VSphere) -> Iterator[Begin]:
    """Begin an add in a process of its own; it stands still when it looks at the others."""
    with contextlib.ExitStack() as stack:

        def begin(*datastores: str) -> subprocess.Popen[str]:
            weighted = [f"{name}:{-index}" for index, name in enumerate(datastores)]
            # At the other datastore, at the draft, and at the other datastore once more.
            vsphere.stall("HEAD", nth=3)
            process = subprocess.Popen(
                [sys.executable, "-c", ADD, *login(vsphere).values(), *weighted],
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            until(lambda: vsphere.still() == 1, seconds=20, what="it looks")
            return process

        yield begin


def locations(store: VmwareStore) -> list[Location]:
    """Return where an image of the tests' id may be."""
    return [
        Location.parse(f"{store.url_prefix}/image?dsName=images&dcPath={center}")
        for center in ("DC0", "F0%2FDC1")
    ]


def readable(store: VmwareStore) -> list[bytes]:
    """Return all images of the tests' id."""
    found = []
    for location in locations(store):
        with contextlib.suppress(errors.NotFound):
            found.append(content(store, location))
    return found


BOTH = pytest.mark.parametrize("order", [(FIRST, SECOND), (SECOND, FIRST)], ids=["first", "second"])


class TestClaims:
    """An add that has renamed its data and not yet looked whether it is alone."""

    def test_it_is_killed(self, vsphere: VSphere, make: Make, ready: Begin) -> None:
        """What it leaves is no image, can be cleaned up, and takes the id from nobody."""
        process = ready(FIRST, SECOND)
        process.kill()
        process.wait()
        vsphere.release()
        store = make(SECOND, FIRST)
        assert readable(store) == []
        (left,) = store.leftovers(older_than=0)
        assert left.size == len(b"theirs")
        image = store.add("image", b"ours")
        assert readable(store) == [b"ours"]
        store.remove_leftovers(older_than=0)
        assert len(files(vsphere)) == 1
        store.delete(image.location)

    @BOTH
    def test_it_stands_still(
        self, vsphere: VSphere, make: Make, ready: Begin, order: tuple[str, str]
    ) -> None:
        """Another add takes it for dead; when it goes on, it has nothing to complete."""
        process = ready(*order)
        os.kill(process.pid, signal.SIGSTOP)
        vsphere.release()
        store = make(*order[::-1])
        store.add("image", b"ours")
        os.kill(process.pid, signal.SIGCONT)
        said, _ = process.communicate(timeout=60)
        assert said in ("Unavailable True False\n", "AlreadyExists False False\n")
        assert readable(store) == [b"ours"]
        assert len(files(vsphere)) == 1

    def test_it_goes_on(self, vsphere: VSphere, make: Make, ready: Begin) -> None:
        """Before others take it for dead: they wait for it."""
        process = ready(SECOND, FIRST)
        store = make(FIRST, SECOND, read_timeout=30.0)
        vsphere.release()
        with pytest.raises(errors.AlreadyExists):
            store.add("image", b"ours")
        assert process.communicate(timeout=60)[0] == "added\n"
        assert readable(store) == [b"theirs"]
        assert len(files(vsphere)) == 1


def test_somebody_elses_image_is_not_taken_for_ones_own(vsphere: VSphere, make: Make) -> None:
    """The data of an add are cleaned up, and another add of as many bytes has the name."""
    store, other = make(FIRST), make(FIRST)
    vsphere.stall("MoveDatastoreFile_Task", times=1)

    def intrude() -> None:
        until(lambda: vsphere.still() == 1, seconds=20, what="it is to be renamed")
        other.remove_leftovers(older_than=0)
        other.add("image", b"theirs")
        vsphere.release()

    with ThreadPoolExecutor(1) as threads:
        intruding = threads.submit(intrude)
        with pytest.raises(errors.StoreError) as caught:
            store.add("image", b"ours!!")
        intruding.result()
    assert not isinstance(caught.value, errors.NotFound)
    assert readable(store) == [b"theirs"]
