#!/opt/fcgid-bench/venv/bin/python
"""app.py under mod_cgid: httpd starts this program for every request."""

from wsgiref.handlers import CGIHandler

from app import application

CGIHandler().run(application)
