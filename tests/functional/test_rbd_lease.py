"""One OSD that was frozen for longer than its lease: it may answer nothing until it peers anew."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from servers.ceph import Ceph
from servers.ceph import ceph as run_ceph
from servers.pools import RbdPool, admin, make_pool
from servers.process import Process
from servers.scratch import Scratch

from imgstore import Store, errors
from imgstore.testing.harness import content, new_id

pytestmark = [pytest.mark.servers("ceph"), pytest.mark.heavy]

SHORT, DEFAULT = 2, 20  # osd_heartbeat_grace


def ask(pool: RbdPool) -> Callable[[], None]:
    """Send requests to all placement groups; the result waits for their answers."""
    sent = []
    for number in range(400):
        sent.append(pool.context.aio_stat(f"object-{number}", lambda *_: None))
        if number < 20:
            sent.append(pool.context.aio_write_full(f"object-{number}", b"x"))

    def wait() -> None:
        for each in sent:
            each.wait_for_complete()

    return wait


@pytest.mark.parametrize(("grace", "rounds"), [(SHORT, 6), (DEFAULT, 3)])
def test_thawed_it_answers(scratch: Scratch, grace: int, rounds: int) -> None:
    with run_ceph(scratch, store="bluestore", grace=grace) as cluster, admin(cluster) as client:
        pool = make_pool(cluster, client, "images")
        with pool.store() as store:
            image = store.add(new_id(), b"data")
            for _ in range(rounds):
                cluster.osd.freeze()
                wait = ask(pool)
                time.sleep(grace)
                cluster.osd.thaw()
                wait()
                assert content(store, image.location) == b"data"


def test_what_waits_for_the_lease_times_out_and_goes_on_once_it_is_healed(scratch: Scratch) -> None:
    """Whether requests meet the old lease is a race: they do in some of the rounds."""
    with run_ceph(scratch, store="bluestore", grace=SHORT) as cluster, admin(cluster) as client:
        pool = make_pool(cluster, client, "images")
        with pool.store(rados_connect_timeout=4) as store:
            image = store.add(new_id(), b"data")
            for _ in range(30):
                wait = ask_frozen(cluster, pool)
                is_stuck = cluster.waits_for_lease()
                if is_stuck:
                    with pytest.raises(errors.Unavailable) as caught:
                        add_many(store)
                    # The request that waits may be the one that commits.
                    assert isinstance(caught.value, errors.TimedOut) or caught.value.indeterminate
                cluster.heal()
                wait()
                assert content(store, image.location) == b"data"
                if is_stuck:
                    return
        pytest.fail("no request ever met the old lease")


def add_many(store: Store) -> None:
    """Store images in all placement groups."""
    for _ in range(100):
        store.add(new_id(), b"more")


def ask_frozen(cluster: Ceph, pool: RbdPool) -> Callable[[], None]:
    """Send requests to an OSD that is frozen and thawed, both past the harness."""
    Process.freeze(cluster.osd)
    wait = ask(pool)
    time.sleep(1.5 * SHORT)
    Process.thaw(cluster.osd)
    time.sleep(1)
    return wait
