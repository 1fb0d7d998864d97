"""Photos are read on all cores, in their order, and no process of it stays behind."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from mail.data.image_keys import ImageContent
from mail.data.processes import processes
from mail.data.reading import contents
from mail.errors import UserError

PHOTOS = 90  # three tasks


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Path]:
    random, found = np.random.default_rng(0), {}
    for number in range(PHOTOS):
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (12, 9 + number, 3), np.uint8)).save(buffer, "PNG")
        path = tmp_path / f"{number}.png"
        path.write_bytes(buffer.getvalue() if number != 40 else b"no picture")
        found[f"own/{number}"] = path
    return found


def test_processes_find_what_threads_find(photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    threads = contents(photos)
    monkeypatch.setattr("mail.data.reading.PHOTOS_A_PROCESS", PHOTOS // 2)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert contents(photos) == threads
    assert list(threads) == list(photos)
    assert threads["own/40"] == ImageContent.of(b"no picture")
    assert all(content.pixels for name, content in threads.items() if name != "own/40")
    photos["own/70"].unlink()
    with pytest.raises(UserError, match=r"70\.png cannot be read: No such file"):
        contents(photos)


def test_a_process_that_is_ended_from_outside_is_told() -> None:
    with pytest.raises(UserError, match="ended from outside"), processes(1) as pool:
        pool.submit(os._exit, 9).result()


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import time\n"
        "from mail.data.processes import processes\n"
        "if __name__ == '__main__':\n"
        "    with processes(2) as pool:\n"
        "        waiting = [pool.submit(time.sleep, 600) for _ in range(2)]\n"
        "        print('started', flush=True)\n"
        "        time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        parent.stdout.readline()
        started = time.monotonic()
        # two that work, and the tracker of multiprocessing's own resources
        while len(children := psutil.Process(parent.pid).children()) < 3 and time.monotonic() - started < 60:
            time.sleep(0.1)
        assert len(children) == 3
        time.sleep(1)  # they are past their imports
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive
    finally:
        parent.kill()
        parent.wait()
