"""The study of texts, end to end on a tiny random BERT and made-up sentences: ``make test-extras``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ckptbench.base.errors import InputError
from ckptbench.studies import bert
from ckptbench.studies.base import Case
from ckptbench.suites import load_suite

pytestmark = [pytest.mark.extras, pytest.mark.filterwarnings("default")]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "a", "b", "c"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def made_up(rows: int, seed: int, pair: bool) -> pd.DataFrame:
    """Sentences whose label is whether they say good or bad."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows)
    texts = [f"{rng.choice(list('abc'))} {'good' if label else 'bad'}" for label in labels]
    table = {"text": texts, **({"second": rng.choice(list("abc"), rows)} if pair else {}), "label": labels}
    return pd.DataFrame(table)


def test_bert_from_folders(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bert, "RATE", 3e-3)
    for task in bert.TASKS:
        (tmp_path / task).mkdir()
        for seed, (split, rows) in enumerate((("train", 320), ("dev", 40))):
            made_up(rows, seed, task != "sst2").to_csv(tmp_path / task / f"{split}.csv", index=False)
    case = Case(suite=load_suite("demo"), seeds=1, weights=str(weights), texts=str(tmp_path), device="cpu")
    outcome = bert.measure(case)
    assert len(outcome.table) == 2 * len(bert.TASKS)
    assert (outcome.table["accuracy"] > 90).all()
    assert "BSS on the pooled feature helps BERT" in outcome.sentence


def test_what_is_not_there_is_said(weights: Path, tmp_path: Path) -> None:
    case = Case(suite=load_suite("demo"), texts=str(tmp_path), weights=str(weights), device="cpu")
    with pytest.raises(InputError, match=r"train\.csv cannot be read as texts"):
        bert.measure(case)
    (tmp_path / "mnli").mkdir()
    made_up(40, 0, True).drop(columns="label").to_csv(tmp_path / "mnli" / "train.csv", index=False)
    with pytest.raises(InputError, match="then label"):
        bert.measure(case)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="nor on the hub"):
        bert._pretrained(str(tmp_path / "empty"))
