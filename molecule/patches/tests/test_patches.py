"""Each patch does what its header says: every check fails with mod_fcgid as it was released."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playbooks import deploy
from poll import eventually
from testinfra.host import Host

ROOT = Path(__file__).parents[3]
ON_HOST = shlex.quote((Path(__file__).parent / "on_host.py").read_text())
SANITIZER = "/var/log/httpd/asan"
DROP_IN = "/run/systemd/system/httpd.service.d/asan.conf"


def on_host(host: Host, *arguments: str) -> Any:
    """What on_host.py prints on the host."""
    run = host.run(f"python3 -c {ON_HOST} {' '.join(map(shlex.quote, arguments))}")
    assert run.rc == 0, run.stderr
    return json.loads(run.stdout)


def together(host: Host, *paths: str) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = on_host(host, "together", *paths)
    return answers


def curl(host: Host, options: str, path: str = "/") -> str:
    return str(host.check_output(f"curl --silent --max-time 60 {options} 'http://127.0.0.1{path}'"))


def httpd_children(host: Host) -> list[int]:
    """The children of httpd that answer requests, not the process manager."""
    parent = host.file("/run/httpd/httpd.pid").content_string.strip()
    rows = host.check_output(f"ps --ppid {parent} -o pid=,nlwp=").split("\n")
    return [int(pid) for pid, threads in map(str.split, rows) if int(threads) > 1]


def managers(host: Host) -> set[int]:
    """The parents of the workers."""
    rows = host.check_output("ps -eo ppid=,args=").splitlines()
    return {int(row.split()[0]) for row in rows if "/var/www/htdocs/" in row}


# --- request-queue ------------------------------------------------------------------


def test_a_request_that_waits_gets_the_next_free_worker_at_once(host: Host) -> None:
    together(host, *["/sleep?ms=400"] * 8)  # so that all four workers are there
    times = [answer["seconds"] for answer in together(host, *["/sleep?ms=400"] * 6)]
    # Two of six wait for one of four: twice as long as the others, and not a second longer.
    assert max(times) < 3 * min(times), times


def test_a_request_that_waited_in_vain_is_answered_with_503_and_may_come_again(host: Host) -> None:
    answers = together(host, "//impatient/sleep?ms=3000", "//impatient/sleep?ms=3000")
    served, refused = sorted(answers, key=lambda answer: answer["status"])
    assert (served["status"], refused["status"]) == (200, 503)
    assert refused["headers"]["Retry-After"] == "7"
    assert refused["seconds"] < served["seconds"]


# --- fewer-system-calls -------------------------------------------------------------


def test_a_request_takes_six_system_calls_towards_its_worker(host: Host) -> None:
    host.check_output("which strace || apt-get -qy install --no-install-recommends strace")
    together(host, "/x.fcgi")
    attach = " ".join(f"-p {pid}" for pid in httpd_children(host))
    host.check_output(
        f"timeout 2 strace -f {attach} -o /var/tmp/trace & sleep 1; "
        "curl --silent http://127.0.0.1/x.fcgi; wait"
    )
    trace = host.file("/var/tmp/trace").content_string
    (thread,) = set(re.findall(r"^(\d+) +connect\(\d+, {sa_family=AF_UNIX", trace, re.MULTILINE))
    calls = re.findall(rf"^{thread} +(\w+)\(", trace, re.MULTILINE)
    towards = calls[calls.index("socket") :]
    assert towards[: towards.index("close") + 1] == [
        *("socket", "setsockopt", "connect", "sendmsg", "read", "close")
    ]


# --- prespawn -----------------------------------------------------------------------


def test_workers_are_there_before_the_first_request(host: Host) -> None:
    host.check_output("systemctl restart httpd && sleep 2")
    least = re.search(
        r"^FcgidMinProcessesPerClass (\d+)",
        host.file("/etc/httpd/httpd.conf").content_string,
        re.MULTILINE,
    )
    rows = host.check_output("ps -eo args=").splitlines()
    there = [row for row in rows if row.endswith("/var/www/htdocs/localhostfcgi/app.fcgi")]
    assert least and len(there) == int(least[1])


# --- graceful-reload ----------------------------------------------------------------


def test_a_reload_lets_a_request_finish_and_holds_nobody_up(host: Host) -> None:
    (before,) = managers(host)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(together, host, "/sleep?ms=9000")
        time.sleep(1)
        host.check_output("systemctl reload httpd")
        quick = [together(host, "/")[0] for _ in range(5)]
        assert not slow.done()
        assert [answer["status"] for answer in quick] == [200] * 5
        assert [answer["status"] for answer in slow.result()] == [200]
    # And the process manager of that request ends with it, with its workers and its sockets.
    assert eventually(lambda: before not in managers(host))
    assert len(managers(host)) == 1
    assert f"/{before}." not in host.check_output("find /var/run/fcgidsock/ -type s")


# --- upstream-fixes -----------------------------------------------------------------


def info(host: Host, options: str = "") -> Any:
    return json.loads(curl(host, f"--header 'Accept: application/json' {options}", "/info"))


def test_the_length_of_a_chunked_body_is_told(host: Host) -> None:
    chunked = info(host, "--header 'Transfer-Encoding: chunked' --data hello")
    assert chunked["request"]["CONTENT_LENGTH"] == "5"
    assert "CONTENT_LENGTH" not in info(host)["request"]


def test_a_body_that_httpd_refuses_never_reaches_the_application(host: Host) -> None:
    request = r"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n"
    answer = host.check_output(
        f"bash -c \"exec 3<>/dev/tcp/127.0.0.1/80; printf '{request}' >&3; head -1 <&3\""
    )
    assert " 400 " in answer


def test_a_variable_of_the_workers_may_be_long(host: Host) -> None:
    assert info(host)["environment"]["LONG"] == "x" * 400


def test_a_chunked_body_over_the_limit_is_answered_with_413(host: Host) -> None:
    status = host.check_output(
        "head -c 140000000 /dev/zero | curl --silent --output /dev/null --write-out '%{http_code}' "
        "--header 'Transfer-Encoding: chunked' --upload-file - http://127.0.0.1/echo"
    )
    assert status == "413"


def test_a_large_body_takes_little_memory(host: Host) -> None:
    def most() -> int:
        """The most memory that a child of httpd has ever had, in bytes."""
        peaks = [
            host.check_output(f"grep VmHWM /proc/{pid}/status").split()[1]
            for pid in httpd_children(host)
        ]
        return 1024 * max(map(int, peaks))

    before = most()
    size = 100_000_000
    answer = host.check_output(
        f"head -c {size} /dev/zero | curl --silent --header 'Expect:' --upload-file - "
        "http://127.0.0.1/echo"
    )
    assert json.loads(answer)["length"] == size
    assert most() - before < size / 4


def test_a_client_that_leaves_is_no_warning(host: Host) -> None:
    host.check_output(
        "truncate --size 0 /var/log/httpd/error_log; timeout 1 curl --silent --limit-rate 100k "
        "--header 'Expect:' --upload-file /usr/sbin/apache2 http://127.0.0.1/echo; sleep 1"
    )
    assert (
        "can't get data from http client"
        not in host.file("/var/log/httpd/error_log").content_string
    )
    assert " 400 " in host.check_output("tail -1 /var/log/httpd/access_log")


# --- What a virtual host may ask for -------------------------------------------------------------


@pytest.mark.parametrize(("vhost", "at_once"), [("impatient", True), ("localhostfcgi", False)])
def test_only_a_streaming_virtual_host_passes_each_piece_on_at_once(
    host: Host, vhost: str, at_once: bool
) -> None:
    times = curl(
        host,
        f"--header 'Host: {vhost}' --output /dev/null --write-out "
        "'%{time_starttransfer} %{time_total}'",
        "/stream?n=3&interval=1",
    )
    first, last = map(float, times.split())
    assert (first < last / 2) == at_once


# --- status-auto --------------------------------------------------------------------


def test_the_process_table_can_be_read_by_programs(host: Host) -> None:
    together(host, "/")
    lines = host.check_output("curl --silent 'http://127.0.0.1:8079/server-status?auto'")
    counts = {
        name: int(count) for name, count in re.findall(r"^(Fcgid\w+): (\d+)$", lines, re.MULTILINE)
    }
    kinds = ("Idle", "Busy", "Exiting")
    assert counts["FcgidProcesses"] == sum(counts[f"FcgidProcesses{kind}"] for kind in kinds) > 0
    assert counts["FcgidRequestsWaiting"] == 0
    rows = re.findall(
        r"^FcgidProcess: pid=\d+ state=\w+ active=\d+ idle=\d+ accesses=\d+ vhost=\d+ command=/.+$",
        lines,
        re.MULTILINE,
    )
    assert len(rows) == counts["FcgidProcesses"]


# --- request-queue: sending again ---------------------------------------------------


@pytest.mark.parametrize(("path", "program"), [("/healthz", "app.fcgi"), ("/x.fcgi", "x.fcgi")])
def test_a_request_that_its_worker_had_not_begun_goes_to_another(
    host: Host, path: str, program: str
) -> None:
    answers = on_host(host, "stopped", path, program)
    assert [answer["status"] for answer in answers] == [200] * 6


# --- new-release --------------------------------------------------------------------


def processes(host: Host, pattern: str) -> set[str]:
    """Process ids of those whose command line matches."""
    return set(host.run(f"pgrep --full '^{pattern}'").stdout.split())


def test_the_workers_of_a_replaced_program_end_and_the_new_ones_are_there_unasked(
    host: Host,
) -> None:
    together(host, "/")
    program = "/srv/fcgi/python/releases/[^ ]*python -I /var/www/htdocs/localhostfcgi/app.fcgi"
    before = processes(host, program)
    assert before
    live = host.check_output("readlink /var/www/htdocs/localhostfcgi/app.fcgi")
    host.check_output(f"cp {live} {live}.new && mv {live}.new {live}")
    assert eventually(lambda: before.isdisjoint(processes(host, program)))
    assert processes(host, program)


def test_the_workers_of_a_replaced_wrapper_stay(host: Host) -> None:
    """httpd looks at its file when it is reloaded: until then new workers would be no newer."""
    ask = "curl --silent --fail --header 'Host: wrapped' http://127.0.0.1/"
    host.check_output("cd /usr/local/bin && cp wrapper wrapper.new && mv wrapper.new wrapper")
    before = processes(host, "/srv/fcgi/c/releases/[^ ]*/bin/x.fcgi")
    for _ in range(8):
        host.check_output(f"{ask} && sleep 1")
    assert processes(host, "/srv/fcgi/c/releases/[^ ]*/bin/x.fcgi") >= before > set()


# --- pass-environment ---------------------------------------------------------------


def test_the_workers_get_variables_of_httpd_as_they_are_and_none_that_it_has_not(
    host: Host,
) -> None:
    environment = info(host)["environment"]
    assert environment["GIVEN"] == r"""it's a "quote", a \ and ${HOME}"""
    assert "ABSENT" not in environment
    assert environment["EMPTY"] == ""  # of httpd_fcgid_initial_env: FcgidInitialEnv EMPTY ""


def test_a_variable_that_is_too_long_is_named_and_its_value_is_not_shown(host: Host) -> None:
    run = host.run(f"GIVEN={'x' * 512} httpd -t")
    assert run.rc != 0
    assert "variable GIVEN exceeds" in run.stderr
    assert "xxx" not in run.stdout + run.stderr


# --- lost-manager -------------------------------------------------------------------


def test_httpd_need_not_kill_children_whose_process_manager_has_died(host: Host) -> None:
    host.check_output("systemctl restart httpd && sleep 2")
    (manager,) = managers(host)
    # One that does not answer: requests that want another worker wait for it.
    host.check_output(
        f"truncate --size 0 /var/log/httpd/error_log; kill -STOP {manager}; "
        "for client in 1 2 3 4 5 6 7 8; do "
        "curl --silent --max-time 60 --output /dev/null 'http://127.0.0.1/sleep?ms=1500' & done; "
        f"sleep 1; kill -KILL {manager}; wait; timeout 60 sh -c "
        "'until grep -q resuming /var/log/httpd/error_log; do sleep 0.2; done'"
    )
    log = host.file("/var/log/httpd/error_log").content_string
    assert "process manager died, restarting the server" in log
    assert "did not exit" not in log


# --- path-translated ----------------------------------------------------------------


def test_path_translated_is_there_only_where_it_is_asked_for_and_nothing_else_changes(
    host: Host,
) -> None:
    options = "--header 'Accept: application/json'"
    plain, asked = (
        json.loads(curl(host, options, path))["request"] for path in ("/info", "/info?translated")
    )
    assert asked.pop("PATH_TRANSLATED").endswith("/info")
    of_this_request = {"QUERY_STRING", "REQUEST_URI", "REMOTE_PORT", "fcgiserve.socket"}
    assert {name for name in plain | asked if plain.get(name) != asked.get(name)} <= of_this_request
    assert (plain["SCRIPT_NAME"], plain["PATH_INFO"]) == ("", "/info")


# --- refused-spawn ------------------------------------------------------------------


def test_a_worker_that_is_not_started_is_one_warning_with_the_reason(host: Host) -> None:
    host.check_output("truncate --size 0 /var/log/httpd/error_log")
    for _ in range(16):  # each start scores 1, each end 2; the limit is 22
        host.run("curl --silent --max-time 5 --header 'Host: impatient' http://127.0.0.1/")
        host.run("pkill -KILL --full '^/srv/fcgi/impatient/releases/'")
    status = host.run(
        "curl --silent --max-time 5 --header 'Host: impatient' --output /dev/null "
        "--write-out '%{http_code}' http://127.0.0.1/"
    ).stdout
    log = host.file("/var/log/httpd/error_log").content_string
    host.check_output("systemctl restart httpd && sleep 2")  # which forgets the score
    warnings = re.findall(r"\[fcgid:warn\].*no process of (\S+) is started for now: too many", log)
    assert (status, warnings) == ("503", ["/var/www/htdocs/impatient/app.fcgi"])
    assert "all were busy" in log


# --- All of them --------------------------------------------------------------------


@pytest.fixture
def sanitized(host: Host) -> Iterator[None]:
    """The module built with AddressSanitizer; what that finds is in files named SANITIZER.<pid>."""
    library = host.check_output("gcc -print-file-name=libasan.so")
    host.check_output(
        f"mkdir -p $(dirname {DROP_IN}) && printf '[Service]\\nEnvironment=LD_PRELOAD={library} "
        f"ASAN_OPTIONS=detect_leaks=0:log_path={SANITIZER}\\n' > {DROP_IN} && "
        "systemctl daemon-reload"
    )
    deploy(mod_fcgid_cflags="-fsanitize=address -fno-omit-frame-pointer -g")
    yield
    host.check_output(f"rm {DROP_IN} && systemctl daemon-reload")
    deploy()


@pytest.mark.usefixtures("sanitized")
def test_nothing_is_lost_when_workers_and_httpd_children_die_at_random(host: Host) -> None:
    maps = host.check_output(f"cat /proc/{httpd_children(host)[0]}/maps")
    assert "libasan" in maps, "nobody is looking"
    found = on_host(host, "stress", "60")
    print(found)
    outcomes, killed = found["outcomes"], found["killed"]
    assert killed["worker"] > 20 and killed["httpd child"] > 2
    # A worker that is killed takes one request with it, and an httpd child those of its threads.
    assert outcomes["200"] > sum(killed.values())
    assert outcomes.get("500", 0) <= killed["worker"]
    assert "503" not in outcomes
    assert "TimeoutError" not in outcomes
    # Nothing is left of it: no request in the queue, every worker in the table, all of them idle.
    assert found["table"]["FcgidRequestsWaiting"] == 0
    assert found["table"]["FcgidProcessesIdle"] == found["table"]["FcgidProcesses"]
    assert found["table"]["FcgidProcesses"] == found["workers"]
    reports = host.run(f"cat {SANITIZER}.*").stdout
    assert reports == "", reports
    assert [answer["status"] for answer in together(host, *["/sleep?ms=100"] * 12)] == [200] * 12
