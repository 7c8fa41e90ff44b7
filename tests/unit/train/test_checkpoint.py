"""A checkpoint is whole, or training begins anew: whatever a full disk or a lost node left of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from components.train.checkpoint import CHECKPOINT, keep, kept


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    keep(tmp_path, {"weights": torch.arange(1000.0), "curve": [{"epoch": 1.0}]})

    saved = kept(tmp_path)

    assert saved is not None
    assert torch.equal(saved["weights"], torch.arange(1000.0))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.999])
def test_one_that_was_cut_short_is_named_and_as_good_as_none(
    tmp_path: Path, share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path, {"weights": torch.arange(1000.0), "curve": []})
    whole = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(whole[: int(len(whole) * share)])

    assert kept(tmp_path) is None
    told = capsys.readouterr().err
    assert f"checkpoint_unreadable file={tmp_path / CHECKPOINT}" in told
    assert "training begins anew" in told


def test_a_folder_without_one_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kept(tmp_path) is None
    assert capsys.readouterr().err == ""
