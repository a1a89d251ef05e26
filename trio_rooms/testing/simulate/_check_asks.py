"""Requests of the server's: each ends, with its own answer or with the reason why there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ._history import History, LinkHistory
from ._player import answer_mode
from ._record import Answered, Asked, Served

_AS_ANSWERED = {"answered": ("once", "twice", "slow"), "refused": ("error",)}


def check_answers(history: History) -> Iterator[str]:
    """The answer is that of the client; late ones, and second ones, are dropped and counted."""
    heard: Counter[int] = Counter()
    for _, asked in history.record.of(Asked):
        link = history.links.get(asked.link)
        if link is None:
            continue
        mode = answer_mode(asked.n)
        if asked.outcome in _AS_ANSWERED:
            heard[link.serve] += 1
            if mode not in _AS_ANSWERED[asked.outcome] or asked.answer not in (None, {"n": asked.n}):
                yield f"{link} was asked {asked.n}, and has {asked.outcome} {asked.answer!r}"
        elif asked.outcome == "late" and not _may_be_late(link, mode, asked.seconds):
            yield f"{link} was asked {asked.n}, and its answer is not heard"
        elif asked.outcome == "gone" and link.ended is None:
            yield f"{link} is called gone, and is not"
    said = Counter(history.links[one.link].serve for _, one in history.record.of(Answered))
    for _, served in history.record.of(Served):
        dropped, left_over = served.statistics.answers_dropped, said[served.serve] - heard[served.serve]
        if dropped > left_over:
            yield f"server {served.serve} counts {dropped} dropped answers; {left_over} have not been heard"
        if dropped < left_over and _heard_everything(history, served.serve):
            yield f"server {served.serve} counts {dropped} dropped answers; {left_over} have not been heard"


def _may_be_late(link: LinkHistory, mode: str, seconds: float) -> bool:
    return mode == "never" or (mode == "slow" and seconds <= 0.5) or bool(link.faults) or link.left


def _heard_everything(history: History, serve: int) -> bool:
    """Whether what clients have said to a server must have arrived."""
    speakers = {one.link for _, one in history.record.of(Answered)}
    links = [link for link in history.links.values() if link.number in speakers and link.serve == serve]
    return all(link.settled and link.left and not link.faults for link in links)
