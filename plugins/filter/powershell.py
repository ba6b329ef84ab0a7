"""Ansible filter: a string as a PowerShell literal."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

DOCUMENTATION = r"""
name: powershell
short_description: A string as a PowerShell literal
description:
  - Quotes a string so that PowerShell reads it as that string and nothing else, whatever stands in it.
  - PowerShell ends a single-quoted literal at U+2018, U+2019, U+201A and U+201B too; each is doubled, as C(') is.
  - A string with control characters, line ends or invisible formatting characters is refused.
  - Windows PowerShell reads a file without a byte order mark as ANSI, where other characters may turn into quotes. A
    file that can hold more than ASCII needs the mark.
positional: _input
options:
  _input:
    description: The string.
    type: str
    required: true
author: teams-sbc
"""

EXAMPLES = r"""
line: "New-CsOnlinePSTNGateway -Fqdn {{ sbc_fqdn | powershell }}"
"""

RETURN = r"""
_value:
  description: The literal, with its quotes.
  type: str
"""

_QUOTES = re.compile("(['\u2018-\u201b])")
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def powershell(text: str) -> str:
    """Quote a string; see DOCUMENTATION. Raises ValueError that names a character which cannot be in it."""
    for character in text:
        if unicodedata.category(character) in _UNPRINTABLE:
            raise ValueError(f"{text!r} has the character U+{ord(character):04X}, which does not belong in a script")
    return "'" + _QUOTES.sub(r"\1\1", text) + "'"


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"powershell": powershell}
