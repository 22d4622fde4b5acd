# SPDX-License-Identifier: Apache-2.0
"""Files from the network: only what somebody has vouched for, by a checksum or expressly.

``MODEL.WEIGHTS``, ``_BASE_`` and whatever else detectron2 opens may be

- ``https://host/file.pth#sha256=0123...``: the file must have this SHA-256;
- ``https://host/file.pth#unverified``: whatever the host sends is taken;
- ``detectron2://...``: detectron2's own model zoo, with or without a checksum.

The log says the SHA-256 of what was taken without one. Importing this module teaches it to
detectron2's PathManager.
"""

import hashlib
import logging
import os
import re
from typing import Any

from detectron2.utils.file_io import Detectron2Handler, PathManager
from iopath.common.file_io import HTTPURLHandler, OneDrivePathHandler

from longtail.utils.errors import first_line

UNVERIFIED = "unverified"
CHECKSUM = re.compile(r"sha256=([0-9a-fA-F]{64})")


def file_sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    # hashlib.file_digest is newer than the oldest Python that the project runs on.
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


class _VerifiedURLHandler(HTTPURLHandler):
    """iopath's downloads and their cache, with the check of what has come."""

    def _get_supported_prefixes(self) -> list[str]:
        return [*super()._get_supported_prefixes(), OneDrivePathHandler.ONE_DRIVE_PREFIX]

    def _get_local_path(self, path: str, *args: Any, **kwargs: Any) -> str:
        url, _, mark = path.partition("#")
        checksum = CHECKSUM.fullmatch(mark)
        zoo = not mark and url.startswith(Detectron2Handler.S3_DETECTRON2_PREFIX)
        if not (checksum or zoo or mark == UNVERIFIED):
            raise ValueError(
                f"{path}: a file from the network needs its checksum, {url}#sha256=<64 digits>; "
                f"{url}#{UNVERIFIED} takes whatever comes"
            )
        try:
            local = super()._get_local_path(url, *args, **kwargs)
        # urllib's errors are OSErrors, those of a connection that breaks off are not.
        except Exception as error:
            raise OSError(
                f"{url} cannot be fetched ({first_line(error)}): check address and network, or "
                "fetch it elsewhere and give the file's path"
            ) from error
        found = file_sha256(local)
        if checksum and found != checksum[1].lower():
            # Or it would be taken from the cache the next time.
            os.remove(local)
            raise ValueError(
                f"{url} is not the file that is expected: its SHA-256 is {found}, not "
                f"{checksum[1].lower()}; it was removed"
            )
        if not checksum:
            logging.getLogger(__name__).warning(
                "%s was taken unverified; to expect the same in future: %s#sha256=%s",
                *(url, url, found),
            )
        return local


PathManager.register_handler(_VerifiedURLHandler(), allow_override=True)
