"""A machine may be slow: no example of hypothesis has a deadline."""

import os

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# All pages of the reference application are there, as in the demonstration.
os.environ["FCGI_REFERENCE_DEVELOPMENT"] = "1"
