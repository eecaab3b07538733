"""How much a request may carry."""

from __future__ import annotations

HEADER_BYTES = 2**16  # of a request's head
MIN_BODY_RATE = 2**16  # bytes a second: of a request, after BODY_TIMEOUT_SECONDS of less, and of an answer
SILENCE_SECONDS = 10.0  # without a byte of a body
MAX_BATCH_IMAGES = 16  # files named `images`
MAX_FILES = 64  # file parts of any name
MAX_FIELDS = 256  # text parts
MAX_TEXT_PART_BYTES = 2**20
MAX_TEXTS_BYTES = 2**22  # of all text parts but addresses: they are kept in memory
MAX_URL_CHARS = 20 * 2**20  # of one address, data: URLs included; OpenAI's own limit
SPOOLED_BODIES = 16  # of MAX_BODY_BYTES: all uploads of the process together
BODIES_IN_FLIGHT = 4  # of MAX_BODY_BYTES: all calls together that Triton has not answered
SPOOL_BYTES = 2**20  # of one file in memory, the rest is on disk
MAX_FETCHED_BYTES = 50 * 10**6  # of one picture that is fetched; OpenAI's limit for uploaded ones
MAX_REDIRECTS = 3
FETCH_SECONDS = 20.0  # for one picture, redirects included
MAX_PROMPT_CHARS = 32_000
MAX_LORA_CHARS = 1000
MIN_SIDE = 64  # pixels
SOURCE_SIZE = (-1, -1)  # what the model takes for the size `source`
MAX_ASPECT = 8  # longer side over shorter side of an input picture
MAX_SEED = 2**63 - 1
MAX_RANDOM_SEED = 2**32 - 1
BODYLESS = ("GET", "HEAD")  # methods of which no body is read
MAX_VARIANTS = 10  # the field `n`
MAX_CFG_SCALE = 20.0
