"""From IPA to mouth shapes: what each English speech sound asks of the lips, and how firmly.

The five channels are those of `export.demo.mouth`: open, width, tuck, tongue, press. The targets follow
what phonetics textbooks say of each sound's articulation; the numbers are ours, set by eye on the presenter.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phoneme:
    """A speech sound of an utterance: `ipa` as the synthesiser gave it, times in seconds."""

    ipa: str
    start_s: float
    end_s: float

    @property
    def centre_s(self) -> float:
        """Time half-way through the sound."""
        return (self.start_s + self.end_s) / 2


@dataclass(frozen=True)
class Viseme:
    """Mouth targets of a sound.

    `open`, `tuck` and `tongue` in 0…1, `width` -1 (rounded) … 1 (spread). The weights in 0…1 say how much
    the sound insists on its opening and its width against its neighbours'.
    """

    open: float
    width: float
    open_weight: float
    width_weight: float
    tuck: float = 0.0
    tongue: float = 0.0
    closes: bool = False


REST = Viseme(open=0.0, width=0.0, open_weight=1.0, width_weight=0.5)
_ALVEOLAR = Viseme(0.20, 0.15, 0.45, 0.20, tongue=0.45)
_SIBILANT = Viseme(0.10, 0.35, 0.80, 0.45)
_SHH = Viseme(0.16, -0.50, 0.80, 0.75)
_BILABIAL = Viseme(0.0, 0.0, 1.0, 0.15, closes=True)
_LABIODENTAL = Viseme(0.10, 0.10, 0.95, 0.30, tuck=1.0)
_DENTAL = Viseme(0.20, 0.10, 0.80, 0.25, tongue=1.0)
_VELAR = Viseme(0.26, 0.05, 0.40, 0.15)
_GLOTTAL = Viseme(0.32, 0.05, 0.15, 0.08)
_ROUND_GLIDE = Viseme(0.14, -1.0, 0.85, 1.0)
_RHOTIC = Viseme(0.22, -0.45, 0.55, 0.60)
_LATERAL = Viseme(0.28, 0.05, 0.50, 0.15, tongue=0.75)

_CONSONANTS = {
    **dict.fromkeys("pbm", _BILABIAL),
    **dict.fromkeys("fvʋɱ", _LABIODENTAL),
    **dict.fromkeys("θð", _DENTAL),
    **dict.fromkeys("tdnɾ", _ALVEOLAR),
    **dict.fromkeys("sz", _SIBILANT),
    **dict.fromkeys("ʃʒ", _SHH),
    **dict.fromkeys("kɡgŋxɣ", _VELAR),
    **dict.fromkeys("hɦʔ", _GLOTTAL),
    **dict.fromkeys("wʍ", _ROUND_GLIDE),
    **dict.fromkeys("ɹrɻ", _RHOTIC),
    **dict.fromkeys("lɫɬ", _LATERAL),
    "j": Viseme(0.16, 0.65, 0.55, 0.65),
}


def _vowel(opening: float, width: float) -> Viseme:
    """Vowels hold their shape firmly; a rounded or spread one more so than a neutral one."""
    return Viseme(opening, width, open_weight=0.9, width_weight=0.45 + 0.5 * abs(width))


_VOWELS = {
    **dict.fromkeys("i", _vowel(0.28, 0.90)),
    **dict.fromkeys("ɪᵻɨ", _vowel(0.34, 0.50)),
    "y": _vowel(0.22, -0.80),
    "e": _vowel(0.45, 0.60),
    **dict.fromkeys("ɛ", _vowel(0.58, 0.45)),
    **dict.fromkeys("æ", _vowel(0.80, 0.55)),
    **dict.fromkeys("a", _vowel(0.92, 0.30)),
    **dict.fromkeys("ɐʌ", _vowel(0.66, 0.05)),
    **dict.fromkeys("ɑ", _vowel(0.98, 0.00)),
    **dict.fromkeys("ɒ", _vowel(0.80, -0.35)),
    **dict.fromkeys("ɔ", _vowel(0.70, -0.60)),
    "o": _vowel(0.50, -0.80),
    **dict.fromkeys("ʊ", _vowel(0.32, -0.65)),
    **dict.fromkeys("uʉ", _vowel(0.22, -0.95)),
    **dict.fromkeys("əɘ", Viseme(0.38, 0.05, 0.55, 0.20)),
    **dict.fromkeys("ɜɝɚɵ", _vowel(0.42, -0.30)),
}
VISEMES: dict[str, Viseme] = {**_CONSONANTS, **_VOWELS}
"""IPA base symbol to viseme."""

_IGNORED = frozenset("ˈˌːˑ'̩̃̆̊ʲʰʷ͡‿-")
"""Stress, length and other marks that leave the shape of the lips alone."""


def base_symbols(ipa: str) -> str:
    """The symbols of `ipa` that have a shape, in order: ``"ˈeɪ"`` gives ``"eɪ"``, silence gives ``""``."""
    return "".join(symbol for symbol in ipa if symbol in VISEMES)


def is_mark(ipa: str) -> bool:
    """True for stress and length marks standing alone: they belong to a neighbour, they are no silence."""
    return bool(ipa) and all(symbol in _IGNORED for symbol in ipa)


def split_symbols(phoneme: Phoneme) -> list[Phoneme]:
    """One sound for each base symbol: a diphthong or an affricate becomes two, each half as long.

    Silence and punctuation stay one sound with ``ipa == ""``.
    """
    symbols = base_symbols(phoneme.ipa)
    if not symbols:
        return [Phoneme("", phoneme.start_s, phoneme.end_s)]
    step_s = (phoneme.end_s - phoneme.start_s) / len(symbols)
    return [
        Phoneme(symbol, phoneme.start_s + n * step_s, phoneme.start_s + (n + 1) * step_s)
        for n, symbol in enumerate(symbols)
    ]


def viseme(ipa: str) -> Viseme:
    """Targets of one base symbol; `REST` for silence and for what the table lacks."""
    return VISEMES.get(ipa, REST)


def closes_lips(ipa: str) -> bool:
    """True for p, b and m."""
    return viseme(ipa).closes
