"""Budget: how many examples Hypothesis draws for a property, by the tier that is run."""

import os

from hypothesis import settings

TIER = os.environ.get("RAGCACHE_TIER", "quick")
LEAST = 5


def examples(count: int) -> int:
    """`max_examples` of a property: `count` in the full tier; a sixth in the quick one, but at least 5 of them."""
    return count if TIER == "full" else min(count, max(LEAST, count // 6))


# the quick tier draws the same examples every time: it fails for what was changed, never by chance
settings.register_profile("quick", max_examples=examples(100), deadline=None, derandomize=True)
settings.register_profile("full", max_examples=examples(100), deadline=None)
