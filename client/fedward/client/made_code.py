"""Machine code that a library makes as it goes: where the system forbids it (W^X), torch must compute without.

oneDNN makes code for convolutions. A hardened service (systemd's MemoryDenyWriteExecute) may not have memory that is writable
and executable; a convolution would then end in "could not create a primitive". torch has its own convolutions.
"""

from __future__ import annotations

import mmap


def may_make_code() -> bool:
    """Whether this process may have memory that is writable and executable."""
    try:
        mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except OSError:
        return False
    return True


def compute_without_made_code() -> None:
    """Let torch compute without oneDNN from now on, in the whole process."""
    import torch  # noqa: PLC0415 - takes seconds, and is needed here only where code cannot be made

    torch.backends.mkldnn.set_flags(_enabled=False)  # type: ignore[no-untyped-call]
