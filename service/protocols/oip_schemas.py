"""The JSON schemas of the Open Inference Protocol v2.

https://github.com/kserve/open-inference-protocol and Triton's binary tensor data, model
configuration and model repository extensions. Unknown fields are ignored, as by
every server of this protocol.
"""

from typing import Any, Literal

from pydantic import BaseModel, Field, StrictBool, StrictInt


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


class ModelState(BaseModel):
    """One version of a model in the repository."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str


class InputParameters(BaseModel):
    """Parameters of an input."""

    binary_data_size: StrictInt | None = Field(
        None, ge=0, description="Bytes of this tensor, which follow the JSON."
    )
    shared_memory_region: Any = Field(None, description="Not supported; send the tensor itself.")


class InputTensor(BaseModel):
    """An input tensor."""

    name: str
    shape: list[StrictInt] = Field(max_length=8)
    datatype: str
    parameters: InputParameters = InputParameters()
    data: Any = Field(None, description="The numbers, flat or nested. Omit it if binary.")


class OutputParameters(BaseModel):
    """Parameters of a requested output."""

    binary_data: StrictBool | None = Field(None, description="Return it as bytes.")
    classification: Any = Field(None, description="Not supported; /v1/classify returns labels.")
    shared_memory_region: Any = Field(None, description="Not supported.")


class WantedOutput(BaseModel):
    """A requested output."""

    name: str
    parameters: OutputParameters = OutputParameters()


class RequestParameters(BaseModel):
    """Parameters of the request as a whole."""

    binary_data_output: StrictBool | None = Field(
        None, description="Return all outputs as bytes, unless an output says otherwise."
    )
    timeout: StrictInt | None = Field(
        None,
        ge=1,
        description="The deadline in microseconds; X-Timeout-Ms applies if it is earlier.",
    )


class InferRequest(BaseModel):
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
    data: list[float] | None = Field(None, description="Flat, row after row; absent if binary.")


class InferResponse(BaseModel):
    """The response."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class IndexRequest(BaseModel):
    """The body of a request for the repository index; Triton's client rarely sends one."""

    ready: StrictBool = False
