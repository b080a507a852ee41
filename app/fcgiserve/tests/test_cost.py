"""What a request costs: system calls and memory."""

import hashlib
import os
import re
import shutil
from pathlib import Path

import pytest
from support import Conversation, Worker, begin, params, stream, wait_until, whole_request

from fcgiserve import records

MIB = 1 << 20


def resident(process):
    """The most memory that the process had resident so far, in bytes."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def test_a_small_get_takes_at_most_8_system_calls(tmp_path):
    assert shutil.which("strace"), "strace is missing: install the package strace"
    trace = tmp_path / "trace"
    prefix = ("strace", "-D", "-f", "-o", str(trace))
    with Worker("fcgi_reference:application", prefix=prefix) as worker:
        for _ in range(5):
            worker.get()
        wait_until(lambda: trace.read_text().rstrip().endswith(", -1"))
        calls = re.findall(r"^\d+ +(\w+)\(.* = (-?\d+)", trace.read_text(), re.MULTILINE)
    names = [name for name, _ in calls]
    accepted = [
        at for at, (name, result) in enumerate(calls) if name == "accept4" and result != "-1"
    ]
    assert len(accepted) == 5
    # Before each of them there may have been an accept in vain, and a poll.
    for at in accepted:
        request = names[at : names.index("close", at) + 1]
        assert {"recvfrom", "sendto"} < set(request)
        assert len(request) <= 8, request


def upload(worker, mebibytes):
    block = os.urandom(MIB)
    sha256 = hashlib.sha256()
    with Conversation(worker.address) as peer:
        peer.send(begin(), params(CONTENT_LENGTH=str(mebibytes * MIB)))
        for _ in range(mebibytes):
            peer.send(*records.encode_stream(records.STDIN, 1, block))
            sha256.update(block)
        peer.send(stream(records.STDIN))
        output = b"".join(record.content for record in peer.until_end())
    assert f"{mebibytes * MIB} {sha256.hexdigest()}".encode() in output


def download(worker, mebibytes):
    with Conversation(worker.address) as peer:
        peer.send(whole_request(f"/?{mebibytes}"))
        length = 0
        while (record := peer.next()).type == records.STDOUT:
            length += len(record.content)
    assert length == mebibytes * MIB + len(b"Content-Type: application/octet-stream\r\n\r\n")


@pytest.mark.parametrize("mebibytes", [96, pytest.param(512, marks=pytest.mark.big)])
@pytest.mark.parametrize(("name", "move"), [("digest", upload), ("zeros", download)])
def test_a_body_of_any_size_needs_less_than_64_mib(name, move, mebibytes):
    with Worker(f"fixtureapps.plain:{name}") as worker:
        move(worker, mebibytes)
        assert resident(worker.process.pid) < 64 * MIB
