"""Applications for the roles Authorizer and Filter (FastCGI 1.0, sections 6.3 and 6.4)."""


def authorizer(environ, start_response):
    assert environ["FCGI_ROLE"] == "AUTHORIZER"
    assert environ["wsgi.input"].read() == b""
    if environ["PATH_INFO"] == "/allowed":
        start_response("200 OK", [("Variable-AUTH_METHOD", "database lookup")])
        return []
    start_response("403 Forbidden", [("Content-Type", "text/plain")])
    return [b"denied"]


def filter(environ, start_response):
    assert environ["FCGI_ROLE"] == "FILTER"
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield body + b"|"
    while block := environ["fcgi.data"].read(1000):
        yield block.upper()
