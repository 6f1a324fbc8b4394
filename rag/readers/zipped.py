"""What a file that is a zip inside (DOCX, PPTX, EPUB) may unpack to, looked at before anything is unpacked."""

from __future__ import annotations

import io
import zipfile

from rag.limits import Limits
from rag.readers.unreadable import Unreadable, megabytes

# Under this size a high ratio is no bomb, but an empty picture.
SMALL = 10_000_000


def opened(data: bytes, limits: Limits, kind: str) -> zipfile.ZipFile:
    """The zip file, within the limits. No member gives more bytes than its header says: zipfile sees to that.

    Raises:
        Unreadable: it is no zip, is damaged, encrypted, or over the limits.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        said = str(error).removeprefix("File is ").rstrip(".") or type(error).__name__
        raise Unreadable(f"damaged, or no {kind}: {said}") from None
    members = archive.infolist()
    if len(members) > limits.members:
        raise Unreadable(f"{len(members):,} members, more than the {limits.members:,} that are allowed")
    total = sum(member.file_size for member in members)
    if total > limits.unpacked:
        raise Unreadable(f"unpacks to {megabytes(total)}, more than the {megabytes(limits.unpacked)} that are allowed")
    return archive


def check_document(data: bytes, limits: Limits, kind: str) -> zipfile.ZipFile:
    """As `opened`, and no member may be a bomb or encrypted: the library that reads the document unpacks them all."""
    archive = opened(data, limits, kind)
    for member in archive.infolist():
        if member.flag_bits & 1:
            raise Unreadable("protected by a password")
        check_ratio(member.file_size, member.compress_size, limits)
        if member.file_size > limits.bytes:
            raise Unreadable(f"a part of it unpacks to {megabytes(member.file_size)}, more than is allowed")
    return archive


def check_ratio(unpacked: int, packed: int, limits: Limits) -> None:
    if unpacked > SMALL and unpacked > limits.ratio * max(packed, 1):
        raise Unreadable(
            f"unpacks to {unpacked // max(packed, 1):,} times its size, more than the {limits.ratio} times allowed"
        )
