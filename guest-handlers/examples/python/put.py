"""A PUT handler in Python: stores the body as it came."""

import json

import wit_world
from componentize_py_types import Err
from wit_world.imports import http, log_put, types
from wit_world.imports.types import Body_Bytes, Response


class WitWorld(wit_world.WitWorld):
    def handle(self, request):
        content_type = http.header("content-type") or "application/octet-stream"
        options = log_put.Options(content_type, None, request.condition)
        try:
            receipt = log_put.put(http.body_value(), options)
        except Err as error:
            raise Err(failure(error.value))
        answer = {"key": http.key(), "timestamp": receipt.timestamp, "deleted": False}
        body = Body_Bytes(json.dumps(answer).encode())
        return Response(201, receipt.version, None, "application/json", [], body)


def failure(error):
    """What the log raised, as the failure to answer with: the cases have the
    same names."""
    name = type(error).__name__.removeprefix("WriteError_")
    return getattr(types, f"Failure_{name}")(error.value)
