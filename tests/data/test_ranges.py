"""Stretches of a set that no seed moves, test splits by name, and the check that nothing is trained on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ckptbench.base.errors import InputError
from ckptbench.data.raw import Pixels, RawSet
from ckptbench.data.targets import check_disjoint, load_target, sample
from ckptbench.suites import Data, Source, load_suite


class Named(Pixels):
    def identifier(self, index: int) -> str:
        return f"{self.labels[index]}/{'abc'[index % 3]}-{index}.png"


def found(tested: bool = True) -> RawSet:
    images = np.arange(240 * 4, dtype=np.uint32).view(np.uint8).reshape(240, 4, 4)
    labels = np.arange(240) % 2
    test = Named(images[180:], labels[180:]) if tested else None
    last = 180 if tested else 240
    return RawSet(("even", "odd"), Named(images[:last], labels[:last]), test)


def contents(target, *splits: str) -> set[str]:
    return set().union(*(getattr(target, split).contents for split in splits))


@settings(deadline=None)
@given(cut=st.floats(0.1, 0.9), seeds=st.tuples(st.integers(0, 99), st.integers(0, 99)), tested=st.booleans())
def test_ranges_that_do_not_meet_share_nothing_whatever_the_seeds(
    cut: float, seeds: tuple[int, int], tested: bool
) -> None:
    low = sample(found(tested), Data(name="x", train_range=(0, cut), seed=seeds[0]), "low")
    high = sample(found(tested), Data(name="x", train_range=(cut, 1), seed=seeds[1]), "high")
    check_disjoint("run", low, high)
    check_disjoint("run", high, low)
    splits = ("train",) if tested else ("train", "test")
    assert len(contents(low, *splits) | contents(high, *splits)) == (180 if tested else 240)


def test_a_range_of_the_test_split_halves_it() -> None:
    halves = [sample(found(), Data(name="x", test_range=r), "x") for r in ((0, 0.5), (0.5, 1))]
    assert [len(half.test) for half in halves] == [30, 30]
    assert not halves[0].test.contents & halves[1].test.contents
    assert halves[0].train.contents == halves[1].train.contents


def test_a_target_on_trained_images_is_an_error() -> None:
    source = sample(found(), Data(name="x", train_range=(0, 0.6)), "run")
    target = sample(found(), Data(name="x", per_class=10, pool_per_class=30, train_range=(0.5, 1)), "mine")
    with pytest.raises(InputError, match=r"train of target mine holds \d+ of the images that source run run"):
        check_disjoint("run", source, target)


def test_a_test_split_by_name() -> None:
    target = sample(found(tested=False), Data(name="x", test_files=("a-*", "b-1*")), "x")
    names = [target.test.raw.identifier(row) for row in target.test.rows.tolist()]
    assert all("/a-" in name or "/b-1" in name for name in names)
    trained = [target.train.raw.identifier(row) for row in target.train.rows.tolist()]
    assert len(names) + len(trained) == 240
    assert not any("/a-" in name or "/b-1" in name for name in trained)


@pytest.mark.parametrize("bounds", [(0.5, 0.5), (0.6, 0.2), (-0.1, 0.5), (0.0, 1.1)])
def test_a_range_rises_between_0_and_1(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match="should rise, between 0 and 1"):
        Data(name="digits", train_range=bounds)


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "..", "a b", "a\n"])
def test_names_cannot_leave_their_folder(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        Source(name=name, architecture="resnet18", checkpoints="somewhere")


def test_classes_by_pattern() -> None:
    raw = found()
    raw = RawSet(("Greek/one", "Greek/two"), raw.train, raw.test)
    assert sample(raw, Data(name="x", classes=("Greek/*",)), "x").classes == raw.classes
    with pytest.raises(InputError, match=r"x has no class 'Latin/\*'"):
        sample(raw, Data(name="x", classes=("Latin/*",)), "x")


def test_the_zoo_judges_ten_checkpoints_of_each_run_and_fine_tunes_six() -> None:
    zoo = load_suite("zoo")
    assert len(zoo.sources) == 12
    assert len({spec.family for spec in zoo.targets}) == 7
    assert 0 < len(zoo.confirmatory) <= 10
    (ft,) = zoo.ft
    for source in zoo.sources:
        assert source.judge is not None
        assert len(source.judge) == 10
        assert source.judge[-1] == source.epochs
        assert sum(epoch in ft.epochs_judged for epoch in source.judge) == 6, source.name


@pytest.mark.realdata
def test_no_target_of_the_zoo_holds_what_a_run_is_trained_on() -> None:
    zoo = load_suite("zoo")
    try:
        targets = [load_target(spec, download=False) for spec in zoo.targets]
        sources = [load_target(one.data, one.name, download=False) for one in zoo.sources]
    except InputError as error:
        pytest.skip(str(error))
    for source in sources:
        for target in targets:
            check_disjoint("run", source, target)
