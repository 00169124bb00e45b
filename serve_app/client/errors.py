"""The exceptions that the clients raise."""

from __future__ import annotations

from serve_app.core.errors import PlainMedError


class PlainMedAPIError(PlainMedError):
    """The server answered with an error, or with something that is no PlainMed answer.

    Attributes:
        status: the HTTP status; for an error inside a stream, the one its code stands for.
        code: the server's stable error code; `http_error` where the answer carried none,
            `bad_response` where a success could not be read.
        message: what went wrong, for people.
        field: the request field it is about, or None.
        request_id: the X-Request-ID of the call, to find it in the server's log.
        retry_after: seconds the server asked to wait, or None.
        attempts: how often the call was sent.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        field: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, field=field, code=code)
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after
        self.attempts = 1

    def __reduce__(self) -> tuple[object, ...]:
        arguments = (self.status, self.code, self.message, self.field, self.request_id)
        return (type(self), (*arguments, self.retry_after), {"attempts": self.attempts})

    def __str__(self) -> str:
        about = f", field {self.field}" if self.field else ""
        tries = f", {self.attempts} attempts" if self.attempts > 1 else ""
        known = f"HTTP {self.status} {self.code}{about}{tries}, request {self.request_id}"
        return f"{self.message} ({known})"


class PlainMedConnectionError(PlainMedError):
    """No answer came: the server is not there, hung up, or took longer than the timeout.

    Attributes:
        request_id: the X-Request-ID that was sent.
        retryable: False where the server may still be busy with the call.
        attempts: how often the call was sent.
    """

    code = "connection_failed"
    status = 503

    def __init__(self, message: str, request_id: str, retryable: bool = True) -> None:
        super().__init__(message)
        self.request_id = request_id
        self.retryable = retryable
        self.attempts = 1

    def __reduce__(self) -> tuple[object, ...]:
        arguments = (self.message, self.request_id, self.retryable)
        return (type(self), arguments, {"attempts": self.attempts})

    def __str__(self) -> str:
        tries = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        return f"{self.message} ({tries}, request {self.request_id})"
