"""What the API says when it refuses."""

from __future__ import annotations


class ApiError(Exception):
    """An answer of the API other than success: HTTP status, machine-readable id, and a sentence for people."""

    def __init__(self, status: int, id: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.id = id
        self.message = message


def not_found() -> ApiError:
    """The resource does not exist (404)."""
    return ApiError(404, "not_found", "The resource you were accessing could not be found.")


def unprocessable(message: str) -> ApiError:
    """The request was understood and cannot be carried out (422)."""
    return ApiError(422, "unprocessable_entity", message)


def pending_event() -> ApiError:
    """Another action on the droplet has not ended yet (422); to be waited out."""
    return unprocessable("Droplet already has a pending event.")
