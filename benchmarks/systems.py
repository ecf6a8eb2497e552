"""The systems that are compared, and how each is started."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import Launch

ROOT = Path(__file__).resolve().parents[1]
PEERS_VENV = ROOT / ".venv-bench"
OPSIN = "Opsin"
FIRST_PORT = 18700


@dataclass(frozen=True, slots=True)
class Subject:
    """The network that all systems serve in one part of the benchmark.

    Attributes:
        model: Name in the store.
        title: Name in tables.
        size: Side of its square input in pixels.
        saved_model: The folder that all systems load.
        graph: The same as OpenVINO's files, read as Opsin reads it.
        processes: Number of copies in a peer.
        threads: TensorFlow threads of each copy.
    """

    model: str
    title: str
    size: int
    saved_model: Path
    graph: Path
    processes: int
    threads: int


@dataclass(frozen=True, slots=True)
class Peer:
    """A serving framework that Opsin is compared with.

    Attributes:
        name: Name in tables.
        package: The package whose version is printed.
        module: Its module below `benchmarks.peers`.
        command: Makes the command line from the interpreter, the module and the port.
        path: The URL path that accepts images.
        field: See `Launch`.
        env: Additional environment variables.
        has_our_runtime: Whether it computes with Opsin's runtime and precision, not TensorFlow.
    """

    name: str
    package: str
    module: str
    command: Callable[[Path, str, int], list[str]]
    path: str = "/classify"
    field: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    has_our_runtime: bool = False

    def launch(self, subject: Subject, port: int, home: Path) -> Launch:
        python = PEERS_VENV / "bin" / "python"
        env = {
            "PEER_SAVED_MODEL": str(subject.saved_model),
            "PEER_GRAPH": str(subject.graph) if self.has_our_runtime else "",
            "PEER_PORT": str(port),
            "PEER_SIZE": str(subject.size),
            "PEER_PROCESSES": str(subject.processes),
            "PEER_THREADS": str(subject.threads),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "BENTOML_HOME": str(home / "bentoml"),
            **dict(self.env),
        }
        command = self.command(python, f"benchmarks.peers.{self.module}", port)
        return Launch(command, env, port, self.path, self.field)


def _run(python: Path, module: str, _port: int) -> list[str]:
    return [str(python), "-m", module]


def _bentoml(python: Path, module: str, port: int) -> list[str]:
    served = f"{module}:Classify"
    address = ["--host", "127.0.0.1", "--port", str(port)]
    return [str(python), "-m", "bentoml", "serve", served, *address]


PEERS = (
    Peer("FastAPI + tf.function", "fastapi", "fastapi_plain", _run),
    Peer("mosec", "mosec", "mosec_server", _run, path="/inference"),
    Peer("FastAPI with OpenVINO", "fastapi", "fastapi_plain", _run, has_our_runtime=True),
    Peer(
        "mosec with OpenVINO",
        "mosec",
        "mosec_server",
        _run,
        path="/inference",
        has_our_runtime=True,
    ),
    Peer("LitServe", "litserve", "litserve_server", _run),
    Peer(
        "BentoML",
        "bentoml",
        "bentoml_server",
        _bentoml,
        field="images",
        env=(("BENTOML_DO_NOT_TRACK", "True"),),
    ),
    Peer(
        "Ray Serve",
        "ray",
        "ray_serve",
        _run,
        env=(
            ("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1"),
            ("RAY_USAGE_STATS_ENABLED", "0"),
            ("RAY_AUTH_MODE", "disabled"),  # otherwise it writes a token into the user's home
        ),
    ),
)


def opsin(
    subject: Subject, port: int, home: Path, weights: Path, precision: str | None = None
) -> Launch:
    """`opsin up` with its own home; OPSIN_… variables of the caller are passed on."""
    ours = {
        "OPSIN_HOME": str(home),
        "OPSIN_PORT": str(port),
        "OPSIN_HOST": "127.0.0.1",
        "OPSIN_MODELS": subject.model,
        "OPSIN_WEIGHTS_DIR": str(weights),
        "OPSIN_OFFLINE": "1",
        # The peers give no explanations, so the memory for them is not compared.
        "OPSIN_PRELOAD_EXPLANATIONS": "off",
    }
    if precision is not None:
        ours["OPSIN_PRECISION"] = precision
    given = {name: value for name, value in os.environ.items() if name.startswith("OPSIN_")}
    path = f"/v1/classify?model={subject.model}"
    return Launch([sys.executable, "-m", "cli", "up"], given | ours, port, path)
