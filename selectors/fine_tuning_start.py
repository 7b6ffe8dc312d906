"""How steep and how curved the target's loss is where fine-tuning starts.

Each is one number before fine-tuning, of what transferability-of-deep-representations measures on its way;
the studies ``gradients``, ``loss-variation`` and ``hessian`` share these functions. The loss is the mean
cross-entropy on ``images`` training images of the target, under the checkpoint with a new linear head that is
drawn alike for all checkpoints; batch norm uses these images' own statistics, dropout is off, and all weights
count. They take minutes a checkpoint.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from ckptbench import Candidate

if TYPE_CHECKING:
    from ckptbench import Loss

PAPER = "Liu et al. 2019, Towards Understanding the Transferability of Deep Representations"


def _start(candidate: Candidate, most: int) -> Loss:
    import torch
    from torch import nn

    from ckptbench import Loss, last_linear, to_input

    images, network = candidate.target_images(most), candidate.model()
    name = last_linear(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(candidate.seed)
        network.set_submodule(name, nn.Linear(network.get_submodule(name).in_features, candidate.n_classes))
    inputs = to_input(torch.tensor(images.pixels), images.mean, images.std)
    return Loss(network, inputs, torch.tensor(images.labels))


class StartGradient:
    """- |g|, g the gradient of the target's loss in all weights where fine-tuning starts.

    The paper finds gradients smaller from pre-trained weights than from random ones, hence the sign. <= 0.
    Cost: one gradient on the images. Depends on the new head's draw, which all checkpoints share.

    Parameters
    ----------
    images : how many training images of the target
    """

    name = "start-gradient"
    needs = ("labels", "weights", "target_images")
    paper = PAPER
    published = "lower"
    dear = True
    bounds = (-math.inf, 0.0)
    images: Annotated[int, Field(ge=2)] = 256

    def score(self, candidate: Candidate) -> float:
        gradient = _start(candidate, self.images).gradient()
        return -math.sqrt(math.fsum(float(part.double().square().sum()) for part in gradient))


class StartVariation:
    """- the largest change of the target's loss on 100 steps of 0.01 along its gradient at the start.

    The paper finds it smaller from pre-trained weights, hence the sign. <= 0. Cost: a gradient and
    100/``every`` passes over the images. Depends on the new head's draw, which all checkpoints share.

    Parameters
    ----------
    images : how many training images of the target
    every : of so many steps one is looked at
    """

    name = "start-variation"
    needs = ("labels", "weights", "target_images")
    paper = PAPER
    published = "lower"
    dear = True
    bounds = (-math.inf, 0.0)
    images: Annotated[int, Field(ge=2)] = 64
    every: Annotated[int, Field(ge=1, le=100)] = 10

    def score(self, candidate: Candidate) -> float:
        from ckptbench import loss_variation

        return -loss_variation(_start(candidate, self.images), every=self.every)


class StartCurvature:
    """- the largest eigenvalue of the Hessian of the target's loss where fine-tuning starts.

    By Lanczos iteration on Hessian-vector products in float32, to two digits. The paper finds flatter loss
    about fine-tuned weights, at the end; at the start the sign is ours. Unbounded, mostly below 0. Cost:
    some tens of products, each two to three gradients on the images.

    Parameters
    ----------
    images : how many training images of the target
    """

    name = "start-curvature"
    needs = ("labels", "weights", "target_images")
    paper = PAPER
    published = "lower"
    dear = True
    images: Annotated[int, Field(ge=2)] = 64

    def score(self, candidate: Candidate) -> float:
        return -float(_start(candidate, self.images).eigenvalues(1, tolerance=1e-2)[0])
