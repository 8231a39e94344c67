"""etcd3's generated gRPC stubs, made to load under every protobuf runtime we allow.

Owns the loading only. etcd3 0.12.0 ships code generated for protobuf 3, which newer runtimes refuse ("Descriptors
cannot be created directly"), yet the serialized descriptors inside are good for ever. They are read from etcd3's
files and given to a descriptor pool; the stub classes are etcd3's own. etcd3's client, locks and watches are not used:
they block, spin without a server and lose the response header.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from google.protobuf import descriptor_pool, message_factory

_FILES = ("kv_pb2", "auth_pb2", "rpc_pb2")  # in order of dependency


def _serialized_descriptor(source: Path) -> bytes:
    """The bytes of `serialized_pb=_b('...')` in a generated module, without running the module."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "serialized_pb" and isinstance(node.value, ast.Call):
            literal = node.value.args[0]
            # The first in the file is the file's own; later ones belong to nested descriptors and are None.
            if isinstance(literal, ast.Constant) and isinstance(literal.value, str):
                return literal.value.encode("latin-1")
    raise ImportError(f"{source} holds no serialized descriptor; install etcd3==0.12.0")


def _build_module(pool: descriptor_pool.DescriptorPool, name: str, source: Path) -> ModuleType:
    descriptor = pool.AddSerializedFile(_serialized_descriptor(source))
    module = ModuleType(f"etcd3.etcdrpc.{name}")
    content: dict[str, Any] = {"DESCRIPTOR": descriptor}
    for message_name, message in descriptor.message_types_by_name.items():
        content[message_name] = message_factory.GetMessageClass(message)
    for enum in descriptor.enum_types_by_name.values():
        content.update({value.name: value.number for value in enum.values})
    module.__dict__.update(content)
    return module


def load() -> tuple[ModuleType, ModuleType]:
    """(messages of rpc.proto, stub classes). Raises ImportError when etcd3 is not installed as pinned."""
    spec = importlib.util.find_spec("etcd3")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("the etcd backend needs the package etcd3==0.12.0")
    folder = Path(next(iter(spec.submodule_search_locations))) / "etcdrpc"
    # A pool of our own: "rpc.proto" and "kv.proto" are names that others register in the global one too.
    pool = descriptor_pool.DescriptorPool()
    for name in _FILES:
        key = f"etcd3.etcdrpc.{name}"
        if key not in sys.modules:
            sys.modules[key] = _build_module(pool, name, folder / f"{name}.py")
    stubs = importlib.import_module("etcd3.etcdrpc.rpc_pb2_grpc")
    return sys.modules["etcd3.etcdrpc.rpc_pb2"], stubs
