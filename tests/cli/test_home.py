import os
from pathlib import Path

import pytest

from cli.home import Home
from cli.output import CommandError


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    root = tmp_path / "home"
    root.mkdir(mode=0o755)
    Home(root).prepare()
    assert root.stat().st_mode & 0o777 == 0o700


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(CommandError, match="OPSIN_HOME"):
        Home(tmp_path / "home").prepare()


def test_a_home_has_one_instance(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.prepare()
    with (
        home.locked(),
        pytest.raises(CommandError, match=f"already running .*pid {os.getpid()}"),
        home.locked(),
    ):
        pass
    with home.locked():
        assert int((home.run / "up.lock").read_text()) == os.getpid()
