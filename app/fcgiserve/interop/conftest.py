"""Fixtures for the tests against other people's programs.

Each program is looked for when it is needed, and a missing one is a failure, not a skip. They
are in the Debian packages nginx-light, lighttpd, apache2-bin, libfcgi-bin, libfcgi-dev and gcc.
"""

import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


# All pages of the reference application are there, as in the demonstration.
os.environ["FCGI_REFERENCE_DEVELOPMENT"] = "1"


@pytest.fixture(scope="session")
def program():
    """A function that returns the path of a program."""

    def find(name):
        path = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
        assert path, f"{name} is missing: install the packages that interop/conftest.py lists"
        return path

    return find
