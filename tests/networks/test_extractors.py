"""Every extractor of the tree keeps to the contract, and `check` catches those that do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ckptbench.base.errors import InputError
from ckptbench.base.folders import TEMPLATES
from ckptbench.networks.architectures import find_architecture
from ckptbench.networks.conformance import check_extractor
from ckptbench.plugins import load_plugins

OPTIONAL = (
    "timm",
    "transformers",
    "transformers-text",
    "open_clip",
)  # extractors of libraries that need not be installed
# Small ones of each family, and those that the suites train.
TREE = {
    "small": ["smallcnn", "smallcnn:width=5"],
    "small-vit": ["smallvit:width=16,depth=1,heads=2"],
    "torchvision": ["resnet18:stem=small", "mobilenet_v3_small", "regnet_x_400mf"],
}


@pytest.mark.parametrize("name", TREE)
def test_extractors_of_the_tree(name: str) -> None:
    findings = check_extractor(load_plugins("extractor")[name], TREE[name])
    assert [finding for finding in findings if not finding.passed] == []
    assert len(findings) == 4 * len(TREE[name])


def test_every_extractor_of_the_tree_is_checked() -> None:
    assert {name for name in load_plugins("extractor").specs if name not in OPTIONAL} == set(TREE)


def test_without_names_the_smallest_are_checked() -> None:
    spec = load_plugins("extractor")["small-vit"]
    assert {finding.test.partition(":")[0] for finding in check_extractor(spec)} == {"smallvit"}


def plugin(folder: Path, **changes: str) -> Path:
    """The template's plugin with some lines changed."""
    text = (TEMPLATES / "extractor.py.txt").read_text()
    text = text.replace("$name", "mine").replace("$class_name", "Mine")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / "mine.py"
    path.write_text(text)
    return path


def failed(path: Path) -> dict[str, str]:
    spec = load_plugins("extractor", [path])["mine"]
    return {one.test.partition(": ")[2]: one.message for one in check_extractor(spec) if not one.passed}


def test_the_template_passes(tmp_path: Path) -> None:
    assert failed(plugin(tmp_path)) == {}


@pytest.mark.parametrize(
    ("old", "new", "test", "said"),
    [
        ("return last_linear(model)", "return '0'", "head", "the head '0' is a Conv2d, not a linear layer"),
        ("return last_linear(model)", "return 'fc'", "head", "has no layer 'fc'"),
        ("nn.Linear(2 * width, classes)", "nn.Linear(2 * width, 9)", "head", "has 9 outputs"),
        ("width, 3, stride=2, padding=1),\n            nn.ReLU(),\n            nn.Conv2d(width",
         "width * classes, 3),\n            nn.ReLU(),\n            nn.Conv2d(width * classes", "head",
         "0.weight differs between 2 and 3 classes"),
        ("nn.Linear(2 * width, classes),", "nn.Linear(2 * width, classes), nn.Softmax(1),", "features",
         "is not what its head puts out"),
        ("nn.Flatten(),", "nn.Flatten(2), nn.Flatten(1), nn.AlphaDropout(0.5).train(), _Noise(),",
         "deterministic", "two passes"),
        ("size=32", "size=1.5", "features", "TypeError"),
    ],
)  # fmt: skip
def test_check_says_what_is_wrong(tmp_path: Path, old: str, new: str, test: str, said: str) -> None:
    path = plugin(tmp_path, **{old: new})
    noise = "class _Noise(nn.Module):\n    def forward(self, x):\n        return x + torch.rand_like(x)\n"
    path.write_text(
        path.read_text().replace("from torch import nn\n", f"import torch\nfrom torch import nn\n\n\n{noise}")
    )
    assert said in failed(path)[test]


def test_a_vision_transformer_says_which_images_it_takes() -> None:
    architecture = find_architecture("smallvit:width=16,depth=1,heads=2", load_plugins("extractor"))
    with pytest.raises(InputError, match="smallvit was built for images of 32 pixels, not 28 x 28"):
        architecture.build(3)(torch.zeros(1, 3, 28, 28))
    with pytest.raises(InputError, match="size 30 should be a multiple of patch 4"):
        find_architecture("smallvit:size=30", load_plugins("extractor")).build(3)


def test_a_block_of_the_vision_transformer_is_the_textbooks() -> None:
    """Against torch's own pre-norm encoder layer with the same weights."""
    network = find_architecture("smallvit:width=16,depth=1,heads=2", load_plugins("extractor")).build(3)
    block = network.blocks[0]
    theirs = torch.nn.TransformerEncoderLayer(16, 2, 64, 0.0, "gelu", batch_first=True, norm_first=True)
    pairs = {
        theirs.self_attn.in_proj_weight: block.qkv.weight, theirs.self_attn.in_proj_bias: block.qkv.bias,
        theirs.self_attn.out_proj.weight: block.out.weight, theirs.self_attn.out_proj.bias: block.out.bias,
        theirs.linear1.weight: block.mlp[0].weight, theirs.linear1.bias: block.mlp[0].bias,
        theirs.linear2.weight: block.mlp[2].weight, theirs.linear2.bias: block.mlp[2].bias,
    }  # fmt: skip
    with torch.no_grad():
        for own, other in pairs.items():
            own.copy_(other)
    tokens = torch.randn(2, 5, 16)
    torch.testing.assert_close(block(tokens), theirs(tokens))
