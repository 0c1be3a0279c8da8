"""Model folders without torch: where they are, their files, and what `config.json` says besides the network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unified_sess.utils.errors import UserError
from unified_sess.utils.names import ENHANCED_FROM

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
ONNX = "model.onnx"
FILES = (CONFIG, WEIGHTS)
SAMPLE_RATES = (1000, 768000)  # Hz
SHIPPED = Path(__file__).resolve().parent.parent / "models" / "default"


class ModelConfig(NamedTuple):
    """What `config.json` says.

    modules : dict
        Trees of the four modules by name.
    num_spks, sample_rate : int
        Outputs, and the rate in Hz.
    silence_threshold : float
        dB relative to the mixture below which an output holds nobody. Models trained with losses that know silence and
        level have it, and their outputs keep the level that the network gives. None: trained with SI-SNR, free in level.
    enhanced_from : str
        What the enhanced mixture is: decoded from the features of the `enhancer`, or the sum of the `sources`.
    """

    modules: dict
    num_spks: int
    sample_rate: int
    silence_threshold: float | None = None
    enhanced_from: str = ENHANCED_FROM[0]


def find_model(source: str | Path | None, allow_patterns: Sequence[str] = FILES, **download_options: Any) -> Path:
    """Folder of a model: a local one, the shipped one (None) or a download from the hub.

    Of a hub repository only files of `allow_patterns` are fetched.

    Raises
    ------
    UserError
        When there is no such folder or repository.
    """
    if source is None:
        if not SHIPPED.is_dir():
            raise UserError("this installation has no model of its own: give a model folder or hub id (--model)")
        return SHIPPED
    if Path(source).is_dir():
        return Path(source)
    if Path(source).exists():
        raise UserError(f"{source} is a file: give the folder of the model")
    try:
        from huggingface_hub import snapshot_download  # slow to import, and local folders do without
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        raise UserError(
            f"there is no model folder {source}; one of that name on the hub needs pip install huggingface_hub"
        ) from None

    try:
        return Path(snapshot_download(str(source), allow_patterns=list(allow_patterns), **download_options))
    except HFValidationError:
        raise UserError(f"there is no model folder {source}") from None
    except Exception as error:  # noqa: BLE001 - a network can fail in many ways
        reason = type(error).__name__
        raise UserError(
            f"there is no folder {source}, and no model of that name came from the hub ({reason})"
        ) from None


def find_file(source: str | Path) -> Path:
    """A local file, or one of a hub repository, `owner/repository/name`, which is downloaded once.

    Raises
    ------
    UserError
        When there is no such file.
    """
    owner, _, rest = str(source).partition("/")
    repository, _, name = rest.partition("/")
    if Path(source).exists() or not (owner and repository and name):
        return Path(source)
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise UserError(
            f"there is no file {source}; one of that name on the hub needs pip install huggingface_hub"
        ) from None

    try:
        return Path(hf_hub_download(f"{owner}/{repository}", name))
    except Exception as error:  # noqa: BLE001 - a network can fail in many ways
        reason = type(error).__name__
        raise UserError(f"there is no file {source}, and none of that name came from the hub ({reason})") from None


def checked_numbers(content: Mapping, where: str | Path) -> tuple[int, int]:
    """`num_spks` and `sample_rate` (Hz) of a config or an experiment; `UserError` naming `where` for anything else."""
    speakers, rate = content.get("num_spks"), content.get("sample_rate")
    # Exactly int: to Python, True is one too.
    if not (type(speakers) is int and type(rate) is int and speakers > 0 and rate > 0):
        raise UserError(f"{where} lacks num_spks or sample_rate")
    return speakers, rate


def check_sample_rate(rate: int, where: str | Path) -> None:
    """Raise `UserError` naming `where` for a rate (Hz) that no recording has."""
    if not SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1]:
        raise UserError(f"{where} has a sample rate of {rate} Hz, where {SAMPLE_RATES[0]} to {SAMPLE_RATES[1]} work")


def checked_options(content: Mapping, where: str | Path) -> tuple[float | None, str]:
    """`silence_threshold` and `enhanced_from` of a config or an experiment; `UserError` naming `where` for odd values."""
    enhanced_from = content.get("enhanced_from", ENHANCED_FROM[0])
    if enhanced_from not in ENHANCED_FROM:
        raise UserError(f"{where}: enhanced_from is {str(enhanced_from)[:40]!r}: choose {' or '.join(ENHANCED_FROM)}")
    silence_threshold = checked_silence_threshold(content.get("silence_threshold"), where)
    if enhanced_from == "sources" and silence_threshold is None:
        raise UserError(
            f"{where}: enhanced_from is 'sources', whose sum means nothing without silence_threshold: "
            "a network trained with SI-SNR leaves their level and polarity free"
        )
    return silence_threshold, enhanced_from


def checked_silence_threshold(value: Any, where: str | Path) -> float | None:
    """The number in dB, or None where there is none; `UserError` naming `where` for anything else."""
    if value is None:
        return None
    if type(value) not in (int, float) or not -120 <= value < 0:
        raise UserError(f"{where}: silence_threshold {repr(value)[:40]} is no number of dB from -120 to 0")
    return float(value)
