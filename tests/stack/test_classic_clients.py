"""What was written for the service that this one replaces: its README's commands, and its batches."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.kit.answers import grey_levels, pictures
from tests.kit.servers import Server, serve_shim

KEY = "your-secret-key"
FILES = {"image.jpg": "cat", "input.jpg": "cat", "photo1.jpg": "cat", "photo2.jpg": "coffee", "photo3.jpg": "rocket"}
Photo = Callable[[str], bytes]

# The complete commands of the classic README, in its order.
WITH_USER = """curl -X POST "http://localhost:8000/v1/images/edits" \\
  -u "user:your-secret-key" \\
  -F "prompt=a beautiful landscape" \\
  -F "images=@image.jpg" \\
  -F "n=1"
"""
SINGLE = """curl -X POST "http://localhost:8000/v1/images/edits" \\
  -F "prompt=a beautiful landscape" \\
  -F "images=@image.jpg" \\
  -F "n=1"
"""
BATCH = """curl -X POST "http://localhost:8000/v1/images/edits" \\
  -F "prompt=enhance colors" \\
  -F "images=@photo1.jpg" \\
  -F "images=@photo2.jpg" \\
  -F "images=@photo3.jpg" \\
  -F "n=2"
"""
WITH_HEADER = """curl -X POST "http://localhost:8000/v1/images/edits" \\
  -H "Authorization: Basic $(echo -n 'user:your-secret-key' | base64)" \\
  -F "prompt=a beautiful landscape" \\
  -F "images=@image.jpg" \\
  -F "n=1"
"""
# The classic README's Python client.
CLIENT = '''import requests
import base64
from PIL import Image
import io

API_URL = "http://localhost:8000/v1/images/edits"
API_KEY = None  # 不需要认证时设为 None

def edit_images(image_paths, prompt, n=1):
    """编辑一张或多张图像"""
    headers = {}
    if API_KEY:
        headers["Authorization"] = f"Bearer {API_KEY}"
    
    files = []
    for image_path in image_paths:
        with open(image_path, 'rb') as f:
            files.append(('images', (image_path, f.read(), 'image/jpeg')))
    
    data = {
        'prompt': prompt,
        'n': n,
    }
    
    response = requests.post(API_URL, headers=headers, files=files, data=data)
    
    if response.status_code == 200:
        result = response.json()
        for idx, item in enumerate(result['data']):
            b64_image = item['b64_json']
            image_bytes = base64.b64decode(b64_image)
            img = Image.open(io.BytesIO(image_bytes))
            img.save(f"output_{idx}.jpg")
        
        print(f"输入: {result['usage']['input_images']} 张图像")
        print(f"输出: {result['usage']['generated_images']} 张图像")
        return result['data']
    else:
        print(f"Error: {response.status_code}")
        print(response.json())
        return None

# 使用示例
# 单张图像
edit_images(["input.jpg"], "add a red flower")

# 多张图像
edit_images(["photo1.jpg", "photo2.jpg"], "enhance colors", n=2)
'''


@pytest.fixture(scope="module")
def with_key(edit_family: Server) -> Iterator[Server]:
    with serve_shim(f"http://{edit_family.triton_http}", API_KEY=KEY) as shim:
        yield shim


@pytest.fixture
def folder(tmp_path: Path, photo: Photo) -> Path:
    """A folder with the pictures that the README's commands name."""
    for name, of in FILES.items():
        (tmp_path / name).write_bytes(photo(of))
    return tmp_path


def answer_of(command: str, server: Server, folder: Path) -> dict[str, Any]:
    """The JSON answer of a README command, pasted into a shell."""
    pasted = command.replace("http://localhost:8000", server.url)
    assert pasted != command
    done = subprocess.run(["bash", "-c", pasted], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_the_readmes_single_edit_answers_one_picture(edit_family: Server, folder: Path) -> None:
    answer = answer_of(SINGLE, edit_family, folder)
    (picture,) = pictures(answer)
    assert picture.shape == (1024, 1024, 3)
    assert isinstance(answer["created"], int)
    usage = answer["usage"]
    assert (usage["input_images"], usage["generated_images"]) == (1, 1)
    assert usage["processing_time_seconds"] > 0


@pytest.mark.parametrize("command", [WITH_USER, WITH_HEADER], ids=["-u", "header"])
def test_the_readmes_keys_open_a_server_with_a_key(command: str, with_key: Server, folder: Path) -> None:
    assert len(pictures(answer_of(command, with_key, folder))) == 1


def test_the_readmes_single_edit_is_refused_without_the_key(with_key: Server, folder: Path) -> None:
    assert answer_of(SINGLE, with_key, folder) == {"error": "UNAUTHORIZED", "message": "Invalid API key"}


def test_the_readmes_batch_answers_six_pictures(edit_family: Server, folder: Path) -> None:
    answer = answer_of(BATCH, edit_family, folder)
    assert [picture.shape for picture in pictures(answer)] == [(1024, 1024, 3)] * 6
    assert (answer["usage"]["input_images"], answer["usage"]["generated_images"]) == (3, 6)


def test_the_readmes_python_client_saves_its_pictures(edit_family: Server, folder: Path) -> None:
    (folder / "client.py").write_text(CLIENT.replace("http://localhost:8000", edit_family.url), "utf-8")
    command = [sys.executable, "client.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == ["输入: 1 张图像", "输出: 1 张图像", "输入: 2 张图像", "输出: 4 张图像"]
    for index in range(4):
        with Image.open(folder / f"output_{index}.jpg") as picture:
            assert picture.size == (1024, 1024)


def test_a_batch_answers_what_its_images_answer_alone_in_the_documented_order(stack: Server, folder: Path) -> None:
    curl = 'curl -sS "http://localhost:8000/v1/images/edits" -F "prompt=enhance colors" -F size=128x128'
    files = [" ".join(["-F", f"images=@{name}"]) for name in ("photo1.jpg", "photo2.jpg", "photo3.jpg")]
    batch = answer_of(" ".join([curl, *files, "-F n=2 -F seed=7"]), stack, folder)
    singles = [answer_of(f"{curl} {file} -F seed={seed}", stack, folder) for file in files for seed in (7, 8)]
    assert [item["seed"] for item in batch["data"]] == [7, 8] * 3
    alone = [pictures(answer)[0] for answer in singles]
    together = pictures(batch)
    assert [grey_levels(a, b) <= 1 for a, b in zip(together, alone, strict=True)] == [True] * 6
    # Only pictures that differ can show an order.
    assert min(grey_levels(a, b) for i, a in enumerate(alone) for b in alone[:i]) > 1
