"""`import fmi` in users' own scripts: the library of this bundle."""

import sys

import inference.fmi

sys.modules[__name__] = inference.fmi
