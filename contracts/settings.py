"""All settings, each with its meaning and its default. A bad one stops the start.

Every field is read from the environment as ``OPSIN_<NAME>`` or from a ``.env`` file in the
working directory; the environment wins. ``docs/reference/settings.md`` lists them, and a test
compares the two.

The version of Opsin that is running; a test compares it with pyproject.toml.
"""

import ipaddress
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MIB = 1024 * 1024


class Settings(BaseSettings):
    """The whole configuration, validated once at the start and never changed after."""

    model_config = SettingsConfigDict(
        env_prefix="OPSIN_", env_file=".env", extra="ignore", frozen=True
    )

    home: Path = Field(
        Path("var"),
        description="Where everything lives that Opsin writes: database, weights, store, logs.",
    )
    host: str = Field("127.0.0.1", description="The address the API listens on.")
    port: int = Field(8000, ge=1, le=65535, description="The port the API listens on.")
    api_processes: int = Field(
        1,
        ge=1,
        le=64,
        description="API processes behind the one port. With two or more, SIGUSR2 to `opsin "
        "serve` replaces them one after the other without losing a request.",
    )
    api_key: SecretStr | None = Field(
        None,
        min_length=16,
        description="A key that may do everything, to make the others with. Needed on any address "
        "that is not loopback, unless `opsin keys create` made one.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins whose pages may call the API from a browser, e.g. "
        "https://app.example.org, separated by commas. Left out: none.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses or networks of reverse proxies, separated by commas, whose "
        "X-Forwarded-For says who the client is. Left out: the header is disregarded.",
    )
    max_connections: int = Field(
        1024, ge=1, le=1_000_000, description="Connections one API process holds; more get 503."
    )
    header_seconds: float = Field(
        10, gt=0, le=600, description="How long a client may take to send the head of a request."
    )
    min_upload_rate: int = Field(
        1024,
        ge=0,
        description="Bytes a second below which an upload, or the reading of an answer, is cut "
        "off after 10 seconds. 0: never.",
    )
    upload_budget_mb: int = Field(
        1024,
        ge=1,
        description="Memory in MB for all request bodies that one API process reads at a time; "
        "more get 429. A key may have half; one request alone is always taken.",
    )
    audit_days: int = Field(
        400,
        ge=1,
        le=36_500,
        description="How long a line of the audit log, or of the audit of faces, is kept.",
    )
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        ("efficientnet_lite0", "squeezenet", "vgg16", "face_embedder"),
        min_length=1,
        description="Networks to load, in order, separated by commas. The first ready one is "
        "the default of a request that names none.",
    )
    weights_dir: Path | None = Field(
        None, description="A directory of weight files, looked in before anything is downloaded."
    )
    offline: bool = Field(False, description="Never reach for the network, not even for weights.")
    redis_url: str | None = Field(
        None,
        description="redis://, rediss:// or unix:// address of a Redis or Valkey. "
        "Left out, `opsin up` starts an embedded Valkey of its own.",
    )
    database_url: str | None = Field(
        None, description="SQLAlchemy address. Left out: SQLite at $OPSIN_HOME/opsin.db."
    )
    queue_limit: int = Field(
        64, ge=1, le=100_000, description="Images that may wait in one lane; more get 429."
    )
    max_image_bytes: int = Field(16 * MIB, ge=1024, description="Largest image, in bytes.")
    max_image_pixels: int = Field(
        50_000_000,
        ge=1,
        le=178_956_970,  # Pillow's own limit, which stays in force
        description="Largest image, in pixels, judged from its header.",
    )
    max_images: int = Field(32, ge=1, le=1024, description="Most images in one request.")
    max_video_bytes: int = Field(64 * MIB, ge=1024, description="Largest video, in bytes.")
    max_video_seconds: float = Field(30, gt=0, le=600, description="Longest video, in seconds.")
    clip_queue_limit: int = Field(
        4, ge=1, le=64, description="Videos of logins that may wait for a worker; more get 429."
    )
    max_dataset_upload_bytes: int = Field(
        2048 * MIB, ge=1024, description="Largest archive of a dataset, in bytes."
    )
    max_dataset_bytes: int = Field(
        8192 * MIB, ge=1024, description="Bytes that a dataset may unpack to."
    )
    max_dataset_files: int = Field(
        200_000, ge=1, description="Most files in a dataset, left out ones counted."
    )
    dataset_job_bytes: int = Field(
        32 * MIB,
        ge=0,
        description="Archives of so many bytes or more are taken in by a job; smaller ones while "
        "the client waits.",
    )
    min_free_disk_bytes: int = Field(
        512 * MIB, ge=0, description="Bytes of the disk that datasets leave free."
    )
    default_timeout_ms: int = Field(
        30_000, ge=1, description="Deadline of a request that sends no X-Timeout-Ms."
    )
    max_timeout_ms: int = Field(600_000, ge=1, description="Longest X-Timeout-Ms accepted.")
    max_batch_size: int = Field(
        16, ge=1, le=256, description="Most images a worker runs through a network at once."
    )
    linger_ms: int = Field(
        20, ge=0, le=1000, description="How long a drain waits for the next image, then returns."
    )
    decode_threads: int = Field(
        os.cpu_count() or 1, ge=1, le=256, description="Threads that decode images in the API."
    )
    worker_threads: int = Field(
        os.cpu_count() or 1, ge=1, le=256, description="Threads one worker computes with."
    )
    runtime: Literal["auto", "tensorflow", "openvino"] = Field(
        "auto",
        description="What runs the networks. auto: TensorFlow on a GPU, OpenVINO on a processor.",
    )
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto",
        description="What they compute in. auto: bfloat16 where the processor has it, else "
        "float32; a version that was quantized in int8. What strays too far is not used.",
    )
    xla: bool = Field(
        False, description="Whether TensorFlow compiles the networks by XLA. For GPUs."
    )
    worker_memory_mb: int = Field(
        0,
        ge=0,
        description="Resident memory in MB above which a worker is replaced by a fresh one, "
        "without a gap. 0: twice what it took when it became ready, and what explanations load.",
    )
    explainers: int = Field(
        2,
        ge=1,
        le=32,
        description="Keras models a worker keeps for explanations that the SavedModel cannot "
        "give; each takes the memory of its weights, and is loaded when first asked for.",
    )
    preload_explanations: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether an idle worker loads what the first heatmap would wait for. auto: "
        "where the machine's memory allows.",
    )
    heatmap_cache_mb: int = Field(
        32, ge=0, le=65_536, description="Memory in MB for heatmaps that were made before. 0: none."
    )
    max_heatmaps: int = Field(
        64, ge=1, le=1024, description="Most heatmaps in one request: its images times its classes."
    )
    job_limit: int = Field(
        100, ge=1, description="Unfinished jobs accepted; more get 429. Their images lie in Redis."
    )
    job_retention_hours: int = Field(
        24, ge=1, description="How long a finished job and its result are kept."
    )
    job_max_hours: float = Field(
        48,
        gt=0,
        le=8760,
        description="How long a job may run in all; then it fails. Time in which it "
        "waited for another worker does not count.",
    )
    training_concurrency: int = Field(
        1, ge=0, le=64, description="Trainings that one job worker runs at a time. 0: none."
    )
    picture_concurrency: int = Field(
        1,
        ge=0,
        le=64,
        description="Filters, dreams, style transfers and the like that one job worker runs at a "
        "time. 0: none.",
    )
    enrollment_concurrency: int = Field(
        1,
        ge=0,
        le=64,
        description="Enrollments of faces that one job worker runs at a time. 0: none.",
    )
    job_threads: int = Field(
        os.cpu_count() or 1,
        ge=1,
        le=256,
        description="Threads TensorFlow uses in one training or other long job.",
    )
    job_niceness: int = Field(
        19,
        ge=0,
        le=19,
        description="How far long jobs stand back for all else on their machine. At 19, the "
        "lowest priority there is, inference goes first. 0: not at all. Enrollments, which "
        "somebody waits for, stand back by 5 at most.",
    )
    training_memory_mb: int = Field(
        0,
        ge=0,
        description="Memory in MB that one training may take, by an estimate; more is refused "
        "with 422. 0: what the machine has that is asked.",
    )
    trained_models: int = Field(
        32,
        ge=1,
        description="Trained models a worker holds in memory; beyond it those that were promoted "
        "longest ago are unavailable. Promote one again to bring it back.",
    )
    checkpoint_seconds: float = Field(
        30, ge=0, description="What the loss of its process may cost a training, about."
    )
    feature_cache_mb: int = Field(
        4096,
        ge=0,
        description="Disk in MB for what frozen networks said of pictures, shared by trainings. "
        "0: none is kept.",
    )
    faces_keys: SecretStr | None = Field(
        None,
        description="Keys that seal faces: id:base64 of 32 bytes, separated by commas. The first "
        "seals, all open. Left out: a file at $OPSIN_HOME/secrets/faces.keys, made at need.",
    )
    face_search: Literal["memory", "pgvector"] = Field(
        "memory",
        description="Where faces are searched among all. memory: exact, for up to about 100,000 "
        "templates; pgvector: by an index of PostgreSQL, for more.",
    )
    token_issuer: str = Field(
        "opsin", min_length=1, max_length=200, description="`iss` of the tokens of a face login."
    )
    token_audience: str = Field(
        "opsin",
        min_length=1,
        max_length=200,
        description="`aud` of them; who takes them checks it.",
    )
    token_seconds: int = Field(
        900, ge=10, le=86_400, description="How long the token of a face login is good for."
    )
    token_key_days: float = Field(
        90,
        gt=0,
        le=3650,
        description="Age in days at which the key that signs tokens is replaced by itself.",
    )
    shutdown_seconds: float = Field(
        10, gt=0, description="How long a process may take to finish its work when told to stop."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least severe line that is logged."
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="json for machines, console for people."
    )

    @field_validator("models", "cors_origins", "trusted_proxies", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("home", "weights_dir")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value and value.expanduser().absolute()

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s?#@]+", origin):
                raise ValueError(f"'{origin}' is no origin, such as https://app.example.org")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network)  # its ValueError names what is wrong
        return value

    @field_validator("redis_url")
    @classmethod
    def _known_scheme(cls, value: str | None) -> str | None:
        if value and not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must start with redis://, rediss:// or unix://")
        return value

    @cached_property
    def database(self) -> str:
        """The SQLAlchemy address in force."""
        return self.database_url or f"sqlite:///{self.home / 'opsin.db'}"

    @property
    def weights_home(self) -> Path:
        """Where fetched weights are kept."""
        return self.home / "weights"

    @property
    def store_home(self) -> Path:
        """Where the model versions are kept."""
        return self.home / "store"

    @property
    def jobs_home(self) -> Path:
        """Where jobs keep what they were given, their checkpoints and what they made."""
        return self.home / "jobs"

    @property
    def datasets_home(self) -> Path:
        """Where the datasets are kept."""
        return self.home / "datasets"

    @property
    def features_home(self) -> Path:
        """Where trainings remember what frozen networks said; may be emptied at any time."""
        return self.home / "cache" / "features"

    @property
    def event_logs_home(self) -> Path:
        """Where TensorBoard finds what trainings wrote, a folder a job."""
        return self.home / "tensorboard"

    @property
    def faces_home(self) -> Path:
        """Where the frames lie, sealed, that are kept of subjects."""
        return self.home / "faces"

    @property
    def secrets_home(self) -> Path:
        """Where keys are kept that were made here; for the owner's eyes alone."""
        return self.home / "secrets"

    @property
    def face_keys_file(self) -> Path:
        """The keys that seal faces, where none are set."""
        return self.secrets_home / "faces.keys"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the API."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


RELEASE = "0.1.0"
