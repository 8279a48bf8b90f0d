"""A GET handler in Python: cache, then log, then fill. It leaves out what the
default one has beside that: conditions, Accept and consistency."""

import wit_world
from componentize_py_types import Err
from wit_world.imports import cache, log_reader
from wit_world.imports.cache import Lease, LookupResult_Found
from wit_world.imports.types import (
    Body_Envelope, Body_Value, CacheStatus, Failure_NotFound, Failure_Unavailable,
    Header, Response, State_Deleted, State_Live,
)


class WitWorld(wit_world.WitWorld):
    def handle(self, request, cached):
        state = cached if cached is not None else find()
        status = CacheStatus.MISS if cached is None else CacheStatus.HIT
        if not isinstance(state, State_Live):
            version = state.value if isinstance(state, State_Deleted) else None
            raise Err(Failure_NotFound(version))
        entry = state.value
        body = Body_Envelope if entry.content_type is None else Body_Value
        return Response(
            200, entry.version, status, entry.content_type,
            [Header("x-handler", "python")], body(entry.value),
        )


def find():
    """The state of a key that was not at hand."""
    found = cache.lookup(None)
    if isinstance(found, LookupResult_Found):
        return found.value
    try:
        latest = log_reader.read()
    except Err as error:
        raise Err(Failure_Unavailable(error.value.value))
    if found.value is not None:
        Lease.fill(found.value, latest)
    return latest.state()
