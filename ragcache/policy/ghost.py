"""GhostList: paths that left, remembered by key and in order, within a bound."""

from collections import OrderedDict


class GhostList:
    """Path keys with their sizes in tokens, oldest first, and `size`, the sum of these. Holds no node and no KV."""

    def __init__(self) -> None:
        self.size = 0
        self._sizes: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, path_key: int) -> bool:
        return path_key in self._sizes

    def add(self, path_key: int, size: int) -> None:
        """Remembers the path as the youngest."""
        self.discard(path_key)
        self._sizes[path_key] = size
        self.size += size

    def discard(self, path_key: int) -> bool:
        """Forgets the path; returns whether it was known."""
        size = self._sizes.pop(path_key, None)
        if size is None:
            return False
        self.size -= size
        return True

    def shrink(self, size: int) -> None:
        """Forgets the oldest until the rest is no larger than `size`."""
        while self._sizes and self.size > size:
            self.size -= self._sizes.popitem(last=False)[1]
