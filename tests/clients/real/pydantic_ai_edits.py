"""Pydantic AI's ImageGenerator: python pydantic_ai_edits.py URL KEY FOLDER, in its own environment.

Prints one JSON object: case → what came of it.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic_ai import BinaryImage, ImageGenerator  # type: ignore[import-not-found]  # of its own environment
from pydantic_ai.exceptions import ModelHTTPError  # type: ignore[import-not-found]
from pydantic_ai.images.openai import OpenAIImageGenerationModel  # type: ignore[import-not-found]
from pydantic_ai.providers.openai import OpenAIProvider  # type: ignore[import-not-found]

url, key, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
provider = OpenAIProvider(base_url=f"{url}/v1", api_key=key)
generator = ImageGenerator(OpenAIImageGenerationModel("qwen-image-edit", provider=provider))
photo = BinaryImage((folder / "photo.jpg").read_bytes(), media_type="image/jpeg")


def edit(*images: Any, size: str = "64x64", body: dict[str, Any] | None = None, **settings: Any) -> Any:
    settings |= {"openai_size": size, "extra_body": {"steps": 2, "seed": 7} | (body or {})}
    return generator.generate_sync("make it a drawing", images=images, settings=settings)


def outcome(run: Callable[[], Any]) -> dict[str, Any]:
    try:
        answer = run()
    except ModelHTTPError as error:
        return {"error": type(error).__name__, "status": error.status_code, "message": str(error)}
    return {
        "pictures": [image.content.media_type for image in answer.images],
        "tokens": [answer.usage.input_tokens, answer.usage.output_tokens],
    }


print(
    json.dumps(
        {
            "edit": outcome(lambda: edit(photo)),
            "two pictures, n=2": outcome(lambda: edit(photo, photo, openai_n=2, openai_output_format="webp")),
            "refused": outcome(lambda: edit(photo, size="12x12")),
        }
    )
)
