"""Small tokenizers that treat the pipelines' templates as Qwen2.5's own does."""

from __future__ import annotations

import json
from functools import lru_cache

from diffusers import QwenImageEditPipeline, QwenImageEditPlusPipeline
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer
from transformers import Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

# In the order of Qwen2.5's ids; only those up to <|video_pad|> are special there.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
ADDED_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)

# Wordings of edit prompts: they keep prompts near one token a word, as in the real vocabulary.
TRAINING_TEXT = """
Picture 1: Picture 2: Picture 3: a photo of the image in the picture
make it look like, make the sky blue, turn the day into night, change the color of the car to red
add a hat to the cat, add a dog on the left, remove the person in the background, remove the text from the sign
replace the background with a beach at sunset, replace the word with another, put the shirt on the woman
combine the two pictures, place the object from Picture 1 next to the man in Picture 2, keep the face and pose
convert to a watercolor painting, pencil drawing, cartoon, anime style, black and white, oil painting, pixel art
a yellow house with green trees, white snow, dark clouds, bright light, orange and purple flowers, a small river
blurry, low quality, distorted, bad hands, watermark, jpeg artifacts, high quality, detailed, sharp, realistic
he she they we you this that these those is are was were be been have has had do does did not no yes and or but
with without for from into onto over under above below behind front near between up down left right top bottom
"""


@lru_cache(maxsize=2)
def _train_bpe(text: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE over the pipelines' own templates and `text`."""
    bpe = Tokenizer(BPE())
    bpe.normalizer = NFC()
    bpe.pre_tokenizer = Sequence(
        [Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    # No vocabulary limit: every word of the text becomes one token, so the templates have the real token counts.
    trainer = BpeTrainer(
        vocab_size=1 << 16, min_frequency=1, initial_alphabet=sorted(ByteLevel.alphabet()), show_progress=False
    )
    bpe.train_from_iterator([*prompt_templates(), text], trainer)
    model = json.loads(bpe.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def prompt_templates() -> tuple[str, ...]:
    """The prompt templates of the two pipelines, each with one `{}` for the prompt."""
    components = dict.fromkeys(("scheduler", "vae", "text_encoder", "tokenizer", "processor", "transformer"))
    pipelines = (QwenImageEditPipeline(**components), QwenImageEditPlusPipeline(**components))
    return tuple(pipeline.prompt_template_encode for pipeline in pipelines)


def build_tokenizer(text: str = TRAINING_TEXT) -> Qwen2Tokenizer:
    """A small vocabulary with Qwen2.5's control tokens: one token for every word of the templates and of `text`.

    Any other text in Unicode NFC survives encode and decode, too.
    """
    vocab, merges = _train_bpe(text)
    control_tokens = {token: len(vocab) + i for i, token in enumerate(SPECIAL_TOKENS + ADDED_TOKENS)}
    tokenizer = Qwen2Tokenizer(
        vocab=vocab | control_tokens,
        merges=list(merges),
        eos_token="<|im_end|>",
        model_max_length=131072,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in ADDED_TOKENS])
    return tokenizer
