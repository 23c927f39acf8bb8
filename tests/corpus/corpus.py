"""Every layout of the corpus, by what it is like."""

from tests.corpus import decisions, node, python, versions

_PARTS = (decisions, versions, node, python)

CASES = {name: case for part in _PARTS for name, case in part.CASES.items()}
assert len(CASES) == sum(len(part.CASES) for part in _PARTS), "two layouts have one name"
