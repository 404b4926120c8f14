"""What processes, here links in one process, tell one another while they train."""

import contextlib
import random
import signal
import socket
import threading
import time

import pytest

from ccnet_jax.engine.hosts.link import Link
from ccnet_jax.engine.hosts.meeting import Peer
from ccnet_jax.engine.hosts.wire import Wire


class Run:
    """Links of several processes; `ended` has the message and the code of those that were ended."""

    def __init__(self, processes, timeout=30.0):
        self.timeout, self.ended = timeout, {}
        self.pairs = {i: pair() for i in range(1, processes)}
        self.links = [self.link(0, [Peer(i, f"host{i}", Wire(near)) for i, (near, _) in self.pairs.items()])]
        self.links += [self.link(i, [Peer(0, "host0", Wire(far))]) for i, (_, far) in self.pairs.items()]

    def link(self, process, peers):
        def end(*verdict):
            self.ended[process] = verdict
            self.kill(process)

        return Link(process, peers, self.timeout, end)

    def start(self, *processes):
        for process in processes or range(len(self.links)):
            self.links[process].start()
        return self

    def kill(self, process):
        """End a process's connections, as the system does with those of a process that is killed."""
        for near, far in self.pairs.values() if process == 0 else [self.pairs[process]]:
            with contextlib.suppress(OSError):
                (near if process == 0 else far).shutdown(socket.SHUT_RDWR)

    def wait_until_ended(self, *processes):
        until = time.monotonic() + 20
        while not set(processes) <= set(self.ended):
            assert time.monotonic() < until, self.ended
            time.sleep(0.01)


def pair():
    """Two ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = socket.create_connection(server.getsockname())
        near, _ = server.accept()
    return near, far


def test_a_process_that_is_killed_ends_all_others_with_its_name():
    run = Run(4).start(0, 1, 3)
    run.kill(2)
    run.wait_until_ended(0, 1, 3)
    (message, code), *others = run.ended.values()
    assert message.startswith("process 2 (host2) is lost: its connection has ended")
    assert message.endswith("and it goes on from the last checkpoint")
    assert code == 75
    assert others == [(message, code)] * 2


def test_process_0_is_missed_too():
    run = Run(3).start(1, 2)
    run.kill(0)
    run.wait_until_ended(1, 2)
    assert all(message.startswith("process 0 (host0) is lost") for message, _ in run.ended.values())


def test_a_process_that_says_nothing_is_lost():
    run = Run(3, timeout=1).start(0, 1)  # process 2 is frozen, with its connection open
    run.wait_until_ended(0, 1)
    for message, _ in run.ended.values():
        assert (
            "process 2 (host2) is lost: nothing was heard of it for 1 s (config.hosts.timeout_seconds)"
            in message
        )


def test_why_a_process_fails_is_told_to_all_and_their_ends_are_no_loss():
    run = Run(4).start()
    run.links[2].fail("a.png is corrupt; delete it", 2)
    run.kill(2)
    run.wait_until_ended(0, 1, 3)
    assert set(run.ended.values()) == {("process 2 (host2) has ended: a.png is corrupt; delete it", 2)}
    assert 2 not in run.ended  # it says so itself


def test_process_0_waits_until_the_others_know_why_it_fails():
    run = Run(3).start()
    run.links[0].fail("the disk is full", 2)
    assert set(run.ended) == {1, 2}
    assert set(run.ended.values()) == {("process 0 has ended: the disk is full", 2)}


def test_the_end_of_a_process_that_has_finished_is_no_loss():
    run = Run(3).start()
    run.links[1].finish()
    run.links[0].finish()
    time.sleep(0.2)
    run.kill(1)
    run.links[2].finish()
    run.kill(2)
    for link in run.links:
        link.wait_for_loss(5)
    assert run.ended == {}


def test_a_signal_is_told_also_while_no_step_ends():
    run = Run(3).start()
    run.links[1].ask(signal.SIGTERM)
    until = time.monotonic() + 20
    while [link.stop_signal for link in run.links] != [signal.SIGTERM] * 3:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert [link.stop_by(0) for link in run.links] == [signal.SIGTERM] * 3


def test_a_lone_process_stops_when_it_asks():
    (link,) = Run(1).start().links
    assert link.stop_by(0) == 0
    assert link.stop_by(signal.SIGTERM) == signal.SIGTERM
    link.finish()


@pytest.mark.parametrize("seed", range(5))
def test_all_stop_after_the_same_step_whoever_has_a_signal(seed):
    processes, steps = 4, 60
    run = Run(processes).start()
    draw = random.Random(seed)
    signals = {
        draw.randrange(processes): draw.randrange(1, 40),
        draw.randrange(processes): draw.randrange(1, 40),
    }
    together = threading.Barrier(processes)  # a step, which no process ends before all have begun it
    stopped = {}

    def train(process, delays):
        for step in range(1, steps + 1):
            together.wait(20)
            if delays.random() < 0.2:
                time.sleep(0.002)
            received = signal.SIGTERM if step >= signals.get(process, steps + 1) else 0
            if by := run.links[process].stop_by(received):
                stopped[process] = (step, by)
                break
        run.links[process].finish()

    threads = [
        threading.Thread(target=train, args=(i, random.Random(seed * 9 + i))) for i in range(processes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(stopped) == processes
    ((step, by),) = set(stopped.values())
    assert by == signal.SIGTERM
    assert min(signals.values()) <= step <= min(signals.values()) + 1
    assert run.ended == {}
