"""Which command the service of an image runs, and what a dry run leaves alone; the rest is in tests/systemd."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from logclf_daemon.cli import main
from logclf_daemon.errors import LogclfError
from logclf_daemon.installation import Host, command_in


def command(image: Path, place: str) -> Path:
    path = image / place.lstrip("/")
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def dry_run(image: Path) -> str:
    done = CliRunner().invoke(main, ["install-service", "--root", str(image), "--dry-run"], catch_exceptions=False)
    return done.output


@pytest.mark.parametrize("place", ["/opt/logclf-daemon/bin", "/usr/local/bin", "/usr/bin"])
def test_an_image_runs_the_command_that_is_in_it(tmp_path: Path, place: str) -> None:
    command(tmp_path, f"{place}/logclf-daemon")

    assert command_in(Host(tmp_path)) == Path(place) / "logclf-daemon"


def test_a_command_called_in_the_image_is_the_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(tmp_path, "/usr/bin/logclf-daemon")
    monkeypatch.setattr("sys.argv", [str(command(tmp_path, "/usr/lib/logclf-daemon/bin/logclf-daemon"))])

    assert command_in(Host(tmp_path)) == Path("/usr/lib/logclf-daemon/bin/logclf-daemon")


def test_a_link_that_leads_somewhere_in_the_image_is_a_command(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/logclf-daemon").symlink_to("/nowhere/on/this/host")

    assert command_in(Host(tmp_path)) == Path("/usr/bin/logclf-daemon")


def test_an_image_without_the_command_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogclfError, match=r"there is no logclf-daemon in this image .*; install it there first"):
        command_in(Host(tmp_path))


def test_a_dry_run_shows_every_step_and_leaves_the_image_alone(tmp_path: Path) -> None:
    command(tmp_path, "/usr/bin/logclf-daemon")
    before = sorted(tmp_path.rglob("*"))

    said = dry_run(tmp_path)

    assert f"would write {tmp_path}/etc/systemd/system/logclf-daemon.service" in said
    assert f"would write {tmp_path}/etc/logclf/config.yaml" in said
    assert f"would run systemctl --root={tmp_path} enable logclf-daemon.service" in said
    assert "would be refused" not in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_configuration_that_is_there_is_kept_and_units_of_a_package_are_its_own(tmp_path: Path) -> None:
    command(tmp_path, "/usr/bin/logclf-daemon")
    command(tmp_path, "/etc/logclf/config.yaml")
    command(tmp_path, "/usr/lib/systemd/system/logclf-daemon.service")

    said = dry_run(tmp_path)

    assert f"unchanged: {tmp_path}/etc/logclf/config.yaml" in said
    assert "would write" not in said
    assert f"would run systemctl --root={tmp_path} enable" in said
