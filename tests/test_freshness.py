"""What is saved is noticed, what was looked at is no news."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon_process import rules_file
from logclf_daemon import freshness
from logclf_daemon.config import Config
from logclf_daemon.freshness import Freshness


def config_of(*places: Path, builtin: bool = False) -> Config:
    return Config.model_validate({"rules": {"paths": list(places), "builtin": builtin}, "model": {"enabled": False}})


def noted(config: Config) -> Freshness:
    files = Freshness()
    files.note(config)
    return files


def test_nothing_happened_and_nothing_changed(tmp_path: Path) -> None:
    rules_file(tmp_path / "own.yaml")

    assert not noted(config_of(tmp_path, tmp_path / "own.yaml", tmp_path / "missing")).changed(
        config_of(tmp_path, tmp_path / "own.yaml", tmp_path / "missing")
    )


@pytest.mark.parametrize("place", ["", "own.yaml"])
def test_a_file_that_is_saved_or_taken_away_is_a_change_until_it_is_noted(tmp_path: Path, place: str) -> None:
    rules_file(tmp_path / "own.yaml")
    config = config_of(tmp_path / place)
    files = noted(config)

    rules_file(tmp_path / "own.yaml")
    assert files.changed(config)
    assert files.changed(config)
    files.note(config)
    assert not files.changed(config)

    (tmp_path / "own.yaml").unlink()
    assert files.changed(config)


def test_a_link_into_nothing_hides_no_other_file(tmp_path: Path) -> None:
    for name in "abcdefgh":
        (tmp_path / f"{name}.yaml").symlink_to("nowhere")
        rules_file(tmp_path / f"{name}-own.yaml")
    config = config_of(tmp_path)

    for name in "abcdefgh":
        files = noted(config)
        rules_file(tmp_path / f"{name}-own.yaml")
        assert files.changed(config), name


def test_a_refused_configuration_that_names_other_places_is_no_change_for_ever(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    runs, refused = config_of(tmp_path / "own"), config_of(tmp_path / "other")
    files = noted(runs)

    files.note(refused)

    assert not files.changed(runs)


def test_what_ships_is_looked_at_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "folder", lambda _: tmp_path)
    config = config_of(builtin=True)
    files = noted(config)

    rules_file(tmp_path / "shipped.yaml")

    looks = [files.changed(config) for _ in range(2 * freshness.SHIPPED_EVERY)]
    assert looks.count(True) == 2
