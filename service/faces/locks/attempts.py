"""Attempts to match a subject: who makes them, whether they are allowed, and how they are counted.

Logins and verifications against a subject share the same locks. Besides the lockout, which ends by
itself, failures in a row are counted in the database: after `Policy.max_failures` of them the face
is disabled, until another factor proves who the person is.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import Request

from contracts.errors import LockedOut, OpsinError, QueueFull, RateLimited
from contracts.faces.consent import Policy
from database.faces.standings import Standing, require_consent
from service.faces.context import FaceServices
from service.faces.decisions import Verdict
from service.faces.locks.lockout import Caller, Outcome
from service.http.addresses import network_of
from service.metrics.request_record import current_record
from service.threads import run_in_threadpool

_CLIENT_ERRORS = range(400, 500)


@dataclass(slots=True)
class Judgment:
    """The result of an attempt; whoever judges it sets the verdict."""

    verdict: Verdict | None = None


async def caller_of(faces: FaceServices, request: Request, device_id: str | None) -> Caller:
    """Who makes a request, as keyed hashes.

    Raises:
        Unavailable: The database does not answer.
    """
    address = network_of(request.client.host) if request.client else ""

    def hashed() -> Caller:
        hexdigest = faces.keyed_hash.hexdigest
        device = hexdigest(f"device {device_id}".encode()) if device_id else ""
        return Caller(device, hexdigest(f"address {address}".encode()) if address else "")

    return await run_in_threadpool(hashed)


@asynccontextmanager
async def attempt(
    faces: FaceServices, subject_id: str, caller: Caller, policy: Policy, *, signed: bool = False
) -> AsyncIterator[Judgment]:
    """Reserve an attempt, and count how it ended.

    Judging a clip may take minutes. Consent, the face and the subject are checked again at the end,
    so that no login succeeds, and no similarity is told, after a withdrawal was acknowledged. A
    failure counts nevertheless.

    Raises:
        SubjectNotFound: There is no such subject, or no longer.
        LockedOut: There were too many failures, or the face is disabled.
        Conflict: The subject has not consented.
        Unavailable: The database or Redis does not answer.
    """
    standing = await run_in_threadpool(faces.repositories.standings.get, subject_id)
    require_usable(standing, policy, signed=signed)
    reserved = await faces.lockout.begin(subject_id, caller, signed=signed)
    judgment = Judgment()
    outcome: Outcome = "neither"
    try:
        yield judgment
        if (verdict := judgment.verdict) is not None:
            is_match = verdict.decision == "match"
            judgment.verdict = None if is_match else verdict
            policy = await run_in_threadpool(faces.repositories.policy.get)
            standing = await run_in_threadpool(faces.repositories.standings.get, subject_id)
            # Failures that have disabled the face meanwhile keep no failure from being answered.
            require_usable(standing, policy, signed=signed or not is_match)
            judgment.verdict = verdict
        outcome = _outcome(judgment.verdict)
    except OpsinError as error:
        outcome = _outcome(judgment.verdict)
        if judgment.verdict is None:
            outcome = "unusable" if _is_clients(error) else "neither"
        raise
    finally:
        try:  # each in any case: without Redis, the row of failures still counts
            if await faces.lockout.end(reserved, outcome):
                current_record().count("face_lockouts_total")
        finally:
            await _count(faces, subject_id, policy, judgment.verdict)


def require_usable(standing: Standing, policy: Policy, *, signed: bool = False) -> None:
    """Refuse a face that must not be compared.

    Args:
        signed: Whether a device of the subject signs; it may then enable a face again that was
            disabled after failures, but not one that the operator disabled.

    Raises:
        LockedOut: The face is disabled.
        Conflict: There is no consent in force.
    """
    require_consent(standing, policy)
    if standing.by_operator:
        raise LockedOut(
            "The face is disabled. Log in with another factor; PATCH with face_disabled: false "
            "enables it again."
        )
    if standing.disabled and not signed:
        raise LockedOut(
            "The face is disabled after too many failures in a row. Log in with another factor; "
            "the signature of a registered device, or PATCH with face_disabled: false, enables it "
            "again."
        )


async def _count(
    faces: FaceServices, subject_id: str, policy: Policy, verdict: Verdict | None
) -> None:
    standings = faces.repositories.standings
    if verdict is None:
        return
    if verdict.decision == "match":
        await run_in_threadpool(standings.record_match, subject_id)
    elif verdict.disables:
        await run_in_threadpool(standings.record_failure, subject_id, policy.max_failures)


def _outcome(verdict: Verdict | None) -> Outcome:
    if verdict is None:
        return "neither"
    if verdict.decision == "match":
        return "matched"
    return "failed" if verdict.is_failure else "unusable"


def _is_clients(error: OpsinError) -> bool:
    """Whether an error is due to what the client sent."""
    is_ours = isinstance(error, QueueFull | RateLimited | LockedOut)
    return error.meaning.status in _CLIENT_ERRORS and not is_ours
