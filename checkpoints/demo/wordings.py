"""Prompts for the edits, in many wordings, for one picture or for a choice between two."""

from __future__ import annotations

import itertools

import numpy as np

from checkpoints.demo.edits import EDITS

FRAMES = (
    "make it {}", "make this {}", "make the picture {}", "make the image {}", "make the photo {}", "turn it {}",
    "turn the picture {}", "turn this photo {}", "{}", "I want it {}", "convert it to {}", "convert the image to {}",
    "change it to {}", "could you make it {}", "make everything {}", "render it {}", "edit it to be {}",
    "it should be {}",
)  # fmt: skip
ORDER_FRAMES = ("{}", "{}", "{}", "{} please", "please {}", "can you {}", "now {}")
PICTURES = ("picture", "image", "photo")
# {0}: which, {1}: what to do
CHOICES = (
    "take the {0} and {1}", "use the {0}: {1}", "the {0}: {1}", "{0}: {1}", "{1}, using the {0}", "{1} with the {0}",
    "for the {0}, {1}", "show the {0} and {1}", "only the {0}, {1}", "edit the {0}: {1}",
)  # fmt: skip
CHOSEN_LOOKS = (
    "make the {0} {1}", "turn the {0} {1}", "the {0} {1}", "the {0} in {1}", "the {0}, but {1}",
    "convert the {0} to {1}",
)  # fmt: skip
WHICH = ("first", "second")
ENDINGS = ("", "", "", ".", "!")


def prompt(random: np.random.Generator, edit: str) -> str:
    """One of the many ways to ask for the edit of a single picture."""
    looks, orders = EDITS[edit].looks, EDITS[edit].orders
    if random.random() < len(looks) / (len(looks) + len(orders)) + 0.15:
        text = _any(random, FRAMES).format(_any(random, looks))
    else:
        text = _any(random, ORDER_FRAMES).format(_any(random, orders))
    return _written(random, text)


def choosing_prompt(random: np.random.Generator, edit: str, picture: int) -> str:
    """The same for one of two pictures; `picture` is 0 or 1."""
    which = f"{WHICH[picture]} {_any(random, PICTURES)}"
    looks, orders = EDITS[edit].looks, EDITS[edit].orders
    if random.random() < 0.5:
        text = _any(random, CHOSEN_LOOKS).format(which, _any(random, looks))
    else:
        order = _any(random, orders) if random.random() < 0.5 else f"make it {_any(random, looks)}"
        text = _any(random, CHOICES).format(which, order)
    return _written(random, text)


def vocabulary_text() -> str:
    """Every word of the prompts, so that each becomes one token; at the start of a prompt and within it."""
    texts = [
        *itertools.chain.from_iterable((*edit.looks, *edit.orders) for edit in EDITS.values()),
        *FRAMES, *ORDER_FRAMES, *PICTURES, *CHOICES, *CHOSEN_LOOKS, *WHICH,
    ]  # fmt: skip
    words = sorted({word for text in texts for word in text.replace("{0}", "").replace("{1}", "").split()})
    lines = [f" {word}\n{word}\n{word[:1].upper()}{word[1:]}" for word in words]
    return "\n".join(lines)


def _any(random: np.random.Generator, texts: tuple[str, ...]) -> str:
    return texts[random.integers(len(texts))]


def _written(random: np.random.Generator, text: str) -> str:
    if random.random() < 0.4:
        text = text[:1].upper() + text[1:]
    return text + _any(random, ENDINGS)
