"""Options out of range are rejected."""

import pytest

from egoexo_tools.errors import SettingsError
from egoexo_tools.synthetic import SyntheticOptions


@pytest.mark.parametrize(
    ("field", "value"),
    [("scale", 0.0), ("scale", 1.5), ("seed", -1), ("objects_per_take", 3), ("gop", 0)],
)
def test_options_out_of_range_are_rejected(field: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"{field} is {value}"):
        SyntheticOptions(**{field: value})


def test_a_release_without_takes_is_rejected() -> None:
    with pytest.raises(SettingsError, match="needs a take"):
        SyntheticOptions(train_takes=0, val_takes=0, test_takes=0)


def test_a_motion_rate_that_does_not_divide_the_frame_rate_is_rejected() -> None:
    with pytest.raises(SettingsError, match="motion_fps is 7; it must divide 30"):
        SyntheticOptions(motion_fps=7)


def test_an_unknown_motion_is_rejected() -> None:
    with pytest.raises(SettingsError, match="motion is 'wild'; use calm or lively"):
        SyntheticOptions(motion="wild")  # type: ignore[arg-type]
