"""A process that uploads one file with tuspy: it leaves files open and warns of it.

``python tuspy_process.py JSON``; the JSON has ``url``, ``headers``, ``path``,
``asynchronous``, ``stop_at`` (bytes, null: the whole file), ``storage`` (a file
that remembers URLs, null for none) and further ``options`` of tuspy's uploader.
It prints ``{"url", "offset"}`` as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from tusclient.client import TusClient
from tusclient.storage.filestorage import FileStorage


def main(told: dict[str, Any]) -> None:
    client = TusClient(told["url"], headers=told["headers"])
    options = dict(told["options"])
    if told["storage"]:
        options |= {"store_url": True, "url_storage": FileStorage(told["storage"])}
    if told["asynchronous"]:
        asynchronous = client.async_uploader(told["path"], **options)
        asyncio.run(asynchronous.upload(told["stop_at"]))
        url, offset = asynchronous.url, asynchronous.offset
    else:
        uploader = client.uploader(told["path"], **options)
        uploader.upload(told["stop_at"])
        url, offset = uploader.url, uploader.offset
    print(json.dumps({"url": url, "offset": offset}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
