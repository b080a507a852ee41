"""Compiles `_speedups.c` for the Python that runs this: python -m fcgiserve.compile.

Needs a C compiler and the headers of Python (Debian: gcc, libc6-dev, libpython3-dev). What comes
of it is put beside the source and used from then on; without it everything works, a bit slower.
More arguments are passed on to the compiler.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path


def main() -> int:
    """Compile; return the compiler's exit status (0 when it worked)."""
    source = Path(__file__).with_name("_speedups.c")
    command = ["cc", "-O2", "-fPIC", "-shared", "-isystem", sysconfig.get_path("include")]
    # The stable interface: what one Python compiled, later ones can use.
    command += [*sys.argv[1:], "-o", str(source.with_suffix(".abi3.so")), str(source)]
    try:
        return subprocess.run(command, check=False).returncode
    except FileNotFoundError:
        print("fcgiserve.compile: there is no C compiler: install gcc, libc6-dev", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main())
