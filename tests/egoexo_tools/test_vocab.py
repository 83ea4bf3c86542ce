import pytest

from egoexo_tools.errors import DataError
from egoexo_tools.vocab import Direction, View, directions, view_of


@pytest.mark.parametrize(
    ("camera", "view"),
    [
        ("aria01_214-1", View.EGO),
        ("aria07_214-1", View.EGO),
        ("cam01", View.EXO),
        ("gp02", View.EXO),
    ],
)
def test_the_view_follows_from_the_camera_name(camera: str, view: View) -> None:
    assert view_of(camera) is view


@pytest.mark.parametrize(
    ("text", "direction"),
    [
        ("ego2exo", Direction.EGO2EXO),
        ("egoexo", Direction.EGO2EXO),
        ("ego-exo", Direction.EGO2EXO),
        ("EGO2EXO", Direction.EGO2EXO),
        ("exo_ego", Direction.EXO2EGO),
        ("Exo-Ego", Direction.EXO2EGO),
    ],
)
def test_all_spellings_of_a_direction_are_parsed(text: str, direction: Direction) -> None:
    assert Direction.parse(text) is direction


def test_an_unknown_direction_is_rejected() -> None:
    with pytest.raises(DataError, match="'ego2ego' is not a direction; use ego2exo or exo2ego"):
        Direction.parse("ego2ego")


def test_spellings_in_files() -> None:
    direction = Direction.EXO2EGO
    assert (direction.joined, direction.dashed, direction.upper_name) == (
        "exoego",
        "exo-ego",
        "EXO2EGO",
    )
    assert (direction.source, direction.dest) == (View.EXO, View.EGO)
    assert directions("both") == (Direction.EGO2EXO, Direction.EXO2EGO)
    assert directions("exo2ego") == (Direction.EXO2EGO,)
