"""An error in one line."""

from contracts.problem import FieldError, Problem


def test_nothing_is_said_twice() -> None:
    problem = Problem(
        type="urn:opsin:problem:validation_failed", title="Invalid", status=422, code="x",
        detail="Correct these: query.kind (Input should be 'a' or 'b'. Did you mean a?).",
        request_id="1", errors=[
            FieldError(loc=["query", "kind"], msg="Input should be 'a' or 'b'. Did you mean a?."),
            FieldError(loc=["body", "size"], msg="Too large"),
        ],
    )  # fmt: skip
    assert problem.sentence == f"{problem.detail} size: Too large."
