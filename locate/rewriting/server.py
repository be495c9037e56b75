"""A judge behind an address that speaks OpenAI's chat completions: it waits for a busy server, not for a dead one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from locate.errors import LocateError

KEYS = ("LOCATE_JUDGE_KEY", "OPENAI_API_KEY")  # environment variables, of which the first that is set is sent
LONGEST_WAIT = 120.0  # seconds that a server may ask for between two tries
TOKENS = 256  # of an answer
SILENT = "no whole answer"
UNANSWERED = (400, 413, 422)  # of one question, such as a text that a filter holds back
REFUSED = "the server refuses this question"
SLOW = 2  # times the time limit that a whole answer may take, however often a piece of it arrives
BUSY = (408, 409, 425, 429, 500, 502, 503, 504, 529)


@dataclass(frozen=True)
class Server:
    """A judge behind an address.

    address  up to /v1: http://localhost:8000/v1 of a local server, or a service's
    model    as the server calls it
    timeout  seconds that the server may be silent; a whole answer may take twice as long
    tries    how often one question is asked before the judging stops
    pause    seconds before the second try; it doubles each time, unless the server says how long (Retry-After)
    """

    address: str
    model: str
    timeout: float = 60.0
    tries: int = 5
    pause: float = 1.0
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.address.startswith(("http://", "https://")):
            raise LocateError(f"judge {self.address!r}: expected an address that begins with http:// or https://")
        if not self.model:
            raise LocateError(f"judge {self.address!r} without a model: name it (--judge-model)")
        if not self.timeout > 0 or self.tries < 1 or self.pause < 0:
            raise LocateError(
                f"timeout {self.timeout}, tries {self.tries}, pause {self.pause}: expected positive numbers"
            )

    def about(self) -> dict[str, Any]:
        """What stands beside its answers; no key is among it."""
        return {"kind": "server", "address": self.address, "model": self.model}

    def answer(self, question: str) -> str:
        """The model's answer.

        Raises LocateError where the server refuses the question, or does not answer after all tries.
        """
        problem = ""
        for turn in range(self.tries):
            found = self.ask(question)
            if isinstance(found, str):
                return found
            problem, wait = found
            if turn + 1 < self.tries:
                self.sleep(min(LONGEST_WAIT, self.pause * 2**turn if wait is None else wait))
        way = "raise --judge-timeout" if SILENT in problem else "check that it runs there"
        raise LocateError(
            f"judge {self.model!r} at {self.address} gave no answer in {self.tries} tries (the last: {problem}): "
            f"{way}; answers so far are kept, and the same command continues"
        )

    def ask(self, question: str) -> str | tuple[str, float | None]:
        """The answer; or what went wrong, and the seconds that the server asks to wait, for another try.

        Raises LocateError for what another try would not mend.
        """
        import httpx

        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": TOKENS,
        }
        try:
            reply = self.post(body)
        except httpx.TimeoutException:
            return f"{SILENT} within the time limit of {self.timeout:g} s", None
        except (httpx.InvalidURL, UnicodeError) as error:
            raise LocateError(
                f"judge at {self.address!r} cannot be asked ({error}): check the address, and the key in {KEYS[0]}"
            ) from None
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {str(error)[:120]}", None
        if reply.status_code in BUSY:
            return f"HTTP {reply.status_code}", retry_after(reply.headers.get("retry-after"))
        if reply.status_code in UNANSWERED:
            return f"{REFUSED} (HTTP {reply.status_code}): {' '.join(reply.text.split())[:400]}"
        if reply.status_code >= 400:
            raise LocateError(
                f"judge {self.model!r} at {self.address} refuses (HTTP {reply.status_code}: "
                f"{' '.join(reply.text.split())[:160]}): check the model's name, and the key in {KEYS[0]}"
            )
        try:
            content = reply.json()["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            return "an answer that is no chat completion", None
        return "" if content is None else str(content)

    def post(self, body: dict[str, Any]) -> Any:
        """The server's reply, read piece by piece.

        Raises httpx.ReadTimeout also where the pieces together take too long.
        """
        import httpx

        address, started = f"{self.address.rstrip('/')}/chat/completions", time.monotonic()
        with httpx.stream("POST", address, json=body, headers=headers(), timeout=self.timeout) as reply:
            pieces = []
            for piece in reply.iter_raw():
                pieces.append(piece)
                if time.monotonic() - started > SLOW * self.timeout:
                    raise httpx.ReadTimeout("the answer arrives too slowly")
        return httpx.Response(reply.status_code, headers=reply.headers, content=b"".join(pieces))


def headers() -> dict[str, str]:
    """The key, where the environment has one."""
    key = next((os.environ[name] for name in KEYS if os.environ.get(name)), None)
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def retry_after(value: str | None) -> float | None:
    """Seconds that a server asks to wait: a number, or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
