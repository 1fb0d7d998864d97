"""Thousands of spoilt requests: each is answered or refused in one line, none breaks the service."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from pipelines.serving.app import make_app
from pipelines.serving.config import Limits, ServingConfig
from tests.fuzz.mutations import damaged, json_files
from tests.mail.test_inference import TEXTS
from tests.pipelines.serving.test_http import Counted, Here, body, file

PHOTO = file()
SEGMENT = {**body(PHOTO, *TEXTS, format="polygons", proposals=True)}
CORRECTION = {"image": SEGMENT["image"], "text": "the cup", "proposals": [0, 1]}
BOUNDARY = "photo-and-texts"
FORM = (
    b"".join(
        b"--%s\r\nContent-Disposition: form-data; name=%s\r\n\r\n%s\r\n" % (BOUNDARY.encode(), name, value)
        for name, value in ((b'"image"; filename="a.png"', PHOTO), (b'"text"', b"the red box"), (b'"format"', b"png"))
    )
    + b"--%s--\r\n" % BOUNDARY.encode()
)
JSON = "application/json"
REQUESTS = st.one_of(
    st.tuples(st.just("/v1/segment"), st.just(JSON), json_files(SEGMENT)),
    st.tuples(st.just("/v1/corrections"), st.just(JSON), json_files(CORRECTION)),
    st.tuples(st.just("/v1/segment"), st.just(f"multipart/form-data; boundary={BOUNDARY}"), damaged(FORM)),
    st.tuples(st.just("/v1/segment"), st.just("image/png"), damaged(PHOTO)),
)


@pytest.mark.parametrize("requests", [150, pytest.param(2000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_no_spoilt_request_breaks_the_service(folder: Path, tmp_path: Path, requests: int) -> None:
    limits = Limits(bytes=50_000, pixels=10_000)
    config = ServingConfig(model=str(folder), device="cpu", limits=limits, corrections=str(tmp_path))
    with TestClient(make_app(config, Here(config), Counted()), base_url="http://127.0.0.1") as client:

        def good() -> Any:
            return client.post("/v1/segment", json=SEGMENT).json()["results"]

        @settings(
            max_examples=requests,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(REQUESTS)
        def ask(request: tuple[str, str, bytes]) -> None:
            path, kind, content = request
            answer = client.post(path, content=content, headers={"Content-Type": kind})
            assert answer.status_code < 500, answer.text
            assert "Traceback" not in answer.text
            found = json.loads(answer.content)
            if answer.status_code >= 400:
                assert set(found["error"]) == {"code", "message"}
                assert "\n" not in found["error"]["message"]

        before = good()
        ask()
        assert good() == before
