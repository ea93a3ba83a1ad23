"""An engine that stands still while something else happens: no test has to be faster than a turn."""

import math
import time


class Held:
    """The engine of some programs, which makes tokens or does not. Everything else goes on: turns enter, are given up,
    and leave."""

    def __init__(self, programs, monkeypatch):
        self._make, self._left = programs.make, math.inf
        monkeypatch.setattr(programs, "make", self._chunk)

    def hold(self, chunks=0):
        """Make so many more chunks of tokens, then none until `release`."""
        self._left = chunks

    def release(self):
        """Go on."""
        self._left = math.inf

    def _chunk(self, slots):
        if self._left > 0:
            self._left -= 1
            return self._make(slots)
        time.sleep(0.005)
        return [[] for _ in slots], [True for _ in slots]
