"""What can be wrong with a checkpoint; each text says what to do where something can be done."""

FETCH_COMMAND = "unirig fetch-models (python -m services.inference.unirig_network.fetch)"


class CheckpointError(Exception):
    """A checkpoint that cannot be used, converted or fetched; the text is fit to be shown."""


class CheckpointMissingError(CheckpointError):
    """There is no checkpoint where one should be; the text holds the command that fetches it."""


class CheckpointCorruptError(CheckpointError):
    """A checkpoint is there, but it is not whole or not one of this model."""
