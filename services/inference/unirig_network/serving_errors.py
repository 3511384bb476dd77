"""What a model in Triton answers where it cannot predict: "<CODE>: <text for the user>"."""

import gc
import logging
import os

import torch

from services.inference.unirig_network.checkpoint_errors import CheckpointError

_log = logging.getLogger(__name__)

# How PyTorch and the libraries below it say that memory ran out, where the type does not tell.
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


class InvalidRequestError(ValueError):
    """A request that cannot be served however often it is made; the text says why."""


def error_text(error: Exception) -> str:
    """What the caller is told of an error. What it is not told is logged."""
    if isinstance(error, InvalidRequestError):
        return f"INVALID_REQUEST: {error}"
    if is_out_of_memory(error):
        _log.warning("out of memory: %s", error)
        return (
            "GPU_OUT_OF_MEMORY: The model server has not enough memory for this model."
            " Try again later, or with a simpler model."
        )
    _log.error("prediction failed", exc_info=error)
    return "PROCESSING_FAILED: The network failed on this model."


def load_error_text(error: Exception) -> str:
    """What the repository index says of a model that cannot be loaded."""
    if isinstance(error, CheckpointError):
        return f"MODEL_CHECKPOINT_MISSING: {error}"
    if is_out_of_memory(error):
        return (
            "GPU_OUT_OF_MEMORY: The model server has not enough memory for the model."
            " Lower UNIRIG_SLOTS, UNIRIG_BEAMS or UNIRIG_MAX_TOKENS."
        )
    return f"{type(error).__name__}: {error}"


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on the GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


def recover_from(error: Exception) -> None:
    """Makes the process fit for the next request, once the caller knows of the error."""
    if is_out_of_memory(error):
        # Its frames hold what they had computed.
        error.__traceback__ = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    elif isinstance(error, torch.AcceleratorError):
        # No kernel of this process will run again. The model is loaded anew once it has ended.
        _log.critical("the GPU is lost to this process: %s", error)
        os._exit(1)
