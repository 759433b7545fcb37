"""Literal, slow replays of what the papers print, over flat objects: (name, size) in, hit or miss out.

Written from the papers alone and in another shape than the policies they check: lists that are searched, room made in
a loop around the paper's procedure. Pages become tokens as the policies' docstrings say.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

Request = tuple[str, int]


def total(pages: Iterable[Request]) -> int:
    return sum(size for _, size in pages)


def arc(requests: Sequence[Request], c: int) -> Iterator[bool]:
    """Megiddo and Modha, figure 4. Lists run from the LRU end to the MRU end."""
    t1: list[Request] = []
    t2: list[Request] = []
    b1: list[Request] = []
    b2: list[Request] = []
    p = 0.0

    def replace(x_in_b2: bool) -> None:
        if t1 and (total(t1) > p or (x_in_b2 and total(t1) == p) or not t2):
            b1.append(t1.pop(0))
        else:
            b2.append(t2.pop(0))

    for x in requests:
        size = x[1]
        if size > c:
            yield False
            continue
        yield x in t1 or x in t2
        if x in t1 or x in t2:  # Case I
            (t1 if x in t1 else t2).remove(x)
            t2.append(x)
        elif x in b1:  # Case II
            p = min(c, p + size * max(1, total(b2) / total(b1)))
            b1.remove(x)
            while total(t1) + total(t2) + size > c:
                replace(False)
            t2.append(x)
        elif x in b2:  # Case III
            p = max(0, p - size * max(1, total(b1) / total(b2)))
            b2.remove(x)
            while total(t1) + total(t2) + size > c:
                replace(True)
            t2.append(x)
        else:  # Case IV
            while total(t1) + total(t2) + size > c:
                if total(t1) + total(b1) + size > c and not b1 and not t2:
                    t1.pop(0)  # |T1| = c: the page goes, and leaves no ghost
                else:
                    replace(False)
            while b1 and total(t1) + total(b1) + size > c:
                b1.pop(0)
            while b2 and total(t1) + total(t2) + total(b1) + total(b2) + size > 2 * c:
                b2.pop(0)
            t1.append(x)


def sieve(requests: Sequence[Request], c: int) -> Iterator[bool]:
    """Zhang et al., algorithm 1. The queue runs from the tail (oldest) to the head."""
    queue: list[Request] = []
    visited: dict[Request, bool] = {}
    hand: Request | None = None
    for x in requests:
        if x[1] > c:
            yield False
            continue
        yield x in visited
        if x in visited:
            visited[x] = True
            continue
        while total(queue) + x[1] > c:
            o = hand if hand is not None else queue[0]
            while visited[o]:
                visited[o] = False
                following = queue.index(o) + 1
                o = queue[following] if following < len(queue) else queue[0]
            following = queue.index(o) + 1
            hand = queue[following] if following < len(queue) else None
            queue.remove(o)
            del visited[o]
        queue.append(x)
        visited[x] = False


def s3fifo(requests: Sequence[Request], c: int) -> Iterator[bool]:
    """Yang et al., algorithm 1, without its shortcut of evicting from M while S is sifted, as its authors' code.

    Queues run from the tail to the head.
    """
    small: list[Request] = []
    main: list[Request] = []
    ghosts: list[Request] = []
    freq: dict[Request, int] = {}

    def evict_small() -> None:
        while small:
            t = small.pop(0)
            if freq[t] > 1:
                main.append(t)
                freq[t] = 0
            else:
                del freq[t]
                ghosts.append(t)
                while ghosts and total(ghosts) > c - c // 10:
                    ghosts.pop(0)
                return

    def evict_main() -> None:
        while main:
            t = main.pop(0)
            if freq[t] > 0:
                freq[t] -= 1
                main.append(t)
            else:
                del freq[t]
                return

    for x in requests:
        if x[1] > c:
            yield False
            continue
        yield x in freq
        if x in freq:
            freq[x] = min(freq[x] + 1, 3)
            continue
        while total(small) + total(main) + x[1] > c:
            if total(small) >= 0.1 * c or not main:
                evict_small()
            else:
                evict_main()
        if x in ghosts:
            ghosts.remove(x)
            main.append(x)
        else:
            small.append(x)
        freq[x] = 0


class ExactHistogram:
    """What TinyLFU approximates: counts of the last uses, up to 15, halved whenever the sample is full."""

    def __init__(self, sample: int) -> None:
        self.sample = sample
        self.uses = 0
        self.counts: Counter[object] = Counter()

    def add(self, key: object) -> None:
        self.counts[key] = min(self.counts[key] + 1, 15)
        self.uses += 1
        if self.uses >= self.sample:
            self.uses //= 2
            self.counts = Counter({key: count // 2 for key, count in self.counts.items()})

    def count(self, key: object) -> int:
        return self.counts[key]

    def grow(self, nodes: int) -> None:
        """An exact histogram need not."""


def wtinylfu(requests: Sequence[Request], c: int, histogram: ExactHistogram) -> Iterator[bool]:
    """Einziger, Friedman and Manes, section 4: window of 1 %, main area of 20 % probation and 80 % protected.

    Lists run from the LRU end to the MRU end.
    """
    window: list[Request] = []
    probation: list[Request] = []
    protected: list[Request] = []
    window_capacity = max(1, c // 100)
    protected_capacity = int(0.8 * (c - window_capacity))
    for x in requests:
        if x[1] > c:
            yield False
            continue
        histogram.add(x)
        yield x in window or x in probation or x in protected
        if x in window:
            window.remove(x)
            window.append(x)
        elif x in protected:
            protected.remove(x)
            protected.append(x)
        elif x in probation:
            probation.remove(x)
            protected.append(x)
            while total(protected) > protected_capacity:
                probation.append(protected.pop(0))
        else:
            candidates: list[Request] = []
            while total(window) + total(probation) + total(protected) + x[1] > c:
                while window and total(window) + x[1] > window_capacity:
                    candidates.append(window[0])
                    probation.append(window.pop(0))
                victims = [y for y in probation if y not in candidates] + protected
                if not candidates or not victims:
                    loser = (victims + candidates + window)[0]
                elif histogram.count(candidates[0]) > histogram.count(victims[0]):
                    loser = victims[0]
                else:
                    loser = candidates[0]
                for part in (window, probation, protected, candidates):
                    if loser in part:
                        part.remove(loser)
            window.append(x)
            while total(window) > window_capacity and len(window) > 1:
                probation.append(window.pop(0))
