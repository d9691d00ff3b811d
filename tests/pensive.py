"""A strategy that remembers how often it had to think, in this process."""

from evomerge.strategies import sobol

ASKS: list[int] = []


class Strategy(sobol.Strategy):
    def ask(self, n):
        ASKS.append(n)
        return super().ask(n)
