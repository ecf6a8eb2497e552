"""All settings of Opsin, with their meanings and defaults. An invalid one stops the start.

Each field is read from the environment as ``OPSIN_<NAME>`` or from a ``.env`` file in the working
directory; the environment takes precedence. ``docs/reference/settings.md`` lists all settings, and
a test compares the two.
"""

import ipaddress
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from contracts.public_paths import is_prefix

MIB = 1024 * 1024
# Not the others: an empty key, for example, would open the service to everyone.
_EMPTY_IS_UNSET = frozenset(
    {"home", "host", "weights_dir", "redis_url", "database_url", "faces_keys", "otlp_endpoint"}
    | {"trace_ratio"}
)
# Any scheme that pages can have. A wildcard is a whole label, or the port.
_ORIGIN = re.compile(
    r"(?!(?:ftp|file|data|blob|javascript|wss?):)[a-z][a-z0-9+.-]*://"
    r"(?:\*\.(?=.*[a-z]))?[^/\s?#@*,]+?(?::\*)?"
)
# What phones call 50 megapixels are 8192 x 6144 pixels.
MAX_IMAGE_PIXELS = 52_000_000
RELEASE = "0.1.0"
"""The version of Opsin; a test compares it with pyproject.toml."""


class Settings(BaseSettings):
    """The configuration, validated at the start and immutable afterwards."""

    model_config = SettingsConfigDict(
        env_prefix="OPSIN_", env_file=".env", extra="ignore", frozen=True
    )

    home: Path = Field(
        Path("var"),
        description="Folder for everything that Opsin writes: database, weights, store, logs.",
    )
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port the API listens on.")
    api_processes: int = Field(
        1,
        ge=1,
        le=64,
        description=(
            "API processes that share the port. With two or more, SIGUSR2 to `opsin serve` "
            "replaces them one by one without losing a request."
        ),
    )
    api_key: SecretStr | None = Field(
        None,
        min_length=16,
        description=(
            "A key with all scopes, for creating the others. Required if the address is not"
            " loopback, unless `opsin keys create` has created a key."
        ),
    )
    session_idle_minutes: int = Field(
        30,
        ge=1,
        le=720,
        description="Minutes after which an unused session of the console ends.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description=(
            "Origins whose pages may call the API from a browser, separated by commas: "
            "https://app.example.org, https://*.example.org for all subdomains, "
            "http://localhost:* for all ports, an app's such as capacitor://localhost, or * for "
            "any. Default: none."
        ),
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description=(
            "Addresses or networks of reverse proxies, separated by commas, whose "
            "X-Forwarded-For, -Proto and -Prefix headers are trusted. Default: they are ignored."
        ),
    )
    root_path: str = Field(
        "",
        description=(
            "Path under which a reverse proxy offers the API, e.g. /opsin, for the URLs in "
            "responses. X-Forwarded-Prefix of a trusted proxy takes precedence. Default: none."
        ),
    )
    max_connections: int = Field(
        1024,
        ge=1,
        le=1_000_000,
        description=(
            "Connections that one API process accepts; more get 503. Fewer if the system allows "
            "too few open files."
        ),
    )
    header_seconds: float = Field(
        10,
        gt=0,
        le=600,
        description="Time in seconds that a client may take to send the headers of a request.",
    )
    min_upload_rate: int = Field(
        1024,
        ge=0,
        description=(
            "Bytes per second below which an upload, or the reading of a response, is "
            "aborted after 10 seconds. 0: never."
        ),
    )
    upload_budget_mb: int = Field(
        1024,
        ge=1,
        description=(
            "Memory in MB for all request bodies that one API process reads at a time; more"
            " get 429. One key may use half of it; a single request is always accepted."
        ),
    )
    audit_days: int = Field(
        400,
        ge=1,
        le=36_500,
        description="Days for which entries of the audit log and of the face audit are kept.",
    )
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        ("efficientnet_lite0", "squeezenet", "vgg16", "face_embedder"),
        min_length=1,
        description=(
            "Networks to load, in order, separated by commas. The first one that is ready "
            "is the default of requests that name none."
        ),
    )
    weights_dir: Path | None = Field(
        None, description="Folder with weight files, searched before anything is downloaded."
    )
    offline: bool = Field(False, description="Never access the network, not even for weights.")
    redis_url: str | None = Field(
        None,
        description=(
            "redis://, rediss:// or unix:// address of a Redis or Valkey server. Default: "
            "`opsin up` starts an embedded Valkey."
        ),
    )
    database_url: str | None = Field(
        None, description="SQLAlchemy URL. Default: SQLite at $OPSIN_HOME/opsin.db."
    )
    queue_limit: int = Field(
        128,
        ge=1,
        le=100_000,
        description="Images that may wait in one queue, or to be decoded for it; more get 429.",
    )
    max_image_bytes: int = Field(16 * MIB, ge=1024, description="Largest image, in bytes.")
    max_image_pixels: int = Field(
        MAX_IMAGE_PIXELS,
        ge=1,
        le=178_956_970,  # Pillow's own limit, which stays in force
        description="Largest image, in pixels, according to its header.",
    )
    max_images: int = Field(
        32, ge=1, le=1024, description="Maximum number of images in one request."
    )
    max_video_bytes: int = Field(64 * MIB, ge=1024, description="Largest video, in bytes.")
    max_video_seconds: float = Field(30, gt=0, le=600, description="Longest video, in seconds.")
    clip_queue_limit: int = Field(
        4, ge=1, le=64, description="Login videos that may wait for a worker; more get 429."
    )
    max_dataset_upload_bytes: int = Field(
        2048 * MIB, ge=1024, description="Largest archive of a dataset, in bytes."
    )
    max_dataset_bytes: int = Field(
        8192 * MIB, ge=1024, description="Largest unpacked dataset, in bytes."
    )
    max_dataset_files: int = Field(
        200_000,
        ge=1,
        description="Maximum number of files in a dataset, including those that are left out.",
    )
    dataset_job_bytes: int = Field(
        32 * MIB,
        ge=0,
        description=(
            "Archives of at least this many bytes are imported by a job; smaller ones while"
            " the client waits."
        ),
    )
    min_free_disk_bytes: int = Field(
        512 * MIB,
        ge=0,
        description="Bytes of disk space that uploads, jobs, imports and conversions leave free. "
        "Jobs of other scopes than infer leave half of it, so that those of infer cannot keep "
        "them out; other requests that add to the database leave a quarter, logins an eighth.",
    )
    default_timeout_ms: int = Field(
        30_000, ge=1, description="Deadline of requests without an X-Timeout-Ms header."
    )
    max_timeout_ms: int = Field(600_000, ge=1, description="Largest X-Timeout-Ms that is accepted.")
    max_batch_size: int = Field(
        16,
        ge=1,
        le=256,
        description="Maximum number of images that a worker runs through a network at once.",
    )
    linger_ms: int = Field(
        20,
        ge=0,
        le=1000,
        description="Time in milliseconds that a batcher waits for the next image before it ends.",
    )
    decode_threads: int = Field(
        os.cpu_count() or 1, ge=1, le=256, description="Threads that decode images in the API."
    )
    worker_threads: int = Field(
        os.cpu_count() or 1, ge=1, le=256, description="Threads that one worker computes with."
    )
    worker_niceness: int = Field(
        5,
        ge=0,
        le=19,
        description=(
            "Niceness of workers that compute on the CPU, so that the API, which takes less and "
            "for which all of them wait, comes first. Beside other programs that keep the machine "
            "busy, a worker gets a third of their share at 5. 0: normal priority."
        ),
    )
    runtime: Literal["auto", "tensorflow", "openvino"] = Field(
        "auto",
        description="What runs the networks. auto: TensorFlow on a GPU, OpenVINO on a CPU.",
    )
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto",
        description=(
            "Precision of the networks. auto: int8 for a quantized version; otherwise "
            "bfloat16 if the processor supports it, or float32. int8 needs no quantized version "
            "of a network with published weights, or of what was trained on its frozen base. A "
            "precision whose answers differ too much is not used."
        ),
    )
    xla: bool = Field(
        False, description="Whether TensorFlow compiles the networks with XLA; for GPUs."
    )
    worker_memory_mb: int = Field(
        0,
        ge=0,
        description=(
            "Resident memory in MB above which a worker is replaced by a new one, without "
            "interruption. 0: twice its memory when it became ready, plus what explanations"
            " load."
        ),
    )
    explainers: int = Field(
        2,
        ge=1,
        le=32,
        description=(
            "Keras models that a worker keeps in memory for explanations that the "
            "SavedModel cannot give. Each takes the memory of its weights and is loaded on "
            "first use."
        ),
    )
    preload_explanations: Literal["auto", "on", "off"] = Field(
        "auto",
        description=(
            "Whether an idle worker loads in advance what the first heatmap needs. auto: if"
            " the machine has enough memory."
        ),
    )
    heatmap_cache_mb: int = Field(
        32, ge=0, le=65_536, description="Memory in MB for cached heatmaps. 0: no cache."
    )
    max_heatmaps: int = Field(
        64,
        ge=1,
        le=1024,
        description=(
            "Maximum number of heatmaps in one request: number of images times number of classes."
        ),
    )
    job_limit: int = Field(
        100,
        ge=1,
        description=(
            "Unfinished jobs that are accepted; more get 429. One client may have up to 45%, and "
            "a tenth is kept for clients without any and for each queue."
        ),
    )
    job_retention_hours: int = Field(
        24,
        ge=1,
        le=876_000,
        description="Hours for which a finished job and its result are kept.",
    )
    job_max_hours: float = Field(
        48,
        gt=0,
        le=8760,
        description=(
            "Hours that a job may run in total before it fails. Waiting for another worker "
            "or for memory does not count."
        ),
    )
    picture_max_hours: float = Field(
        1,
        gt=0,
        le=8760,
        description=(
            "The same for jobs whose amount of work any client with scope `infer` may choose: "
            "style transfers, dreams, filters, heatmaps. A style transfer or dream ends in time "
            "with the image it has."
        ),
    )
    training_concurrency: int = Field(
        1, ge=0, le=64, description="Trainings that one job worker runs at a time. 0: none."
    )
    picture_concurrency: int = Field(
        1,
        ge=0,
        le=64,
        description=(
            "Image jobs, such as filter visualizations, that one job worker runs at a time."
            " 0: none."
        ),
    )
    dataset_concurrency: int = Field(
        1,
        ge=0,
        le=64,
        description=(
            "Imports of datasets and videos, evaluations and face calibrations that one job worker "
            "runs at a time. They may take hours, so image jobs do not wait for them. 0: none."
        ),
    )
    enrollment_concurrency: int = Field(
        1,
        ge=0,
        le=64,
        description="Face enrollments that one job worker runs at a time. 0: none.",
    )
    job_threads: int = Field(
        os.cpu_count() or 1,
        ge=1,
        le=256,
        description="Threads that TensorFlow uses in a training or another long job.",
    )
    job_niceness: int = Field(
        15,
        ge=0,
        le=19,
        description=(
            "Niceness of long jobs. At 15, inference comes first on a busy machine and a job "
            "still makes progress; at 19 a job may stand still. Beside other programs that keep "
            "the machine busy, a job gets a thirtieth of their share at 15, a tenth at 10, a third "
            "at 5. 0: normal priority. Enrollments, which users wait for, get at most 5."
        ),
    )
    training_memory_mb: int = Field(
        0,
        ge=0,
        description=(
            "Memory in MB for the trainings and other jobs that run at the same time on one "
            "machine or in one container, by an estimate. One that needs more is refused with "
            "422; one that has no room beside others waits for them. Of 6 GiB or more, large jobs "
            "leave 1.5 GiB to small ones. 0: its memory, less what its other processes hold."
        ),
    )
    trained_models: int = Field(
        32,
        ge=1,
        description=(
            "Trained models that a worker keeps in memory. Beyond that, those promoted "
            "longest ago are unavailable until they are promoted again. One that shares its base "
            "with another counts as a sixteenth, unless its head has more than 4 MB."
        ),
    )
    checkpoint_seconds: float = Field(
        30,
        ge=0,
        le=31_536_000,
        description=(
            "Seconds between two checkpoints of a training, and so about how much of it a "
            "crash can lose."
        ),
    )
    feature_cache_mb: int = Field(
        4096,
        ge=0,
        description=(
            "Disk space in MB for cached features of frozen backbones, shared by trainings."
            " 0: no cache."
        ),
    )
    faces_keys: SecretStr | None = Field(
        None,
        description=(
            "Keys that encrypt face data: id:base64 of 32 bytes, separated by commas. The "
            "first one encrypts, all decrypt. Default: a file at "
            "$OPSIN_HOME/secrets/faces.keys, created on first use."
        ),
    )
    face_search: Literal["memory", "pgvector"] = Field(
        "memory",
        description=(
            "How faces are searched. memory: exact, for up to about 100,000 templates; "
            "pgvector: with an index in PostgreSQL, for more."
        ),
    )
    face_address_failures: int = Field(
        10,
        ge=0,
        le=100_000,
        description=(
            "Failed face logins in three minutes after which their address has to wait. Raise it "
            "for a back end that sends the logins of many people, or list it in "
            "OPSIN_TRUSTED_PROXIES and let it send X-Forwarded-For. 0: no limit."
        ),
    )
    face_consent_required: bool = Field(
        False,
        description=(
            "Whether faces are enrolled, compared and recognized only with a consent that is in "
            "force. `PUT /v1/faces/policy` can require it too."
        ),
    )
    face_retention_days: int = Field(
        0,
        ge=0,
        le=36_500,
        description=(
            "Days after the last use at which a subject is erased. 0: never. Recommended: 1095 "
            "(three years). `PUT /v1/faces/policy` can shorten it."
        ),
    )
    token_issuer: str = Field(
        "opsin",
        min_length=1,
        max_length=200,
        description="`iss` claim of the tokens of a face login.",
    )
    token_audience: str = Field(
        "opsin",
        min_length=1,
        max_length=200,
        description="`aud` claim of these tokens; services that accept them must check it.",
    )
    token_seconds: int = Field(
        900, ge=10, le=86_400, description="Seconds for which the token of a face login is valid."
    )
    token_key_days: float = Field(
        90,
        gt=0,
        le=3650,
        description="Days after which the key that signs tokens is rotated automatically.",
    )
    shutdown_seconds: float = Field(
        10,
        gt=0,
        le=3600,
        description="Seconds that a process may take to finish its work when it is stopped.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest severity that is logged."
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="json for machines, console for people."
    )

    otlp_endpoint: str | None = Field(
        None,
        description=(
            "Address of an OpenTelemetry collector that receives traces by OTLP over HTTP, e.g. "
            "http://collector:4318. Default: OTEL_EXPORTER_OTLP_ENDPOINT, or none."
        ),
    )
    trace_ratio: float | None = Field(
        None,
        ge=0,
        le=1,
        description=(
            "Share of the requests that are traced; one with `traceparent` as that says. Default: "
            "as OTEL_TRACES_SAMPLER says, or all."
        ),
    )
    log_file_mb: int = Field(
        64,
        ge=1,
        description=(
            "Size in MB at which `opsin up` begins a new log file of a process. The one before it "
            "is kept."
        ),
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
        # As browsers send them: in lower case, and without the scheme's own port.
        ports = re.compile(r"^(http://.+):80$|^(https://.+):443$")
        origins = [ports.sub(r"\1\2", origin.lower()) for origin in value]
        for origin in origins:
            if origin != "*" and not re.fullmatch(_ORIGIN, origin):
                raise ValueError(
                    f"'{origin}' is not an origin, e.g. https://app.example.org, "
                    "https://*.example.org or capacitor://localhost, without a path"
                )
        return tuple(origins)

    @field_validator("root_path")
    @classmethod
    def _prefix(cls, value: str) -> str:
        prefix = value.rstrip("/")
        if not is_prefix(prefix):
            raise ValueError(f"'{value}' is not a path such as /opsin, outside /v1, /v2 and /docs")
        return prefix

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network)  # raises a ValueError that names the problem
        return value

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, values: dict[str, object]) -> dict[str, object]:
        """An empty line of `.env`, or a variable that is not set where compose passes it on."""
        return {
            name: value
            for name, value in values.items()
            if value != "" or name not in _EMPTY_IS_UNSET
        }

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value

    @field_validator("redis_url")
    @classmethod
    def _known_scheme(cls, value: str | None) -> str | None:
        if value and not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must start with redis://, rediss:// or unix://")
        return value

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str | None) -> str | None:
        if value is None:
            return None
        value = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", value)
        if not value.startswith(("sqlite:///", "postgresql+psycopg://")):
            raise ValueError("must start with sqlite:/// or postgresql+psycopg://")
        return value

    @cached_property
    def database(self) -> str:
        """The SQLAlchemy URL in use."""
        return self.database_url or f"sqlite:///{self.home / 'opsin.db'}"

    @property
    def free_disk_bytes_of_work(self) -> int:
        """What jobs leave free that need another scope than `infer`."""
        return self.min_free_disk_bytes // 2

    @property
    def free_disk_bytes_of_rows(self) -> int:
        """What requests leave free that only add to the database."""
        return self.min_free_disk_bytes // 4

    @property
    def free_disk_bytes_of_lines(self) -> int:
        """What requests leave free that add no more than a line to an audit log, such as logins."""
        return self.min_free_disk_bytes // 8

    @property
    def weights_home(self) -> Path:
        """Folder of downloaded weights."""
        return self.home / "weights"

    @property
    def store_home(self) -> Path:
        """Folder of the model versions."""
        return self.home / "store"

    @property
    def jobs_home(self) -> Path:
        """Folder of the jobs' inputs, checkpoints and artifacts."""
        return self.home / "jobs"

    @property
    def datasets_home(self) -> Path:
        """Folder of the datasets."""
        return self.home / "datasets"

    @property
    def features_home(self) -> Path:
        """Folder of cached features of frozen backbones; may be emptied at any time."""
        return self.home / "cache" / "features"

    @property
    def memory_home(self) -> Path:
        """Folder of what jobs have reserved of the memory of their machines."""
        return self.home / "memory"

    @property
    def event_logs_home(self) -> Path:
        """Folder of the TensorBoard logs, one subfolder per job."""
        return self.home / "tensorboard"

    @property
    def faces_home(self) -> Path:
        """Folder of the encrypted frames of subjects."""
        return self.home / "faces"

    @property
    def secrets_home(self) -> Path:
        """Folder of generated keys, readable only by the owner."""
        return self.home / "secrets"

    @property
    def face_keys_file(self) -> Path:
        """The keys that encrypt face data if `faces_keys` is not set."""
        return self.secrets_home / "faces.keys"

    @property
    def is_loopback(self) -> bool:
        """Whether the API is reachable only from this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
