"""Under W^X, as a hardened service has it: a convolutional model trains once the node has seen to it, and fails else."""

from __future__ import annotations

import subprocess
import sys

import pytest

FORBID = """
import ctypes, sys
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
    sys.exit(77)
from fedward.client.made_code import compute_without_made_code, may_make_code
if may_make_code():
    sys.exit("the kernel lets it")
{prepare}
import torch
layer = torch.nn.Conv2d(3, 16, 3)
layer(torch.ones(4, 3, 16, 16)).sum().backward()
"""


def under_wx(prepare: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", FORBID.format(prepare=prepare)], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    return done


def test_convolutions_train_where_no_code_can_be_made() -> None:
    done = under_wx("compute_without_made_code()")
    assert done.returncode == 0, done.stderr


def test_without_it_they_fail() -> None:
    assert "could not create a primitive" in under_wx("").stderr


def test_here_code_may_be_made() -> None:
    from fedward.client.made_code import may_make_code

    assert may_make_code()
