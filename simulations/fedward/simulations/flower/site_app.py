"""The ClientApp. Ray pickles it, as Flower has it, with every message; so it holds no more than a reference to the study."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import ray
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedward.simulations.flower.parcels import unpack

if TYPE_CHECKING:
    from fedward.study.manifest import SealedManifest

RECORD, PARCEL, WORKER = "fedward", "parcel", "worker"

_open: dict[int, tuple[SealedManifest, list[Any]]] = {}
"""In a worker: the study that it works on."""


class SiteApp:
    """Answers a message with a site's update.

    `study` and `shelf` are set by the driver before a study's first message: its number, and where in Ray's object store lie
    the sealed manifest and references to each site's patients.
    """

    def __init__(self) -> None:
        self.study = 0
        self.shelf: Any = None

    def __call__(self, message: Message, context: Context) -> Message:  # noqa: ARG002 - Flower's signature
        """One message's reply."""
        from fedward.simulations.flower import site  # noqa: PLC0415 - torch: in workers alone

        header, arrays = unpack(message.content[RECORD][PARCEL])
        if header["study"] != self.study:
            raise RuntimeError(f"asked about study {header['study']}, but this is {self.study}")
        if self.study not in _open:
            text, tables = ray.get(self.shelf)
            _open.clear()
            _open[self.study] = site.read_study(text), tables
        sealed, tables = _open[self.study]
        reply = site.answer(sealed, header, arrays, ray.get(tables[header["place"]]))
        worker = f"{socket.gethostname()}:{os.getpid()}"
        return Message(RecordDict({RECORD: ConfigRecord({PARCEL: reply, WORKER: worker})}), reply_to=message)


def client_app(site: SiteApp) -> ClientApp:
    """The ClientApp whose training is `site`."""
    app = ClientApp()
    app.train()(site)
    return app
