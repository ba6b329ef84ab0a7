"""sbc-probe: reads the evidence of one Teams SBC and says, with reasons, whether every Microsoft proxy is AP."""

__version__ = "1.0"
