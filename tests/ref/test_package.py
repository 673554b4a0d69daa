"""Version and installation hints, for every way in which pip installs a distribution."""

import json

import pytest

from ttt_ref import package


class Installed:
    """A distribution with this origin (PEP 610); None: from an index."""

    version = "1.2.3"

    def __init__(self, origin: object) -> None:
        self._origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self._origin if isinstance(self._origin, str) else json.dumps(self._origin)


FOLDER = {"url": "file:///home/me/ttt-edge", "dir_info": {"editable": True}}
WHEEL = {"url": "file:///tmp/ttt_edge-1.2.3-py3-none-any.whl", "archive_info": {}}


@pytest.mark.parametrize(
    ("found", "command"),
    [
        (Installed(FOLDER), "pip install '.[mic]'"),
        (Installed(WHEEL), "pip install '/tmp/ttt_edge-1.2.3-py3-none-any.whl[mic]'"),
        (Installed(None), "pip install 'ttt-edge[mic]'"),
        (Installed("{ broken"), "pip install 'ttt-edge[mic]'"),
        (None, "pip install '.[mic]'"),
    ],
)
def test_a_hint_can_work_where_it_is_shown(monkeypatch, found, command):
    """Hints named `ttt-edge[mic]`, which no index has: from a clone it is `.[mic]`."""
    monkeypatch.setattr(package, "_distribution", lambda: found)
    assert package.install_command("mic") == command


def test_several_extras(monkeypatch):
    monkeypatch.setattr(package, "_distribution", lambda: None)
    assert package.install_command("cpu", "server") == "pip install '.[cpu,server]'"


def test_version(monkeypatch, capsys):
    monkeypatch.setattr(package, "_distribution", lambda: Installed(None))
    package.print_version(False)
    with pytest.raises(SystemExit) as left:
        package.print_version(True)
    assert left.value.code == 0
    assert capsys.readouterr().out == "ttt-edge 1.2.3\n"
    monkeypatch.setattr(package, "_distribution", lambda: None)
    assert "not installed" in package.version_line()
    assert package.installed_version() == "0"
