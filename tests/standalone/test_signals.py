from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator

import pytest

from standalone import tritonserver
from standalone.launcher import Launcher
from standalone.settings import Settings
from standalone.signals import ENDING
from standalone.supervisor import supervise

SETTINGS = Settings(device_map="cpu")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("ignored", [[], [signal.SIGHUP], [signal.SIGINT, signal.SIGHUP]], ids=["", "nohup", "&"])
@pytest.mark.parametrize(
    "start", [lambda: Launcher(SETTINGS).run(), lambda: supervise(SETTINGS, [])], ids=["launcher", "supervisor"]
)
def test_what_it_was_started_to_ignore_does_not_end_it(
    start: Callable[[], object], ignored: list[signal.Signals], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(prefix: str) -> object:
        raise InterruptedError

    monkeypatch.setattr(tritonserver, "find", lambda: None)
    monkeypatch.setattr(tempfile, "TemporaryDirectory", stop)  # the first step after the signals
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
    with pytest.raises(InterruptedError):
        start()
    assert [number for number in ENDING if signal.getsignal(number) is signal.SIG_IGN] == ignored
    assert signal.SIG_DFL not in [signal.getsignal(number) for number in ENDING]
