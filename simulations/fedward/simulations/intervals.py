"""The interval of a mean over seeds: one formula for the simulator and the monitor."""

from __future__ import annotations

from fedward.study.bootstrap import interval

__all__ = ["interval"]
