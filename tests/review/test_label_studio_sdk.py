"""Label Studio's own software accepts what we make. Runs where `label-studio-sdk` is installed (509 MB)."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings

from gristmill.review.label_studio.labeling import configuration
from gristmill.review.label_studio.results import to_result
from tests.review.label_studio_samples import Case, cases

sdk = pytest.importorskip("label_studio_sdk.label_interface", reason="pip install label-studio-sdk")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases)
def test_the_sdk_accepts_every_configuration_and_every_task(case: Case) -> None:
    annotation, subject, labeling = case
    interface = sdk.LabelInterface(configuration(labeling))
    interface.validate()
    result = to_result(annotation, subject, labeling)
    entry = {"result": result, "model_version": "m", "score": annotation.score or 0.0}
    task = {
        "data": subject.data(labeling.data_field, address=lambda picture: "https://example.com/a.png"),
        "annotations": [{"result": result}],
        "predictions": [entry],
    }
    task = json.loads(json.dumps(task))
    assert interface.validate_task({"data": task["data"]}), task  # with annotations it raises TypeError (2.1.2)
    assert interface.validate_annotation(task["annotations"][0]), task
    assert interface.validate_prediction(task["predictions"][0], return_errors=True) == []
    known = {label for control in interface.controls for label in (control.labels or ())}
    assert known >= {
        label for control in labeling.controls if control.tag in ("Choices", "Labels", "RectangleLabels")
        for label in control.labels
    }  # fmt: skip
