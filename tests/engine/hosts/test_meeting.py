"""How processes meet, here as threads: who is missing, who does not belong, who comes late."""

import concurrent.futures
import contextlib
import json
import re
import socket

import pytest

from ccnet_jax.common.errors import HostLost, UserError
from ccnet_jax.config import command_line
from ccnet_jax.engine.hosts.config import HostsConfig
from ccnet_jax.engine.hosts.join import join_hosts
from ccnet_jax.engine.hosts.meeting import meet
from ccnet_jax.engine.hosts.place import Place
from tests.helpers import free_port


class Meeting:
    """Processes that meet at a port of their own, each in a thread."""

    def __init__(self, processes):
        self.coordinator = f"127.0.0.1:{free_port()}"
        self.processes = processes
        self.threads = concurrent.futures.ThreadPoolExecutor()

    def come(self, process, wait=20.0, processes=None, **shared):
        place = Place(self.coordinator, processes or self.processes, process)
        return self.threads.submit(meet, place, wait, shared)

    def refused(self):
        """A connection to process 0, once that waits."""
        address = Place(self.coordinator, 1, 0).address
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                return socket.create_connection(address)


def close(*meetings):
    for peers in meetings:
        for peer in peers:
            peer.wire.close()


def test_all_meet_whoever_comes_first():
    meeting = Meeting(3)
    others = [meeting.come(2), meeting.come(1)]  # nobody is at the port yet, and both try again
    first = meeting.come(0).result()
    assert sorted(peer.process for peer in first) == [1, 2]
    assert [peer.process for (peer,) in (other.result() for other in others)] == [0, 0]
    for peer in first:
        peer.wire.send({"hello": peer.process})
    assert [other.result()[0].wire.receive() for other in others] == [[{"hello": 2}], [{"hello": 1}]]
    close(first, *(other.result() for other in others))


def test_who_is_missing_is_named_by_all():
    meeting = Meeting(5)
    waiting = [meeting.come(0, wait=0.5), meeting.come(2, wait=0.5)]
    for process in waiting:
        with pytest.raises(
            HostLost, match=r"^process 1, process 3 and process 4 of 5 did not come to 127\.0\.0\.1"
        ):
            process.result()


def test_process_0_is_missing():
    with pytest.raises(
        HostLost, match=r"process 0 did not answer at 127.0.0.1:\d+ within 0.4 s \(Connection refused"
    ):
        Meeting(2).come(1, wait=0.4).result()


def test_the_program_ends_with_one_message_and_an_exit_code_of_its_own(capsys):
    def program():
        with join_hosts(HostsConfig(f"127.0.0.1:{free_port()}", 2, 0, wait_seconds=1), {}):
            raise AssertionError("the other process is not there")

    with pytest.raises(SystemExit) as ended:
        command_line.run(program)
    assert ended.value.code == 75
    err = capsys.readouterr().err
    assert err.startswith("error: process 1 of 2 did not come to")
    assert err.count("\n") == 1


def test_other_programs_are_left_alone_and_a_process_may_come_again():
    meeting = Meeting(2)
    first = meeting.come(0)
    with meeting.refused() as refused, meeting.refused() as another:
        refused.sendall(b"GET / HTTP/1.1\r\n\r\n")
        another.sendall(b'{"process": "one"}\n')
        with meeting.refused() as killed:
            killed.sendall(b'{"process": 1, "processes": 2, "host": "here", "shared": {}}')  # no end of line
        second = meeting.come(1)
        assert [peer.process for peer in first.result()] == [1]
        assert refused.recv(1) == b""
        close(first.result(), second.result())


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"process": 1, "processes": 4}, r"process 1 \(.*\) expects 4 processes, process 0 3"),
        ({"process": 2}, r"process 2 \(.*\) has the number of process 2 \(.*\); give each process its own"),
        (
            {"process": 1, "steps": "20"},
            r"process 1 \(.*\) has steps=20 and process 0 has 10; start all with the same",
        ),
    ],
)
def test_processes_that_do_not_go_together_all_say_so(other, words):
    meeting = Meeting(3)
    first = meeting.come(0, steps="10")
    with meeting.refused() as second:  # which is none
        hello = {"process": 2, "processes": 3, "host": "here", "shared": {"steps": "10"}}
        second.sendall(json.dumps(hello).encode() + b"\n")
        wrong = meeting.come(**({"steps": "10"} | other))
        for process in first, wrong:
            with pytest.raises(UserError, match=words):
                process.result()
        assert re.search(words, json.loads(second.recv(1000))["refused"])


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("", 0)) as taken:
        place = Place(f"127.0.0.1:{taken.getsockname()[1]}", 2, 0)
        with pytest.raises(UserError, match=r"cannot wait at port \d+ \(Address already in use\)"):
            meet(place, 1, {})


def test_what_ends_at_the_address_is_no_process_0_and_a_later_one_is():
    meeting = Meeting(2)
    with socket.create_server(Place(meeting.coordinator, 2, 0).address) as server:
        second = meeting.come(1)
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"220 mail.example.org\r\n")
    first = meeting.come(0)
    assert [len(process.result()) for process in (first, second)] == [1, 1]
    close(first.result(), second.result())
