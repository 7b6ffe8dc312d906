"""How sharp the source loss is at the source head: its Fisher information, in closed form.

It is of the head's weights alone, on the rows of the source set that a candidate has (at most 1,000): the
loss of a row with features f, label y and probabilities p = softmax(W f + b) has the gradient (p - e_y) f'
in W.
"""

import math

import numpy as np
from scipy.special import softmax

from ckptbench import Candidate, Float, InputError


def _head(candidate: Candidate) -> tuple[Float, Float, Float]:
    """Features (N x D) and labels of the source rows, and the head's probabilities there (N x C_s)."""
    source = candidate.source
    if source is None:
        raise InputError("this score needs rows of the source set, found none")
    model = candidate.model()
    from ckptbench import last_linear  # brings torch, which no other score here needs

    layer = model.get_submodule(last_linear(model))
    weight = layer.weight.detach().cpu().double().numpy()
    bias = 0.0 if layer.bias is None else layer.bias.detach().cpu().double().numpy()
    features = np.asarray(source.features, dtype=np.float64)
    if features.shape[1] != weight.shape[1] or source.labels.max() >= len(weight):
        raise InputError(
            f"the source rows have {features.shape[1]} features and labels up to {source.labels.max()}, "
            f"the head takes {weight.shape[1]} and knows {len(weight)} classes"
        )
    return features, source.labels, softmax(features @ weight.T + bias, axis=1)


class HeadFisherTrace:
    """- mean over source rows of (1 - |p|^2)(1 + |f|^2), the trace of the Fisher information in the head.

    For a label drawn from p itself E |p - e_y|^2 = 1 - |p|^2, times |f|^2 for W and 1 for b. The paper has
    the trace over all weights of the network, of which this is the last layer's part: a flatter minimum has
    less and is found to generalise better, hence the sign. <= 0. Cost: loading the network and N D C_s
    operations. Needs no labels and sees nothing of the target.

    Invariant to the order of the source rows.
    """

    name = "head-fisher-trace"
    needs = ("source", "weights")
    paper = (
        "Jastrzebski et al. 2021, Catastrophic Fisher Explosion: Early Phase Fisher Matrix Impacts "
        "Generalization"
    )
    published = "lower"
    bounds = (-math.inf, 0.0)

    def score(self, candidate: Candidate) -> float:
        features, _, p = _head(candidate)
        doubt = 1.0 - np.einsum("ic,ic->i", p, p)
        return -float(np.mean(doubt * (1.0 + np.einsum("id,id->i", features, features))))
