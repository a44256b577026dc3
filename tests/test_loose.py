"""Threads that nobody waits for, and descriptors that are shared out."""

from __future__ import annotations

import gc
import threading

import pytest

from fault_doubles import few_descriptors, wait_until
from logclf_daemon.descriptors import fair_share
from logclf_daemon.loose import LooseThreads


def threads_named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def test_calls_are_made_in_order_and_their_results_and_errors_come_back() -> None:
    pool, order = LooseThreads(1, "in-order"), list[int]()

    calls = [pool.submit(order.append, number) for number in range(100)]
    broken = pool.submit(int, "no number")
    pool.shutdown()

    assert [call.result() for call in calls] == [None] * 100
    assert order == list(range(100))
    assert isinstance(broken.exception(), ValueError)
    assert not threads_named("in-order")
    with pytest.raises(RuntimeError):
        pool.submit(int)


def test_a_shutdown_waits_for_no_hanging_call_and_drops_those_behind_it_if_asked() -> None:
    pool, go_on = LooseThreads(1, "hanging"), threading.Event()
    hanging = pool.submit(go_on.wait, 20)
    wait_until(hanging.running)
    behind = pool.submit(int)

    pool.shutdown(wait=False, cancel_futures=True)

    assert behind.cancelled()
    assert all(thread.daemon for thread in threads_named("hanging"))
    go_on.set()
    assert hanging.result() is True
    wait_until(lambda: not threads_named("hanging"))


def test_a_pool_that_is_forgotten_ends_its_threads() -> None:
    LooseThreads(2, "forgotten").submit(int).result()

    gc.collect()

    wait_until(lambda: not threads_named("forgotten"))


@pytest.mark.parametrize(("limit", "share"), [(16, 1), (64, 20), (1024, 480)])
def test_an_input_takes_at_most_half_of_the_descriptors(limit: int, share: int) -> None:
    with few_descriptors(limit):
        assert fair_share(512) == share
        assert fair_share(1) == 1
