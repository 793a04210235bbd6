"""Secrets are shown by nothing but ``reveal``."""

from __future__ import annotations

import copy
import logging
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.secret import Secret


@given(st.text(st.characters(exclude_characters="Secrt(*)[]"), min_size=1))
def test_no_text_form_shows_it(text):
    """``str``, ``repr``, formatting and containers show a mask."""
    secret = Secret(text)
    for shown in (str(secret), repr(secret), f"{secret}", f"{secret!r}", f"{[secret]}"):
        assert text not in shown
        assert "***" in shown
    assert secret.reveal() == text


def test_logs_do_not_show_it(caplog):
    """A secret that is logged, or lies in what is logged, is masked."""
    with caplog.at_level(logging.INFO):
        logging.getLogger("test").info(
            "%s %r %s", Secret("hunter2"), Secret("hunter2"), {"password": Secret("hunter2")}
        )
    assert "***" in caplog.text
    assert "hunter2" not in caplog.text


@given(st.text(st.characters()), st.text(st.characters()))
def test_secrets_equal_when_their_texts_do(one, two):
    """Secrets compare with each other, whatever their text, and with nothing else."""
    assert (Secret(one) == Secret(two)) == (one == two)
    assert Secret(one) == Secret(Secret(one))
    assert Secret(one) != one
    assert bool(Secret(one)) == bool(one)


def test_secrets_do_not_travel():
    """A secret is neither pickled nor a key, and has no attributes to look into."""
    secret = Secret("hunter2")
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            duplicate(secret)
    with pytest.raises(TypeError):
        hash(secret)
    assert not hasattr(secret, "__dict__")
