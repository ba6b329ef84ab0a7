"""Entry point of the zipapp and of `python -m sbc_probe`."""

import sys

from sbc_probe.cli import main

sys.exit(main())
