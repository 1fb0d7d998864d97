"""What Label Studio 1.23 sends to a backend, field by field as its own serializers write it."""

from typing import Any

BRUSH = """<View>
  <Image name="image" value="$image"/>
  <TextArea name="sentence" toName="image" value="$text" editable="true" maxSubmissions="1" showSubmitButton="true"/>
  <BrushLabels name="tag" toName="image">
    <Label value="box" background="#FFA39E"/><Label value="red box"/><Label value="cup"/>
  </BrushLabels>
</View>"""
POLYGON = """<View>
  <!-- each region has a sentence of its own -->
  <Image name="img" value="$photo"/>
  <PolygonLabels name="label" toName="img"><Label value="thing"/></PolygonLabels>
  <TextArea name="words" toName="img" perRegion="true" required="true"/>
</View>"""
TIMES = {"created_at": "2026-11-27T09:00:00.000000Z", "updated_at": "2026-11-27T09:00:00.000000Z"}


def task(number: int, **data: Any) -> dict[str, Any]:
    """Of `TaskSimpleSerializer`."""
    return {
        "id": number,
        "annotations": [],
        "predictions": [],
        "data": data,
        "meta": {},
        **TIMES,
        "is_labeled": False,
        "overlap": 1,
        "inner_id": number,
        "total_annotations": 0,
        "cancelled_annotations": 0,
        "total_predictions": 0,
        "comment_count": 0,
        "unresolved_comment_count": 0,
        "last_comment_updated_at": None,
        "project": 1,
        "updated_by": None,
        "file_upload": 1,
        "comment_authors": [],
    }


def predict(tasks: list[dict[str, Any]], config: str = BRUSH, typed: str | None = None) -> dict[str, Any]:
    """Of `MLApi.make_predictions`; `typed` is what somebody has just put into the text area."""
    result = {
        "value": {"text": [typed]},
        "id": "q1w2e3r4t5",
        "from_name": "sentence",
        "to_name": "image",
        "type": "textarea",
        "origin": "manual",
    }
    context = None if typed is None else {"result": [result]}
    return {
        "tasks": tasks,
        "project": "1.1764233000",
        "label_config": config,
        "params": {"login": None, "password": None, "context": context},
    }


def setup(config: str = BRUSH) -> dict[str, Any]:
    """Of `MLApi.setup`."""
    return {
        "project": "1.1764233000",
        "schema": config,
        "hostname": "http://localhost:8080",
        "access_token": "0123456789abcdef",
        "extra_params": None,
    }


def webhook(
    action: str, of: dict[str, Any], result: list[dict[str, Any]], config: str = BRUSH, **annotation: Any
) -> dict[str, Any]:
    """Of `webhooks/utils.py`, with the payload that a backend's own webhook has."""
    return {
        "action": action,
        "annotation": {
            "id": 7,
            "result": result,
            "was_cancelled": False,
            "ground_truth": False,
            **TIMES,
            "draft_created_at": None,
            "lead_time": 4.2,
            "import_id": None,
            "last_action": None,
            "bulk_created": False,
            "task": of["id"],
            "project": 1,
            "completed_by": 1,
            "updated_by": 1,
            "parent_prediction": None,
            "parent_annotation": None,
            "last_created_by": None,
            **annotation,
        },
        "project": {"id": 1, "title": "Boxes", "label_config": config, "task_number": 1, "created_by": 1},
        "task": of,
    }
