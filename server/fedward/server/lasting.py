"""Which committed model a run goes on from: the newest whose file is what it was when it was committed.

Rules
    1. A model is good if its file has the parameters that its name says, and the optimiser's state of then is kept and whole. One
       that cannot be read now (permissions, a failing disk) is neither: the run ends, and another tries again.
    2. If the newest is not good, the study goes back to the newest that is. The audit log says so first, then the journal; the
       rounds since are marked as lost, and damaged files are set aside. What those rounds cost at the hospitals stays charged, and
       their attempts' numbers stay used.
    3. The initial model can be made again from the manifest: nothing is lost with its file.
    4. If none is good, the study fails by name. Nothing is changed then, so that the files can be put back from a backup.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from fedward.privacy.errors import IntegrityError
from fedward.server import models as model_files
from fedward.server.aggregation import OptimiserState
from fedward.server.home import CoordinatorHome
from fedward.server.records import Checkpoint, LostModel, StudyRow
from fedward.server.store import Store
from fedward.study.vectors import Vector, vector_digest


@dataclass(frozen=True)
class Good:
    """A model that a run goes on from: its parameters, shape (d,), and the optimiser's state beside them.

    The checkpoint is without the optimiser's bytes: they are as large as the state, which is what a round needs.
    """

    checkpoint: Checkpoint
    vector: Vector
    state: OptimiserState


class Lasting:
    """The committed models of one study.

    Args:
        initial: makes the initial model's parameters from the manifest.
        report: is told, in words, what happens.
    """

    def __init__(
        self,
        home: CoordinatorHome,
        store: Store,
        study: StudyRow,
        initial: Callable[[], Vector],
        now: Callable[[], int],
        report: Callable[[str], None],
    ) -> None:
        self._home = home
        self._store = store
        self._study = study
        self._initial = initial
        self._now = now
        self._report = report

    def newest(self, last: Checkpoint) -> Good:
        """The model to go on from, `last` if it is good.

        Raises:
            IntegrityError: `no-good-model`.
            UnreachableError: a file cannot be read now.
        """
        try:
            return self._read(last)
        except IntegrityError as error:
            return self._go_back([LostModel(last.version, last.model, error.what)])

    def _read(self, checkpoint: Checkpoint) -> Good:
        """
        Raises:
            IntegrityError: it is not good.
        """
        folder = self._home.models_folder
        try:
            vector = model_files.load_model(folder, checkpoint.model)
        except IntegrityError:
            if checkpoint.version > 0 or not folder.is_dir():
                raise
            vector = self._initial()
            if vector_digest(vector) != checkpoint.model:  # another version of torch draws other numbers
                raise
            model_files.save_model(folder, vector, self._study.digest or "", 0)
            self._report("the initial model's file was not what it was; it is made again, and nothing is lost")
        return Good(replace(checkpoint, optimiser=b""), vector, model_files.unpack_optimiser(checkpoint.optimiser))

    def _go_back(self, lost: list[LostModel]) -> Good:
        for version in self._store.kept_versions(self._study.key):
            checkpoint = self._store.checkpoint(self._study.key, version)
            if checkpoint is None or version >= lost[-1].version:
                continue
            try:
                good = self._read(checkpoint)
            except IntegrityError as error:
                lost.append(LostModel(version, checkpoint.model, error.what))
                continue
            self._lose(good.checkpoint, lost)
            return good
        raise IntegrityError(
            "no committed model of the study can be gone on from",
            expected=f"the file of one of the versions {lost[-1].version} to {lost[0].version} as it was",
            got=lost[0].why,
            remedy=f"put {self._home.models_folder} back from a backup, and launch it again: it goes on where it was",
            code="no-good-model",
        )

    def _lose(self, kept: Checkpoint, lost: list[LostModel]) -> None:
        newest, now = lost[0], self._now()
        self._report(f"ALARM: {newest.why}; what came after round {kept.version} is lost, and it goes on from there")
        # Before it is so: a crash in between is told twice, and never not at all.
        self._home.record(
            "rounds-lost", at=now, study=self._study.digest, round=kept.version, count=newest.version - kept.version,
            model=newest.model,
        )  # fmt: skip
        self._store.lose(self._study.key, kept.version, lost, now)
        for one in lost:
            model_files.set_aside(self._home.models_folder, one.model)
