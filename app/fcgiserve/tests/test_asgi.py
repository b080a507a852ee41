"""ASGI applications, through the extra `asgi`."""

import pytest
from support import Worker


@pytest.mark.parametrize("name", ["application", "framework"])
def test_an_asgi_application_is_served_like_any_other(name):
    with Worker(f"fixtureapps.asynchronous:{name}") as worker:
        for _ in range(2):
            answer = worker.get("/path", method="POST", body=b"body and ")
            assert (answer.status, answer.body) == (201, b"body and /path")
        assert worker.end() == 0


def test_without_the_adapter_the_error_names_the_extra(tmp_path):
    (tmp_path / "a2wsgi.py").write_text("raise ImportError('not installed')")
    environment = {"PYTHONPATH": str(tmp_path)}
    with Worker("fixtureapps.asynchronous:application", environment=environment) as worker:
        assert worker.get().status == 500
        assert "install fcgiserve[asgi]" in worker.log
