"""Examples of the face endpoints for the API documentation, and schemas of their forms."""

from typing import Any

from service.http.multipart import FORM_TYPE

FACE: dict[str, Any] = {
    "box": {"x": 212.4, "y": 96.1, "width": 168.0, "height": 214.7},
    "score": 0.97,
    "landmarks": {
        "right_eye": {"x": 255.0, "y": 181.2},
        "left_eye": {"x": 331.9, "y": 179.8},
        "nose": {"x": 294.3, "y": 222.5},
        "mouth_right": {"x": 263.1, "y": 259.4},
        "mouth_left": {"x": 325.6, "y": 258.3},
        "chin": {"x": 294.9, "y": 306.0},
    },
    "quality": {
        "sharpness": 412.5,
        "brightness": 127.3,
        "yaw": 3.1,
        "pitch": -2.4,
        "roll": 1.0,
        "size": 77.1,
        "acceptable": True,
        "reasons": [],
    },
}
DETECTED: dict[str, Any] = {"width": 640, "height": 480, "faces": [FACE], "total": 1}
SUBJECT_ID = "sub_8cFq2Vw0kJ6ZrT1n5bXd"
SUBJECT: dict[str, Any] = {
    "id": SUBJECT_ID,
    "name": "Ada Lovelace",
    "external_id": "user-42",
    "metadata": {"team": "engines"},
    "keep_frames": False,
    "templates": {"current": 6, "stale": 0},
    "files": 0,
    "consent": {
        "version": "2026-01",
        "text_digest": "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
        "at": "2026-11-22T08:00:00Z",
        "by": "reception",
        "expires_at": None,
    },
    "face_disabled": False,
    "last_used_at": "2026-11-22T08:00:00Z",
    "created_at": "2026-11-22T08:00:00Z",
    "updated_at": "2026-11-22T08:00:00Z",
}
DEVICE: dict[str, Any] = {
    "device_id": "iphone-5f0c",
    "public_key": {
        "kty": "EC",
        "crv": "P-256",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    },
    "created_at": "2026-11-22T08:00:00Z",
    "last_used_at": None,
}
POLICY: dict[str, Any] = {
    "consent_required": True,
    "device_key_required": False,
    "liveness_required": False,
    "max_failures": 50,
    "retention_days": 1095,
    "retention_text": None,
    "updated_at": "2026-11-22T08:00:00Z",
}
ERASED: dict[str, Any] = {
    "erased": {"templates": 12, "files": 3, "models": [{"model": "door", "version": 4}]}
}
LOGIN: dict[str, Any] = {
    "decision": "match",
    "reason": None,
    "quality_reasons": [],
    "token": "eyJhbGciOiJFZERTQSIsImtpZCI6IlA0…",
    "expires_at": "2026-11-22T08:15:00Z",
}
VERIFICATION: dict[str, Any] = {
    "match": True,
    "decision": "match",
    "reason": None,
    "similarity": 0.957,
    "threshold": 0.9,
}
IDENTIFICATION: dict[str, Any] = {
    "faces": [
        {
            "box": FACE["box"],
            "decision": "match",
            "reason": None,
            "candidates": [{"subject_id": SUBJECT_ID, "name": "Ada Lovelace", "similarity": 0.957}],
        }
    ],
    "threshold": 0.9,
}
THRESHOLD: dict[str, Any] = {
    "similarity": 0.9,
    "margin": 0.02,
    "embedder": "face_embedder:1",
    "target_fmr": 0.001,
    "source": "calibration",
    "measured_on": "ds_3fjt0wq8",
    "updated_at": "2026-11-22T08:00:00Z",
    "stale": False,
}
EVENT: dict[str, Any] = {
    "id": 17,
    "at": "2026-11-22T08:00:00Z",
    "kind": "login",
    "subject_id": SUBJECT_ID,
    "outcome": "match",
    "reason": None,
    "device": "5c1f0e…",
    "digest": "90ab37…",
    "request_id": "4bf92f3577b34da6",
}
JWKS: dict[str, Any] = {
    "keys": [
        {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            "kid": "mK3x0Zq2",
            "use": "sig",
            "alg": "EdDSA",
        }
    ]
}
CHALLENGE: dict[str, Any] = {
    "id": "ch_3kQ9vT0aYpWm7LxR",
    "nonce": "q0Yw1n8c7c2uXo4hJmZr2A",
    "actions": ["turn_left", "close_eyes", "open_mouth"],
    "expires_at": "2026-11-22T08:01:30Z",
    "max_seconds": 12,
    "min_fps": 10,
}


def form(required: list[str], **fields: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI `requestBody` of a form."""
    schema = {
        "type": "object",
        "required": required,
        "additionalProperties": False,
        "properties": fields,
    }
    return {"requestBody": {"required": True, "content": {FORM_TYPE: {"schema": schema}}}}


def file(description: str) -> dict[str, Any]:
    """Schema of a file in a form."""
    return {"type": "string", "format": "binary", "description": description}


def files(description: str, max_items: int) -> dict[str, Any]:
    """Schema of several files with the same name."""
    items = {"type": "string", "format": "binary"}
    return {"type": "array", "items": items, "maxItems": max_items, "description": description}


def word(description: str) -> dict[str, Any]:
    """Schema of a short text in a form."""
    return {"type": "string", "minLength": 1, "maxLength": 512, "description": description}
