"""``Monitor``: how good a network's features are for your target, while it trains.

Called at the end of an epoch it extracts the features of labelled target images with the network as it is,
logs scores of them and at chosen epochs a cross-validated probe, and keeps the checkpoints that are best for
the target beside the last. Training is left as it was: modules' modes, statistics, gradients and torch's
generators. What ``rank`` would say of the epochs so far, ``ranking`` says at any time.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ckptbench.base.errors import InputError
from ckptbench.base.files import atomic, make_folder
from ckptbench.base.store import Store
from ckptbench.base.types import Checkpoint, Examples, Key, Metric, Preprocessing, Task
from ckptbench.pipeline.progress import Reporter
from ckptbench.ranking.answer import Ranking
from ckptbench.ranking.defaults import cheap_score, lacks
from ckptbench.ranking.examples import Labelled, draw
from ckptbench.ranking.given import prepared, used_data, used_images
from ckptbench.ranking.measure import Measured, probe_all, probe_cells
from ckptbench.ranking.options import Normalisation, Options
from ckptbench.ranking.reading import read_source

if TYPE_CHECKING:
    from torch import nn

LIMIT = 1000
Log = Callable[[dict[str, float], int], object]


class _Held:
    """Examples whose images were decoded once and stay in memory."""

    def __init__(self, examples: Examples) -> None:
        self.labels, self.digest = examples.labels, examples.digest
        self._images = examples.images(slice(None))

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Sequence[int] | NDArray[np.int64] | slice) -> NDArray[np.uint8]:
        return np.asarray(self._images[indices])


class Monitor:
    """Watches one run from inside its training loop.

    ``monitor(model, epoch)`` in a plain loop; ``monitor.lightning()`` and ``monitor.trainer()`` are callbacks
    for Lightning and for Hugging Face's Trainer.

    Parameters
    ----------
    target : labelled data as ``rank`` takes them, or name -> data for several
    size, normalise : of the images, in pixels, and (mean, deviation) of each channel, as in training
    task, metric : of the labels, and what the probe measures, as for ``rank``
    scores : selectors to log at every epoch; the first decides which checkpoints are kept.
        By default the first that features suffice for of the published record
    probe : log the cross-validated probe at every so many epochs, 0 for never
    keep : how many checkpoints, the best for the first target, are kept in ``folder`` beside the last
    log : called with name -> value and the epoch; a callback logs through its trainer
    layer : whose input is taken as features; the last linear layer by default
    part : the submodule to watch, as in ``"model"`` of a LightningModule
    """

    def __init__(
        self,
        target: Any,
        *,
        size: int = 224,
        normalise: Normalisation | None = None,
        task: Task = "classification",
        scores: Sequence[str] | None = None,
        probe: int = 0,
        keep: int = 0,
        folder: str | Path | None = None,
        log: Log | None = None,
        layer: str | None = None,
        part: str = "",
        metric: Metric | None = None,
        limit: int = LIMIT,
        store: str | Path | None = None,
        plugins: Sequence[str] = (),
    ) -> None:
        if keep and folder is None:
            raise InputError("say in which folder to keep checkpoints, as in folder='best'")
        if min(keep, probe) < 0:
            raise InputError(f"keep is {keep} and probe is {probe}: neither can be less than 0")
        if log is not None and not callable(log):
            raise InputError(f"log is a {type(log).__name__}: it should be a function, as print is")
        options = Options(goal="fe", task=task, metric=metric, plugins=plugins, limit=limit).checked()
        if scores is None:
            scores = (cheap_score(options.task, options.plugins),)
        elif isinstance(scores, str):
            scores = (scores,)
        if not scores:
            raise InputError("name at least one score, as in scores=['ridge-loo']")
        for label in scores:
            if lacking := lacks(str(label), options.plugins):
                raise InputError(f"a score that cannot be had while training: {lacking}")
        self.store, self.log, self._layer, self._part = Store(store), log, layer, part
        self._scores, self._probe, self._metric = tuple(scores), probe, options.measure
        self._plugins = options.plugins
        self._keep, self._folder = keep, None if folder is None else Path(folder)
        self._checkpoints: list[Checkpoint] = []
        self._kept: dict[int, float] = {}
        self._keys: dict[str, list[Key]] = {}
        self._targets: dict[str, Labelled] = {}
        self._held: dict[str, _Held] = {}
        self._picture = Preprocessing()
        targets = target if isinstance(target, Mapping) else {"target": target}
        if not targets:
            raise InputError("name at least one target")
        for name, data in targets.items():
            source = read_source(data, None, options.plugins, options.task)
            self._picture = prepared(Preprocessing(), size, normalise, source.options)
            scaling = {"size": size, "crop": self._picture.crop}
            labelled = draw(source, source.options.model_copy(update=scaling), limit)
            assert labelled.examples is not None
            self._targets[name], self._keys[name] = labelled, []
            self._held[name] = _Held(labelled.examples)

    def __call__(self, model: nn.Module, epoch: int) -> dict[str, float]:
        """Measure the network as it is; returns what was logged, nothing where its features are not finite.

        Raises
        ------
        InputError
            If an epoch comes twice, or model or epoch are something else.
        """
        from ckptbench.networks.architectures import Architecture
        from ckptbench.networks.extract import Recipe, extract
        from ckptbench.networks.hardware import pick_device, place_of
        from ckptbench.networks.layouts import tensors_digest
        from ckptbench.networks.training import evaluating
        from ckptbench.ranking.checkpoints import Given

        try:
            epoch = operator.index(epoch)
        except TypeError:
            raise InputError(f"the epoch is {epoch!r}: it should be a whole number") from None
        if any(one.epoch == epoch for one in self._checkpoints):
            raise InputError(f"epoch {epoch} was measured before")
        network = self._watched(model)
        state = network.state_dict()
        spec = f"given:{type(network).__name__}"
        checkpoint = Checkpoint("run", epoch, spec, tensors_digest(state))
        architecture = Architecture(spec, Given(), "", self._layer)
        normalisation = self._picture.mean, self._picture.std
        recipe = Recipe(architecture, normalisation, *place_of(network, pick_device("cpu")))
        try:
            with evaluating([network]):
                for held in self._held.values():
                    extract([checkpoint], held, recipe, self.store, networks={checkpoint.digest: network})
        except InputError as error:  # no reason to end a training run
            warnings.warn(f"epoch {epoch} is not measured: {error}", stacklevel=2)
            return {}
        values: dict[str, float] = {}
        self._checkpoints.append(checkpoint)
        for name, labelled in self._targets.items():
            key = recipe.key(checkpoint, self._held[name])
            self._keys[name].append(key)
            values |= {f"{name}/{label}": value for label, value in self._measured(key, labelled).items()}
            if self._probe and epoch % self._probe == 0:
                values[f"{name}/{self._metric}"] = self._probed(name, [checkpoint], [key])
        if self.log is not None:
            self.log(values, epoch)
        if self._folder is not None:
            self._save(state, epoch, values[f"{next(iter(self._targets))}/{self._scores[0]}"])
        return values

    def ranking(self, target: str | None = None) -> Ranking:
        """What ``rank`` says of the epochs so far."""
        name = target or next(iter(self._targets))
        if name not in self._targets:
            raise InputError(f"there is no target {name!r}, there is {', '.join(self._targets)}")
        if not self._checkpoints:
            raise InputError("no epoch has ended yet: nothing is measured")
        order = np.argsort([one.epoch for one in self._checkpoints], kind="stable")
        checkpoints = [self._checkpoints[i] for i in order]
        keys = [self._keys[name][i] for i in order]
        labelled = self._targets[name]
        used = {
            "architecture": checkpoints[0].architecture,
            "images": used_images(self._picture, "as you said"),
            "data": used_data(labelled),
        }
        measured = Measured(
            store=self.store, checkpoints=checkpoints, keys=keys, labelled=labelled, used=used, notes=[]
        )
        return probe_all(measured, self._metric, 1, Reporter(quiet=True))

    def lightning(self) -> Any:
        """A callback for Lightning's Trainer; logs through its logger where no ``log`` was given."""
        from importlib import import_module

        try:
            base: Any = import_module("lightning.pytorch").Callback
        except ImportError:
            base = import_module("pytorch_lightning").Callback
        monitor = self

        class Callback(base):  # type: ignore[misc]
            def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
                if trainer.is_global_zero:
                    values = monitor(module, trainer.current_epoch)
                    if monitor.log is None and trainer.logger is not None:
                        trainer.logger.log_metrics(values, step=trainer.global_step)

        return Callback()

    def trainer(self) -> Any:
        """A callback for Hugging Face's Trainer; adds to its log history where no ``log`` was given."""
        from importlib import import_module

        base: Any = import_module("transformers").TrainerCallback
        monitor = self

        class Callback(base):  # type: ignore[misc]
            def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                if state.is_world_process_zero:
                    values = monitor(model, round(state.epoch))
                    if monitor.log is None:
                        state.log_history.append({**values, "epoch": state.epoch, "step": state.global_step})

        return Callback()

    def _watched(self, model: nn.Module) -> nn.Module:
        """The network itself, without what wraps it for several devices or for speed."""
        if not hasattr(model, "get_submodule"):
            raise InputError(f"the model is a {type(model).__name__}: it should be a torch module")
        for name in ("module", "_orig_mod"):
            wrapped = model._modules.get(name)
            model = wrapped if wrapped is not None and len(model._modules) == 1 else model
        try:
            return model.get_submodule(self._part)
        except AttributeError as error:
            raise InputError(f"there is no part {self._part!r}: {error}") from None

    def _measured(self, key: Key, labelled: Labelled) -> dict[str, float]:
        from ckptbench.scores.score import score

        features = self.store.read_features(key, verify=False)
        assert features is not None
        return {
            label: float(score(label, features, labelled.labels, plugins=self._plugins))
            for label in self._scores
        }

    def _probed(self, name: str, checkpoints: list[Checkpoint], keys: list[Key]) -> float:
        labelled = self._targets[name]
        measured = Measured(
            store=self.store, checkpoints=checkpoints, keys=keys, labelled=labelled, used={}, notes=[]
        )
        (cell,) = probe_cells(measured, self._metric, 1, Reporter(quiet=True))
        return float(cell.value or 0.0)

    def _save(self, state: Mapping[str, Any], epoch: int, value: float) -> None:
        """Write this epoch's weights; delete what is neither among the best nor the last."""
        from safetensors.torch import save

        assert self._folder is not None
        make_folder(self._folder)
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
        with atomic(self._folder / f"epoch-{epoch:03d}.safetensors") as file:
            file.write(save(tensors))
        self._kept[epoch] = value
        best = sorted(self._kept, key=lambda one: self._kept[one], reverse=True)[: self._keep]
        for other in [one for one in self._kept if one not in best and one != epoch]:
            (self._folder / f"epoch-{other:03d}.safetensors").unlink(missing_ok=True)
            del self._kept[other]
