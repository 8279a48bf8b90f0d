"""A hydrate handler in Python with a policy: large values are not kept, unless
the cache has the key already."""

import wit_world
from wit_world.imports.feed import Decision

LARGE = 64 * 1024


class WitWorld(wit_world.WitWorld):
    def handle(self, changes):
        return [Decision.REFRESH if change.size > LARGE else Decision.STORE for change in changes]
