"""Folders of checkpoints: which files count, and of which epoch each is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ckptbench.base.errors import InputError
from ckptbench.networks.folders import find_checkpoints


def write(folder: Path, *names: str, **facts: int) -> None:
    for seed, name in enumerate(names):
        torch.save({"model": {"w": torch.full((3,), float(seed))}, **facts}, folder / name)


def epochs(folder: Path, pattern: str | None = None) -> dict[str, int]:
    return {path.name: epoch for epoch, path in find_checkpoints(folder, pattern)[0].items()}


@pytest.mark.parametrize(
    "named",
    [
        {"epoch-003.pt": 3, "epoch-012.pt": 12},
        {"resnet18_epoch12_acc76.pt": 12, "resnet18_epoch2_acc80.pt": 2},
        {"checkpoint_0007.pth": 7, "checkpoint_0010.pth": 10},
        {"ep=5-step=100.ckpt": 5, "ep=6-step=50.ckpt": 6},
        {"step_5000_epoch_4.pt": 4, "step_2000_epoch_2.pt": 2},
        {"step_5000.pt": 5000, "step_2000.pt": 2000},
        {"Epoch_90.pth.tar": 90, "Epoch_9.pth.tar": 9},
        {"vit_b_16-acc0.41-3.pt": 3, "vit_b_16-acc0.52-4.pt": 4},
        {"resnet50_7.pt": 7, "resnet50_11.pt": 11},
        {"acc0.41.pt": 0, "acc0.52.pt": 1},
        {"a.pt": 0, "b.pt": 1},
    ],
)
def test_epochs_come_from_names(tmp_path: Path, named: dict[str, int]) -> None:
    write(tmp_path, *named)
    assert epochs(tmp_path) == named
    assert list(epochs(tmp_path).values()) == sorted(named.values())


def test_a_pattern_says_where_the_epoch_is(tmp_path: Path) -> None:
    write(tmp_path, "run7-a1.pt", "run7-a2.pt")
    assert epochs(tmp_path, r"a(\d+)") == {"run7-a1.pt": 1, "run7-a2.pt": 2}
    for pattern, sentence in (
        (r"b(\d+)", "finds no number in run7-a1"),
        ("(", "no regular expression"),
    ):
        with pytest.raises(InputError, match=sentence):
            find_checkpoints(tmp_path, pattern)
    with pytest.raises(InputError, match="both of epoch 7"):
        find_checkpoints(tmp_path, r"run(\d+)")


def test_last_and_best_are_matched_by_what_is_in_them(tmp_path: Path) -> None:
    write(tmp_path, "epoch1.pt", "epoch2.pt")
    (tmp_path / "best.pt").write_bytes((tmp_path / "epoch1.pt").read_bytes())
    torch.save({"model": {"w": torch.full((3,), 9.0)}, "epoch": 3}, tmp_path / "last.pt")
    torch.save({"model": {"w": torch.full((3,), 8.0)}}, tmp_path / "final.pt")
    entries, notes = find_checkpoints(tmp_path)
    assert {epoch: path.name for epoch, path in entries.items()} == {
        1: "epoch1.pt", 2: "epoch2.pt", 3: "last.pt"
    }  # fmt: skip
    assert notes == [
        "best.pt holds the weights of epoch 1",
        "final.pt does not say its epoch and equals no other: left out",
    ]


def test_a_name_without_an_epoch_among_others_is_asked_for_it(tmp_path: Path) -> None:
    write(tmp_path, "epoch1.pt", "epoch2.pt")
    write(tmp_path, "stray.pt", epoch=7)
    write(tmp_path, "other.pt")
    entries, notes = find_checkpoints(tmp_path)
    assert list(entries) == [1, 2, 7]
    assert notes == ["other.pt has no epoch in its name nor in it, as others there do: left out"]


def test_what_trainers_leave_beside_the_weights_is_no_checkpoint(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for step in (500, 1000):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file({"w": torch.ones(2)}, folder / "model.safetensors")
        write(folder, "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin")
    write(tmp_path, "optimizer.pt", "resume-002.pt")
    (tmp_path / "runs").mkdir()
    assert epochs(tmp_path) == {"checkpoint-500": 500, "checkpoint-1000": 1000}
    assert epochs(tmp_path / "checkpoint-500") == {"checkpoint-500": 0}


def test_a_list_is_taken_as_given(tmp_path: Path) -> None:
    write(tmp_path, "b.pt", "a.pt")
    entries, _ = find_checkpoints([tmp_path / "b.pt", tmp_path / "a.pt"])
    assert [path.name for path in entries.values()] == ["b.pt", "a.pt"]


def test_no_checkpoint_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder of checkpoints"):
        find_checkpoints(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match="holds no checkpoint: files should end in"):
        find_checkpoints(tmp_path)


def test_a_damaged_file_hides_no_copy_of_another(tmp_path: Path) -> None:
    """It is said of that file where it is loaded."""
    write(tmp_path, "epoch1.pt", "epoch2.pt")
    (tmp_path / "last.pt").write_bytes((tmp_path / "epoch2.pt").read_bytes())
    (tmp_path / "epoch1.pt").write_bytes(b"nothing")
    entries, notes = find_checkpoints(tmp_path)
    assert list(entries) == [1, 2]
    assert notes == ["last.pt holds the weights of epoch 2"]
