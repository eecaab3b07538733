"""LiteLLM's image_edit: python litellm_edits.py URL KEY FOLDER, in its own environment.

Prints one JSON object: case → what came of it.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import litellm  # type: ignore[import-not-found]  # of its own environment

url, key, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])


def edit(*names: str, **options: Any) -> Any:
    files = [(folder / name).open("rb") for name in names]
    image = files[0] if len(files) == 1 else files
    return litellm.image_edit(
        **{"model": "openai/qwen-image-edit", "image": image, "prompt": "make it a drawing", "size": "64x64"} | options,
        api_base=f"{url}/v1",
        api_key=key,
    )


def outcome(run: Callable[[], Any]) -> dict[str, Any]:
    try:
        answer = run()
    except Exception as error:
        return {"error": type(error).__name__, "status": getattr(error, "status_code", None), "message": str(error)}
    return {"pictures": [item.b64_json for item in answer.data], "tokens": answer.usage.total_tokens}


print(
    json.dumps(
        {
            "one": outcome(lambda: edit("cat.jpg", seed=7, steps=4)),
            "extra_body": outcome(lambda: edit("cat.jpg", extra_body={"seed": 7, "steps": 4})),
            "two, n=2": outcome(lambda: edit("cat.jpg", "coffee.jpg", n=2)),
            "mask": outcome(lambda: edit("cat.jpg", size="auto", mask=(folder / "mask.png").open("rb"))),
            "bad size": outcome(lambda: edit("cat.jpg", size="12x12")),
        }
    )
)
