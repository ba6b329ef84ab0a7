"""Ansible filter: a Python package as one executable file."""

from __future__ import annotations

import base64
import io
import zipfile
from pathlib import Path
from typing import Any

DOCUMENTATION = r"""
name: zipapp
short_description: A Python package as one executable file
description:
  - Packs a package that has a C(__main__.py) into one file that a machine's own Python runs.
  - The same sources give the same bytes, so that a second run changes nothing.
positional: _input
options:
  _input:
    description: Path of the package's directory.
    type: path
    required: true
  interpreter:
    description: The Python that runs it.
    type: str
    default: /usr/bin/python3
author: teams-sbc
"""

EXAMPLES = r"""
probe: "{{ (role_path ~ '/../../src/sbc_probe') | zipapp }}"
"""

RETURN = r"""
_value:
  description: The file, in base64.
  type: str
"""

# The first date that a zip file can hold: the time of packing must not change the result.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def zipapp(package: str, interpreter: str = "/usr/bin/python3") -> str:
    """Pack a package; see DOCUMENTATION. Raises FileNotFoundError if it has no `__main__.py`."""
    root = Path(package).resolve()
    if not (root / "__main__.py").exists():
        raise FileNotFoundError(f"{root} has no __main__.py")
    start = f"import runpy\nrunpy.run_module({root.name!r}, run_name='__main__', alter_sys=True)\n"
    members = {"__main__.py": start.encode()}
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            members[str(path.relative_to(root.parent))] = path.read_bytes()
    packed = io.BytesIO(f"#!{interpreter}\n".encode())
    packed.seek(0, io.SEEK_END)
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
    return base64.b64encode(packed.getvalue()).decode()


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"zipapp": zipapp}
