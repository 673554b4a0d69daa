"""`ttt-server` before it serves."""

from __future__ import annotations

import pytest

from tests.runtime.toy_assistant import toy_assistant
from ttt_ref.errors import ConfigError
from ttt_runtime.cli import server_run
from ttt_runtime.cli.server_run import Options, run_server
from ttt_runtime.dialogue.assistant import Assistant


def options(host: str) -> Options:
    return Options(
        bundle=None, preset=None, device="cpu", threads=1, host=host, port=0,
        wyoming_host="127.0.0.1", wyoming_port=None, token_file=None, allowed_hosts=(),
        allowed_origins=(), tls_cert=None, tls_key=None, sessions=1, max_seconds=5.0, verbose=False,
    )  # fmt: skip


def test_notes_of_an_old_bundle_are_told_before_it_listens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`ttt-assistant` told that a bundle brings no prompts, the server did not."""
    assistant = toy_assistant()
    assistant.prompts.note = "the bundle brings no prompts"
    monkeypatch.setattr(Assistant, "from_bundle", lambda *args, **named: assistant)

    def stop(coroutine):  # type: ignore[no-untyped-def]
        coroutine.close()

    monkeypatch.setattr(server_run.asyncio, "run", stop)
    run_server(options("127.0.0.1"))
    assert "note: the bundle brings no prompts" in capsys.readouterr().err


def test_another_address_without_a_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(server_run.TOKEN_VARIABLE, raising=False)
    monkeypatch.setattr(Assistant, "from_bundle", lambda *args, **named: toy_assistant())
    with pytest.raises(ConfigError, match="give a token"):
        run_server(options("0.0.0.0"))
