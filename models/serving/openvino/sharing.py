"""Divides a version into a base that it may share and its heads.

Also its explanations, which begin with the same layers, but need the feature maps of one of them:
they share a base of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from contracts.inference.manifest import Draft, Endpoint
from models.serving.openvino.base_cut import Division, Model, constant_bytes, divide
from models.serving.openvino.graph import LARGE, OpenVinoGraph
from models.serving.openvino.head_file import Heads, detached, read_heads, write_heads
from models.serving.openvino.shared_base import SharedBase, known_base, shared_base
from models.serving.runtime import Precision

_SMALL_HEAD = 4 * 1024 * 1024  # bytes of weights, read for each batch

Read = Callable[[Endpoint], Model]
"""Reads the graph of an endpoint from the SavedModel."""


@dataclass(frozen=True, slots=True)
class Library:
    """OpenVINO, and how it computes a version.

    Attributes:
        module: `openvino`.
        core: An `openvino.Core` with our converters.
        precision: To compute in.
        threads: To compute with.
    """

    module: Any
    core: Any
    precision: Precision
    threads: int

    def graph(
        self,
        read: Callable[[], Model],
        *,
        large: bool,
        precision: Precision | None = None,
        threads: int | None = None,
    ) -> OpenVinoGraph:
        """Compile a graph; see `OpenVinoGraph`."""
        return OpenVinoGraph(
            self.module,
            self.core,
            read,
            precision=precision or self.precision,
            threads=threads or self.threads,
            large=large,
        )


@dataclass(frozen=True, slots=True)
class SharedVersion:
    """A version that is divided.

    Attributes:
        base: Its own, or that of other versions too.
        heads: By endpoint, from the base's output to the endpoint's; None if the two are the same.
    """

    base: SharedBase
    heads: dict[Endpoint, OpenVinoGraph | None]


def share(
    library: Library, folder: Path, manifest: Draft, endpoints: Sequence[Endpoint], read: Read
) -> SharedVersion | None:
    """Load a version as a base and its heads; None if it cannot be divided.

    Args:
        library: What compiles.
        folder: The version's.
        manifest: The version's, or its draft.
        endpoints: Those to load.
        read: Reads their graphs, if the base or the heads are not known.
    """
    kept = read_heads(library.module, library.core, folder, manifest)
    if kept is not None and {*endpoints} <= kept.by_endpoint.keys():
        base = known_base(kept.base, library.precision, library.threads)
        if base is not None:
            return _with_heads(library, base, kept, endpoints)
    division = _divided(library, endpoints, read)
    if division is None:
        return None
    base = _base(library, division)
    heads = Heads.of(library.module, library.core, division)
    write_heads(library.module, folder, manifest, heads)
    return _with_heads(library, base, heads, endpoints)


def share_graph(
    library: Library, endpoint: Endpoint, graph: Model
) -> tuple[SharedBase, OpenVinoGraph] | None:
    """Compile a single graph as a base and a head; None if it cannot be divided.

    Args:
        library: What compiles.
        endpoint: Its endpoint.
        graph: From images, and perhaps more, to some outputs. It cannot be used afterwards, unless
            the result is None.
    """
    division = divide(library.module, {endpoint: graph})
    if division is None or (head := division.heads[endpoint]) is None:
        return None
    base = _base(library, division)
    return base, _compiled_head(library, detached(library.module, library.core, head))


def _divided(library: Library, endpoints: Sequence[Endpoint], read: Read) -> Division | None:
    try:
        return divide(library.module, {endpoint: read(endpoint) for endpoint in endpoints})
    except (RuntimeError, ValueError):  # the undivided graphs report it
        return None


def _base(library: Library, division: Division) -> SharedBase:
    model = division.base

    def compile_base() -> OpenVinoGraph:
        # Compiling may divide the graph once more, and happens again for pieces.
        return library.graph(model.clone, large=constant_bytes(model) > LARGE)

    return shared_base(division.digest, library.precision, library.threads, compile_base)


def _with_heads(
    library: Library, base: SharedBase, heads: Heads, endpoints: Sequence[Endpoint]
) -> SharedVersion:
    chosen = {endpoint: heads.by_endpoint[endpoint] for endpoint in endpoints}
    compiled = {
        endpoint: None
        if head.graph is None
        else base.head(head.digest, partial(_compiled_head, library, head.graph))
        for endpoint, head in chosen.items()
    }
    return SharedVersion(base, compiled)


def _compiled_head(library: Library, head: Model) -> OpenVinoGraph:
    """A compiled head, in float32 and by one thread unless it is large.

    A large one, such as VGG16's dense layers, would take much longer like this. Its last matrix
    product is computed in float32 in any case (`models.serving.openvino.last_product`).
    """
    if constant_bytes(head) > _SMALL_HEAD:
        graph = library.graph(lambda: head, large=True)
    else:
        graph = library.graph(lambda: head, large=True, precision="float32", threads=1)
    graph.forget_source()
    return graph
