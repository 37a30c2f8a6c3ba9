"""A name on a share, kept from all others while a file is renamed to it.

Servers look whether a name is free, and rename after that: of two connections that
do so at once, Samba lets both, and the second file takes the first one's place.
So whoever renames first opens a file that stands for the name and that nobody
else can open meanwhile; opening is atomic. The server removes it when it is
closed, or its connection breaks.
"""

from __future__ import annotations

import time

from app.native_threads import native_sleep
from app.storage import keys, smb_files
from app.storage.smb_channel import Channel
from app.storage.smb_errors import Refused, Status
from app.storage.smb_files import Names, ShareFile
from app.storage.smb_names import share_path

#: A rename takes milliseconds; a client that froze amid one holds its claim for longer.
_WAIT_SECONDS = 10
_FIRST_PAUSE_SECONDS = 0.002
_LONGEST_PAUSE_SECONDS = 0.1

#: Somebody has the claim, or its file is just going.
_CLAIMED = frozenset({Status.SHARING_VIOLATION, Status.DELETE_PENDING})


def rename_alone(channel: Channel, file: ShareFile, names: Names, staging: Names) -> None:
    """Give an open file the name ``names``, nobody else doing so; all are paths on the share.

    ``staging``: the root's own folder, where claims are. Raises Refused
    (OBJECT_NAME_COLLISION if the name is taken, SHARING_VIOLATION if somebody has
    claimed it for ten seconds) and ConnectionLost.
    """
    with _claimed(channel, (*staging, keys.claim_name(share_path(names)))):
        file.rename(names)


def _claimed(channel: Channel, claim: Names) -> ShareFile:
    give_up_at = time.monotonic() + _WAIT_SECONDS
    pause_seconds = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return smb_files.open_exclusively(channel, claim)
        except Refused as error:
            if error.status not in _CLAIMED or time.monotonic() > give_up_at:
                raise
        native_sleep(pause_seconds)
        pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
