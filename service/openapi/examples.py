"""Examples for the documentation: one of each response, valid by its schema."""

from typing import Any

_JOB_ID = "job_7f3a90c1d2e84b5f"

CLASSIFICATION: dict[str, Any] = {
    "model": "squeezenet",
    "version": 1,
    "batch_size": 4,
    "results": [
        {
            "name": "zebra.jpg",
            "width": 500,
            "height": 375,
            "predictions": [
                {"index": 340, "id": "n02391049", "label": "zebra", "probability": 0.9312}
            ],
        }
    ],
    "timing_ms": {"decode": 2.9, "queue": 0.7, "compute": 9.8, "total": 14.1},
}
EMBEDDING: dict[str, Any] = CLASSIFICATION | {
    "results": [
        {"name": "zebra.jpg", "width": 500, "height": 375, "embedding": [0.12, 0.0, 1.73, 0.05]}
    ],
}
HEATMAP: dict[str, Any] = {
    "name": "zebra.jpg",
    "width": 500,
    "height": 375,
    "region": {"x": 84.0, "y": 21.3, "width": 332.4, "height": 332.5},
    "target": {
        "index": 340,
        "id": "n02391049",
        "label": "zebra",
        "probability": 0.9312,
        "space": "logit",
    },
    "grid": {"shape": [2, 3], "values": [[0.0, 0.41, 1.0], [0.0, 0.12, 0.37]]},
    "empty": False,
    "cached": False,
    "model": "squeezenet",
    "version": 1,
    "method": "grad_cam",
    "layer": "fire9_concat",
    "timing_ms": {"decode": 2.9, "queue": 0.7, "compute": 12.1, "total": 16.4},
}
ACTIVATIONS: dict[str, Any] = {
    "model": "squeezenet",
    "version": 1,
    "layer": "fire9_concat",
    "channels": 512,
    "shape": [2, 2],
    "maps": [
        {
            "index": 17,
            "blank": False,
            "smallest": 0.0,
            "largest": 8.2,
            "mean": 3.1,
            "values": [[0.0, 2.1], [8.2, 2.1]],
        }
    ],
    "timing_ms": {"decode": 2.9, "queue": 0.7, "compute": 9.4, "total": 14.8},
}
LAYERS: dict[str, Any] = {
    "model": "squeezenet",
    "version": 1,
    "items": [
        {"name": "conv1", "type": "Conv2D", "output_shape": [113, 113, 64], "explainable": True},
        {"name": "predictions", "type": "Softmax", "output_shape": [1000], "explainable": False},
    ],
    "totals": {"layers": 2, "parameters": 1235496, "trainable_parameters": 1235496},
}
PNG_HEADERS: dict[str, Any] = {
    "Server-Timing": {
        "description": "With a PNG: milliseconds of decode, queue, compute, render, total.",
        "schema": {"type": "string"},
    },
    "X-Cache": {
        "description": "With a PNG: whether its maps came from the cache.",
        "schema": {"type": "string", "enum": ["hit", "miss"]},
    },
}
JOB: dict[str, Any] = {
    "id": _JOB_ID,
    "kind": "classify",
    "state": "running",
    "attempt": 1,
    "progress": {"fraction": 0.5, "step": 16, "steps": 32},
    "queue_position": None,
    "metrics": [],
    "result": None,
    "error": None,
    "artifacts": [],
    "created_at": "2026-11-20T09:30:00Z",
    "started_at": "2026-11-20T09:30:01Z",
    "finished_at": None,
}
TRAINING: dict[str, Any] = JOB | {
    "id": "job_Xo2mDqZb1c8uG5nV0rTfLwYh",
    "kind": "training",
    "progress": {
        "fraction": 0.42,
        "phase": "finetune",
        "epoch": 3,
        "epochs": 8,
        "step": 12,
        "steps": 63,
        "eta_seconds": 140,
    },
    "metrics": [
        {"epoch": 1, "phase": "head", "loss": 0.61, "accuracy": 0.71, "learning_rate": 0.001}
    ],
    "artifacts": [
        {
            "name": "curves.png",
            "media_type": "image/png",
            "size": 10240,
            "url": "/v1/jobs/job_Xo2mDqZb1c8uG5nV0rTfLwYh/artifacts/curves.png",
        }
    ],
}
TRAININGS: dict[str, Any] = {
    "short": {
        "summary": "Pretrained features and a new head, with the defaults",
        "value": {"dataset_id": "ds_8Zk3vQmT1xYpL0aB", "model": "pets", "network": "squeezenet"},
    },
    "preset": {
        "summary": "A tutorial's configuration, with a change",
        "value": {
            "dataset_id": "ds_8Zk3vQmT1xYpL0aB",
            "model": "pets",
            "preset": "cats_dogs_frozen",
            "epochs": {"head": 5},
        },
    },
    "subjects": {
        "summary": "The classic frame classifier on enrolled subjects",
        "value": {
            "subjects": ["sub_7Yt2mXq0vLkP4dRsW9aB", "sub_pQ3nZc8jHf5uKxT1eGyM"],
            "model": "door",
            "network": "face_cnn",
        },
    },
    "whole": {
        "summary": "A head, then the upper layers, with augmentation",
        "value": {
            "dataset_id": "ds_8Zk3vQmT1xYpL0aB",
            "model": "pets",
            "network": "vgg16",
            "strategy": "fine_tuning",
            "unfreeze_from": "block5_conv1",
            "image_size": 224,
            "head": {"units": [256], "dropout": 0.3},
            "epochs": {"head": 10, "finetune": 10},
            "batch_size": 32,
            "optimizer": "adam",
            "learning_rate": {"head": 0.001, "finetune": 0.00001},
            "augmentation": {"rotation": 20, "zoom": 0.2, "horizontal_flip": True},
            "early_stopping_patience": 3,
            "class_weights": "auto",
            "seed": 8,
            "promote": "if_better",
        },
    },
}
PRESETS: dict[str, Any] = {
    "items": [
        {
            "name": "mnist",
            "title": "Handwritten digits from scratch",
            "description": "The deep MNIST network of TensorFlow's first tutorial.",
            "accuracy": "99%",
            "request": {"network": "cnn_mnist", "strategy": "from_scratch", "image_size": 28},
        }
    ],
    "next_cursor": None,
}
CALIBRATION: dict[str, Any] = JOB | {
    "id": "job_c2Vq8sYw4nJr1tHk6bXzLmPd",
    "kind": "calibration",
    "progress": {"fraction": 0.38, "phase": "faces", "step": 80, "steps": 200},
}
MODEL: dict[str, Any] = {
    "name": "squeezenet",
    "network": "squeezenet",
    "state": "ready",
    "reason": None,
    "aliases": {"champion": 1},
    "versions": [1],
    "classes": 1000,
    "input_size": [227, 227],
    "operations": ["classify", "embed"],
    "runtime": "openvino-bfloat16",
    "runtime_reason": None,
    "licence": "BSD-3-Clause",
}
MODEL_DETAIL: dict[str, Any] = MODEL | {
    "ready": True,
    "model_version_status": [
        {
            "version": "1",
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }
    ],
}
MANIFEST: dict[str, Any] = {
    "network": "squeezenet",
    "classes": 1000,
    "input_size": [227, 227],
    "short_side": 256,
    "preprocessing": "caffe",
    "endpoints": ["serve", "features", "explain", "explain_hires"],
    "features": 512,
    "explain_layer": "fire9_concat",
    "parity": {"pictures": 3, "largest_difference": {"serve": 1.2e-07, "features": 4.1e-07}},
    "provenance": {
        "weights": {"name": "squeezenet", "sha256": "5f" * 32, "licence": "BSD-3-Clause"},
        "dataset_digest": None,
        "job_id": None,
        "libraries": {"keras": "3.15.1", "numpy": "2.4.1", "tensorflow": "2.21.0"},
    },
    "metrics": {"published_top1": 0.582},
    "model": "squeezenet",
    "version": 1,
    "created_at": "2026-11-20T09:30:00Z",
    "files": {"labels.json": {"sha256": "c0" * 32, "size": 61532}},
}
VERSION_DETAIL: dict[str, Any] = MANIFEST | {
    "model_version_status": MODEL_DETAIL["model_version_status"]
}
DATASET: dict[str, Any] = {
    "id": "ds_8Zk3vQmT1xYpL0aB",
    "name": "pets",
    "digest": "sha256:" + "9c" * 32,
    "revision": 1,
    "classes": {"cat": 980, "dog": 122},
    "splits": {"train": 772, "validation": 165, "test": 165},
    "trainable": True,
    "reason": None,
    "warnings": [{"code": "imbalance", "detail": "8:1; class weights will be used"}],
    "rejected": [
        {
            "path": "cat/7.jpg",
            "code": "not_an_image",
            "detail": "This is text, not an accepted image. "
            "Send a JPEG, PNG, WebP, HEIC, AVIF, BMP, GIF, TIFF or PPM file.",
            "action": "left out",
        }
    ],
    "rejected_count": 1,
    "size": 13870112,
    "seed": 0,
    "created_at": "2026-11-20T09:30:00Z",
}
FILE: dict[str, Any] = {
    "id": "file_5b0e7c41d2a98f3360e1c4aa",
    "path": "cat/1.jpg",
    "status": "admitted",
    "label": "cat",
    "split": "train",
    "given_split": None,
    "sha256": "3d" * 32,
    "size": 11830,
    "width": 256,
    "height": 192,
    "media_type": "image/jpeg",
    "code": None,
    "detail": None,
    "action": None,
}
ARCHIVE_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["archive"],
    "additionalProperties": False,
    "properties": {
        "archive": {
            "type": "string",
            "format": "binary",
            "description": "A zip, tar or tar.gz.",
        },
        "name": {
            "type": "string",
            "maxLength": 100,
            "description": "The dataset's name; that of the archive if omitted.",
        },
    },
}
VIDEO_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["video"],
    "additionalProperties": False,
    "properties": {
        "video": {
            "type": "string",
            "format": "binary",
            "description": "mp4, mov, webm or avi.",
        },
    },
}
READINESS: dict[str, Any] = {
    "ready": True,
    "redis": "ok",
    "database": "ok",
    "worker": "ok",
    "loading": ["vgg16"],
    "detail": None,
    "warnings": [],
}
SYSTEM: dict[str, Any] = {
    "version": "0.1.0",
    "started_at": 1795167000.0,
    "workers": [
        {
            "id": "a1b2c3",
            "host": "gpu-1",
            "pid": 4711,
            "release": "0.1.0",
            "devices": ["CPU"],
            "started_at": 1795167000.0,
            "beat_at": 1795167060.0,
            "models": [
                {
                    "name": "squeezenet",
                    "version": 1,
                    "state": "ready",
                    "reason": None,
                    "operations": ["classify", "embed"],
                    "aliases": ["champion"],
                    "classes": 1000,
                    "runtime": "openvino-bfloat16",
                    "runtime_reason": None,
                    "batch_sizes": [1, 2, 4, 8, 16],
                }
            ],
        }
    ],
    "devices": ["CPU"],
    "queues": [{"name": "lane:squeezenet:1:classify", "depth": 0, "drain_rate": 92.4}],
    "job_workers": [],
    "job_queues": [{"name": "training", "queued": 2, "running": 1}],
    "models": [MODEL],
}
OIP_SERVER: dict[str, Any] = {
    "name": "opsin",
    "version": "0.1.0",
    "extensions": ["binary_tensor_data", "classification", "model_configuration", "statistics"],
}
OIP_MODEL: dict[str, Any] = {
    "name": "squeezenet",
    "versions": ["1"],
    "platform": "tensorflow_savedmodel",
    "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 227, 227, 3]}],
    "outputs": [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 1000]},
        {"name": "features", "datatype": "FP32", "shape": [-1, 512]},
    ],
}
OIP_CONFIG: dict[str, Any] = {
    "name": "squeezenet",
    "platform": "tensorflow_savedmodel",
    "backend": "tensorflow",
    "max_batch_size": 32,
    "input": [
        {
            "name": "image",
            "data_type": "TYPE_UINT8",
            "format": "FORMAT_NHWC",
            "dims": [227, 227, 3],
        }
    ],
    "output": [
        {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [1000]},
        {"name": "features", "data_type": "TYPE_FP32", "dims": [512]},
    ],
    "dynamic_batching": {},
}
_NONE: dict[str, Any] = {"count": 0, "ns": 0}
OIP_STATISTICS: dict[str, Any] = {
    "model_stats": [
        {
            "name": "squeezenet",
            "version": "1",
            "last_inference": 1795167060000,
            "inference_count": 12,
            "execution_count": 3,
            "inference_stats": {
                "success": {"count": 12, "ns": 312_000_000},
                "fail": _NONE,
                "queue": {"count": 12, "ns": 24_000_000},
                "compute_input": _NONE,
                "compute_infer": {"count": 12, "ns": 288_000_000},
                "compute_output": _NONE,
                "cache_hit": _NONE,
                "cache_miss": _NONE,
            },
            "response_stats": {},
            "batch_stats": [
                {
                    "batch_size": 4,
                    "compute_input": _NONE,
                    "compute_infer": {"count": 3, "ns": 72_000_000},
                    "compute_output": _NONE,
                }
            ],
            "memory_usage": [],
        }
    ]
}
OIP_INDEX: list[dict[str, Any]] = [
    {"name": "squeezenet", "version": "1", "state": "READY", "reason": ""}
]
INFER_REQUEST: dict[str, Any] = {
    "id": "42",
    "inputs": [
        {
            "name": "image",
            "shape": [1, 227, 227, 3],
            "datatype": "UINT8",
            "parameters": {"binary_data_size": 154587},
        }
    ],
    "outputs": [{"name": "probabilities", "parameters": {"binary_data": False}}],
}
INFER_RESPONSE: dict[str, Any] = {
    "model_name": "squeezenet",
    "model_version": "1",
    "id": "42",
    "outputs": [
        {"name": "probabilities", "datatype": "FP32", "shape": [1, 4], "data": [0.1, 0, 0.9, 0]}
    ],
}
PREDICT_REQUEST: dict[str, Any] = {"instances": [{"b64": "iVBORw0KGgoAAAANSUhEUg=="}]}
PREDICT_RESPONSE: dict[str, Any] = {"predictions": [[0.1, 0.0, 0.9, 0.0]]}
TF_METADATA: dict[str, Any] = {
    "model_spec": {"name": "squeezenet", "signature_name": "", "version": "1"},
    "metadata": {
        "signature_def": {
            "signature_def": {
                "serving_default": {
                    "inputs": {
                        "image": {
                            "dtype": "DT_UINT8",
                            "tensor_shape": {
                                "dim": [
                                    {"size": size, "name": ""} for size in ("-1", "227", "227", "3")
                                ],
                                "unknown_rank": False,
                            },
                            "name": "serving_default_image:0",
                        }
                    },
                    "outputs": {
                        "probabilities": {
                            "dtype": "DT_FLOAT",
                            "tensor_shape": {
                                "dim": [{"size": size, "name": ""} for size in ("-1", "1000")],
                                "unknown_rank": False,
                            },
                            "name": "probabilities:0",
                        }
                    },
                    "method_name": "tensorflow/serving/predict",
                }
            }
        }
    },
}
EVENTS = (
    'event: state\ndata: {"state":"running","attempt":1}\nid: 4000001000000\n\n'
    'event: progress\ndata: {"fraction":0.5,"step":16,"steps":32}\nid: 4500002000000\n\n'
    'event: metrics\ndata: {"epoch":1,"phase":"head","loss":0.61}\nid: 4500002000001\n\n'
)


def json_response(description: str, example: Any) -> dict[str, Any]:
    """A JSON response with an example, for a route's ``responses``."""
    return {
        "description": description,
        "content": {"application/json": {"example": example}},
    }


KEY: dict[str, Any] = {
    "id": "key_7f3a90c1d2e8",
    "name": "billing service",
    "scopes": ["infer"],
    "rate_per_minute": 600,
    "created_at": "2026-11-20T09:30:00Z",
    "expires_at": "2027-11-20T09:30:00Z",
    "revoked_at": None,
    "last_used_at": None,
}
MADE_KEY: dict[str, Any] = KEY | {
    "key": "opsin_7f3a90c1d2e8_0123456789abcdef0123456789abcdef0123456789abcdef"
}
AUDIT_ENTRY: dict[str, Any] = {
    "id": 17,
    "at": "2026-11-20T09:31:00Z",
    "actor": "key_7f3a90c1d2e8",
    "action": "alias_set",
    "subject": "squeezenet/2 champion",
    "request_id": "4bf92f3577b34da6",
}
