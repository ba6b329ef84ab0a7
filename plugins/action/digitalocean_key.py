"""Action plugin: the module digitalocean_key, unless a survey shows that nothing is to be done."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils

# The setting module_utils counts for modules only; here the plugin sees to it that they are found.
if (_utils := str(Path(__file__).resolve().parents[1] / "module_utils")) not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_utils)

from ansible.module_utils.surveyed import SurveyedAction


class ActionModule(SurveyedAction):  # type: ignore[misc]  # no types
    pass
