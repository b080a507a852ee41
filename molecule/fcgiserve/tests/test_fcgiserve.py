"""The package's own tests, and those against its peers, on the host's Python."""

import pytest
from testinfra.host import Host

PYTHON = "/opt/fcgiserve/venv/bin/python"
# /tmp may be mounted noexec.
PYTEST = f"cd /opt/fcgiserve/fcgiserve && TMPDIR=/var/tmp {PYTHON} -m pytest -q"


@pytest.mark.parametrize("suite", ["tests", "interop"])
def test_the_suite_passes(host: Host, suite: str) -> None:
    host.check_output(f"{PYTHON} -c 'import fcgiserve._speedups'")  # with what is in C
    run = host.run(f"{PYTEST} {suite}")
    print(run.stdout)
    assert run.rc == 0


def test_what_is_in_c_keeps_to_its_memory(host: Host) -> None:
    """Compiled with AddressSanitizer and UndefinedBehaviorSanitizer: a fault ends Python."""
    sanitize = "-Wall -Wextra -Werror -g -fsanitize=address,undefined -fno-sanitize-recover"
    run = host.run(
        f"{PYTHON} -m fcgiserve.compile {sanitize} && "
        "export LD_PRELOAD=$(gcc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 "
        f"PYTHONMALLOC=malloc && {PYTEST} tests/test_records.py tests/test_connection.py; "
        f"status=$?; unset LD_PRELOAD; {PYTHON} -m fcgiserve.compile; exit $status"
    )
    print(run.stdout, run.stderr)
    assert run.rc == 0
    assert "skipped" not in run.stdout
