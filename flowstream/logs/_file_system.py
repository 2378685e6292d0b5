"""On what kind of file system a file lies, and whether a log may be kept there.

SQLite's WAL needs memory that all its processes share, and locks that hold. A network file system
has neither between two machines, and pretends to. So it is refused. One that goes with its
container, or with the machine's power, works, and the log says what will be lost.

The kinds are the kernel's magic numbers (statfs(2), linux/magic.h). Where there is no such call,
nothing is known and nothing is refused.
"""

from __future__ import annotations

import ctypes
import os
import sys

_REFUSED = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFE534D42: "SMB",
    0xFF534D42: "CIFS",
    0x5346414F: "AFS",
    0x73757245: "Coda",
    0x00C36400: "Ceph",
    0x01021997: "9P",
    0x786F4256: "VirtualBox's shared folder",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
    0x7461636F: "OCFS2",
    0x01161970: "GFS2",
    0x19830326: "BeeGFS",
}
_WARNED = {
    0x794C7630: "overlayfs, and dies with the container",
    0x01021994: "tmpfs, and dies with the container or the machine",
    0x858458F6: "ramfs, and dies with the container or the machine",
    0x65735546: "FUSE, which may be a network file system: there, processes must be on one machine",
}

_STATFS_BYTES = 256  # struct statfs has 120 at the most


def magic_number(path: str) -> int | None:
    """Return the kind of file system that `path` is on; None if that is not known.

    Raises:
        OSError: there is no such path, or it can't be reached.
    """
    if sys.platform != "linux":
        return None
    try:
        statfs = ctypes.CDLL(None, use_errno=True).statfs
    except (OSError, AttributeError):
        return None
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if statfs(os.fsencode(path), buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    # f_type is the first field, a long; some kinds have the highest of 32 bits set.
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF


def why_refused(magic: int | None) -> str | None:
    """Return the name of a file system that a log must not be on; None for all others."""
    return _REFUSED.get(magic) if magic is not None else None


def warning(magic: int | None) -> str | None:
    """Return what to know of a file system that a log may be on; None for an ordinary one."""
    return _WARNED.get(magic) if magic is not None else None
