"""A PUT handler in Python: stores the body as it came."""

import json

import wit_world
from componentize_py_types import Err
from wit_world.imports import log_put, types
from wit_world.imports.types import Body_Bytes, Response


class WitWorld(wit_world.WitWorld):
    def handle(self, request, incoming):
        content_type = incoming.header("content-type") or "application/octet-stream"
        options = log_put.Options(content_type, None, request.condition)
        try:
            receipt = log_put.put(request.key, incoming.body_value(), options)
        except Err as error:
            raise Err(failure(error.value))
        answer = {"key": request.key, "timestamp": receipt.timestamp, "deleted": False}
        body = Body_Bytes(json.dumps(answer).encode())
        return Response(201, receipt.version, None, "application/json", [], body)


def failure(error):
    """What the log raised, as the failure to answer with: the cases have the
    same names, but for one."""
    name = type(error).__name__.removeprefix("WriteError_")
    name = "BadRequest" if name == "InvalidKey" else name
    return getattr(types, f"Failure_{name}")(error.value)
