"""Build script; everything declarative is in pyproject.toml.

There is no compiled extension yet: the operators run on their plain PyTorch backend.
"""

from setuptools import setup

setup()
