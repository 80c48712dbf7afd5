"""The families a search space may name are those that can be built."""

from nasdistill.space.families import FAMILIES


def test_the_table_of_families_is_that_of_the_builders() -> None:
    from nasdistill.students.families import FAMILIES as BUILDERS

    assert set(FAMILIES) == set(BUILDERS)
