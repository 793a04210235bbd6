"""What an add on S3 makes of a request that failed, by what it then sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from imgstore import errors
from imgstore.drivers.s3 import S3Store
from imgstore.drivers.s3.claims import Claim

TOKEN = "x-amz-meta-imgstore-add"  # the header that says whose an object is
CONFLICT = b"<Error><Code>ConditionalRequestConflict</Code></Error>"

Answer = Callable[[Any], AWSResponse]


def answer(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> AWSResponse:
    raw = SimpleNamespace(stream=lambda *_, **__: iter([body]), read=lambda *_: body)
    return AWSResponse("http://127.0.0.1", status, headers or {}, raw)


def seen(token: str) -> AWSResponse:
    return answer(200, {TOKEN: token, "ETag": '"1"', "Content-Length": "4"})


@pytest.fixture
def store() -> Iterator[S3Store]:
    """A store of AWS, which honours conditions."""
    options = {"access_key": "access-key-of-tests", "secret_key": "secret-key-of-tests"}
    host, bucket = "s3.eu-west-1.amazonaws.com", "images"
    with S3Store("s3", host=host, bucket=bucket, max_attempts=1, **options) as made:
        yield made


def serve(store: S3Store, **answers: Answer) -> list[str]:
    """Answer requests by their methods, and return those that were sent."""
    sent = list[str]()

    def serve(request: Any, **_: Any) -> AWSResponse:
        sent.append(request.method)
        return answers[request.method](request)

    store._client.get().s3.meta.events.register_last("before-send.s3", serve)
    return sent


@pytest.mark.parametrize(
    ("put", "look", "error", "is_in_doubt"),
    [
        (answer(412), "ours", None, False),
        (answer(412), "another's", errors.AlreadyExists, False),
        (answer(412), "nothing is told", errors.AlreadyExists, False),
        (answer(409, body=CONFLICT), "nothing is told", errors.Unavailable, False),
        (answer(500), "ours", None, False),
        (answer(500), "another's", errors.AlreadyExists, True),
        (answer(500), "nothing is told", errors.Unavailable, True),
        (answer(403), "no look", errors.PermissionDenied, False),
    ],
)
def test_outcomes(
    store: S3Store,
    put: AWSResponse,
    look: str,
    error: type[errors.StoreError] | None,
    is_in_doubt: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    """One's own object is success; where the server may be at it still, the error says so."""
    tokens = list[str]()

    def putting(request: Any) -> AWSResponse:
        tokens.append(request.headers[TOKEN])
        return put

    def looking(_: Any) -> AWSResponse:
        if look == "nothing is told":
            return answer(403)
        token = tokens[0].decode() if isinstance(tokens[0], bytes) else tokens[0]
        return seen(token if look == "ours" else "another")

    sent = serve(store, PUT=putting, HEAD=looking)
    if error is None:
        assert store.add("image", b"data").size == 4
    else:
        with pytest.raises(error) as caught:
            store.add("image", b"data")
        assert type(caught.value) is error
        assert caught.value.indeterminate is is_in_doubt
    assert ("HEAD" in sent) is (look != "no look")
    assert "DELETE" not in sent


def test_a_claim_that_is_refused_all_the_time(store: S3Store) -> None:
    """Nobody is seen to have it, and nobody gets it: that ends after two leases."""
    sent = serve(
        store,
        PUT=lambda _: answer(409, body=CONFLICT),
        HEAD=lambda _: answer(404),
    )
    with pytest.raises(errors.Unavailable, match="process died"):
        Claim(store._client.get(), "image", lease=0.2).take(lambda: None)
    assert sent.count("PUT") > 1


def test_a_bucket_that_was_just_made() -> None:
    """A server may go on saying for a moment that there is none."""
    missing = b"<Error><Code>NoSuchBucket</Code></Error>"
    tokens, puts = list[str](), list[str]()

    def putting(request: Any) -> AWSResponse:
        puts.append("image" if "/image" in request.url else "bucket")
        if puts[-1] == "bucket":
            return answer(200)
        tokens[:] = [request.headers[TOKEN]]
        return answer(404, body=missing) if puts.count("image") < 4 else answer(200)

    def looking(_: Any) -> AWSResponse:
        token = tokens[0].decode() if isinstance(tokens[0], bytes) else tokens[0]
        return seen(token)

    options = {"access_key": "access-key-of-tests", "secret_key": "secret-key-of-tests"}
    where = {"host": "s3.eu-west-1.amazonaws.com", "bucket": "pictures"}
    with S3Store("s3", **where, create_bucket_on_put=True, max_attempts=1, **options) as store:
        serve(store, PUT=putting, HEAD=looking)
        assert store.add("image", b"data").size == 4
    assert puts == ["image", "bucket", "image", "image", "image"]
