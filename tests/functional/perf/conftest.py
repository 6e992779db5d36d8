"""A bench whose demo avatar is cut short."""

from __future__ import annotations

import pytest

from export.avatar import AvatarSettings, NetworkSource, build_avatar
from export.demo import avatar as demo
from export.demo import presenter
from perf.bench import Bench

TEMPLATE_FRAMES = 12


class _Glance(Bench):
    """A quick run with scenarios cut shorter still: tests read what figures there are, and not how good they are."""

    @property
    def span_s(self) -> float:
        return 1.0

    @property
    def burn_in_s(self) -> float:
        return 0.5


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A quick run's."""
    folder = tmp_path_factory.mktemp("perf")
    settings = AvatarSettings(
        avatar_id=demo.DEMO_ID,
        avatars=folder / "avatars",
        network=NetworkSource(demo.WEIGHTS / demo.UNET_FILE),
        encoder=demo.WEIGHTS / demo.ENCODER_FILE,
    )
    boxes = [presenter.face_box(index) for index in range(TEMPLATE_FRAMES)]
    build_avatar(settings, demo.PresenterFrames(count=TEMPLATE_FRAMES), boxes)
    return _Glance(quick=True, avatars=folder / "avatars", work=folder / "work", tell=lambda _: None)
