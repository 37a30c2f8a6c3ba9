"""Ids of uploads: random UUIDs, the beginnings of which are alike in a family.

A load balancer that sends an upload to one node by the beginning of its id sends a
family to one node, too: uploads that will be joined have to lie beside each other.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid

#: So many hexadecimal digits are a family's. The other 90 random bits keep ids unique,
#: and nobody can guess them.
FAMILY_DIGITS = 8


def new_upload_id(family: str | None = None) -> str:
    """Return a new id (36 characters), of ``family`` if there is one."""
    upload_id = str(uuid.uuid4())
    return upload_id if family is None else family + upload_id[FAMILY_DIGITS:]


def family_of(upload_id: str) -> str:
    """Return the beginning that an id has in common with others of its family."""
    return upload_id[:FAMILY_DIGITS]


def family_named(secret: str, *names: str) -> str:
    """Return the family for some names, which it does not tell: it goes to clients."""
    message = "\0".join(names).encode()
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()[:FAMILY_DIGITS]
