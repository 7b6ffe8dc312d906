"""Scores that run the network on images of its source set: they take minutes a checkpoint.

They see nothing of the target, so a suite computes them once for all targets. Networks run in evaluation mode
in float32 on the CPU; what is drawn comes from the parameter ``seed``, the same for every checkpoint.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field
from scipy.linalg import eigh

from ckptbench import Array, Candidate, InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH = 128  # images in one pass


def lidar(embeddings: Array, delta: float = 1e-4, epsilon: float = 1e-7) -> float:
    """exp of the entropy of the eigenvalues of S_w^-1/2 S_b S_w^-1/2, for n x q x D embeddings of q views.

    S_b is the covariance of the means of each image's views, S_w that of the views about them plus
    ``delta`` I; the entropy is that of lambda/sum lambda + ``epsilon``.
    """
    means = embeddings.mean(axis=1)
    apart, within = means - means.mean(axis=0), (embeddings - means[:, None]).reshape(-1, means.shape[1])
    inner = within.T @ within / len(within) + delta * np.eye(means.shape[1])
    values = np.maximum(eigh(apart.T @ apart / len(apart), inner, eigvals_only=True), 0.0)
    p = values / (values.sum() or 1.0) + epsilon
    return float(np.exp(-(p * np.log(p)).sum()))


class Lidar:
    """LDA rank: how many directions tell images apart more than two views of one image differ.

    With e(x) the penultimate features of a view of an image, S_b the covariance of each image's mean
    feature, S_w the mean covariance of its views about it plus ``delta`` I, and lambda the eigenvalues of
    S_w^-1/2 S_b S_w^-1/2,

        LiDAR = exp(-sum p log p),  p = lambda/sum lambda + 1e-7.

    In (0, D] up to the 1e-7, and at most the number of images - 1. Cost: ``images`` x ``views`` forward
    passes and one eigenproblem of D (the paper has 1,000 images of 50 views). Needs no labels. The views
    are random crops and flips, which is what supervised runs here are trained with; the paper takes the
    augmentation of the objective, which for contrastive runs is stronger. Moves with the features' scale
    where that comes near ``delta``.

    Parameters
    ----------
    images, views : how many images, and how many views of each
    delta : what is added to the covariance within
    seed : of the views
    """

    name = "lidar"
    needs = ("source_images", "weights")
    paper = (
        "Thilak et al. 2024, LiDAR: Sensing Linear Probing Performance in Joint Embedding SSL Architectures"
    )
    dear = True
    bounds = (0.0, math.inf)
    images: Annotated[int, Field(ge=2)] = 500
    views: Annotated[int, Field(ge=2)] = 10
    delta: Annotated[float, Field(gt=0)] = 1e-4
    seed: int = 0

    def score(self, candidate: Candidate) -> float:
        import torch

        from ckptbench import augment, last_linear, to_input

        source, network = candidate.source_images(), candidate.model().eval()
        pixels = torch.tensor(source.pixels[: self.images])
        rows = torch.arange(len(pixels))
        seen: list[Tensor] = []
        head = network.get_submodule(last_linear(network))
        hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(1).double()))
        with torch.no_grad():
            for view in range(self.views):
                drawn = augment(pixels, "crop-flip", self.seed, view, rows)
                for batch in drawn.split(BATCH):
                    network(to_input(batch, source.mean, source.std))
        hook.remove()
        features = torch.cat(seen).reshape(self.views, len(pixels), -1).permute(1, 0, 2)
        return lidar(features.numpy(), self.delta)


def _loss(candidate: Candidate, images: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The network and what its source loss is of: inputs and labels."""
    import torch

    from ckptbench import to_input

    source, network = candidate.source_images(), candidate.model().eval()
    inputs = to_input(torch.tensor(source.pixels[:images]), source.mean, source.std)
    labels = torch.tensor(source.labels[:images])
    with torch.no_grad():
        classes = network(inputs[:1]).shape[1]
    if int(labels.max()) >= classes:
        raise InputError(
            f"the source images have labels up to {int(labels.max())}, the network's head knows {classes} "
            "classes: its source loss is known for supervised runs alone"
        )
    return network, inputs, labels


class PerturbationSensitivity:
    """- how much Gaussian noise in the weights raises the source loss, on average over draws.

        -(mean over draws of L(theta + epsilon) - L(theta)),  epsilon_w ~ N(0, gamma^2/fan-in of w)

    in every weight of at least two dimensions (biases and normalisation keep theirs), L the mean
    cross-entropy of ``images`` source images in evaluation mode. The noise is the same for all
    checkpoints, in size and draw: fixed-magnitude perturbation is what the authors show to hurt ever more
    along pre-training. Their own account gives no magnitude: scaling by the fan-in, the usual variance at
    initialisation, and ``gamma`` are ours. Unbounded, mostly below 0. Cost: ``draws`` + 1 passes over the
    images. Supervised runs only. Low sensitivity is good; ours is negated.

    Parameters
    ----------
    gamma : standard deviation of the noise times the root of the fan-in
    draws, images : how many of each
    seed : of the noise
    """

    name = "perturbation-sensitivity"
    needs = ("source_images", "weights")
    paper = "Springer et al. 2025, Overtrained Language Models Are Harder to Fine-Tune"
    published = "lower"
    dear = True
    gamma: Annotated[float, Field(gt=0)] = 0.1
    draws: Annotated[int, Field(ge=1)] = 5
    images: Annotated[int, Field(ge=1)] = 256
    seed: int = 0

    def score(self, candidate: Candidate) -> float:
        import torch
        from torch.nn.functional import cross_entropy

        network, inputs, labels = _loss(candidate, self.images)
        generator = torch.Generator().manual_seed(self.seed)
        weights = [weight for weight in network.parameters() if weight.ndim > 1]

        def loss() -> float:
            parts = zip(inputs.split(BATCH), labels.split(BATCH), strict=True)
            total = sum(float(cross_entropy(network(x), y, reduction="sum").double()) for x, y in parts)
            return total / len(labels)

        with torch.no_grad():
            start, rises = loss(), []
            before = [weight.clone() for weight in weights]
            for _ in range(self.draws):
                for weight, old in zip(weights, before, strict=True):
                    noise = torch.randn(weight.shape, generator=generator)
                    weight.copy_(old + self.gamma / math.sqrt(old[0].numel()) * noise)
                rises.append(loss() - start)
        return -math.fsum(rises) / self.draws


class FreeEnergy:
    """- localised WBIC per example: the mean source loss of weights drawn around the checkpoint.

        -E[L(w)],  w ~ p(w) proportional to exp(-n beta L(w) - gamma |w - w*|^2/2),  beta = 1/log n,

    w* the checkpoint, L the mean cross-entropy of the n source images in evaluation mode. n E[L] estimates
    the free energy of the neighbourhood (Watanabe's WBIC), whose two parts are the loss at w* and how fast
    it rises around it. Draws come from stochastic-gradient Langevin steps,

        w <- w - step/2 (n beta grad L_batch(w) + gamma (w - w*)) + N(0, step I),

    started at w*, the first fifth dropped. All parameters move. The authors' settings could not be read:
    ``gamma`` (weights move by up to 1/sqrt(gamma) each), ``step`` (chosen such that step gamma/2 = 1/20, so
    that the chain forgets its start in 20 steps), the number of steps and the batch are ours. <= 0. Cost:
    ``steps`` gradients of ``batch`` images. Supervised runs only. Low free energy is good; ours is negated.

    Parameters
    ----------
    gamma : strength of the localisation
    steps, batch : how many steps, on how many images each
    seed : of the noise and of the batches
    """

    name = "free-energy"
    needs = ("source_images", "weights")
    paper = "Munn and Wei 2025, A Bayesian Model Selection Criterion for Selecting Pretraining Checkpoints"
    published = "lower"
    dear = True
    bounds = (-math.inf, 0.0)
    gamma: Annotated[float, Field(gt=0)] = 1e5
    steps: Annotated[int, Field(ge=10)] = 100
    batch: Annotated[int, Field(ge=1)] = 32
    seed: int = 0

    def score(self, candidate: Candidate) -> float:
        import torch
        from torch.nn.functional import cross_entropy

        network, inputs, labels = _loss(candidate, len(candidate.source_images().labels))
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        start = [weight.detach().clone() for weight in weights]
        generator, n = torch.Generator().manual_seed(self.seed), len(labels)
        step, pull = 0.1 / self.gamma, n / math.log(max(n, 3))
        losses = []
        for _ in range(self.steps):
            rows = torch.randint(n, (self.batch,), generator=generator)
            loss = cross_entropy(network(inputs[rows]), labels[rows])
            losses.append(float(loss.detach()))
            slopes = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                for weight, slope, old in zip(weights, slopes, start, strict=True):
                    drift = pull * slope + self.gamma * (weight - old)
                    noise = torch.randn(weight.shape, generator=generator)
                    weight.add_(-0.5 * step * drift + math.sqrt(step) * noise)
        kept = losses[self.steps // 5 :]
        return -math.fsum(kept) / len(kept)
