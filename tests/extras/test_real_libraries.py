"""Checkpoints as the libraries themselves write them, each ranked from its folder: ``make test-extras``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ckptbench import InputError, Monitor, Ranking, rank
from ckptbench.base.types import Array
from ckptbench.ranking.reading import read_source

pytestmark = [pytest.mark.extras, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def target() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 120, (36, 32, 32, 3)), np.arange(36) % 3
    images[np.arange(36), ..., labels] += 135
    return images.astype(np.uint8), labels


def check(found: Ranking, epochs: list[int]) -> None:
    assert sorted(found.table["epoch"]) == epochs
    assert found.used.get("skipped", "nothing") == "nothing"
    assert found.table["measured"].between(0.3, 1).all()


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_timm(target: tuple[Array, Array], tmp_path: Path, name: str) -> None:
    timm = pytest.importorskip("timm")
    options = {"img_size": 32} if "vit" in name else {}
    for epoch in (0, 1):
        torch.manual_seed(epoch)
        model = timm.create_model(name, num_classes=4, **options)
        other = timm.create_model(name, num_classes=4, **options)
        content = {"state_dict": model.state_dict(), "state_dict_ema": other.state_dict(), "epoch": epoch}
        torch.save(content, tmp_path / f"checkpoint-{epoch}.pth.tar")
    arch = f"timm/{name}" + (":img_size=32" if options else "")
    found = rank(tmp_path, arch, target, size=32, store=tmp_path / "store", workers=1)
    check(found, [0, 1])
    assert found.used["weights"].startswith("state_dict_ema, rather than at state_dict")


def test_transformers_trainer(target: tuple[Array, Array], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    images, labels = target
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32,
        patch_size=8, num_labels=3,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    rows = [
        {"pixel_values": torch.from_numpy(image).permute(2, 0, 1).float() / 255, "labels": int(label)}
        for image, label in zip(images, labels, strict=True)
    ]
    monitor = Monitor(target, size=32, store=tmp_path / "store", layer="classifier")
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "run"), num_train_epochs=2, per_device_train_batch_size=12,
        save_strategy="epoch", report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=rows, callbacks=[monitor.trainer()]
    )
    trainer.train()
    assert any(key.startswith("target/") for row in trainer.state.log_history for key in row)
    check(monitor.ranking(), [1, 2])
    check(rank(tmp_path / "run", "hf", target, size=32, store=tmp_path / "store", workers=1), [3, 6])


def test_lightning(target: tuple[Array, Array], tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    import lightning.pytorch as lightning
    from torchvision.models import resnet18

    images, labels = target

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = resnet18(num_classes=3)

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    tensors = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    rows = torch.utils.data.TensorDataset(tensors, torch.from_numpy(labels))
    monitor = Monitor(target, size=32, store=tmp_path / "store", part="model")
    saving = lightning.callbacks.ModelCheckpoint(tmp_path / "run", save_top_k=-1, save_last=True)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[monitor.lightning(), saving],
    )  # fmt: skip
    trainer.fit(Module(), torch.utils.data.DataLoader(rows, batch_size=12))
    check(monitor.ranking(), [0, 1])
    found = rank(tmp_path / "run", "resnet18", target, size=32, store=tmp_path / "store", workers=1)
    assert sorted(found.table["epoch"]) == [0, 1]
    assert "last.ckpt holds the weights of epoch 1" in found.used["skipped"]


def test_open_clip(target: tuple[Array, Array], tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    for epoch in (1, 2):
        torch.manual_seed(epoch)
        model = open_clip.create_model("RN50", pretrained=None)
        content = {"epoch": epoch, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}
        torch.save(content, tmp_path / f"epoch_{epoch}.pt")
    found = rank(tmp_path, "open_clip/RN50", target, store=tmp_path / "store", workers=1, limit=12)
    check(found, [1, 2])


def test_texts_of_a_trainer_run(tmp_path: Path) -> None:
    """A table of texts, and the checkpoints of a run with its tokeniser, as Trainer wrote them."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "good", "bad", "the", "film", "was", "is", "not", "a"]
    tokeniser = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokeniser.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokeniser, pad_token="[PAD]", unk_token="[UNK]"
    )
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    fillers = rng.choice(words[4:], (40, 4))
    texts = [" ".join([*row, words[2 + label]]) for row, label in zip(fillers, labels, strict=True)]
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16, num_labels=2,
    )  # fmt: skip
    rows = [{**fast(text), "labels": int(label)} for text, label in zip(texts, labels, strict=True)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "run"), num_train_epochs=2, per_device_train_batch_size=20,
        save_strategy="epoch", report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    transformers.Trainer(
        model=transformers.BertForSequenceClassification(config), args=arguments, train_dataset=rows,
        processing_class=fast,
    ).train()  # fmt: skip
    table = [f"{text},{words[2 + label]}\n" for text, label in zip(texts, labels, strict=True)]
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(table))
    found = rank(tmp_path / "run", "hf-text", tmp_path / "a.csv", store=tmp_path / "store", workers=1)
    check(found, [2, 4])
    assert found.used["images"] == "none: texts of at most 5 tokens"
    images = np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1]
    with pytest.raises(InputError, match=r"the data are images, and hf-text.* takes texts"):
        rank(tmp_path / "run", "hf-text", images, store=tmp_path / "store", workers=1)


def test_a_data_set_on_disk(target: tuple[Array, Array], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    images, labels = target
    kinds = datasets.ClassLabel(names=["red", "green", "blue"])
    features = datasets.Features({"image": datasets.Image(), "label": kinds, "who": datasets.Value("string")})
    content = {
        "image": [Image.fromarray(image) for image in images],
        "label": labels.tolist(),
        "who": [str(number % 9) for number in range(len(labels))],
    }
    whole = datasets.Dataset.from_dict(content, features=features)
    datasets.DatasetDict(test=whole.select(range(3)), train=whole).save_to_disk(str(tmp_path / "data"))
    source = read_source(tmp_path / "data", "who")
    assert source.found.classes == ("blue", "green", "red")
    raw = source.found.train
    np.testing.assert_array_equal(np.asarray(raw.image(5)), images[5])
    assert source.groups is not None
    assert source.groups["10"] == "1"
    assert [source.found.classes[label] for label in raw.labels[:3]] == ["red", "green", "blue"]
    with pytest.raises(InputError, match="has no column 'whom'"):
        read_source(tmp_path / "data", "whom")
    texts = datasets.Dataset.from_dict({"text": ["a", "b"], "labels": [[0, 1], [1, 1]]})
    texts.save_to_disk(str(tmp_path / "texts"))
    found = read_source(tmp_path / "texts", None, (), "multilabel")
    np.testing.assert_array_equal(found.columns, [[0, 1], [1, 1]])
