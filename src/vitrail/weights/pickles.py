"""The shape of a pickle, checked before torch reads it.

`torch.load(weights_only=True)` calls nothing foreign, but it builds whatever it is told to: a key that is a tuple
400,000 deep ends the process when it is hashed, and a bytearray of 3 GB takes 300 bytes to ask for.
Here the opcodes are followed with nothing but the depth of each value, and what no file of weights has is refused.
"""

import io
import pickletools
from typing import Any, cast

MAX_DEPTH = 100
"""Containers in containers; training files of the libraries that we know have fewer than 15."""
MAX_OPCODES = 2_000_000
"""A file with 10,000 tensors and their optimiser has about a million."""
_REFUSED = {"builtins bytearray", "__builtin__ bytearray"}
_KEYS_MAX_DEPTH = 1  # a tuple of plain values

_MARK = -1


def check_pickle(stream: io.BufferedIOBase) -> None:
    """Follow one pickle, from where `stream` stands to behind its end.

    Raises:
        ValueError: deeper, longer or with other keys than any file of weights, or no whole pickle; with the reason.
    """
    stack: list[int] = []
    memo: dict[int, int] = {}
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(Any, stream))):
            if count > MAX_OPCODES:
                raise ValueError(f"more than {MAX_OPCODES} values")
            if opcode.name == "STOP":
                return
            _follow(opcode.name, argument, stack, memo)
            if stack and stack[-1] > MAX_DEPTH:
                raise ValueError(f"values nested more than {MAX_DEPTH} deep")
    except (IndexError, KeyError, TypeError, AttributeError, UnicodeError) as error:
        raise ValueError("a damaged pickle") from error
    raise ValueError("a pickle without an end")


def _follow(name: str, argument: Any, stack: list[int], memo: dict[int, int]) -> None:
    """One opcode, on a stack of depths: 0 for a plain value, 1 + the deepest inner one for a container."""
    match name:
        case "MARK":
            stack.append(_MARK)
        case "TUPLE" | "LIST" | "DICT" | "FROZENSET":
            inner = _since_mark(stack)
            _check_keys(inner[::2] if name == "DICT" else inner if name == "FROZENSET" else [])
            stack.append(1 + max(inner, default=0))
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            size = int(name[-1])
            inner = stack[-size:]
            del stack[-size:]
            stack.append(1 + max(inner))
        case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_SET":
            stack.append(1)
        case "APPEND":
            _into(stack, [stack.pop()])
        case "APPENDS":
            _into(stack, _since_mark(stack))
        case "ADDITEMS":
            inner = _since_mark(stack)
            _check_keys(inner)
            _into(stack, inner)
        case "SETITEM":
            value, key = stack.pop(), stack.pop()
            _check_keys([key])
            _into(stack, [value])
        case "SETITEMS":
            inner = _since_mark(stack)
            _check_keys(inner[::2])
            _into(stack, inner[1::2])
        case "REDUCE" | "NEWOBJ" | "BUILD":
            inner = stack.pop()
            stack[-1] = max(stack[-1], inner, 0)
        case "NEWOBJ_EX":
            named, plain = stack.pop(), stack.pop()
            stack[-1] = max(named, plain, 0)
        case "POP":
            stack.pop()
        case "POP_MARK":
            _since_mark(stack)
        case "DUP":
            stack.append(stack[-1])
        case "PUT" | "BINPUT" | "LONG_BINPUT":
            memo[int(argument)] = stack[-1]
        case "MEMOIZE":
            memo[len(memo)] = stack[-1]
        case "GET" | "BINGET" | "LONG_BINGET":
            stack.append(memo[int(argument)])
        case "GLOBAL":
            if argument in _REFUSED:
                raise ValueError(f"{argument.replace(' ', '.')} is no part of weights")
            stack.append(0)
        case "BINPERSID":
            stack[-1] = 0
        case "PROTO" | "FRAME":
            pass
        case _:  # everything else puts one plain value there, or asks for what torch refuses
            stack.append(0)


def _since_mark(stack: list[int]) -> list[int]:
    at = len(stack) - 1
    while stack[at] != _MARK:
        at -= 1
        if at < 0:
            raise IndexError
    inner = stack[at + 1 :]
    del stack[at:]
    return inner


def _into(stack: list[int], inner: list[int]) -> None:
    """Values go into the container on top of the stack."""
    stack[-1] = max(stack[-1], 1 + max(inner, default=0))


def _check_keys(depths: list[int]) -> None:
    if any(depth > _KEYS_MAX_DEPTH for depth in depths):
        raise ValueError("a key that is nested")
