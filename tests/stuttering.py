"""An executor as an unreliable cluster is: results come twice, at once or much later."""

from evomerge.executors import inline


class Executor(inline.Executor):
    IN_ORDER = False

    def __init__(self, setup, **options):
        super().__init__(setup, **options)
        self._again, self._turn = [], 0

    def completed(self):
        self._turn += 1
        if self._turn % 3 == 0 and self._again:
            yield [self._again.pop()]
        elif self._turn % 3 == 1:
            yield []
        for results in super().completed():
            self._again += results
            yield results
