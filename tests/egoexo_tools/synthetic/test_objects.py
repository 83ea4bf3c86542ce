"""Objects have look-alikes, distinct colours and difficult names."""

import numpy as np
from synthetic_release import tracks

from egoexo_tools.layout import Release
from egoexo_tools.synthetic import SyntheticOptions
from egoexo_tools.synthetic.objects import draw_objects
from egoexo_tools.synthetic.takes import plan_takes


def test_object_names_break_naive_code(tiny_release: Release) -> None:
    names = {name for _, name, _, _ in tracks(tiny_release)}
    assert any("/" in name for name in names)
    assert any(not name.isascii() for name in names)
    assert all(" " in name for name in names)


def test_each_take_has_look_alikes() -> None:
    objects = draw_objects(np.random.default_rng(5), 10, (150, 130, 110))
    assert len({item.name for item in objects}) == 10
    for original, copy in zip(objects[:2], objects[-2:], strict=True):
        assert (original.kind, original.pattern) == (copy.kind, copy.pattern)
        assert 10 < np.linalg.norm(np.subtract(original.colour, copy.colour)) < 50


def test_objects_of_other_takes_are_others() -> None:
    plans, options = plan_takes(SyntheticOptions()), SyntheticOptions()
    looks = [
        {item.colour for item in draw_objects(plan.rng(options), 12, (150, 130, 110))}
        for plan in plans
    ]
    assert len(set().union(*looks)) == sum(len(take) for take in looks)
