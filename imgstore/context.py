"""Who asks: the caller's identity, for backends that act on a user's behalf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from imgstore.errors import InvalidArgument
from imgstore.secret import Secret


class ContextLike(Protocol):
    """What imgstore reads of a service's own context object; oslo.context's has this shape."""

    @property
    def auth_token(self) -> str | Secret | None:
        """Return the caller's token."""

    @property
    def project_id(self) -> str | None:
        """Return the project that the token is scoped to."""

    @property
    def user_id(self) -> str | None:
        """Return the user that the token belongs to."""

    @property
    def roles(self) -> Sequence[str] | None:
        """Return the names of the user's roles in the project."""


@dataclass(frozen=True)
class RequestContext:
    """The identity behind one request; only backends that act for users look at it.

    ``service_catalog`` is the catalog that came with the token, in Keystone's v3 form.
    """

    token: str | Secret | None = None
    project_id: str | None = None
    user_id: str | None = None
    roles: Sequence[str] = ()
    service_catalog: Sequence[Mapping[str, Any]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Wrap the token so that no repr shows it."""
        if isinstance(self.token, str):
            object.__setattr__(self, "token", Secret(self.token))

    @property
    def auth_token(self) -> Secret | None:
        """Return the token under the name that OpenStack's contexts use."""
        return Secret(self.token) if self.token is not None else None

    @classmethod
    def of(cls, context: RequestContext | ContextLike | None) -> RequestContext | None:
        """Return ``context`` as a RequestContext; every verb does this with what it is given.

        Raises InvalidArgument if the object has not the shape of ContextLike.
        """
        if context is None or isinstance(context, cls):
            return context
        try:
            return cls(
                token=context.auth_token,
                project_id=context.project_id,
                user_id=context.user_id,
                roles=tuple(context.roles or ()),
                service_catalog=getattr(context, "service_catalog", None),
            )
        except AttributeError as exc:
            raise InvalidArgument(
                f"context of type {type(context).__name__} has no attribute {exc.name!r}",
                remedy="pass an imgstore.RequestContext or an object shaped like oslo.context's",
            ) from exc
