"""ASGI applications: a function, and an object as frameworks have."""


async def application(scope, receive, send):
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
        await application(scope, receive, send)


framework = Framework()
