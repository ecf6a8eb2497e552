"""The JSON of the Open Inference Protocol v2, as it travels.

https://github.com/kserve/open-inference-protocol and Triton's binary tensor data, model
configuration and model repository extensions. Fields that a client adds are ignored, as they are
by every server of this protocol.
"""

from typing import Any, Literal

from pydantic import BaseModel, Field, StrictBool, StrictInt


class TensorMetadata(BaseModel):
    """A tensor that goes in or comes out."""

    name: str
    datatype: str = Field(examples=["UINT8"])
    shape: list[int] = Field(description="-1 is any number.", examples=[[-1, 224, 224, 3]])


class ServerMetadata(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(BaseModel):
    """The server lives."""

    live: Literal[True] = True


class ServerReady(BaseModel):
    """The server can be asked."""

    ready: Literal[True] = True


class ModelReady(BaseModel):
    """The model can be asked."""

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
    """What is said of an input."""

    binary_data_size: StrictInt | None = Field(
        None, ge=0, description="Bytes of this tensor, which follow the JSON."
    )
    shared_memory_region: Any = Field(None, description="Not offered; send the tensor itself.")


class InputTensor(BaseModel):
    """A tensor that is sent."""

    name: str
    shape: list[StrictInt] = Field(max_length=8)
    datatype: str
    parameters: InputParameters = InputParameters()
    data: Any = Field(None, description="The numbers, flat or nested; left out if binary.")


class OutputParameters(BaseModel):
    """What is said of a wanted output."""

    binary_data: StrictBool | None = Field(None, description="Answer with it as bytes.")
    classification: Any = Field(None, description="Not offered; ask /v1/classify for labels.")
    shared_memory_region: Any = Field(None, description="Not offered.")


class WantedOutput(BaseModel):
    """An output that is asked for."""

    name: str
    parameters: OutputParameters = OutputParameters()


class RequestParameters(BaseModel):
    """What is said of the request as a whole."""

    binary_data_output: StrictBool | None = Field(
        None, description="Answer with all outputs as bytes, unless one says otherwise."
    )
    timeout: StrictInt | None = Field(
        None, ge=1, description="Microseconds it may take; X-Timeout-Ms if that is less."
    )


class InferRequest(BaseModel):
    """An inference that is asked for."""

    id: str | None = Field(None, max_length=256, description="Comes back with the answer.")
    parameters: RequestParameters = RequestParameters()
    inputs: list[InputTensor] = Field(min_length=1, max_length=16)
    outputs: list[WantedOutput] = Field([], max_length=16)


class OutputTensor(BaseModel):
    """A tensor of the answer."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = Field(None, description="`binary_data_size`, if binary.")
    data: list[float] | None = Field(None, description="Flat, row after row; left out if binary.")


class InferResponse(BaseModel):
    """The answer to an inference."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class IndexRequest(BaseModel):
    """The body of a request for the repository index; Triton's client rarely sends one."""

    ready: StrictBool = False
