"""The first signal asks a run to stop, the second one interrupts it."""

from __future__ import annotations

import signal
import threading

import pytest

from sharnn.train.signals import stop_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    announced = []
    with stop_signals(lambda: announced.append(number)) as stopped:
        assert not stopped.is_set()
        signal.raise_signal(number)
        assert stopped.is_set()
        assert announced == [number]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_other_threads_leave_signals_alone() -> None:
    handlers = []

    def enter() -> None:
        with stop_signals(lambda: None):
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]
