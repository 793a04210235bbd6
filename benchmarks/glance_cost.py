"""Times the façade alone: images of 4 KiB, by glance_store's interface and by imgstore's own."""

from __future__ import annotations

import io
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from as_glance import serving

from imgstore.drivers.filesystem import FilesystemStore

DATA = bytes(4096)
ROUNDS, TIMES = 20, 200
NAME = "files"


def seconds(call: Callable[[], object]) -> float:
    """Return what one of many calls takes."""
    began = time.perf_counter()
    for _ in range(TIMES):
        call()
    return (time.perf_counter() - began) / TIMES


def main() -> None:
    """Take turns, and print the medians in microseconds."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        options = {NAME: {"filesystem_store_datadir": directory}}
        with (
            serving({NAME: "file"}, glance_store={"default_backend": NAME}, **options) as glance,
            FilesystemStore("own", datadir=directory) as store,
        ):
            image = store.add(str(uuid.uuid4()), DATA).location.url

            def add_by_facade() -> None:
                source = io.BytesIO(DATA)
                glance.add_with_multihash(None, str(uuid.uuid4()), source, 4096, NAME, "sha512")

            def add() -> None:
                store.add(str(uuid.uuid4()), io.BytesIO(DATA), algorithms=("md5", "sha512"))

            def get_by_facade() -> None:
                b"".join(glance.get(image, NAME)[0])

            def get() -> None:
                with store.get(image) as reader:
                    b"".join(reader)

            print("| 4 KiB, tmpfs | imgstore, µs | façade, µs | its own cost, µs |")
            print("|---|--:|--:|--:|")
            for name, own, facade in (("add", add, add_by_facade), ("get", get, get_by_facade)):
                pairs = [(seconds(own), seconds(facade)) for _ in range(ROUNDS)]
                one, other = (statistics.median(each) * 1e6 for each in zip(*pairs, strict=True))
                print(f"| {name} | {one:.0f} | {other:.0f} | {other - one:.0f} |")


if __name__ == "__main__":
    main()
