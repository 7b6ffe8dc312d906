"""ckptbench: which checkpoint of a pre-training run should I take to my task?

``score`` gives one selector's number for one feature matrix, ``rank`` orders checkpoints for a target,
``run`` computes a whole suite, ``judge`` reads anyone's table. The other names are what plugins
build on; they import from here alone. Nothing is imported before it is used: ``import ckptbench`` loads
neither torch nor NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptbench.agreement.outside import judge_table as judge
    from ckptbench.base.digests import derive_seed
    from ckptbench.base.errors import InputError
    from ckptbench.base.sampling import row_batches, stratified, stratified_folds
    from ckptbench.base.text import nearest
    from ckptbench.base.types import Array, Checkpoint, Float, Preprocessing
    from ckptbench.data.names import read_set
    from ckptbench.data.raw import Files, Pixels, Raw, RawSet, content_digest, data_root
    from ckptbench.monitor import Monitor
    from ckptbench.networks.architectures import last_linear
    from ckptbench.networks.objective import Batch, Objective
    from ckptbench.networks.training import augment, to_input
    from ckptbench.numerics.discriminant import lda_leave_one_out
    from ckptbench.numerics.kernels import arc_cosine, centred_onehot, kernel_weights, label_complexity
    from ckptbench.numerics.linear import PENALTIES, leave_one_out, log_evidence, ridge_predictions
    from ckptbench.numerics.softmax import fit_softmax
    from ckptbench.numerics.spectrum import Spectrum
    from ckptbench.pipeline.api import leaderboard, run
    from ckptbench.plugins import Extractor, Reader, Selector
    from ckptbench.ranking.answer import Ranking
    from ckptbench.ranking.run import rank
    from ckptbench.scores.candidate import Candidate, SourceImages, SourceRows
    from ckptbench.scores.score import score
    from ckptbench.suites import FE
    from ckptbench.truth.penalty import FineTuning, Penalty, layer_outputs

__version__ = "0.1.0"

# Name -> (module, name there). A test holds this against the imports above.
_HOME = {
    "Array": ("base.types", "Array"),
    "Batch": ("networks.objective", "Batch"),
    "Candidate": ("scores.candidate", "Candidate"),
    "Checkpoint": ("base.types", "Checkpoint"),
    "Extractor": ("plugins", "Extractor"),
    "FE": ("suites", "FE"),
    "Files": ("data.raw", "Files"),
    "FineTuning": ("truth.penalty", "FineTuning"),
    "Float": ("base.types", "Float"),
    "InputError": ("base.errors", "InputError"),
    "Monitor": ("monitor", "Monitor"),
    "Objective": ("networks.objective", "Objective"),
    "PENALTIES": ("numerics.linear", "PENALTIES"),
    "Penalty": ("truth.penalty", "Penalty"),
    "Pixels": ("data.raw", "Pixels"),
    "Preprocessing": ("base.types", "Preprocessing"),
    "Ranking": ("ranking.answer", "Ranking"),
    "Raw": ("data.raw", "Raw"),
    "RawSet": ("data.raw", "RawSet"),
    "Reader": ("plugins", "Reader"),
    "Selector": ("plugins", "Selector"),
    "SourceImages": ("scores.candidate", "SourceImages"),
    "SourceRows": ("scores.candidate", "SourceRows"),
    "Spectrum": ("numerics.spectrum", "Spectrum"),
    "augment": ("networks.training", "augment"),
    "arc_cosine": ("numerics.kernels", "arc_cosine"),
    "centred_onehot": ("numerics.kernels", "centred_onehot"),
    "content_digest": ("data.raw", "content_digest"),
    "data_root": ("data.raw", "data_root"),
    "derive_seed": ("base.digests", "derive_seed"),
    "fit_softmax": ("numerics.softmax", "fit_softmax"),
    "judge": ("agreement.outside", "judge_table"),
    "kernel_weights": ("numerics.kernels", "kernel_weights"),
    "label_complexity": ("numerics.kernels", "label_complexity"),
    "last_linear": ("networks.architectures", "last_linear"),
    "layer_outputs": ("truth.penalty", "layer_outputs"),
    "leaderboard": ("pipeline.api", "leaderboard"),
    "lda_leave_one_out": ("numerics.discriminant", "lda_leave_one_out"),
    "leave_one_out": ("numerics.linear", "leave_one_out"),
    "log_evidence": ("numerics.linear", "log_evidence"),
    "nearest": ("base.text", "nearest"),
    "rank": ("ranking.run", "rank"),
    "read_set": ("data.names", "read_set"),
    "ridge_predictions": ("numerics.linear", "ridge_predictions"),
    "row_batches": ("base.sampling", "row_batches"),
    "run": ("pipeline.api", "run"),
    "score": ("scores.score", "score"),
    "stratified": ("base.sampling", "stratified"),
    "stratified_folds": ("base.sampling", "stratified_folds"),
    "to_input": ("networks.training", "to_input"),
}
__all__ = [
    "FE",
    "PENALTIES",
    "Array",
    "Batch",
    "Candidate",
    "Checkpoint",
    "Extractor",
    "Files",
    "FineTuning",
    "Float",
    "InputError",
    "Monitor",
    "Objective",
    "Penalty",
    "Pixels",
    "Preprocessing",
    "Ranking",
    "Raw",
    "RawSet",
    "Reader",
    "Selector",
    "SourceImages",
    "SourceRows",
    "Spectrum",
    "__version__",
    "arc_cosine",
    "augment",
    "centred_onehot",
    "content_digest",
    "data_root",
    "derive_seed",
    "fit_softmax",
    "judge",
    "kernel_weights",
    "label_complexity",
    "last_linear",
    "layer_outputs",
    "lda_leave_one_out",
    "leaderboard",
    "leave_one_out",
    "log_evidence",
    "nearest",
    "rank",
    "read_set",
    "ridge_predictions",
    "row_batches",
    "run",
    "score",
    "stratified",
    "stratified_folds",
    "to_input",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ckptbench' has no attribute {name!r}")
    import importlib

    module, attribute = _HOME[name]
    return getattr(importlib.import_module(f"ckptbench.{module}"), attribute)


def __dir__() -> list[str]:
    return __all__
