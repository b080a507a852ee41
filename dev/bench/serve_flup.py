#!/opt/fcgid-bench/venv/bin/python
"""app.py under mod_fcgid, served by flup: the launcher that httpd starts."""

from flup.server.fcgi import WSGIServer

from app import application

WSGIServer(application).run()
