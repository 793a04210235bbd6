"""The exception tree and its messages."""

from __future__ import annotations

import inspect
import pickle

import pytest

from imgstore import errors
from imgstore.location import Location

CLASSES = [
    cls
    for cls in vars(errors).values()
    if inspect.isclass(cls) and issubclass(cls, errors.ImgStoreError)
]


def test_all_names_every_class():
    """``__all__`` is sorted and lists every exception."""
    assert errors.__all__ == sorted(cls.__name__ for cls in CLASSES)


def test_the_tree_is_the_one_that_is_drawn():
    """The drawing at the top of the module shows each class below its parent."""
    parents: list[type] = []
    drawn = []
    for line in (errors.__doc__ or "").splitlines():
        stripped = line.lstrip(" │├└─")
        name = stripped.split(" ")[0]
        if line.startswith("    ") and name in errors.__all__:
            depth = (len(line) - len(stripped) - 4) // 4
            cls = getattr(errors, name)
            if depth:
                assert cls.__bases__[0] is parents[depth - 1]
            parents[depth:] = [cls]
            drawn.append(name)
    assert sorted(drawn) == errors.__all__


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_needs_no_arguments(cls):
    """An error without a reason is named after its class, and says what is usually done."""
    text, _, remedy = str(cls()).partition("; ")
    assert text == cls.__name__
    assert remedy == cls.usual_remedy


@pytest.mark.parametrize("cls", CLASSES)
def test_messages_name_store_operation_and_remedy(cls):
    """A message says where, doing what, what went wrong and what to do."""
    error = cls("it broke", remedy="mend it")
    error.add_context(
        store="fast",
        operation="get",
        image_id="8c9f",
        location=Location.parse("s3://key:secret@host/bucket/8c9f"),
    )
    expected = "store 'fast': get 8c9f s3://***@host/bucket/8c9f: it broke; mend it"
    assert str(error) == expected
    assert "secret" not in repr(error)


def test_the_first_context_stays():
    """Context is filled in once: whoever was there first knows best."""
    error = errors.NotFound("gone")
    error.add_context(store="inner", operation="get")
    error.add_context(store="outer", operation="copy", image_id="8c9f")
    assert (error.store, error.operation, error.image_id) == ("inner", "get", "8c9f")


@pytest.mark.parametrize("cls", CLASSES)
def test_errors_travel_without_credentials(cls):
    """A pickled error keeps class, message and context, and drops credentials."""
    error = cls("it broke", remedy="mend it")
    error.add_context(store="fast", location=Location.parse("s3://key:secret@host/bucket/8c9f"))
    pickled = pickle.dumps(error)
    again = pickle.loads(pickled)
    assert b"secret" not in pickled
    assert type(again) is cls
    assert again.location == error.location
    assert str(again) == str(error).replace("***@", "")


def test_retryable_follows_the_class_unless_told():
    """What is unavailable may be tried again; an error may say otherwise about itself."""
    for cls in CLASSES:
        if issubclass(cls, errors.StoreError):
            assert cls().retryable is issubclass(cls, errors.Unavailable)
            assert cls().indeterminate is False
            assert cls(retryable=True, indeterminate=True).retryable is True
            assert cls(retryable=False, indeterminate=True).indeterminate is True


def test_the_callers_mistakes_are_value_errors():
    """Bad arguments are caught as ValueError, an unknown store as KeyError as well."""
    assert issubclass(errors.InvalidArgument, ValueError)
    assert issubclass(errors.UnknownStore, KeyError)
    assert str(errors.UnknownStore("no store 'x'")) == "no store 'x'"
