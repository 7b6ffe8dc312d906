"""ckptbench: which checkpoint of a pre-training run should I take to my task?

``score`` gives one selector's number for one feature matrix, ``rank`` orders checkpoints for a target,
``run`` computes a whole suite, ``judge`` reads anyone's table. The other names are what plugins
build on; they import from here alone. Nothing is imported before it is used: ``import ckptbench`` loads
neither torch nor NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptbench.agreement.outside import judge_table
    from ckptbench.base.digests import derive_seed as derive_seed
    from ckptbench.base.errors import InputError as InputError
    from ckptbench.base.sampling import row_batches as row_batches
    from ckptbench.base.sampling import stratified as stratified
    from ckptbench.base.sampling import stratified_folds as stratified_folds
    from ckptbench.base.text import nearest as nearest
    from ckptbench.base.types import Array as Array
    from ckptbench.base.types import Checkpoint as Checkpoint
    from ckptbench.base.types import Float as Float
    from ckptbench.base.types import Preprocessing as Preprocessing
    from ckptbench.data.names import read_set as read_set
    from ckptbench.data.raw import Files as Files
    from ckptbench.data.raw import Pixels as Pixels
    from ckptbench.data.raw import Raw as Raw
    from ckptbench.data.raw import RawSet as RawSet
    from ckptbench.data.raw import content_digest as content_digest
    from ckptbench.data.raw import data_root as data_root
    from ckptbench.kinds import Extractor as Extractor
    from ckptbench.kinds import Reader as Reader
    from ckptbench.kinds import Selector as Selector
    from ckptbench.monitor import Monitor as Monitor
    from ckptbench.networks.architectures import last_linear as last_linear
    from ckptbench.networks.curvature import Loss as Loss
    from ckptbench.networks.curvature import loss_variation as loss_variation
    from ckptbench.networks.objective import Batch as Batch
    from ckptbench.networks.objective import Objective as Objective
    from ckptbench.networks.training import augment as augment
    from ckptbench.networks.training import to_input as to_input
    from ckptbench.numerics.discriminant import lda_leave_one_out as lda_leave_one_out
    from ckptbench.numerics.kernels import arc_cosine as arc_cosine
    from ckptbench.numerics.kernels import centred_onehot as centred_onehot
    from ckptbench.numerics.kernels import kernel_weights as kernel_weights
    from ckptbench.numerics.kernels import label_complexity as label_complexity
    from ckptbench.numerics.linear import PENALTIES as PENALTIES
    from ckptbench.numerics.linear import leave_one_out as leave_one_out
    from ckptbench.numerics.linear import log_evidence as log_evidence
    from ckptbench.numerics.linear import ridge_predictions as ridge_predictions
    from ckptbench.numerics.softmax import fit_softmax as fit_softmax
    from ckptbench.numerics.spectrum import Spectrum as Spectrum
    from ckptbench.pipeline.api import leaderboard as leaderboard
    from ckptbench.pipeline.api import run as run
    from ckptbench.ranking.answer import Ranking as Ranking
    from ckptbench.ranking.run import rank as rank
    from ckptbench.scores.candidate import Candidate as Candidate
    from ckptbench.scores.candidate import Images as Images
    from ckptbench.scores.candidate import SourceRows as SourceRows
    from ckptbench.scores.score import member_score as member_score
    from ckptbench.scores.score import score as score
    from ckptbench.suites import FE as FE
    from ckptbench.truth.penalty import FineTuning as FineTuning
    from ckptbench.truth.penalty import Penalty as Penalty
    from ckptbench.truth.penalty import layer_outputs as layer_outputs

    judge = judge_table

__version__ = "0.1.0"

_MODULES = {
    "base.digests": "derive_seed",
    "base.errors": "InputError",
    "base.sampling": "row_batches stratified stratified_folds",
    "base.text": "nearest",
    "base.types": "Array Checkpoint Float Preprocessing",
    "data.names": "read_set",
    "data.raw": "Files Pixels Raw RawSet content_digest data_root",
    "monitor": "Monitor",
    "networks.architectures": "last_linear",
    "networks.curvature": "Loss loss_variation",
    "networks.objective": "Batch Objective",
    "networks.training": "augment to_input",
    "numerics.discriminant": "lda_leave_one_out",
    "numerics.kernels": "arc_cosine centred_onehot kernel_weights label_complexity",
    "numerics.linear": "PENALTIES leave_one_out log_evidence ridge_predictions",
    "numerics.softmax": "fit_softmax",
    "numerics.spectrum": "Spectrum",
    "pipeline.api": "leaderboard run",
    "kinds": "Extractor Reader Selector",
    "ranking.answer": "Ranking",
    "ranking.run": "rank",
    "scores.candidate": "Candidate Images SourceRows",
    "scores.score": "member_score score",
    "suites": "FE",
    "truth.penalty": "FineTuning Penalty layer_outputs",
}
# Name -> (module, name there). A test holds this against the imports above.
_HOME = {name: (module, name) for module, names in _MODULES.items() for name in names.split()}
_HOME["judge"] = ("agreement.outside", "judge_table")
__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ckptbench' has no attribute {name!r}")
    import importlib

    module, attribute = _HOME[name]
    return getattr(importlib.import_module(f"ckptbench.{module}"), attribute)


def __dir__() -> list[str]:
    return __all__
