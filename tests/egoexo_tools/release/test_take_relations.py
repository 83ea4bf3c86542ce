"""Annotations of unusual shapes: what is understood, and the reason for what is not."""

import json
from typing import Any

import pytest
from small_release import EGO, EXO, annotated, plain_take, track

from egoexo_tools.errors import DataError
from egoexo_tools.release.take_relations import TakeRelations, decode_take


def decode(value: Any) -> TakeRelations:
    return decode_take(json.dumps(value).encode(), "relations_train.json", "a")


def test_a_take_of_the_usual_shape_has_no_faults() -> None:
    relations = decode({**plain_take(), "faults": ["a key of the file"]})
    assert relations.faults == []
    assert list(relations.object_masks["cup_0"]) == [EGO, EXO]


def test_values_of_other_kinds_are_understood_or_reported() -> None:
    good, padded = track(EGO), {"annotation": {"00": None}, "annotated_frames": ["00030", "x"]}
    objects = {"cup": {EGO: good, EXO: padded}, "fork": ["?"], "lid": {EGO: 3, EXO: {}}}
    relations = decode(annotated(objects))
    assert list(relations.object_masks["cup"][EGO].annotation) == ["0", "30"]
    second = relations.object_masks["cup"][EXO]
    assert (list(second.annotation), second.annotated_frames) == (["00"], [30])
    assert relations.faults == [
        {
            "object_name": "cup",
            "camera": EXO,
            "reason": "'x' in annotated_frames is not a frame number",
        },
        {"object_name": "fork", "reason": "its cameras are a list"},
        {"object_name": "lid", "camera": EGO, "reason": "its annotation in this camera is a int"},
    ]


@pytest.mark.parametrize("value", [[1], {"object_masks": [1]}, {"object_masks": None}])
def test_a_value_that_is_not_an_annotation_is_rejected(value: Any) -> None:
    with pytest.raises(DataError, match="relations_train.json is damaged in take a"):
        decode(value)
