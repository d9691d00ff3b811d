"""An executor that ends no job, and remembers how long each was allowed to take."""

from evomerge.executors import inline

LIMITS: list[float] = []


class Executor(inline.Executor):
    def overdue(self, limit):
        LIMITS.extend(map(limit, self._queue))
