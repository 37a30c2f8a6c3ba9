"""Ids of uploads: random UUIDs. A load balancer may say how one begins.

Where nodes have disks of their own, all requests for an upload have to come to one
node, and what will be joined has to lie on one. So a load balancer sends them by the
beginnings of ids, and says with a request that creates an upload which one leads to the
node that it has chosen.
"""

from __future__ import annotations

import re
import uuid

#: What ids of one family have in common. The other 90 random bits keep them unique, and
#: nobody can guess them.
FAMILY_DIGITS = 8

_FAMILY = re.compile(rf"[0-9a-f]{{{FAMILY_DIGITS}}}")


def parse_family(text: str | None) -> str | None:
    """Return a family as it was told, None if it was not, or is none."""
    return text if text is not None and _FAMILY.fullmatch(text) else None


def new_upload_id(family: str | None = None) -> str:
    """Return a new id (36 characters), of ``family`` if there is one."""
    upload_id = str(uuid.uuid4())
    return upload_id if family is None else family + upload_id[FAMILY_DIGITS:]


def family_of(upload_id: str) -> str:
    """Return the beginning that an id has in common with others of its family."""
    return upload_id[:FAMILY_DIGITS]
