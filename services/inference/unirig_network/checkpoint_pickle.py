"""Reads the pickle inside a PyTorch archive as data: nothing in it is imported or called.

A small machine steps through the opcodes. Plain containers, numbers and texts become themselves,
tensors become a description of where their numbers lie, and every object of any other class
becomes FOREIGN, whatever the pickle would have done to make it. Python's own unpickler is not
used, even with its class look-up overridden, because a pickle can still crash it: a deeply nested
tuple as a dictionary key overflows the C stack, and one large memo index takes all memory.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch

from services.inference.unirig_network.checkpoint_errors import CheckpointCorruptError

# Stands for every object whose class is not read.
FOREIGN = object()


@dataclass(frozen=True)
class Storage:
    """A flat array in the archive: its entry's name, its type, and how many elements it has."""

    key: str
    dtype: torch.dtype
    elements: int


@dataclass(frozen=True)
class StoredTensor:
    """A strided view of a storage; offset and stride count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_pickle(data: bytes) -> object:
    """The pickled object: dict, list, tuple, numbers, text, StoredTensor, Storage and FOREIGN.

    Raises CheckpointCorruptError where data is no pickle.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointCorruptError(f"the archive's pickle is malformed: {error}") from error
    raise CheckpointCorruptError("the archive's pickle ends early")


def _ordered_dict(arguments: tuple[Any, ...]) -> object:
    return FOREIGN if arguments else {}


def _tensor(arguments: tuple[Any, ...]) -> object:
    """torch._utils._rebuild_tensor_v2(storage, offset, shape, stride, ...)."""
    storage, offset, shape, stride, *_ = arguments
    if storage is FOREIGN:
        return FOREIGN
    if not isinstance(storage, Storage) or not _are_counts((offset,)):
        raise ValueError("a tensor without a storage")
    if not _are_counts(shape) or not _are_counts(stride) or len(shape) != len(stride):
        raise ValueError("a tensor's shape and stride do not fit together")
    return StoredTensor(storage, offset, shape, stride)


def _parameter(arguments: tuple[Any, ...]) -> object:
    """torch._utils._rebuild_parameter(tensor, requires_grad, hooks)."""
    return arguments[0]


def _storage(identity: object) -> object:
    """PyTorch's persistent id: ("storage", type, key, location, elements)."""
    match identity:
        case ("storage", torch.dtype() as dtype, str(key), _, int(elements)):
            return Storage(key, dtype, elements)
    return FOREIGN


def _are_counts(values: object) -> bool:
    return isinstance(values, tuple) and all(type(v) is int and v >= 0 for v in values)


_GLOBALS: dict[str, Callable[[tuple[Any, ...]], object] | torch.dtype] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}


class _Machine:
    """The stack, the marks set aside and the memo of a pickle being read."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Runs one opcode, named as pickletools names it."""
        push, pop = self.stack.append, self.stack.pop
        match name:
            case "PROTO" | "FRAME":
                pass
            case "NONE":
                push(None)
            case "NEWTRUE" | "NEWFALSE":
                push(name == "NEWTRUE")
            case _ if name in _LITERALS:
                push(argument)
            case "EMPTY_LIST":
                push([])
            case "EMPTY_DICT":
                push({})
            case "EMPTY_TUPLE":
                push(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                self.stack[-count:] = [tuple(self.stack[-count:])]
            case "TUPLE":
                self._push_made(tuple)
            case "LIST":
                self._push_made(list)
            case "DICT":
                self._push_made(lambda items: _set_items({}, items))
            case "APPEND":
                _append(self.stack[-2], [pop()])
            case "APPENDS":
                items = self._pop_to_mark()
                _append(self.stack[-1], items)
            case "SETITEM":
                _set_items(self.stack[-3], self.stack[-2:])
                del self.stack[-2:]
            case "SETITEMS":
                items = self._pop_to_mark()
                _set_items(self.stack[-1], items)
            case "MARK":
                self._marked.append(self.stack)
                self.stack = []
            case "POP_MARK" | "ADDITEMS":
                # Sets are not read, so what joins them is not either.
                self._pop_to_mark()
            case "POP" | "BUILD":
                # BUILD gives an object its attributes, and none that is read has any.
                pop()
            case "DUP":
                push(self.stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                push(self._memo[argument])
            case "GLOBAL":
                push(_GLOBALS.get(argument, FOREIGN))
            case "STACK_GLOBAL":
                module, attribute = self._pop_many(2)
                push(_GLOBALS.get(f"{module:s} {attribute:s}", FOREIGN))
            case "BINPERSID":
                push(_storage(pop()))
            case "REDUCE":
                function, arguments = self._pop_many(2)
                push(_call(function, arguments))
            case "NEWOBJ" | "NEWOBJ_EX":
                self._pop_many(2 if name == "NEWOBJ" else 3)
                push(FOREIGN)
            case "INST" | "OBJ" | "FROZENSET":
                self._push_made(lambda items: FOREIGN)
            case "EMPTY_SET" | "PERSID" | "EXT1" | "EXT2" | "EXT4":
                push(FOREIGN)
            case _:
                raise ValueError(f"opcode {name}")

    def _pop_many(self, count: int) -> list[Any]:
        values = self.stack[-count:]
        if len(values) < count:
            raise IndexError("the stack is empty")
        del self.stack[-count:]
        return values

    def _pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self._marked.pop()
        return items

    def _push_made(self, make: Callable[[list[Any]], object]) -> None:
        items = self._pop_to_mark()
        self.stack.append(make(items))


# Opcodes whose argument is the value.
_LITERALS = frozenset(
    [
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    ]
)


def _call(function: object, arguments: object) -> object:
    # The only functions that can be on the stack are those of _GLOBALS.
    if not isinstance(function, FunctionType):
        return FOREIGN
    if not isinstance(arguments, tuple):
        raise TypeError("a call without arguments")
    return function(arguments)


def _append(target: object, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif target is not FOREIGN:
        raise TypeError("items for something that is no list")


def _set_items(target: object, items: list[Any]) -> object:
    """Sets key, value, key, value, ...; only texts and whole numbers are keys, others are dropped.

    So no key is hashed that the pickle could have nested ever deeper.
    """
    if isinstance(target, dict):
        pairs = zip(items[::2], items[1::2], strict=True)
        target.update((key, value) for key, value in pairs if type(key) in (str, int))
    elif target is not FOREIGN:
        raise TypeError("entries for something that is no dictionary")
    return target
