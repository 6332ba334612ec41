"""The embedded AWS: LocalStack in host mode on this machine, without Docker and without an account."""

from cosmicai.emulator.localstack import Emulator, EmulatorError

__all__ = ["Emulator", "EmulatorError"]
