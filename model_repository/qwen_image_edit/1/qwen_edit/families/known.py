"""The families that are served, by the class that a checkpoint's model_index.json names."""

from __future__ import annotations

from qwen_edit.families.edit import EDIT
from qwen_edit.families.layered import LAYERED
from qwen_edit.families.plus import PLUS
from qwen_edit.families.qwen21 import QWEN21

FAMILIES = {family.pipeline: family for family in (EDIT, PLUS, QWEN21, LAYERED)}
