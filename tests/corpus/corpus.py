"""Every layout of the corpus, by what it is like."""

from tests.corpus import decisions, versions

CASES = {name: case for part in (decisions, versions) for name, case in part.CASES.items()}
assert len(CASES) == sum(len(part.CASES) for part in (decisions, versions)), "two layouts have one name"
