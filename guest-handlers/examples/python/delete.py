"""A DELETE handler in Python."""

import json

import wit_world
from componentize_py_types import Err
from wit_world.imports import http, log_delete, types
from wit_world.imports.types import Body_Bytes, Response


class WitWorld(wit_world.WitWorld):
    def handle(self, request):
        try:
            receipt = log_delete.delete(request.condition)
        except Err as error:
            raise Err(failure(error.value))
        answer = {"key": http.key(), "timestamp": receipt.timestamp, "deleted": True}
        body = Body_Bytes(json.dumps(answer).encode())
        return Response(200, receipt.version, None, "application/json", [], body)


def failure(error):
    """What the log raised, as the failure to answer with: the cases have the
    same names."""
    name = type(error).__name__.removeprefix("WriteError_")
    return getattr(types, f"Failure_{name}")(error.value)
