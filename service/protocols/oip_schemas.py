"""The JSON schemas of the Open Inference Protocol v2.

https://github.com/kserve/open-inference-protocol and Triton's extensions for binary tensors,
classification, model configuration, the model repository and statistics. Unknown fields are
ignored, as by every server of this protocol. Some clients send null for what they do not set, and
3.0 for 3.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, StrictBool, StrictInt, model_validator


def _without_fraction(value: Any) -> Any:
    """3.0 as 3; anything else unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[StrictInt, BeforeValidator(_without_fraction)]
Count = Annotated[StrictInt, Field(ge=0), BeforeValidator(_without_fraction)]


class _Request(BaseModel):
    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        """Null means the same as nothing."""
        if not isinstance(value, dict):
            return value
        return {name: item for name, item in value.items() if item is not None}


class TensorMetadata(BaseModel):
    """An input or output tensor."""

    name: str
    datatype: str = Field(examples=["UINT8"])
    shape: list[int] = Field(description="-1 is any number.", examples=[[-1, 224, 224, 3]])


class ServerMetadata(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(BaseModel):
    """The server is live."""

    live: Literal[True] = True


class ServerReady(BaseModel):
    """The server is ready."""

    ready: Literal[True] = True


class ModelReady(BaseModel):
    """The model is ready."""

    name: str
    ready: Literal[True] = True


class ModelMetadata(BaseModel):
    """A model's versions and tensors."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


RepositoryState = Literal["READY", "LOADING", "UNAVAILABLE"]


class ModelState(BaseModel):
    """One version of a model in the repository."""

    name: str
    version: str
    state: RepositoryState
    reason: str


class InputParameters(_Request):
    """Parameters of an input."""

    binary_data_size: Count | None = Field(
        None, description="Bytes of this tensor, which follow the JSON."
    )
    shared_memory_region: Any = Field(None, description="Not supported; send the tensor itself.")


class InputTensor(_Request):
    """An input tensor."""

    name: str
    shape: list[Whole] = Field(max_length=8)
    datatype: str
    parameters: InputParameters = InputParameters()
    data: Any = Field(None, description="The numbers, flat or nested. Omit it if binary.")


class OutputParameters(_Request):
    """Parameters of a requested output."""

    binary_data: StrictBool | None = Field(None, description="Return it as bytes.")
    classification: Count | None = Field(
        None,
        description="Return that many of the largest numbers, as texts `value:index:label`, "
        "instead of all of them. 0 is none.",
    )
    shared_memory_region: Any = Field(None, description="Not supported.")


class WantedOutput(_Request):
    """A requested output."""

    name: str
    parameters: OutputParameters = OutputParameters()


class RequestParameters(_Request):
    """Parameters of the request as a whole."""

    binary_data_output: StrictBool | None = Field(
        None, description="Return all outputs as bytes, unless an output says otherwise."
    )
    timeout: Count | None = Field(
        None,
        description="The deadline in microseconds; X-Timeout-Ms applies if it is earlier. 0 is "
        "none.",
    )
    sequence_id: Whole | str | None = Field(
        None, description="Sequences of requests are not supported; only one of one request is."
    )
    sequence_start: StrictBool = False
    sequence_end: StrictBool = False


class InferRequest(_Request):
    """A request."""

    id: str | None = Field(None, max_length=256, description="The response repeats it.")
    parameters: RequestParameters = RequestParameters()
    inputs: list[InputTensor] = Field(min_length=1, max_length=16)
    outputs: list[WantedOutput] = Field([], max_length=16)


class OutputTensor(BaseModel):
    """An output tensor."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = Field(None, description="`binary_data_size`, if binary.")
    data: list[float] | list[str] | None = Field(
        None, description="Flat, row after row; absent if binary. Texts for a classification."
    )


class InferResponse(BaseModel):
    """The response."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class LoadRequest(_Request):
    """The body of a request to load a model."""

    parameters: dict[str, Any] = Field(
        {}, description="Not supported: a configuration or files of the client."
    )


class IndexRequest(_Request):
    """The body of a request for the repository index; Triton's client rarely sends one."""

    ready: StrictBool = False
