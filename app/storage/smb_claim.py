"""Renaming on a share, one at a time: servers do it in two steps.

They look whether the new name is free, and rename after that: of two connections that
do so at once, Samba lets both, and the second file takes the first one's place.
So whoever renames first opens one of a few files of the root that nobody else can
open meanwhile; opening is atomic, and ends with the connection. The files stay:
one that went with its holder could be gone while the next one has it open.

Final names hold the upload's id, so names do not meet but by mistake. Therefore a
claim that cannot be had, because its holder is frozen or the share is full, holds
nobody up: the rename goes on, and the server's own look has to do.
"""

from __future__ import annotations

import time

from app.domain.names import STAGING_DIRECTORY
from app.native_threads import native_sleep
from app.storage import keys, smb_files
from app.storage.smb_channel import Channel
from app.storage.smb_errors import Refused, Status
from app.storage.smb_files import Names, ShareFile

#: A rename takes milliseconds.
_WAIT_SECONDS = 5
_FIRST_PAUSE_SECONDS = 0.002
_LONGEST_PAUSE_SECONDS = 0.1


def rename_alone(channel: Channel, file: ShareFile, root: Names, names: Names) -> None:
    """Give an open file the name ``names`` below ``root``, nobody else doing so.

    Raises Refused (OBJECT_NAME_COLLISION if the name is taken) and ConnectionLost.
    """
    claim = _claimed(channel, (*root, STAGING_DIRECTORY, keys.claim_name(names)))
    try:
        file.rename((*root, *names))
    finally:
        if claim is not None:
            claim.close()


def _claimed(channel: Channel, claim: Names) -> ShareFile | None:
    give_up_at = time.monotonic() + _WAIT_SECONDS
    pause_seconds = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return smb_files.open_exclusively(channel, claim)
        except Refused as error:
            if error.status != Status.SHARING_VIOLATION or time.monotonic() > give_up_at:
                return None
        native_sleep(pause_seconds)
        pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
