"""What a search's run hands out: its trials, and the test part of trial 0 and of the winner."""

from collections.abc import Mapping
from typing import Any

from cxr_ray.storage import ALL_PARTS, Storage
from cxr_ray.sweep.plan import Member
from cxr_ray.sweep.search import Search


class SearchQueue:
    """A search's trials, then the test part of trial 0 and, once all have ended, of the winner.

    One queue for both, so that processes which have everything imported score the test part, and
    trial 0's beside the last trials.
    """

    def __init__(self, search: Search, storage: Storage) -> None:
        self._search, self._storage = search, storage
        self._tests: set[str] = set()

    @property
    def waits(self) -> bool:
        """Whether trials run that could still win."""
        return self._search.waiting > 0

    def parts(self, member: Member) -> tuple[str, ...]:
        """Return the validation part for a trial, all for a test."""
        return ALL_PARTS if self.is_test(member) else self._search.parts

    def is_test(self, member: Member) -> bool:
        """Tell whether a member was handed out for its test part."""
        return member.trained_id in self._tests

    def next(self) -> Member | None:
        """Return the search's next trial, or whose test part can be scored now."""
        if (member := self._search.next()) is not None:
            return member
        untested = self.untested()
        if not untested:
            return None
        self._tests.add(untested[0].trained_id)
        return untested[0]

    def epoch(self, member: Member, figures: Mapping[str, Any]) -> str | None:
        """Take an epoch's figures, and return why the trial is to end now, or None."""
        return self._search.epoch(member, figures)

    def ended(self, member: Member, status: str, reason: str | None = None) -> None:
        """Tell the search how a trial ended; of a test it needs to know nothing."""
        if not self.is_test(member):
            self._search.ended(member, status, reason)

    def untested(self) -> list[Member]:
        """List whose test part can be scored now and was not handed out yet."""
        chosen = [self._search.reference(), *(() if self.waits else self._search.best())]
        done = [t.member for t in chosen if t is not None and t.status == "finished"]
        return [
            member
            for member in done
            if member is not None
            and member.trained_id not in self._tests
            and not self._storage.is_finished(member.trained_id)
        ]
