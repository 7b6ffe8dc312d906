"""Suites: what is in the tree is valid, and a mistake in one is a sentence that says what would be right."""

from __future__ import annotations

import pytest

from ckptbench.base.errors import InputError
from ckptbench.suites import known_suites, load_suite

MINIMAL = """
title = "t"
[[sources]]
name = "s"
architecture = "smallcnn"
checkpoints = "x"
[[targets]]
name = "digits"
[targets.data]
name = "digits"
"""


def write(tmp_path, text, name="mine"):
    path = tmp_path / f"{name}.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", sorted(known_suites()))
def test_every_suite_is_valid_and_keeps_the_rules(name):
    suite = load_suite(name)
    whole = [p for p in suite.fe if p.part == "all"]
    assert len(whole) >= 3, "reasonable FE protocols agree at tau 0.22-0.67 only: a suite needs three"
    few = name in ("zoo", "reruns")  # which have source runs instead
    assert len(suite.ft) >= (1 if few else 2), "and two FT protocols"
    targets = {target.name for target in suite.targets}
    for protocol in suite.protocols:
        assert set(protocol.targets or ()) <= targets


def test_the_digest_covers_tracks_and_protocols_but_not_selectors(tmp_path):
    suite = load_suite(write(tmp_path, MINIMAL))
    assert suite.model_copy(update={"selectors": ("logme",), "note": "n"}).digest == suite.digest
    assert suite.model_copy(update={"seed": 1}).digest != suite.digest


def test_a_misspelt_key_names_the_key_and_the_nearest_one(tmp_path):
    with pytest.raises(InputError, match=r"unknown key 'targets.0.data.sise', did you mean 'size'"):
        load_suite(write(tmp_path, MINIMAL + "sise = 3\n"))


def test_an_unknown_suite_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'demo'"):
        load_suite("demoo")


def test_a_suite_file_that_is_no_toml_and_one_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_suite(write(tmp_path, "title = "))
    with pytest.raises(InputError, match="there is no suite file"):
        load_suite(tmp_path / "absent.toml")


def test_two_targets_of_one_name(tmp_path):
    again = '[[targets]]\nname = "digits"\n[targets.data]\nname = "digits"\n'
    with pytest.raises(InputError, match="two targets are called 'digits'"):
        load_suite(write(tmp_path, MINIMAL + again))


def test_a_source_needs_a_folder_or_all_of_training(tmp_path):
    with pytest.raises(InputError, match="needs either checkpoints, or data, training and epochs"):
        load_suite(write(tmp_path, MINIMAL.replace('checkpoints = "x"', "")))


def test_methods_and_rates_multiply_out(tmp_path):
    grid = (
        '[[ft]]\nname = "ft"\nepochs = 1\nmethods = [["l2"], ["l2-sp", "bss"], ["tsvd:r=4"]]\n'
        "rates = [0.15, 1.0]\n"
        "[ft.training]\nlr = 0.1\n"
    )
    suite = load_suite(write(tmp_path, MINIMAL + grid))
    assert [(p.method, p.rate) for p in suite.ft] == [
        ("l2", 0.15), ("l2", 1.0), ("l2-sp+bss", 0.15), ("l2-sp+bss", 1.0),
        ("tsvd:r=4", 0.15), ("tsvd:r=4", 1.0),
    ]  # fmt: skip
    assert suite.ft[2].penalties == ("l2-sp", "bss")
    with pytest.raises(InputError, match=r"a method is a list of penalties, \['l2'\] and not 'l2'"):
        load_suite(write(tmp_path, MINIMAL + grid.replace('["l2"]', '"l2"')))
