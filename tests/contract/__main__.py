"""Hold what a lab that is up was asked and answered against DigitalOcean's document.

python -m tests.contract [CONTROL_URL]
"""

from __future__ import annotations

import sys

import requests

from lab import settings
from tests.contract.judge import JUDGE


def main() -> int:
    control = sys.argv[1] if len(sys.argv) > 1 else settings.CONTROL_URL
    try:
        JUDGE.take(control)
    except requests.ConnectionError:
        print(f"No lab is up at {control}: there is nothing to judge.")
        return 0
    except AssertionError as error:
        print(error)
        return 1
    print(JUDGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
