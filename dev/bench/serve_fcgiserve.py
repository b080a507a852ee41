#!/opt/fcgid-bench/venv/bin/python
"""app.py under mod_fcgid, served by fcgiserve: the launcher that httpd starts."""

import sys

from fcgiserve.cli import main

sys.exit(main(["app:application"]))
