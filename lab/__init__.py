"""The Internet in one box: what a Teams SBC meets in the world, on one machine with no account anywhere."""
