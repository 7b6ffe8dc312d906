"""Which studies there are: each is one measurement of a paper and one module of this folder."""

from __future__ import annotations

from ckptbench.base.errors import InputError
from ckptbench.base.text import nearest
from ckptbench.studies.base import Study

FEATURES = "Deng et al. 2022, Inadequately Pre-trained Models are Better Feature Extractors"
SHRINKAGE = "Chen et al. 2019, Catastrophic Forgetting Meets Negative Transfer (BSS)"
TRANSFER = "Liu et al. 2019, Towards Understanding the Transferability of Deep Representations"
MEMORIES = "Anonymous, Detrimental Memories in Transfer Learning"
TABLES = "seconds, from the tables"
ONE_TRAINING = "a training a pair and seed"
TRAINING = "two trainings a pair and seed"
MANY = "four to eight trainings a pair and seed"

STUDIES = {
    study.name: study
    for study in (
        Study(
            "angles",
            "which directions of the weights stay (Figure 1b)",
            SHRINKAGE,
            ONE_TRAINING,
        ),
        Study("bert", "BERT on GLUE with and without BSS (Table 4)", SHRINKAGE, "hours, on a GPU"),
        Study("best-epochs", "is FE best at an earlier epoch than FT?", FEATURES, TABLES),
        Study("bss-k", "accuracy against the k of BSS (Figure 3d)", SHRINKAGE, TABLES),
        Study("convergence", "accuracy along training (Figures 5a, 8c, 8d)", TRANSFER, TRAINING),
        Study("deviation", "how far weights move (Figures 2 and 8, Tables 1 and 2)", TRANSFER, TRAINING),
        Study("double-u", "FE around the drops of the learning rate", FEATURES, TABLES),
        Study("epoch-transfer", "does FT rise and then fall with pre-training? (Figure 9)", TRANSFER, TABLES),
        Study("ewc", "incremental learning with BSS (Table 3)", SHRINKAGE, "seconds a target and seed"),
        Study("frequency", "is F_m the low-frequency part? (section 4.4)", FEATURES, "a minute a pair"),
        Study("gradients", "gradients by layer at the start (Figure 7)", TRANSFER, TRAINING),
        Study("gram-theory", "the theorems on two-layer networks (section 6)", TRANSFER, "a minute a pair"),
        Study("hessian", "the loss's curvature at the end (Figure 3a)", TRANSFER, TRAINING),
        Study("inputs-labels", "sources with other inputs or labels (Figure 8)", TRANSFER, TRAINING),
        Study("interference", "lingering memories found in an input (equation 5)", MEMORIES, ONE_TRAINING),
        Study("landscape", "the loss around start and end (Figures 3, 5, 10, 12, 13)", TRANSFER, TRAINING),
        Study("loss-variation", "the loss along the gradient (Figures 6 and 11)", TRANSFER, TRAINING),
        Study("memories", "lingering source classes, and distraction (Figures 3, 5 to 8)", MEMORIES, MANY),
        Study("mitigations", "remedies of appendix B in one table", MEMORIES, MANY),
        Study("shrinkage", "what BSS adds to each method, by rate (Table 2)", SHRINKAGE, TABLES),
        Study(
            "spectra",
            "singular values of features (Figures 1c, 1d, 3b, 3c)",
            SHRINKAGE,
            MANY,
        ),
        Study("tsvd", "error without small singular values (Figure 3a)", SHRINKAGE, TABLES),
        Study("two-layer-head", "a classifier on frozen features (Figure 2a)", TRANSFER, "a minute a pair"),
        Study("weights-map", "where training ends, as a map (Figure 4)", TRANSFER, TRAINING),
    )
}


def find_study(name: str) -> Study:
    """The study of a name.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in STUDIES:
        raise InputError(f"no study is called {name!r}: {nearest(name, STUDIES)}")
    return STUDIES[name]
