"""ASGI applications: functions, and an object as frameworks have."""

import os


async def application(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/raises":
        raise ValueError("in the application")
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


class Framework:
    async def __call__(self, scope, receive, send):
        if scope["type"] != "lifespan":
            os.write(2, b"request with %s\n" % scope["state"]["value"])
            await application(scope, receive, send)
            return
        assert (await receive())["type"] == "lifespan.startup"
        os.write(2, b"started\n")
        scope["state"]["value"] = b"state"
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        os.write(2, b"shut down\n")
        await send({"type": "lifespan.shutdown.complete"})


framework = Framework()


async def cannot_start(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


async def fails_at_the_end(scope, receive, send):
    if scope["type"] == "http":
        await application(scope, receive, send)
        return
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    raise ValueError("at the end")
