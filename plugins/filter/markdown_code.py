"""Ansible filter: a string as a code span in Markdown."""

from __future__ import annotations

import re
from typing import Any

DOCUMENTATION = r"""
name: markdown_code
short_description: A string as a code span in Markdown
description:
  - Shows a string as it is, whatever stands in it, within a line of Markdown.
  - A string with a line end is refused, since it could end the paragraph.
positional: _input
options:
  _input:
    description: The string.
    type: str
    required: true
author: teams-sbc
"""

EXAMPLES = r"""
line: "The trunk is {{ sbc_fqdn | markdown_code }}."
"""

RETURN = r"""
_value:
  description: The code span, with its backticks.
  type: str
"""


def markdown_code(text: str) -> str:
    """Make a code span; see DOCUMENTATION. Raises ValueError for text of more than one line."""
    if len(text.splitlines()) > 1 or text != text.rstrip("\r\n"):
        raise ValueError(f"{text!r} is more than one line")
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    # A code span loses one space on either side if both are there, which keeps a backtick apart from the fence.
    edge = " " if text[:1] in ("`", " ") or text[-1:] in ("`", " ") else ""
    return f"{fence}{edge}{text}{edge}{fence}"


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"markdown_code": markdown_code}
